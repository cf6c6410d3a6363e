"""Recognize what a data recipe has already made, so that repeating the command does nothing."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

from hfgpt.arguments.commands import command_in
from hfgpt.artifacts import RUN_FILE, AdapterFolder, ModelFolder
from hfgpt.data.passport import PASSPORT_NAME, Passport, contents_of
from hfgpt.errors import OtherResultError, UserError
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.card.settings import save_settings

logger = logging.getLogger(__name__)


def already_made(
    folder: Path,
    *,
    asked: dict[str, object],
    passport: Passport,
    inputs: Callable[[], list[dict]],
    overwrite: bool = False,
    card: dict | str | None = None,
) -> bool:
    """Whether the folder already holds the result; its card is rewritten if card settings are given.

    Args:
        asked: the settings, as the passport stores them beside the outcome.
        passport: contains the tokenizer if the result depends on one.
        inputs: gives the identities of the sources; called only if there is such a folder, because it reads all sources.
        card: what only the owner knows, as checked by the arguments.
    Raises: UserError if the folder holds a different result of this recipe, with the differences, or that of another recipe.
    """
    if not (folder / PASSPORT_NAME).is_file():
        return False
    earlier = Passport.load(folder)
    _refuse_others_result(folder, made_by=earlier.command, asked_by=passport.command)
    if overwrite:
        return False
    before, now = earlier.settings.get("asked", {}), json.loads(json.dumps(asked))
    changed = [
        _change(key, _shown(before.get(key, "not noted")), _shown(now.get(key, "not noted")))
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if passport.tokenizer and passport.tokenizer != earlier.tokenizer:
        changed.append("the tokenizer is a different one")
    if contents_of(earlier.inputs) != contents_of(json.loads(json.dumps(inputs()))):
        changed.append("the texts of the sources are different")
    if changed:
        raise OtherResultError(
            f"output_dir {folder} holds a result made with other settings ({'; '.join(changed)}); give another --output_dir, or "
            f"--overwrite true to replace it.",
            changed=changed,
        )
    if card:
        save_settings(folder, cast(dict, card))
        write_card(folder)
    logger.info(f"already done: {folder} holds the result of these arguments and texts; --overwrite true makes it again.")
    return True


def _refuse_others_result(folder: Path, *, made_by: str, asked_by: str) -> None:
    # A model's folder has the passport of its data, so the passport alone does not tell what the folder holds.
    maker, asking = command_in(made_by), command_in(asked_by)
    if any((folder / name).is_file() for name in (RUN_FILE, ModelFolder.mark, AdapterFolder.mark)):
        what = "a model"
    elif maker and asking and maker[0] != asking[0]:
        what = f"the result of another command (hfgpt {maker[0]})"
    else:
        return
    raise UserError(f"output_dir {folder} holds {what}, which is never replaced by this one; give another --output_dir.")


def _change(key: str, before: str, now: str) -> str:
    return f"{key} was {before}, is now {now}" if before != now else f"{key} is {now} as before, but its contents differ"


def _shown(value: object) -> str:
    """A value as given: files by name, lists by their items."""
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return {None: "not given", True: "true", False: "false"}[value]
    return str(value)
