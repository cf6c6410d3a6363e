"""Train a tokenizer on any text.

    python recipes/train_tokenizer.py recipes/configs/quickstart/tokenizer.yaml
    python recipes/train_tokenizer.py --sources 'texts/*.txt' --output_dir runs/mine/tokenizer

The text that prepare_data.py will hold out for validation and test is left out here too, so a tokenizer has never seen the text
that its model is tested on. What is read, how, and how it is split goes into the passport beside the tokenizer, and
prepare_data.py takes it from there.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.documents:TokenizerArguments")

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hfgpt.arguments.commands import command_line
from hfgpt.arguments.documents import READING_DEFAULTS, SPLIT_DEFAULTS, TokenizerArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.data.row_errors import RowErrors
from hfgpt.data.sources import ReadingOptions, find_sources, identity, read_documents
from hfgpt.data.splitting import Split
from hfgpt.data.text_files import WHOLE_FILES
from hfgpt.errors import UserError
from hfgpt.files import claim_output, replaced_folder
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.card.settings import save_settings
from hfgpt.tokenization import check_vocab_size, suitable_vocab_size, tokenizer_sha256, train_bpe, train_word_level
from hfgpt.training.already_made import already_made
from hfgpt.training.next_steps import free_folder


def main(args: TokenizerArguments) -> dict[str, float]:
    # 1. Everything that can be wrong before reading
    args = args.filled({})
    check_vocab_size(args.vocab_size, algorithm=args.algorithm)
    sources = find_sources(args.sources)
    options, on_error = ReadingOptions(**args.reading_options()), args.on_error or "stop"
    passport, asked = Passport(), args.asked()
    known = dict(asked=asked, inputs=lambda: [identity(source, options) for source in sources])
    if already_made(Path(args.output_dir), **known, passport=passport, overwrite=args.overwrite, card=args.card):
        return {}
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=PASSPORT_NAME)

    # 2. How much text there is, where that decides something: it is read once more for this
    amount = TextAmount(args.max_bytes)
    split, vocab_size = Split(**args.split()), args.vocab_size
    chooses_vocabulary = vocab_size is None and args.algorithm == "bpe"
    if split.by == "auto" or chooses_vocabulary:
        texts = amount.count(read_documents(sources, options, RowErrors(on_error)))
        split = split.settled(texts)
        deque(texts, maxlen=0)  # the rest of them
    if chooses_vocabulary:
        num_bytes = round(amount.bytes * (1 - split.validation_share - split.test_share))
        vocab_size = suitable_vocab_size(num_bytes)
        logger.info(f"tokenizer: vocab_size {vocab_size:,}, which suits {num_bytes:,} bytes of text; --vocab_size sets another")

    # 3. Texts, one at a time, up to a bound
    passport.inputs = [identity(source, options) for source in sources]
    start = time.perf_counter()
    errors, amount, used = RowErrors(on_error), TextAmount(args.max_bytes), {WHOLE_FILES}
    stream = amount.count(split.train_documents(noting_sources(read_documents(sources, options, errors), used)))
    first = next(stream, None)
    if first is None:
        errors.finish(used)
        raise UserError(
            f"no document is left to train on: the sources are empty, or all they hold is held out (validation_share "
            f"{args.validation_share}, test_share {args.test_share}) or above max_bytes {args.max_bytes:,}; for a corpus of one or "
            "few documents, set split_by: position."
        )
    stream = itertools.chain([first], stream)

    # 4. Train
    if args.algorithm == "bpe":
        tokenizer = train_bpe(stream, vocab_size=cast(int, vocab_size), max_token_length=args.max_token_length)
    else:
        tokenizer = train_word_level(stream, vocab_size=vocab_size)
    errors.finish(used, passport)

    # 5. Save, with a passport beside it that says what prepare_data.py should read, and how
    passport.settings = {
        "algorithm": args.algorithm,
        "vocab_size": len(tokenizer),
        **{name: getattr(args, name) for name in ("sources", *READING_DEFAULTS, *SPLIT_DEFAULTS)},
        "split_by": split.by,
        "asked": asked,
    }
    passport.tokenizer = {"sha256": tokenizer_sha256(tokenizer), "vocab_size": len(tokenizer)}
    passport.splits = {"train": {"documents": amount.documents, "bytes": amount.bytes}}
    with replaced_folder(output) as folder:
        tokenizer.save_pretrained(folder)
        passport.save(folder)
        save_settings(folder, args.card)
        write_card(folder)
    logger.info(
        f"tokenizer: {len(tokenizer):,} tokens from {amount.documents:,} documents, {amount.bytes:,} bytes, in "
        f"{time.perf_counter() - start:.1f} s; saved in {output}"
    )
    how = ("--streaming", "true") if args.streaming else ()  # the rest of how texts are read is in the passport
    logger.info(f"next: {command_line('data', '--tokenizer', output, *how, '--output_dir', free_folder(output, 'data'))}")
    return {"documents": amount.documents, "bytes": amount.bytes, "vocab_size": len(tokenizer)}


@dataclass
class TextAmount:
    """Counts what goes through, and stops before there are more than `max_bytes`."""

    max_bytes: int
    documents: int = 0
    bytes: int = 0

    def count(self, documents: Iterable[dict[str, str]]) -> Iterator[str]:
        for document in documents:
            size = len(document["text"].encode("utf-8"))
            if self.bytes + size > self.max_bytes:
                logger.info(f"tokenizer: stopped reading at max_bytes {self.max_bytes:,}")
                return
            self.documents += 1
            self.bytes += size
            yield document["text"]


def noting_sources(documents: Iterable[dict[str, str]], used: set[str]) -> Iterator[dict[str, str]]:
    """The documents as they come, with the source of each added to `used`."""
    for document in documents:
        used.add(document["source"])
        yield document


if __name__ == "__main__":
    launch(main, TokenizerArguments)
