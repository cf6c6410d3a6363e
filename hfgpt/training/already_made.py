"""What a recipe of the data would make and has made before: the same command again has nothing to do."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

from hfgpt.data.passport import PASSPORT_NAME, Passport, contents_of
from hfgpt.errors import UserError
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
    """Whether the folder holds what would be made; its card is renewed where there are words for one.

    Args:
        asked: how it is to be made, as the passport keeps it beside what came of it.
        passport: has the tokenizer where the result depends on one.
        inputs: gives the identities of the sources; asked for only where there is such a folder, because all are read for it.
        card: what only the owner knows, as the arguments have checked it.
    Raises: UserError where the folder holds something else of this recipe's, with what differs.
    """
    if overwrite or not (folder / PASSPORT_NAME).is_file():
        return False
    earlier = Passport.load(folder)
    before, now = earlier.settings.get("asked", {}), json.loads(json.dumps(asked))
    changed = [
        _change(key, _shown(before.get(key, "not noted")), _shown(now.get(key, "not noted")))
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if passport.tokenizer and passport.tokenizer != earlier.tokenizer:
        changed.append("the tokenizer is another one")
    if contents_of(earlier.inputs) != contents_of(json.loads(json.dumps(inputs()))):
        changed.append("the texts of the sources are others")
    if changed:
        raise UserError(
            f"output_dir {folder} holds what was made otherwise ({'; '.join(changed)}); give another output_dir, or --overwrite "
            "true to replace it."
        )
    if card:
        save_settings(folder, cast(dict, card))
        write_card(folder)
    logger.info(f"already done: {folder} holds what these arguments make of these texts; --overwrite true makes it again.")
    return True


def _change(key: str, before: str, now: str) -> str:
    return f"{key} was {before}, is {now}" if before != now else f"{key} is {now} as before, with other contents"


def _shown(value: object) -> str:
    """A value as it is given: files by their names, of a list its items."""
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return {None: "not given", True: "true", False: "false"}[value]
    return str(value)
