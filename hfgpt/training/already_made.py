"""What a recipe of the data would make and has made before: the same command again has nothing to do."""

import json
import logging
from pathlib import Path

from hfgpt.arguments.documents import SourceArguments
from hfgpt.data.passport import PASSPORT_NAME, Passport, contents_of
from hfgpt.data.reading import Source
from hfgpt.data.sources import ReadingOptions, identity
from hfgpt.errors import UserError
from hfgpt.hub.card.card import write_card
from hfgpt.hub.card.settings import save_settings

logger = logging.getLogger(__name__)


def asked_of(args: SourceArguments) -> dict:
    """What was asked for, as the passport keeps it beside what came of it; the sources are known by their SHA-256, not by names."""
    left_out = ("sources", "tokenizer", "output_dir", "overwrite", "card")
    return {key: value for key, value in vars(args).items() if key not in left_out}


def already_made(args: SourceArguments, asked: dict, passport: Passport, sources: list[Source], options: ReadingOptions) -> bool:
    """True where output_dir holds what these arguments make of these sources; its card is renewed where `args.card` is given.

    Args:
        asked: `asked_of` these arguments.
        passport: has the tokenizer where the result depends on one.
    Raises: UserError where it holds something else of this recipe's, with what differs.
    Cost: where there is such a folder, the sources are read once, for their SHA-256.
    """
    folder = Path(args.output_dir)
    if args.overwrite or not (folder / PASSPORT_NAME).is_file():
        return False
    earlier = Passport.load(folder)
    before, now = earlier.settings.get("asked", {}), json.loads(json.dumps(asked))
    changed = [
        f"{key} was {before.get(key, 'not noted')}, is {now.get(key, 'not noted')}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if passport.tokenizer and passport.tokenizer != earlier.tokenizer:
        changed.append("the tokenizer is another one")
    inputs = json.loads(json.dumps([identity(source, options) for source in sources]))
    if contents_of(earlier.inputs) != contents_of(inputs):
        changed.append("the texts of the sources are others")
    if changed:
        raise UserError(
            f"output_dir {folder} holds what was made otherwise ({'; '.join(changed)}); give another output_dir, or --overwrite "
            "true to replace it."
        )
    if args.card:
        save_settings(folder, args.card)
        write_card(folder)
    logger.info(f"already done: {folder} holds what these arguments make of these texts; --overwrite true makes it again.")
    return True
