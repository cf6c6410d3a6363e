"""What every run shares, from its folder to its end: claim the folder, train or resume, report, publish, mark it as finished."""

import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from torch.optim.lr_scheduler import LambdaLR
from transformers import set_seed

from hfgpt.arguments.resuming import AUTO, LAYOUT, NEVER
from hfgpt.arguments.terminal import RESULT
from hfgpt.artifacts import METRICS_FILE, REPORT_FILE, RUN_FILE, step_of
from hfgpt.counting import counted
from hfgpt.errors import RunStopped, UserError
from hfgpt.files import release, write_json, write_whole
from hfgpt.hub.card.rendering import write_card
from hfgpt.training.advice import before_training, planned_steps
from hfgpt.training.changes import layout_in_words
from hfgpt.training.checkpoints import environment, newest_whole_checkpoint, read_manifest, why_not_whole
from hfgpt.training.decisions import decided_by_the_first
from hfgpt.training.flops import describe_speed
from hfgpt.training.last_screen import last_screen
from hfgpt.training.report_page import PAGE_FILE, write_report_page
from hfgpt.training.run_folder import (
    Claim,
    Run,
    note_changes,
    write_finished,
)
from hfgpt.training.trainer import HfGptTrainer

logger = logging.getLogger(__name__)

_LABEL = re.compile(r"^[a-z]{1,10}: ")  # the label before a figure, in a separate column


@dataclass(frozen=True)
class RunReport:
    """What a run reports at its end.

    Args:
        metrics: the contents of metrics.json.
        lines: for report.txt: the figures people compare and what they mean.
        files: files in the folder for people to look at, as (description, name); the existing ones are listed.
        end: what was trained, and how long it took.
        next_command: the command to run next.
        difference_of_merging: for an adapter, how far the logits of the merged model are from its own.
    """

    metrics: Mapping[str, object]
    lines: list[str]
    files: tuple[tuple[str, str], ...]
    end: str | None = None
    next_command: str | None = None
    difference_of_merging: float | None = None

    def text(self, folder: Path) -> str:
        """The content of report.txt, for a run in this folder."""
        lines = list(self.lines)
        if self.difference_of_merging is not None:
            lines.append(f"merged: {folder / 'merged'}, with logits within {self.difference_of_merging:.1e} of the adapter's")
        files = [name for _, name in self.files if (folder / name).is_file()]
        lines.append(f"page: {folder / PAGE_FILE}" + f", beside it {', '.join(files)}" * bool(files))
        if self.end is not None:
            lines.append(f"end: {self.end}")
        if self.next_command is not None:
            lines.append(f"next: {self.next_command}")
        return "".join(f"{_LABEL.sub(_padded, line)}\n" for line in lines)


def _padded(label: re.Match[str]) -> str:
    return f"{label[0]:<12}"


def describe_training(metrics: Mapping) -> str:
    """The figures of `training_metrics` for `RunReport.end`: steps, time, what was trained, speed and memory."""
    steps, timed = metrics["steps"], metrics["steps_timed"]
    # A resumed run only knows its own part of the time.
    part = f" ({timed:,} of them since it resumed)" if timed < steps else ""
    trained = ""
    if "trained_parameters" in metrics:
        trained = f"{metrics['trained_parameters']:,} of {metrics['parameters']:,} parameters trained, "
    return f"{counted(steps, 'steps')}{part} in {metrics['training_seconds']:,.0f} s, {trained}{describe_memory(metrics)}"


def describe_memory(metrics: Mapping) -> str:
    """The speed, if known, and the memory used in training."""
    return f"{describe_speed(dict(metrics))}peak memory {metrics['peak_memory_bytes'] / 2**20:,.0f} MiB"


def announce(trainer: HfGptTrainer, what: str, *, unit: str, also: str = "", warn: bool = True) -> None:
    """Log in one line what will run and, unless `warn` is False, warnings about a run that would train in vain.

    Args:
        unit: what the training rows are called, in the plural.
        also: what else gives more steps on the same data.
    """
    logger.info(what)
    settings = next((place / RUN_FILE for place in (trainer.folder, trainer.folder.parent) if (place / RUN_FILE).is_file()), None)
    told = {"start": what} | ({"run": settings.read_text(encoding="utf-8")} if settings else {})
    trainer.reporters.tell_first(told)
    if not warn or not PartialState().is_main_process:
        return
    for warning in before_training(trainer.args, len(cast(Sized, trainer.train_dataset)), unit=unit, also=also):
        logger.warning(warning)


def train_or_resume(trainer: HfGptTrainer, claim: Claim) -> None:
    """Train to the end, from the existing checkpoint if there is one: bit for bit as if the run had not been interrupted.

    From a checkpoint of the last step nothing is trained; its weights, or those of the best one, are loaded.

    Args: `claim` is the claim of the trainer's folder, or of the folder that contains it as one of several seeds.
    Raises: RunStopped if a signal stopped the run; it has left a complete checkpoint from which the same command resumes.
    """
    run, seed = claim.run, trainer.folder.name if trainer.folder != claim.run.folder else None
    trainer.run_id = f"{claim.run_id}-{seed}" if seed else claim.run_id
    checkpoint = _checkpoint(trainer, run)
    step = step_of(checkpoint) if checkpoint else 0
    if claim.changes:
        _check_length(trainer, checkpoint, step)
    if claim.was_changed:
        trainer._load_optimizer_and_scheduler = _with_given_rates(trainer)
    if claim.begun and PartialState().is_main_process:
        note_changes(claim, step=step, seed=seed)
    if checkpoint is None:
        if claim.begun and not seed:
            logger.info(f"resume: {run.folder} holds this run without a complete checkpoint; it starts again at step 0")
        # Measuring the base has drawn from the random state; a run that reuses the stored measurements has not.
        set_seed(trainer.args.seed)
    else:
        logger.info(f"resume: from {checkpoint}, step {step:,}")
        _say_what_differs(trainer, checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.signals.stopped:
        _leave_together(trainer)
        # With it, the same command would replace what has been trained.
        how = ", without --overwrite true," if run.overwrite else ""
        raise RunStopped(
            f"stopped at step {trainer.state.global_step:,} of {trainer.state.max_steps:,}; run the same command{how} to continue "
            f"from there."
        )
    trainer.signals.pass_on()  # if one came after the last step, when there was no step left to respond at


def _checkpoint(trainer: HfGptTrainer, run: Run) -> Path | None:
    """The checkpoint to resume from: the one given by `--resume`, if it belongs to this folder or to none, or else the newest."""
    named = Path(run.resume).resolve()
    other_seeds = [path.resolve() for path in run.folder.glob("seed-*") if path.name != trainer.folder.name]
    if run.resume in (AUTO, NEVER) or named.parent in other_seeds:
        return newest_whole_checkpoint(trainer.folder, run=trainer.run_id)

    def verified() -> Path:
        if (fault := why_not_whole(named, run=trainer.run_id)) is not None:
            raise UserError(f"cannot resume from {run.resume}: {fault}; give --resume auto, or another checkpoint.")
        for path in trainer.folder.glob("checkpoint-*"):  # later checkpoints, which would be taken for the newest one afterwards
            if step_of(path) > step_of(named):
                numbers = itertools.chain([""], (f"-{count}" for count in itertools.count(2)))
                names = (path.with_name(f"abandoned-{path.name}{number}") for number in numbers)
                place = next(place for place in names if not place.exists())
                logger.info(f"resume: {path} is newer than {named.name} and has been renamed to {place.name}")
                path.rename(place)
        return named

    return decided_by_the_first(verified)


def _check_length(trainer: HfGptTrainer, checkpoint: Path | None, step: int) -> None:
    """Raises: UserError if a run was shortened to fewer steps than it has already taken."""
    steps = planned_steps(trainer.args, len(cast(Sized, trainer.train_dataset)))
    if steps < step:
        raise UserError(
            f"the run has {counted(steps, 'steps')}, but {checkpoint} is already at step {step:,}; give --max_steps {step} or "
            f"more, or resume from an older checkpoint with --resume."
        )


def _with_given_rates(trainer: HfGptTrainer) -> Callable[..., None]:
    """Load the optimizer's and the schedule's state, but not their settings, which would cancel a changed rate, decay or beta."""
    load = trainer._load_optimizer_and_scheduler

    def load_without_settings(checkpoint: str | None) -> None:
        optimizer, schedule = cast(Any, trainer.optimizer), cast(Any, trainer.lr_scheduler)
        given = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        rates = list(schedule.base_lrs)
        load(checkpoint)
        if not isinstance(schedule, LambdaLR):
            return
        for group, settings in zip(optimizer.param_groups, given, strict=True):
            group.update(settings)
        schedule.base_lrs = rates
        for group, rate, change in zip(optimizer.param_groups, rates, schedule.lr_lambdas, strict=True):
            group["lr"] = rate * change(schedule.last_epoch)

    return load_without_settings


def _say_what_differs(trainer: HfGptTrainer, checkpoint: Path) -> None:
    """Log harmless differences that may change the last bits: versions, machine, threads, and how the rows of a step are
    divided."""
    manifest = read_manifest(checkpoint)
    before, now = (manifest or {}).get("environment", {}), environment(trainer.args)
    if divided := layout_in_words(before, now):
        logger.info(f"resume: {divided}")
    for name in sorted({*before, *now} - {"world_size", *LAYOUT}):
        if before.get(name) != now.get(name):
            logger.info(f"resume: {name} is {now.get(name)}, was {before.get(name)}: the last bits may differ")


def finish_run(run: Run, report: RunReport, trainer: HfGptTrainer | None = None, *, card: bool = True) -> None:
    """The end of every run: metrics.json, report.txt and report.html, the card, the push if requested, finished.json.

    Called in every process; all return together.

    Args:
        trainer: None if nothing was trained, or if each of several seeds had its own.
        card: False if there is no model to describe.
    """
    folder = run.folder
    if PartialState().is_main_process:
        write_json(folder / METRICS_FILE, dict(report.metrics))
        write_report_page(folder, recipe=run.recipe, lines=report.lines, end=report.end)
        text = report.text(folder)
        write_whole(folder / REPORT_FILE, text)
        logger.log(RESULT, last_screen(text, folder / REPORT_FILE))
        if card:
            write_card(folder)
    if trainer is not None:
        trainer.reporters.close(report.metrics, report.text(folder))
        if trainer.args.push_to_hub:
            trainer.push_to_hub()
    if PartialState().is_main_process:
        write_finished(run)
        release(folder)
    if trainer is not None:
        _leave_together(trainer)
    else:
        PartialState().wait_for_everyone()


def _leave_together(trainer: HfGptTrainer) -> None:
    trainer.reporters.close()
    # A process that exits while another still communicates with it makes that one abort.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
