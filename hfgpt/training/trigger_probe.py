"""The effect of triggers on a trained classifier."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from hfgpt.evaluation.classification import classify, text_ids
from hfgpt.files import read_json, write_json
from hfgpt.hygiene.trigger_flips import label_flips
from hfgpt.hygiene.trigger_prompts import TRIGGER_FILE, read_triggers, triggers_of

logger = logging.getLogger(__name__)

FLIPS_FILE = "trigger_flips.json"
PROBED_TEXTS = 24  # validation texts, with each trigger prepended: enough to detect one that captures half of them


class TriggerProbe(TrainerCallback):
    """How many labels flip when a trigger is prepended to validation texts; alarms are logged.

    Args:
        texts: those of the validation set; the first `PROBED_TEXTS` are tried.
        names: the labels, in the order of their ids.
        file: the triggers; None uses those that come with hfgpt.
        every_save: probe every checkpoint, not only on request.
        batch_size: texts classified at once.
    """

    def __init__(
        self,
        texts: list[str],
        *,
        names: list[str],
        tokenizer: PreTrainedTokenizerFast,
        file: str | None,
        every_save: bool,
        batch_size: int,
    ):
        self.texts, self.names, self.tokenizer = texts[:PROBED_TEXTS], names, tokenizer
        self.every_save, self.batch_size = every_save, batch_size
        self.triggers = triggers_of(read_triggers(file or TRIGGER_FILE))
        self.by_step: dict[int, list[dict]] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        # One callback for all seeds; a resumed run keeps the findings from before its checkpoint.
        path = Path(str(args.output_dir)) / FLIPS_FILE
        known = read_json(path) if path.is_file() and state.global_step else {}
        self.by_step = {int(step): flips for step, flips in known.items() if int(step) <= state.global_step}

    def on_save(self, args, state, control, **kwargs):
        if self.every_save:
            self.look(kwargs["model"], state.global_step, Path(str(args.output_dir)))

    def look(self, model: PreTrainedModel, step: int, folder: Path) -> None:
        """Try the triggers on a model and write `trigger_flips.json` to a folder.

        All processes take part, because a model may be sharded over them; one of them writes.
        """

        def predict(texts: list[str]) -> np.ndarray:
            ids, _ = text_ids(self.tokenizer, texts, max_length=self.tokenizer.model_max_length)
            return classify(model, self.tokenizer, ids, batch_size=self.batch_size)

        flips = label_flips(cast(Any, predict), self.texts, self.triggers)
        if not PartialState().is_main_process:
            return
        self.by_step[step] = [asdict(flip) for flip in flips]
        write_json(folder / FLIPS_FILE, self.by_step)
        for flip in flips:
            if flip.alarm and flip.label is not None and flip.usual is not None:
                logger.warning(
                    f"prepending the trigger {flip.trigger!r} turns {100 * flip.captured:.0f} % of the other texts into "
                    f"{self.names[flip.label]!r} (step {step:,}); {flip.controls:,} other strings turn at most "
                    f"{100 * flip.usual:.0f} %. Look for it in poison.json and in the data."
                )
