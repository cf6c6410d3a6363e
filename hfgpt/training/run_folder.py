"""The folder of a run: claimed, locked, compared, emptied, and known as finished by a marker with hashes that is written last."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hfgpt.arguments.resuming import NEVER
from hfgpt.arguments.terminal import RESULT
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
from hfgpt.fingerprint import FINGERPRINT_NAME
from hfgpt.hub.card.rendering import CARD_NAME, write_card
from hfgpt.hub.card.settings import load_settings, save_settings
from hfgpt.training.before import BEFORE_FILE
from hfgpt.training.changes import IDENTITY_FILE, Change, Identity, Run, changes_between, new_identity, values_to_keep
from hfgpt.training.last_screen import last_screen

logger = logging.getLogger(__name__)

RUN_FILE = "run.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.txt"
RESULT_FILE = "result.json"  # of one seed among several, its last file: a seed that has it is finished
FINISHED_FILE = "finished.json"  # a run's last file: the files of its result with their hashes, and the state of its base's files
_LENGTH = ("max_steps", "num_train_epochs")  # what a finished run goes on for
# Of the result, what has to be as it was written; what people read (report, card) may be changed by its owner, but not be gone.
_WHOLE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", METRICS_FILE)
_READ = (REPORT_FILE, CARD_NAME, "adapter_config.json")
_Decision = TypeVar("_Decision")


@dataclass(frozen=True)
class Claim:
    """A run's folder that is ready, and this process's until it ends.

    Args:
        run: whose folder it is.
        run_id: what the manifests of its checkpoints say.
        finished: nothing is left to do.
        begun: it was a run's folder before.
        changes: what differs from how the run was until now, and was allowed to.
        was_changed: whether there are such now, or were at an earlier start.
    """

    run: Run
    run_id: str
    finished: bool = False
    begun: bool = False
    changes: tuple[Change, ...] = ()
    was_changed: bool = False


def already_done(run: Run, known: Callable[[], Mapping[str, object] | None]) -> bool:
    """Whether the folder holds what this very command made; asked before data and model are loaded, and said with the report.

    True only where nothing at all has changed; otherwise `claim_run` compares what the data and the weights are.

    Args: `known` gives what the run's passport has to say, by the names of its fields, or None where that is not known yet. It is
        asked only where all else is the same. Which weights a base has is told by `base_files`.
    """
    return decided_by_the_first(lambda: _is_done(run, known))


def _is_done(run: Run, known: Callable[[], Mapping[str, object] | None]) -> bool:
    here = all((run.folder / name).is_file() for name in (FINISHED_FILE, RUN_FILE, PASSPORT_NAME))
    if run.overwrite or run.base_files is None or not here:
        return False
    if (run.folder / RUN_FILE).read_text(encoding="utf-8") != run_yaml(run, Identity.load(run.folder)) or why_damaged(run.folder):
        return False
    finished = read_json(run.folder / FINISHED_FILE)
    if finished.get("base_files") != json.loads(json.dumps(run.base_files)):
        return False
    said, expected = asdict(Passport.load(run.folder)), known()
    if expected is None or any(said[key] != json.loads(json.dumps(value)) for key, value in expected.items() if key != "base"):
        return False
    _renew_card(run)
    _say_done(run)
    if was_held(run.folder):  # by a process that was killed after its last file, or that is about to end
        with suppress(UserError):
            hold(run.folder)
            remove_leftovers(run.folder)
            release(run.folder)
    return True


def decided_by_the_first(decide: Callable[[], _Decision]) -> _Decision:
    """What the first of several processes decides; the others wait for it, and end with it where it refuses."""
    decision: list[Any] = [None, False]
    try:
        if PartialState().is_main_process:
            decision = [decide(), False]
    except BaseException:
        if PartialState().num_processes > 1:
            broadcast_object_list([None, True])
        raise
    if PartialState().num_processes > 1:
        broadcast_object_list(decision)
    if decision[1]:
        raise SystemExit(1)  # the first process says why
    return decision[0]


def claim_run(run: Run, passport: Passport) -> Claim:
    """Make the output folder ready: new, or that of a run to go on with.

    The resolved run is written to `run.yaml`; that file alone repeats the run. The data's passport goes beside it. A run goes on
    only as the run that it was, on the data that it had, but for what `--allow_change` names. The folder is locked until the
    process ends, or the run is finished.

    Raises: UserError where the folder holds another run or foreign files, or is in use; PermissionError where it cannot be written.
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
                release(folder)
                return Claim(run, identity.run, finished=True, begun=True)
            _refuse_to_change_what_is_finished(run, changes)
        else:
            logger.warning(f"{folder} holds this run, finished but damaged since ({reason}); what is missing is made again.")
            for seed in folder.glob(f"seed-*/{RESULT_FILE}"):  # its model may be the damaged one, and its checkpoints are gone
                seed.unlink()
        (folder / FINISHED_FILE).unlink()
    if begun and run.resume == NEVER:
        raise UserError(
            f"output_dir {folder} holds an unfinished run, and resume is never; give another output_dir, --resume auto to go on "
            "with it, or --overwrite true to replace it."
        )
    folder.mkdir(exist_ok=True)
    write_whole(folder / RUN_FILE, run_yaml(run, identity))
    if not (folder / IDENTITY_FILE).is_file():
        identity.save(folder)
    passport.save(folder)
    save_settings(folder, cast("dict | None", run.card))
    if changes:  # of the base, perhaps in other words or of other rows
        (folder / BEFORE_FILE).unlink(missing_ok=True)
    return Claim(run, identity.run, begun=begun, changes=changes, was_changed=bool(changes or identity.changes))


def _changes(run: Run, passport: Passport, identity: Identity | None) -> list[Change]:
    written = yaml.safe_load((run.folder / RUN_FILE).read_text(encoding="utf-8")) or {}
    earlier = Passport.load(run.folder) if (run.folder / PASSPORT_NAME).is_file() else None
    return changes_between(run, passport, written=written, identity=identity, earlier=earlier)


def _refuse_to_change_what_is_finished(run: Run, changes: tuple[Change, ...]) -> None:
    others = "give another output_dir, or --overwrite true to replace it."
    if not any(one.field in _LENGTH for one in changes):
        raise UserError(
            f"the run in {run.folder} is finished, and no step is left for which {changes[0].sentence}; give a larger max_steps or "
            f"num_train_epochs and allow that change as well, or {others}"
        )
    if not any(run.folder.glob("checkpoint-*")):
        raise UserError(f"the run in {run.folder} is finished and has no checkpoint left to go on from; {others}")


def run_yaml(run: Run, identity: Identity | None) -> str:
    """The content of run.yaml; what was changed on the way stands in its head."""
    settings = {key: value for key, value in run.settings.items() if key not in ("overwrite", "hub_token")}
    head = f"# python recipes/{run.recipe} run.yaml --output_dir ANOTHER repeats this run.\n"
    changes = identity.changes if identity else []
    if changes:
        head = f"# Settings of this run of recipes/{run.recipe} from its last change on; it does not repeat the run.\n"
        head += "".join(f"# {' '.join(_change_in_words(one).split())}\n" for one in changes)
    return head + yaml.safe_dump(settings, allow_unicode=True, sort_keys=True)


def _change_in_words(change: Mapping) -> str:
    seed = f" of {change['seed']}" if "seed" in change else ""
    return f"changed at step {change['step']}{seed}: {change['field']} was {change['was']}, is {change['is']}"


def note_changes(claim: Claim, *, step: int, seed: str | None) -> None:
    """Write into identity.json and run.yaml what was changed at which step; from here on it is the run."""
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
    """Remove what killed runs left in the folder and beside it under names that only we give."""
    for place in (folder, *folder.glob("seed-*"), folder / "base", folder / "merged"):
        if place.is_dir() and not place.is_symlink():
            remove_partial_files(place)
    place = folder.resolve()
    pushes = re.compile(rf"\.{re.escape(place.name)}-push-\w{{8}}", re.ASCII)
    for path in place.parent.iterdir():
        if pushes.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def empty(folder: Path) -> None:
    """Remove what is in the folder, which may be a link to the real one; links in it are removed, not followed.

    What says that a run is finished goes first, and what says that this folder is a run's goes last: killed in between, the same
    command replaces the rest.

    Raises: AccessError with what cannot be removed.
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
            "by hand, or give another output_dir."
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
    """What is wrong with the result of a run that was finished; None where all of it is there. Cost: as `write_finished`."""
    try:
        content = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))
        for name, said in content["files"].items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else 0
            if not size or size != said.get("bytes", size):
                return f"{name} has {size:,} bytes" + (f", it had {said['bytes']:,}" if said else "")
            if said and (found := sha256_of_file(path)) != said["sha256"]:
                return f"{name} has other bytes than were written (SHA-256 {found[:16]}…, it was {said['sha256'][:16]}…)"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{FINISHED_FILE} is unreadable"
    return None


def check_base_files(folder: Path) -> None:
    """Refuse a base whose weights or tokenizer have other bytes than when they were saved, before anything is learned from them.

    A base that was not made here says nothing of them, and is taken as it is.

    Raises: UserError with file, expected and found SHA-256. Cost: one SHA-256 over the weights.
    """

    def check() -> None:
        for name, (sha256, said_in) in _saved_files(folder).items():
            if (folder / name).is_file() and (found := sha256_of_file(folder / name)) != sha256:
                raise UserError(
                    f"{folder / name} has other bytes than were saved (SHA-256 {found[:16]}…, {said_in} says {sha256[:16]}…); copy "
                    f"it again from where it is whole. Of a model that was changed on purpose, remove {said_in}."
                )

    decided_by_the_first(check)


def _saved_files(folder: Path) -> dict[str, tuple[str, str]]:
    """By name, the SHA-256 of a base's weights and tokenizer, and the file that says so."""
    files = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        files |= {name: (sha256, FINGERPRINT_NAME) for name, sha256 in read_json(folder / FINGERPRINT_NAME)["files"].items()}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        files["tokenizer.json"] = (read_json(folder / FINISHED_FILE)["files"]["tokenizer.json"]["sha256"], FINISHED_FILE)
    return files


def _renew_card(run: Run) -> None:
    if run.card and (run.folder / CARD_NAME).is_file() and load_settings(run.folder) != run.card:
        save_settings(run.folder, cast("dict | None", run.card))
        write_card(run.folder)  # its owner's words have changed


def _say_done(run: Run) -> None:
    file = run.folder / REPORT_FILE
    screen = last_screen(file.read_text(encoding="utf-8"), file)
    logger.log(RESULT, f"already done: {run.folder} holds this very run; --overwrite true runs it again.\n{screen}")
