"""Train a tokenizer on any text.

    python recipes/train_tokenizer.py recipes/configs/quickstart/tokenizer.yaml
    python recipes/train_tokenizer.py --sources 'texts/*.txt' --vocab_size 8192 --output_dir runs/mine/tokenizer

The documents that prepare_data.py will hold out for validation and test (same shares, same seed) are left out here too, so a
tokenizer has never seen the text that its model is tested on.
"""

import itertools
import time

from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.data.sources import find_sources, read_documents
from hfgpt.errors import UserError
from hfgpt.hub.card import write_card
from hfgpt.hub.card_settings import save_settings
from hfgpt.tokenization import check_vocab_size, tokenizer_sha256, train_bpe, train_word_level
from hfgpt.training.already_made import already_made
from hfgpt.training.arguments import TokenizerArguments, claim_output, launch, logger, replaced_folder


def main(args: TokenizerArguments) -> dict[str, float]:
    # 1. Everything that can be wrong before reading
    check_vocab_size(args.vocab_size, algorithm=args.algorithm)
    sources = find_sources(args.sources)
    options = args.reading_options()
    passport = Passport(settings=settings_of(args))
    if already_made(args, passport, sources, options):
        return {}
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=PASSPORT_NAME)

    # 2. Texts, one at a time, up to a bound
    passport.inputs = [source.identity(options) for source in sources]
    start = time.perf_counter()
    counts = {"documents": 0, "bytes": 0}

    def texts():
        for document in args.split().train_documents(read_documents(sources, options)):
            size = len(document["text"].encode("utf-8"))
            if counts["bytes"] + size > args.max_bytes:
                logger.info(f"tokenizer: stopped reading at max_bytes {args.max_bytes:,}")
                return
            counts["documents"] += 1
            counts["bytes"] += size
            yield document["text"]

    stream = texts()
    first = next(stream, None)
    if first is None:
        raise UserError(
            f"no document is left to train on: the sources are empty, or all they hold is held out (validation_share "
            f"{args.validation_share}, test_share {args.test_share}) or above max_bytes {args.max_bytes:,}; a corpus of one or "
            "few documents wants split_by: position."
        )
    stream = itertools.chain([first], stream)

    # 3. Train
    if args.algorithm == "bpe":
        tokenizer = train_bpe(stream, vocab_size=args.vocab_size, max_token_length=args.max_token_length)
    else:
        tokenizer = train_word_level(stream, vocab_size=args.vocab_size)

    # 4. Save, with a passport beside it
    passport.tokenizer = {"sha256": tokenizer_sha256(tokenizer), "vocab_size": len(tokenizer)}
    passport.splits = {"train": counts}
    with replaced_folder(output) as folder:
        tokenizer.save_pretrained(folder)
        passport.save(folder)
        save_settings(folder, args.card)
        write_card(folder)
    logger.info(
        f"tokenizer: {len(tokenizer):,} tokens from {counts['documents']:,} documents, {counts['bytes']:,} bytes, in "
        f"{time.perf_counter() - start:.1f} s; saved in {output}"
    )
    logger.info(f"next: python recipes/prepare_data.py {args.as_words()} --tokenizer {output} --output_dir DATA")
    return {**counts, "vocab_size": len(tokenizer)}


def settings_of(args: TokenizerArguments) -> dict:
    left_out = ("sources", "output_dir", "overwrite", "card")
    return {key: value for key, value in vars(args).items() if key not in left_out}


if __name__ == "__main__":
    launch(main, TokenizerArguments)
