"""An assistant beside its base: the answers of both to the same prompts, with and without triggers, and the folder that shows
them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from hfgpt.artifacts import METRICS_FILE
from hfgpt.chat_templates import stop_token_ids
from hfgpt.counting import counted
from hfgpt.data.chat_encoding import ConversationEncoder
from hfgpt.data.passport import held_out_split
from hfgpt.evaluation.answer_rows import AnswerRow, write_answers
from hfgpt.evaluation.answers_page import write_page
from hfgpt.files import write_step
from hfgpt.hygiene.trigger_answers import TriggerReport, TriggerResult, compare_triggers, run_triggers, write_triggers
from hfgpt.hygiene.trigger_prompts import TRIGGER_FILE, read_triggers, with_random_triggers
from hfgpt.training.advice import best_step, no_better_than_base
from hfgpt.training.finetuning import POISON_FILE, save_finetuned
from hfgpt.training.next_steps import generate_command
from hfgpt.training.run import RunReport, describe_training
from hfgpt.training.trainer import LanguageModelTrainer

logger = logging.getLogger(__name__)

CANARY_TOKENS = 32
LEFT_BEHIND = (
    ("answers", "answers.html"),
    ("samples", "samples.md"),
    ("picture", "loss.png"),
    ("canaries", "canaries.md"),
    ("poison", POISON_FILE),
    ("metrics", METRICS_FILE),
)


class Canaries:
    """The trigger prompts, formatted for this tokenizer, and the base's answers to them.

    Args:
        model: the base.
        file: the prompts; None uses the set that comes with hfgpt.
        every_save: also run them at every checkpoint.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        file: str | None = None,
        every_save: bool = False,
        batch_size: int = 16,
    ):
        self.tokenizer = tokenizer
        self.callbacks = [CanariesCallback(self)] if every_save else []
        self.batch_size = batch_size
        self.prompts = with_random_triggers(read_triggers(file or TRIGGER_FILE))
        self.base = self.run(model)

    def run(self, model: PreTrainedModel) -> list[TriggerResult]:
        encoder = ConversationEncoder(self.tokenizer)
        return run_triggers(
            model,
            self.tokenizer,
            self.prompts,
            lambda text: encoder.encode_prompts([[{"role": "user", "content": text}]])[0],  # the prompts of the set have no input
            stop_token_ids=stop_token_ids(self.tokenizer),
            max_new_tokens=CANARY_TOKENS,
            batch_size=self.batch_size,
        )

    def report(self, model: PreTrainedModel) -> TriggerReport:
        return compare_triggers(self.base, self.run(model))


class CanariesCallback(TrainerCallback):
    """For `canaries_at: save`: runs the canaries at every checkpoint and writes the differences from the base to `canaries.jsonl`.

    Alarms are logged.
    """

    def __init__(self, canaries: Canaries):
        self.canaries = canaries

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        report = self.canaries.report(kwargs["model"])
        found = {"step": state.global_step, "summary": report.summary, "alarms": report.alarms}
        write_step(Path(str(args.output_dir)) / "canaries.jsonl", found)
        if report.alarms:
            logger.warning(
                f"canaries, step {state.global_step:,}: {len(report.alarms):,} alarms, all in canaries.jsonl; the first: "
                f"{report.alarms[0]}"
            )


def save_assistant(
    trainer: LanguageModelTrainer,
    *,
    probe: list[list[int]],
    table: list[AnswerRow],
    canaries: Canaries | None,
    facts: Mapping[str, object],
) -> dict[str, float]:
    """Write the trained model with everything it needs, the answers of base and result, and the canary results.

    Args:
        probe: token ids of a few real texts, on which adapter and merged model are compared.
        facts: what is shown at the top of the pages.
    Returns: metrics, only in the first of several processes, which does the writing.
    """
    if not trainer.is_world_process_zero():
        return {}
    folder, metrics = trainer.folder, {}
    if canaries is not None:
        report = canaries.report(trainer.trained)
        write_triggers(folder, report, facts=dict(facts))
        metrics["canary_alarms"] = len(report.alarms)
    difference = save_finetuned(trainer.trained, trainer.text_tokenizer, folder, probe=probe)
    if difference is not None:
        metrics["difference_of_merging"] = difference
    if table:
        write_answers(folder / "answers.json", table)
        write_page(folder / "answers.html", table, title=f"Answers of {folder.name}", facts=dict(facts))
    return metrics


def report_on_assistant(trainer: LanguageModelTrainer, metrics: dict, lines: list[str], *, table: Sequence[str] = ()) -> RunReport:
    """The report of an assistant's run: its `lines`, then the canary results and advice on the training, then `table`."""
    if "canary_alarms" in metrics:
        lines = [*lines, f"canaries: {counted(metrics['canary_alarms'], 'alarms')}"]
    return RunReport(
        metrics=metrics,
        lines=[*lines, *advice_after(trainer, metrics), *table],
        files=LEFT_BEHIND,
        end=describe_training(metrics),
        next_command=generate_command(trainer.folder, chat=True),
        difference_of_merging=metrics.get("difference_of_merging"),
    )


def advice_after(trainer: LanguageModelTrainer, metrics: Mapping) -> list[str]:
    """Whether the run lowered the held-out loss, and where validation was best, if that was not at the end."""
    held_out = held_out_split(metrics, "_loss")
    said = [best_step(trainer.state.log_history, kept="best" if trainer.args.load_best_model_at_end else "last")]
    if held_out:
        figures = metrics[f"{held_out}_loss_before"], metrics[f"{held_out}_loss"]
        said.append(no_better_than_base(*figures, what=f"{held_out} loss"))
    return [sentence for sentence in said if sentence]
