"""What defines a run, and how the requested run differs from the one in its folder.

Final values are compared, and rows, tokenizer and base by their hashes: how a path or a number was spelled does not matter.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hfgpt.arguments.resuming import AUTO, CANNOT_CHANGE, LAYOUT, ROWS, ROWS_PER_STEP, is_allowed
from hfgpt.counting import counted
from hfgpt.data.passport import Passport, contents_of
from hfgpt.errors import UserError
from hfgpt.files import read_json, write_json

logger = logging.getLogger(__name__)

IDENTITY_FILE = "identity.json"
# May differ when a run resumes: they change what is shown, kept or pushed, and how fast, but not one bit of the model.
FREE_TO_CHANGE = {
    "output_dir", "overwrite", "resume", "allow_change", "run_name", "report_to", "disable_tqdm", "card", "cpu_threads",
    "use_cpu",
    "logging_steps", "logging_first_step", "logging_strategy", "save_steps", "save_total_limit", "log_level",
    "log_level_replica",
    "per_device_eval_batch_size", "eval_accumulation_steps", "sample_prompts", "sample_tokens", "ddp_timeout", "ddp_backend",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "dataloader_persistent_workers",
    "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision", "hub_token",
    "project",
}  # fmt: skip
# May also differ, but the user is told the effect.
STATED = {
    **dict.fromkeys(
        ("attn_implementation", "gradient_checkpointing", "torch_compile", "torch_compile_backend", "torch_compile_mode", "tf32"),
        "the last bits may differ",
    ),
    **dict.fromkeys(
        ("eval_steps", "eval_strategy", "eval_delay", "save_strategy"), "the best state is searched at different steps"
    ),
}
# Paths of data that the passport identifies by hash: the hashes are compared, not the paths.
PLACES = {"dataset", "old_dataset", "model", "sources", "validation_sources", "test_sources"}
# Values that follow from the machine or from several keys are compared even if they were not given.
_DERIVED = ("precision", "attn_implementation", ROWS_PER_STEP)
_DIGITS = 16  # digits of hashes in messages and in the ID


@dataclass(frozen=True)
class Run:
    """What identifies a run.

    Args:
        recipe: file name of the recipe.
        folder: `output_dir`.
        settings: the given values that differ from the defaults; written to run.yaml, which alone repeats the run.
        values: the final values of all keys.
        data: where the rows are read from, for the message that refuses others.
        overwrite: replace the contents of the folder.
        card: what only the owner knows, for the card, as checked by the arguments.
        base_files: for fine-tuning, the state of the base's files (`Base.files`); None if unknown.
        resume, allow_change: the keys of the same names.
    """

    recipe: str
    folder: Path
    settings: Mapping[str, object]
    data: str
    values: Mapping[str, object] = field(default_factory=dict)
    overwrite: bool = False
    card: dict | str | None = None
    base_files: Mapping[str, object] | None = field(default_factory=dict)
    resume: str = AUTO
    allow_change: list[str] = field(default_factory=list)


@dataclass
class Identity:
    """What is stored about a run in identity.json, beside run.yaml.

    Args:
        run: the ID, which is in the manifests of its checkpoints; it never changes after the first start.
        values: the final values of the keys when it was last trained.
        changes: what `--allow_change` allowed to differ, each with the step from which it holds.
    """

    run: str
    values: dict[str, object] = field(default_factory=dict)
    changes: list[dict] = field(default_factory=list)
    format: int = 1

    def save(self, folder: Path) -> None:
        """Write identity.json."""
        write_json(folder / IDENTITY_FILE, asdict(self), ensure_ascii=False)

    @classmethod
    def load(cls, folder: Path) -> "Identity | None":
        """The contents of identity.json; None if there is none or it is not ours, and run.yaml has to suffice."""
        try:
            found = cls(**read_json(folder / IDENTITY_FILE))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            logger.warning(f"{folder / IDENTITY_FILE} is ignored, because it has been altered ({error})")
            return None
        return found


@dataclass(frozen=True)
class Change:
    """One difference. Args: `field` is its name in `--allow_change`."""

    field: str
    was: object
    now: object
    sentence: str


def new_identity(run: Run, passport: Passport) -> Identity:
    """The identity of a new run: the hash of everything that defines it, however it was spelled."""
    free = {*FREE_TO_CHANGE, *STATED, *PLACES, *LAYOUT}
    values = {key: run.values.get(key, run.settings.get(key)) for key in (*run.settings, *_DERIVED) if key not in free}
    what = [run.recipe, values, _contents(passport, run), passport.base.get("sha256")]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
    return Identity(digest[:_DIGITS], values=values_to_keep(run))


def values_to_keep(run: Run) -> dict[str, object]:
    """The values to store in identity.json: none that may differ freely, and no paths of this machine."""
    return {key: value for key, value in run.values.items() if key not in FREE_TO_CHANGE | PLACES}


def changes_between(run: Run, passport: Passport, *, written: Mapping, identity: Identity | None, earlier: Passport | None):
    """The changes that `--allow_change` permits; harmless ones are logged.

    Args:
        written: the contents of run.yaml.
        identity, earlier: those of the run in the folder; None if missing.
    Raises: UserError with the old and new values and what to do.
    """
    settings = list(_setting_changes(run, written, identity))
    if earlier is None:  # their location is all that is known about the rows
        settings += [
            Change(key, written.get(key), run.settings.get(key), f"{key} was {written.get(key)}, is now {run.settings.get(key)}")
            for key in sorted(PLACES)
            if written.get(key) != run.settings.get(key)
        ]
    harmless = [one for one in settings if one.field in STATED]
    harmful = [one for one in settings if one.field not in STATED]
    folder, others = run.folder, "give another --output_dir, or --overwrite true to replace it."
    if earlier is not None:
        if earlier.base.get("sha256") != passport.base.get("sha256"):
            raise UserError(
                f"the run in {folder} began with different weights of {passport.base.get('name')!r} (SHA-256 "
                f"{earlier.base.get('sha256')}, now {passport.base.get('sha256')}); {others}"
            )
        if earlier.tokenizer != passport.tokenizer:
            was, now = (_short(one.tokenizer.get("sha256")) for one in (earlier, passport))
            raise UserError(
                f"the run in {folder} began with a different tokenizer than that of {run.data} (SHA-256 {was}, now {now}), for "
                f"which the ids of its rows mean different tokens; {others}"
            )
        if _contents(earlier, run) != _contents(passport, run):
            what = (
                f"the rows in {run.data} are not the ones that the run in {folder} began with ({_rows_in_words(earlier, passport)})"
            )
            if any(set(earlier.splits[name].get("labels", ())) != set(passport.splits[name].get("labels", ()))
                   for name in {*earlier.splits} & {*passport.splits}):  # fmt: skip
                raise UserError(f"{what}, and their labels are different, so the classifier's head has no rows for them; {others}")
            was, now = (one.settings.get("context_length") for one in (earlier, passport))
            if was != now:
                raise UserError(
                    f"{what}, and they are {now} tokens long instead of the {was} that the model was made for; {others}"
                )
            harmful.append(Change(ROWS, _rows_of(earlier), _rows_of(passport), what))
    refused = [one for one in harmful if not is_allowed(one.field, run.allow_change)]
    if refused:
        raise UserError(_refusal(run, refused, others))
    for one in harmless:
        logger.info(f"resume: {one.sentence}; {STATED[one.field]}")
    return harmful


def _setting_changes(run: Run, written: Mapping, identity: Identity | None) -> Iterator[Change]:
    before = identity.values if identity else written
    now = run.values if identity else run.settings
    not_compared = {*FREE_TO_CHANGE, *LAYOUT, *PLACES}
    if run.values.get("loss") == "kto":  # KTO compares the answers in one device's batch
        not_compared.remove("per_device_train_batch_size")
    derived = _DERIVED if identity else ()
    for key in sorted({*written, *run.settings, *derived} - not_compared):
        if before.get(key) != now.get(key) and not (key in derived and key not in before):
            was, current = written.get(key, before.get(key, "the default")), run.settings.get(key, now.get(key, "the default"))
            if key in derived:
                was, current = before.get(key), now.get(key)
            shown = _shown(was), _shown(current)
            if key == ROWS_PER_STEP:
                shown = _layout(before), _layout(now)
            yield Change(key, was, current, f"{key} was {shown[0]}, is now {shown[1]}")


def _refusal(run: Run, refused: Sequence[Change], others: str) -> str:
    settings = [one.sentence for one in refused if one.field != ROWS]
    rows = [one.sentence for one in refused if one.field == ROWS]
    start = "; ".join([*([f"output_dir {run.folder} holds another run ({'; '.join(settings)})"] if settings else []), *rows])
    fixed = [one.field for one in refused if one.field in CANNOT_CHANGE]
    if fixed:
        return f"{start}, and {fixed[0]} cannot change within a run, because {CANNOT_CHANGE[fixed[0]]}; {others}"
    names = " ".join(one.field for one in refused)
    return f"{start}; to continue anyway, give --allow_change {names}, or {others}"


def layout_in_words(before: Mapping, now: Mapping) -> str | None:
    """The effect of dividing the rows of a step differently; None if they are divided as before."""
    was, current = (one.get("world_size") for one in (before, now))
    if (was, *(before.get(key) for key in LAYOUT)) == (current, *(now.get(key) for key in LAYOUT)):
        return None
    processes = f"{current} process{'es' * (current != 1)} instead of {was}"
    if was == current:
        processes = f"{_layout(now)} rows per step instead of {_layout(before)}"
    same = "the same rows in each step, losses equal up to rounding (with dropout, different random numbers)"
    return f"continues with {processes}: {same}"


def _layout(values: Mapping) -> str:
    world = values.get("world_size", values.get("processes"))
    size, accumulated = (values.get(key) for key in LAYOUT)
    rows = values.get(ROWS_PER_STEP)
    parts = f"{world} x {size} x {accumulated}"
    return parts if rows is None else f"{rows} ({parts}: processes x rows x accumulated batches)"


def _contents(passport: Passport, run: Run) -> tuple:
    """What a passport says about the rows, without the locations of their files and without the run's keys, which are compared
    separately."""
    elsewhere = {"sources", "tokenizer", "asked", *PLACES, *FREE_TO_CHANGE, *run.values}
    settings = {key: value for key, value in passport.settings.items() if key not in elsewhere}
    said = contents_of(passport.inputs), settings, passport.tokenizer, passport.splits, passport.rows
    return tuple(json.loads(json.dumps(said)))


def _rows_of(passport: Passport) -> str:
    found = [str(one["sha256"]) for one in (*passport.rows.values(), *passport.inputs) if "sha256" in one]
    return hashlib.sha256(" ".join(found).encode()).hexdigest()[:_DIGITS] if len(found) != 1 else found[0][:_DIGITS]


def _rows_in_words(earlier: Passport, now: Passport) -> str:
    """The first difference: in the rows, in a source, or in how they were made or divided."""
    for name in sorted({*earlier.rows, *now.rows}):
        was, current = (passport.rows.get(name, {}).get("sha256") for passport in (earlier, now))
        if was != current:
            return f"{name}: SHA-256 {_short(was)}, now {_short(current)}"
    pairs = zip(contents_of(earlier.inputs), contents_of(now.inputs), now.inputs)
    for was, current, named in pairs:
        if was != json.loads(json.dumps(current)):
            hashes = (_short(one.get("sha256") or one.get("commit")) for one in (was, current))
            return "{}: SHA-256 {}, now {}".format(named.get("name"), *hashes)
    if len(earlier.inputs) != len(now.inputs):
        return f"from {counted(len(earlier.inputs), 'sources')}, now from {len(now.inputs):,}"
    return "made or divided differently, according to the passports"


def _short(sha256: object) -> str:
    return f"{str(sha256)[:_DIGITS]}…" if sha256 else "none"


def _shown(value: object) -> str:
    """A value as shown in a message: for a long one, such as a plan, its beginning."""
    text = str(value)
    return text if len(text) <= 120 else f"{text[:80]} ..."
