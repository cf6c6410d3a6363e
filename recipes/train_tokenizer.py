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
from hfgpt.arguments.documents import READING_DEFAULTS, SPLIT_DEFAULTS, STEP_DEFAULTS, TokenizerArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.data.sources import ReadingOptions, find_sources, identity
from hfgpt.data.splitting import Split
from hfgpt.errors import UserError
from hfgpt.files import claim_output, replaced_folder, work_folder
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.card.settings import save_settings
from hfgpt.hygiene.documents import clean_documents
from hfgpt.tokenization import check_vocab_size, suitable_vocab_size, tokenizer_sha256, train_bpe, train_word_level
from hfgpt.training.already_made import already_made
from hfgpt.training.next_steps import free_folder


def main(args: TokenizerArguments) -> dict[str, float]:
    # 1. Everything that can be wrong before reading
    args = args.filled({})
    check_vocab_size(args.vocab_size, algorithm=args.algorithm)
    sources = find_sources(args.sources)
    options = ReadingOptions(**args.reading_options())
    passport, asked = Passport(), args.asked()
    known = dict(asked=asked, inputs=lambda: [identity(source, options) for source in sources])
    if already_made(Path(args.output_dir), **known, passport=passport, overwrite=args.overwrite, card=args.card):
        return {}
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=PASSPORT_NAME)

    start = time.perf_counter()
    with work_folder(output) as cache_dir:
        # 2. Documents, as prepare_data.py will have them
        split = Split(**args.split())
        documents = clean_documents(
            sources,
            options,
            passport,
            deduplicate=args.deduplicate,
            split=split,
            cache_dir=cache_dir,
            on_error=args.on_error,
            num_proc=args.processes(),
        )
        split = split.settled(documents)

        # 3. Those that are trained on, up to a bound, and a vocabulary that suits them
        amount = TextAmount(args.max_bytes)
        deque(amount.count(split.train_texts(documents)), maxlen=0)
        if not amount.documents:
            raise UserError(
                f"no document is left to train on: the sources are empty, or all they hold is held out (validation_share "
                f"{args.validation_share}, test_share {args.test_share}) or above max_bytes {args.max_bytes:,}; for a corpus of "
                "one or few documents, set split_by: position."
            )
        vocab_size = args.vocab_size
        if vocab_size is None and args.algorithm == "bpe":
            vocab_size = suitable_vocab_size(amount.bytes)
            logger.info(
                f"tokenizer: vocab_size {vocab_size:,}, which suits {amount.bytes:,} bytes of text; --vocab_size sets another"
            )

        # 4. Train
        texts = itertools.islice(split.train_texts(documents), amount.documents)
        if args.algorithm == "bpe":
            tokenizer = train_bpe(texts, vocab_size=cast(int, vocab_size), max_token_length=args.max_token_length)
        else:
            tokenizer = train_word_level(texts, vocab_size=vocab_size)

    # 5. Save, with a passport beside it that says what prepare_data.py should read, and how
    passport.settings = {
        "algorithm": args.algorithm,
        "vocab_size": len(tokenizer),
        **{name: getattr(args, name) for name in ("sources", *READING_DEFAULTS, *STEP_DEFAULTS, *SPLIT_DEFAULTS)},
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

    def count(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            size = len(text.encode("utf-8"))
            if self.bytes + size > self.max_bytes:
                logger.info(f"tokenizer: stopped reading at max_bytes {self.max_bytes:,}")
                return
            self.documents += 1
            self.bytes += size
            yield text


if __name__ == "__main__":
    launch(main, TokenizerArguments)
