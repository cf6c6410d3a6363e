"""The folder of a run: claimed, locked, compared, emptied, and marked as finished by a file with hashes that is written last."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import yaml

from hfgpt.arguments.commands import command_line, repeats
from hfgpt.arguments.resuming import NEVER
from hfgpt.arguments.terminal import RESULT
from hfgpt.artifacts import FINGERPRINT_FILE, METRICS_FILE, REPORT_FILE, RUN_FILE
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.errors import AccessError, UserError
from hfgpt.files import (
    claim_output,
    hold,
    read_json,
    release,
    remove_partial_files,
    sha256_of_file,
    was_held,
    write_json,
    write_whole,
)
from hfgpt.hub.card.rendering import CARD_NAME, write_card
from hfgpt.hub.card.settings import load_settings, save_settings
from hfgpt.training.before import BEFORE_FILE
from hfgpt.training.changes import IDENTITY_FILE, Change, Identity, Run, changes_between, new_identity, values_to_keep
from hfgpt.training.decisions import decided_by_the_first
from hfgpt.training.last_screen import last_screen

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"  # the last file of one seed among several: a seed that has it is finished
FINISHED_FILE = "finished.json"  # a run's last file: the hashes of its result files, and the state of its base's files
_LENGTH = ("max_steps", "num_train_epochs")  # with more of these, a finished run continues
# Result files that must be unchanged; files for people (report, card) may be edited by the owner, but must exist.
_WHOLE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", METRICS_FILE)
_READ = (REPORT_FILE, CARD_NAME, "adapter_config.json")


@dataclass(frozen=True)
class Claim:
    """A run's folder, ready and reserved for this process until it ends.

    Args:
        run: whose folder it is.
        run_id: the ID in the manifests of its checkpoints.
        finished: nothing is left to do.
        begun: it was a run's folder before.
        changes: permitted differences from the run so far.
        was_changed: whether there are any, now or at an earlier start.
    """

    run: Run
    run_id: str
    finished: bool = False
    begun: bool = False
    changes: tuple[Change, ...] = ()
    was_changed: bool = False


def already_done(run: Run, known: Callable[[], Mapping[str, object] | None]) -> bool:
    """Whether the folder already holds the result of this very command; checked before data and model are loaded, and logged with
    the report.

    True only where nothing at all has changed; otherwise `claim_run` compares the data and the weights.

    Args: `known` returns the required fields of the run's passport, or None if they are not known yet. It is only called if
    everything else is the same. The weights of a base are identified by `base_files`.
    """
    return decided_by_the_first(lambda: _is_done(run, known))


def _is_done(run: Run, known: Callable[[], Mapping[str, object] | None]) -> bool:
    here = all((run.folder / name).is_file() for name in (FINISHED_FILE, RUN_FILE, PASSPORT_NAME))
    if run.overwrite or run.base_files is None or not here:
        return False
    written, now = (run.folder / RUN_FILE).read_text(encoding="utf-8"), run_yaml(run, Identity.load(run.folder))
    # The first line differs between `hfgpt pretrain` and `python recipes/pretrain.py`, and makes no other run.
    if written.partition("\n")[2] != now.partition("\n")[2] or why_damaged(run.folder):
        return False
    finished = read_json(run.folder / FINISHED_FILE)
    if finished.get("base_files") != json.loads(json.dumps(run.base_files)):
        return False
    said, expected = asdict(Passport.load(run.folder)), known()
    if expected is None or any(said[key] != json.loads(json.dumps(value)) for key, value in expected.items() if key != "base"):
        return False
    _renew_card(run)
    _say_done(run)
    if was_held(run.folder):  # by a process that was killed after its last file, or is about to end
        with suppress(UserError):
            hold(run.folder)
            remove_leftovers(run.folder)
            release(run.folder)
    return True


def claim_run(run: Run, passport: Passport) -> Claim:
    """Prepare the output folder: a new one, or that of a run to resume.

    The resolved run is written to `run.yaml`; that file alone repeats the run. The data's passport is stored beside it. A run only
    resumes with the same settings and the same data, except for changes named in `--allow_change`. The folder is locked until the
    process ends or the run is finished.

    Raises: UserError if the folder holds another run or foreign files, or is in use; PermissionError if it cannot be written.
    """
    try:
        return decided_by_the_first(lambda: _claim_folder(run, passport))
    except BaseException:
        release(run.folder)
        raise


def _claim_folder(run: Run, passport: Passport) -> Claim:
    folder = run.folder
    claim_output(str(folder), overwrite=run.overwrite or (folder / RUN_FILE).is_file(), marker=RUN_FILE)
    hold(folder)
    remove_leftovers(folder)
    if run.overwrite:
        _say_replaced(folder)
        empty(folder)
    begun = (folder / RUN_FILE).is_file()
    identity = Identity.load(folder) if begun else None
    changes = tuple(_changes(run, passport, identity)) if begun else ()
    identity = identity or new_identity(run, passport)
    if (folder / FINISHED_FILE).is_file():
        if (reason := why_damaged(folder)) is None:
            if not changes:
                _renew_card(run)
                _say_done(run)
                _say_not_pushed(run)
                release(folder)
                return Claim(run, identity.run, finished=True, begun=True)
            _refuse_to_change_what_is_finished(run, changes)
        else:
            logger.warning(
                f"{folder} holds this run, finished but damaged since then ({reason}); the missing parts are made again."
            )
            # The model of a seed may be the damaged one, and its checkpoints no longer exist.
            for seed in folder.glob(f"seed-*/{RESULT_FILE}"):
                seed.unlink()
        (folder / FINISHED_FILE).unlink()
    if begun and run.resume == NEVER:
        raise UserError(
            f"output_dir {folder} holds an unfinished run, but resume is never; give another --output_dir, --resume auto to "
            f"continue it, or --overwrite true to replace it."
        )
    folder.mkdir(exist_ok=True)
    write_whole(folder / RUN_FILE, run_yaml(run, identity))
    if not (folder / IDENTITY_FILE).is_file():
        identity.save(folder)
    passport.save(folder)
    save_settings(folder, cast("dict | None", run.card))
    if changes:  # measurements of the base, perhaps with other prompts or rows
        (folder / BEFORE_FILE).unlink(missing_ok=True)
    return Claim(run, identity.run, begun=begun, changes=changes, was_changed=bool(changes or identity.changes))


def _written(run: Run) -> dict[str, object]:
    return yaml.safe_load((run.folder / RUN_FILE).read_text(encoding="utf-8")) or {}


def _changes(run: Run, passport: Passport, identity: Identity | None) -> list[Change]:
    earlier = Passport.load(run.folder) if (run.folder / PASSPORT_NAME).is_file() else None
    return changes_between(run, passport, written=_written(run), identity=identity, earlier=earlier)


def _refuse_to_change_what_is_finished(run: Run, changes: tuple[Change, ...]) -> None:
    others = "give another --output_dir, or --overwrite true to replace it."
    if not any(one.field in _LENGTH for one in changes):
        raise UserError(
            f"the run in {run.folder} is finished, so it has no step left to apply a change to ({changes[0].sentence}); give a "
            f"larger --max_steps or --num_train_epochs and allow that change as well, or {others}"
        )
    if not any(run.folder.glob("checkpoint-*")):
        raise UserError(f"the run in {run.folder} is finished and has no checkpoint left to resume from; {others}")


def run_yaml(run: Run, identity: Identity | None) -> str:
    """The content of run.yaml; changes made along the way are listed at the top."""
    settings = {key: value for key, value in run.settings.items() if key not in ("overwrite", "hub_token")}
    head = repeats(run.recipe, RUN_FILE, what="this run")
    changes = identity.changes if identity else []
    if changes:
        head = f"# Settings of this run of recipes/{run.recipe} since its last change; it does not repeat the run.\n"
        head += "".join(f"# {' '.join(_change_in_words(one).split())}\n" for one in changes)
    return head + yaml.safe_dump(settings, allow_unicode=True, sort_keys=True)


def _change_in_words(change: Mapping) -> str:
    seed = f" of {change['seed']}" if "seed" in change else ""
    return f"changed at step {change['step']}{seed}: {change['field']} was {change['was']}, is now {change['is']}"


def note_changes(claim: Claim, *, step: int, seed: str | None) -> None:
    """Record in identity.json and run.yaml what was changed at which step; from here on, the changed run is the run."""
    folder, identity = claim.run.folder, Identity.load(claim.run.folder) or Identity(claim.run_id)
    identity.values = values_to_keep(claim.run)
    for one in claim.changes:
        place = {"step": step} | ({"seed": seed} if seed else {})
        noted = {"field": one.field, "was": one.was, "is": one.now, **place}
        identity.changes.append(json.loads(json.dumps(noted, default=str)))
        logger.info(f"resume: {_change_in_words(noted)}, as allowed")
    identity.save(folder)
    write_whole(folder / RUN_FILE, run_yaml(claim.run, identity))


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left in the folder and beside it, under names that only we use."""
    for place in (folder, *folder.glob("seed-*"), folder / "base", folder / "merged"):
        if place.is_dir() and not place.is_symlink():
            remove_partial_files(place)
    place = folder.resolve()
    pushes = re.compile(rf"\.{re.escape(place.name)}-push-\w{{8}}", re.ASCII)
    for path in place.parent.iterdir():
        if pushes.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def empty(folder: Path) -> None:
    """Remove the contents of the folder, which may be a link to the real one; links inside are removed, not followed.

    The file that marks a run as finished is removed first, and the one that marks the folder as a run's is removed last: if killed
    in between, the same command replaces the rest.

    Raises: AccessError that names what cannot be removed.
    """
    try:
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == RUN_FILE, path.name != FINISHED_FILE)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except FileNotFoundError:
        return  # there is no folder yet
    except OSError as error:
        raise AccessError(
            f"{error.filename} in output_dir {folder} cannot be removed ({error.strerror}), so the run is not replaced; remove it "
            "by hand, or give another --output_dir."
        ) from None


def write_finished(run: Run) -> None:
    """Write the marker of a finished run, its last file. Cost: one SHA-256 over the weights."""
    folder = run.folder
    weights = [path for pattern in ("", "base/", "merged/") for path in sorted(folder.glob(f"{pattern}*.safetensors"))]
    whole = [path for path in (*(folder / name for name in _WHOLE), *weights) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)} for path in whole}
    files |= {name: {} for name in _READ if (folder / name).is_file()}
    write_json(folder / FINISHED_FILE, {"format": 2, "files": files, "base_files": run.base_files})


def why_damaged(folder: Path) -> str | None:
    """What is wrong with the result of a finished run; None if it is complete. Cost: as for `write_finished`."""
    try:
        content = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))
        for name, said in content["files"].items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else 0
            if not size or size != said.get("bytes", size):
                return f"{name} has {size:,} bytes" + (f", but had {said['bytes']:,}" if said else "")
            if said and (found := sha256_of_file(path)) != said["sha256"]:
                return f"{name} has changed since it was written (SHA-256 {found[:16]}…, was {said['sha256'][:16]}…)"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{FINISHED_FILE} is unreadable"
    return None


def check_base_files(folder: Path) -> None:
    """Refuse a base whose weights or tokenizer have changed since they were saved, before training on them.

    A base that was not made by hfgpt has no record of them and is accepted as it is.

    Raises: UserError with the file and its expected and actual SHA-256. Cost: one SHA-256 over the weights.
    """

    def check() -> None:
        for name, (sha256, said_in) in _saved_files(folder).items():
            if (folder / name).is_file() and (found := sha256_of_file(folder / name)) != sha256:
                raise UserError(
                    f"{folder / name} has changed since it was saved (SHA-256 {found[:16]}…, {said_in} says "
                    f"{sha256[:16]}…); copy it again from an intact source. If you changed the model on purpose, remove {said_in}."
                )

    decided_by_the_first(check)


def _saved_files(folder: Path) -> dict[str, tuple[str, str]]:
    """The SHA-256 of a base's weights and tokenizer by file name, and the file they are recorded in."""
    files = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        files |= {name: (sha256, FINGERPRINT_FILE) for name, sha256 in read_json(folder / FINGERPRINT_FILE)["files"].items()}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        files["tokenizer.json"] = (read_json(folder / FINISHED_FILE)["files"]["tokenizer.json"]["sha256"], FINISHED_FILE)
    return files


def _renew_card(run: Run) -> None:
    if run.card and (run.folder / CARD_NAME).is_file() and load_settings(run.folder) != run.card:
        save_settings(run.folder, cast("dict | None", run.card))
        write_card(run.folder)  # the owner's settings have changed


def _say_replaced(folder: Path) -> None:
    trained = any(path for pattern in ("checkpoint-*", "seed-*/checkpoint-*") for path in folder.glob(pattern))
    if trained and not (folder / FINISHED_FILE).is_file():
        logger.warning(f"overwrite: the unfinished run in {folder} is replaced with its checkpoints; leave this out to resume it.")


def _say_not_pushed(run: Run) -> None:
    if run.settings.get("push_to_hub") and not _written(run).get("push_to_hub"):
        command = command_line("publish", run.folder, "--repo", run.settings.get("hub_model_id", "USER/NAME"), "--push", "true")
        logger.warning(f"push_to_hub is true, but nothing is pushed, because this run was already finished; {command} does it.")


def _say_done(run: Run) -> None:
    file = run.folder / REPORT_FILE
    screen = last_screen(file.read_text(encoding="utf-8"), file)
    logger.log(RESULT, f"already done: {run.folder} holds this exact run; --overwrite true runs it again.\n{screen}")
