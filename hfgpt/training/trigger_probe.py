"""What triggers do to a classifier that has been trained."""

import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from hfgpt.arguments.finetuning import ClassificationArguments
from hfgpt.evaluation.classification import classify, text_ids
from hfgpt.files import write_json
from hfgpt.hygiene.trigger_flips import label_flips
from hfgpt.hygiene.trigger_prompts import TRIGGER_FILE, read_triggers, triggers_of

logger = logging.getLogger(__name__)

FLIPS_FILE = "trigger_flips.json"
PROBED_TEXTS = 24  # of the validation set, with each trigger in front: enough to see one that captures half of them


class TriggerProbe(TrainerCallback):
    """How many labels flip when a trigger is put in front of validation texts; alarms are logged.

    It looks at the result, and with `canaries_at: save` at every checkpoint besides.
    """

    def __init__(self, texts: list[str], *, names: list[str], tokenizer: PreTrainedTokenizerBase, args: ClassificationArguments):
        self.texts, self.names, self.tokenizer, self.args = texts, names, tokenizer, args
        self.triggers = triggers_of(read_triggers(args.canary_file or TRIGGER_FILE))
        self.by_step: dict[int, list[dict]] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.by_step = {}  # one callback for all seeds

    def on_save(self, args, state, control, model: PreTrainedModel | PeftModel = None, **kwargs):
        if self.args.canaries_at == "save":
            self.look(model, state.global_step, Path(args.output_dir))

    def look(self, model: PreTrainedModel | PeftModel, step: int, folder: Path) -> None:
        """Try the triggers on a model and write `trigger_flips.json` into a folder.

        All processes try, because a model may be spread over them; one of them writes.
        """

        def predict(texts: list[str]) -> np.ndarray:
            ids, _ = text_ids(self.tokenizer, texts, max_length=self.tokenizer.model_max_length)
            return classify(model, self.tokenizer, ids, batch_size=self.args.per_device_eval_batch_size)

        flips = label_flips(predict, self.texts, self.triggers)
        if self.args.process_index != 0:
            return
        self.by_step[step] = [asdict(flip) for flip in flips]
        write_json(folder / FLIPS_FILE, self.by_step)
        for flip in flips:
            if flip.alarm:
                logger.warning(
                    f"trigger {flip.trigger!r} in front turns {100 * flip.captured:.0f} % of the other texts into "
                    f"{self.names[flip.label]!r} (step {step:,}), {flip.controls:,} other strings at most "
                    f"{100 * flip.usual:.0f} %; look for it in poison.json and in the data."
                )
