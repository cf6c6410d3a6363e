"""What a recipe of the data would make and has made before: the same command again has nothing to do."""

import json
import logging
from pathlib import Path

from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.data.sources import ReadingOptions, Source
from hfgpt.errors import UserError
from hfgpt.hub.card import write_card
from hfgpt.hub.card_settings import save_settings
from hfgpt.training.arguments import SourceArguments

logger = logging.getLogger(__name__)


def already_made(args: SourceArguments, passport: Passport, sources: list[Source], options: ReadingOptions) -> bool:
    """True where output_dir holds what these arguments make of these sources; its card is renewed where `args.card` is given.

    Args: `passport` has the settings, and the tokenizer where the result depends on one.
    Raises: UserError where it holds something else of this recipe's, with what differs.
    Cost: where there is such a folder, the sources are read once, for their SHA-256.
    """
    folder = Path(args.output_dir)
    if args.overwrite or not (folder / PASSPORT_NAME).is_file():
        return False
    earlier = Passport.load(folder)
    settings = json.loads(json.dumps(passport.settings))
    changed = [
        f"{key} was {earlier.settings.get(key, 'not noted')}, is {settings.get(key, 'not noted')}"
        for key in sorted({*earlier.settings, *settings})
        if earlier.settings.get(key) != settings.get(key)
    ]
    if passport.tokenizer and passport.tokenizer != earlier.tokenizer:
        changed.append("the tokenizer is another one")
    if earlier.inputs != json.loads(json.dumps([source.identity(options) for source in sources])):
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
