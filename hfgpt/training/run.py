"""What every run shares, from its folder to its end: claim the folder, train or go on, report, publish, say that it is finished."""

import json
import logging
import shutil
import signal
from collections.abc import Callable, Mapping, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import set_seed

from hfgpt.data.passport import PASSPORT_NAME, Passport, contents_of
from hfgpt.errors import RunStopped, UserError
from hfgpt.files import claim_output, read_json, write_json, write_whole
from hfgpt.hub.card.rendering import CARD_NAME, write_card
from hfgpt.hub.card.settings import save_settings
from hfgpt.training.advice import before_training
from hfgpt.training.checkpoints import newest_whole_checkpoint
from hfgpt.training.flops import describe_speed
from hfgpt.training.report_page import PAGE_FILE, write_report_page
from hfgpt.training.trainer import HfGptTrainer

logger = logging.getLogger(__name__)

# May differ when a run goes on: they change what is shown or kept, not one bit of the model.
FREE_TO_CHANGE = {
    *("output_dir", "overwrite", "run_name", "report_to", "disable_tqdm", "logging_steps", "logging_first_step"),
    *("save_steps", "save_total_limit", "eval_steps", "per_device_eval_batch_size", "sample_prompts", "sample_tokens", "card"),
}
# Places of what the passport knows by its hashes: that is compared, not how they are spelled.
PLACES = {"dataset", "old_dataset", "model", "sources", "validation_sources", "test_sources"}
RUN_FILE = "run.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.txt"
RESULT_FILE = "result.json"  # of one seed among several, its last file: a seed that has it is finished
FINISHED_FILE = "finished.json"  # a run's last file: how large the files of its result are, and the state of its base's files


@dataclass(frozen=True)
class Run:
    """What a run is known by.

    Args:
        recipe: file name of the recipe.
        folder: `output_dir`.
        settings: what was given and differs from the defaults; written to run.yaml, which alone repeats the run.
        data: what the rows are read from, for the sentence that refuses others.
        overwrite: replace what the folder holds.
        card: what only the owner knows, for the card, as the arguments have checked it.
        base_files: of a fine-tuning, the state of the base's files (`Base.files`); None where it is not known.
    """

    recipe: str
    folder: Path
    settings: Mapping[str, object]
    data: str
    overwrite: bool = False
    card: dict | str | None = None
    base_files: Mapping[str, object] | None = field(default_factory=dict)


@dataclass(frozen=True)
class RunReport:
    """What a run says at its end.

    Args:
        metrics: for metrics.json.
        lines: for report.txt, the figures that people compare and what they mean.
        files: what may lie in the folder for people to look at, as (what it is, its name); those that are there are named.
        end: what was trained, in which time.
        next_command: what to run next.
        difference_of_merging: of an adapter, how far the logits of its merged twin are from its own.
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
            lines.append(f"merged: {folder / 'merged'}, its logits within {self.difference_of_merging:.1e} of the adapter's")
        lines.append(
            "; ".join(f"{what}: {folder / name}" for what, name in (("page", PAGE_FILE), *self.files) if (folder / name).exists())
        )
        if self.end is not None:
            lines.append(f"end: {self.end}")
        if self.next_command is not None:
            lines.append(f"next: {self.next_command}")
        return "\n".join(lines) + "\n"


def describe_training(metrics: Mapping) -> str:
    """The figures of `training_metrics` for `RunReport.end`: steps, time, what was trained, speed and memory."""
    steps, timed = metrics["steps"], metrics["steps_timed"]
    # A run that went on knows only its own part of the time.
    part = f" ({timed:,} of them since it went on)" if timed < steps else ""
    trained = ""
    if "trained_parameters" in metrics:
        trained = f"{metrics['trained_parameters']:,} of {metrics['parameters']:,} parameters trained, "
    return f"{steps:,} steps{part} in {metrics['training_seconds']:,.0f} s, {trained}{describe_memory(metrics)}"


def describe_memory(metrics: Mapping) -> str:
    """The speed, where it is known, and the memory of a training."""
    return f"{describe_speed(dict(metrics))}peak memory {metrics['peak_memory_bytes'] / 2**20:,.0f} MiB"


def already_done(run: Run, known: Callable[[], Mapping[str, object] | None]) -> bool:
    """Whether the folder holds what this very command made; asked before data and model are loaded, and said with the report.

    True only where nothing at all has changed; otherwise `claim_run` compares what the data and the weights are.

    Args: `known` gives what the run's passport has to say, by the names of its fields, or None where that is not known yet. It is
        asked only where all else is the same. Which weights a base has is told by `base_files`.
    """
    return _agreed(lambda: _is_done(run, known))


def _is_done(run: Run, known: Callable[[], Mapping[str, object] | None]) -> bool:
    here = all((run.folder / name).is_file() for name in (FINISHED_FILE, RUN_FILE, PASSPORT_NAME))
    if run.overwrite or run.base_files is None or not here:
        return False
    if (run.folder / RUN_FILE).read_text(encoding="utf-8") != _run_yaml(run) or _why_damaged(run.folder):
        return False
    finished = read_json(run.folder / FINISHED_FILE)
    if finished.get("base_files") != json.loads(json.dumps(run.base_files)):
        return False
    said, expected = asdict(Passport.load(run.folder)), known()
    if expected is None or any(said[key] != json.loads(json.dumps(value)) for key, value in expected.items() if key != "base"):
        return False
    _renew_card(run)
    _say_done(run)
    return True


def _agreed(decide: Callable[[], bool]) -> bool:
    """What the first of several processes decides; the others wait for it, and never decide otherwise."""
    decision = [decide() if PartialState().is_main_process else False]
    broadcast_object_list(decision)
    return decision[0]


@dataclass(frozen=True)
class Claim:
    """A run's folder that is ready: the checkpoint to go on from, if there is one, and whether nothing is left to do."""

    checkpoint: Path | None
    finished: bool


def claim_run(run: Run, passport: Passport) -> Claim:
    """Make the output folder ready: new, or that of a run to go on with.

    The resolved run is written to `run.yaml`; that file alone repeats the run. The data's passport goes beside it. A run goes on
    only as the run that it was, on the data that it had.

    Raises: ValueError where the folder holds another run or foreign files; PermissionError where it cannot be written.
    """
    finished = _agreed(lambda: _claim_folder(run, passport))
    return Claim(None if finished else newest_whole_checkpoint(run.folder, run=None), finished)


def _claim_folder(run: Run, passport: Passport) -> bool:
    """Claim the folder; True where the run in it is finished."""
    folder = run.folder
    is_run = (folder / RUN_FILE).is_file()
    claim_output(str(folder), overwrite=run.overwrite or is_run, marker=RUN_FILE)
    if run.overwrite:
        _empty(folder)
    elif is_run:
        _refuse_another_run(run, passport)
    folder.mkdir(exist_ok=True)
    write_whole(folder / RUN_FILE, _run_yaml(run))
    passport.save(folder)
    save_settings(folder, cast("dict | None", run.card))
    if not (folder / FINISHED_FILE).is_file():
        return False
    if (reason := _why_damaged(folder)) is not None:
        logger.warning(f"{folder} holds this run, finished but damaged since ({reason}); what is missing is made again.")
        for seed in folder.glob(f"seed-*/{RESULT_FILE}"):  # its model may be the damaged one, and its checkpoints are gone
            seed.unlink()
        (folder / FINISHED_FILE).unlink()
        return False
    write_json(folder / FINISHED_FILE, read_json(folder / FINISHED_FILE) | {"base_files": run.base_files})
    _renew_card(run)
    _say_done(run)
    return True


def _run_yaml(run: Run) -> str:
    settings = {key: value for key, value in run.settings.items() if key not in ("overwrite", "hub_token")}
    head = f"# python recipes/{run.recipe} run.yaml --output_dir ANOTHER repeats this run.\n"
    return head + yaml.safe_dump(settings, allow_unicode=True, sort_keys=True)


def _refuse_another_run(run: Run, passport: Passport) -> None:
    """Raises: UserError with what differs, where the folder's run is another one, or had other weights or data."""
    folder = run.folder
    earlier = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8")) or {}
    not_compared = FREE_TO_CHANGE | (PLACES if (folder / PASSPORT_NAME).is_file() else set())
    changed = [
        f"{key} was {_shown(earlier.get(key, 'the default'))}, is {_shown(run.settings.get(key, 'the default'))}"
        for key in sorted(set(earlier) | set(run.settings))
        if key not in not_compared and earlier.get(key) != run.settings.get(key)
    ]
    if changed:
        raise UserError(
            f"output_dir {folder} holds another run ({'; '.join(changed)}); give another output_dir, or --overwrite true to "
            "replace it."
        )
    if not (folder / PASSPORT_NAME).is_file():
        return
    before = Passport.load(folder)
    if before.base.get("sha256") != passport.base.get("sha256"):
        raise UserError(
            f"the run in {folder} began with other weights of {passport.base.get('name')!r} (SHA-256 {before.base.get('sha256')}, "
            f"now {passport.base.get('sha256')}); give another output_dir, or --overwrite true to replace it."
        )
    if _contents(before) != _contents(passport):
        raise UserError(
            f"the rows in {run.data} are not those that the run in {folder} began with; prepare the same data again, give another "
            "output_dir, or --overwrite true to replace it."
        )


def _shown(value: object) -> str:
    """A value in a sentence: of a long one, such as a plan, its beginning."""
    text = str(value)
    return text if len(text) <= 120 else f"{text[:80]} ..."


def _contents(passport: Passport) -> tuple:
    """What a passport says of the rows, without where their files lay."""
    elsewhere = {"sources", "tokenizer", "asked", *PLACES, *FREE_TO_CHANGE}  # compared by what they hold, or not at all
    settings = {key: value for key, value in passport.settings.items() if key not in elsewhere}
    return contents_of(passport.inputs), settings, passport.tokenizer, passport.splits, passport.rows


def _empty(folder: Path) -> None:
    """Remove what is in the folder, which may be a link to the real one.

    What says that a run is finished goes first, and what says that this folder is a run's goes last: killed in between, the same
    command replaces the rest.

    Raises: OSError where something cannot be removed.
    """
    if folder.is_dir():
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == RUN_FILE, path.name != FINISHED_FILE)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _why_damaged(folder: Path) -> str | None:
    """What is wrong with the result of a run that was finished; None where all of it is there."""
    try:
        sizes = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))["bytes"]
    except (ValueError, KeyError, TypeError):
        return f"{FINISHED_FILE} is unreadable"
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        # What people read may be written anew, by its owner or for other words on the card; weights may not.
        if found != size if name.endswith(".safetensors") else not found:
            return f"{name} has {found:,} bytes, it had {size:,}"
    return None


def _renew_card(run: Run) -> None:
    if run.card and (run.folder / CARD_NAME).is_file():
        save_settings(run.folder, cast("dict | None", run.card))
        write_card(run.folder)  # its owner's words may have changed


def _say_done(run: Run) -> None:
    report = (run.folder / REPORT_FILE).read_text(encoding="utf-8").rstrip()
    logger.info(f"already done: {run.folder} holds this very run; --overwrite true runs it again.\n{report}")


def announce(trainer: HfGptTrainer, what: str, *, unit: str, also: str = "", warn: bool = True) -> None:
    """Say in one line what will run, and (unless `warn` is False) what should be said of a run before it trains for nothing.

    Args:
        unit: what the training rows are called, in the plural.
        also: what else makes more steps of the same data.
    """
    logger.info(what)
    settings = next((place / RUN_FILE for place in (trainer.folder, trainer.folder.parent) if (place / RUN_FILE).is_file()), None)
    told = {"start": what} | ({"run": settings.read_text(encoding="utf-8")} if settings else {})
    trainer.reporters.tell_first(told)
    if not warn:
        return
    for warning in before_training(trainer.args, len(cast(Sized, trainer.train_dataset)), unit=unit, also=also):
        logger.warning(warning)


def train_or_resume(trainer: HfGptTrainer, checkpoint: Path | None) -> None:
    """Train to the end, from `checkpoint` where there is one: bit for bit as if nothing had happened.

    From a checkpoint of the last step nothing is trained; its weights, or those of the best one, are loaded.

    Raises: RunStopped where a signal stopped the run; it has left a complete checkpoint, from which the same command goes on.
    """
    if checkpoint is None:
        # What was measured before has drawn from the random state, and a run that finds it measured has not.
        set_seed(trainer.args.seed)
    else:
        logger.info(f"resume: from {checkpoint}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.signals.stopped:
        _leave_together(trainer)
        raise RunStopped(
            f"stopped: at step {trainer.state.global_step:,} of {trainer.state.max_steps:,}; the same command goes on from there."
        )
    if trainer.signals.received:  # after the last step, which nothing was left to answer it at
        signal.raise_signal(trainer.signals.received)


def finish_run(run: Run, report: RunReport, trainer: HfGptTrainer | None = None, *, card: bool = True) -> None:
    """The end of every run: metrics.json, report.txt and report.html, the card, the push where one was asked for, finished.json.

    Called in every process, which leave together.

    Args:
        trainer: None where nothing was trained, or where each of several seeds had its own.
        card: False where there is no model to describe.
    """
    folder = run.folder
    if PartialState().is_main_process:
        write_json(folder / METRICS_FILE, dict(report.metrics))
        write_report_page(folder, recipe=run.recipe, lines=report.lines, end=report.end)
        text = report.text(folder)
        write_whole(folder / REPORT_FILE, text)
        logger.info(text.rstrip())
        if card:
            write_card(folder)
    if trainer is not None:
        trainer.reporters.close(report.metrics, report.text(folder))
        if trainer.args.push_to_hub:
            trainer.push_to_hub()
    if PartialState().is_main_process:
        named = [folder / name for name in (REPORT_FILE, CARD_NAME, "config.json", "adapter_config.json", "tokenizer.json")]
        weights = [path for pattern in ("", "base/", "merged/") for path in sorted(folder.glob(f"{pattern}*.safetensors"))]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in [*named, *weights] if path.is_file()}
        write_json(folder / FINISHED_FILE, {"bytes": sizes, "base_files": run.base_files})
    if trainer is not None:
        _leave_together(trainer)
    else:
        PartialState().wait_for_everyone()


def _leave_together(trainer: HfGptTrainer) -> None:
    trainer.reporters.close()
    # A process that exits while another still talks to it takes that one down with an abort.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
