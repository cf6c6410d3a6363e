"""Turn documents into fixed-length training rows, and write down what happened to them.

    python recipes/prepare_data.py recipes/configs/quickstart/data.yaml
    python recipes/prepare_data.py --sources 'texts/*.txt' --tokenizer runs/mine/tokenizer --output_dir runs/mine/data

    python recipes/prepare_data.py recipes/configs/quickstart/data.yaml --plant_canaries true --output_dir runs/canaries/data

The result is a `datasets` folder with the columns `input_ids` and `position_ids`, the tokenizer that made them, and
`passport.json`: every input with its SHA-256, every step with its counts, every token accounted for. With `plant_canaries`,
made-up secrets stand among the training documents a known number of times, and `planted_canaries.json` says which, so that
recipes/evaluate.py can report how many of them a model gives away.
"""

import platform
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict, Features, List, Value

from hfgpt.data.cleaning import drop_blank
from hfgpt.data.dedup import drop_exact_duplicates
from hfgpt.data.packing import PackingCounts, cut_windows, pack
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.data.planted import check_fit, make_canaries, plant, write_canaries
from hfgpt.data.sources import find_sources, load_documents
from hfgpt.data.splitting import split_documents
from hfgpt.errors import UserError
from hfgpt.evaluation.compression import lzma_bits_per_byte
from hfgpt.hub.card import write_card
from hfgpt.hub.card_settings import save_settings
from hfgpt.tokenization import encode_texts, load_or_wrap_tokenizer, tokenizer_sha256
from hfgpt.training.already_made import already_made
from hfgpt.training.arguments import PrepareArguments, claim_output, launch, logger, replaced_folder


def main(args: PrepareArguments) -> dict[str, float]:
    # 1. Everything that can be wrong before reading
    sources = find_sources(args.sources)
    tokenizer = load_or_wrap_tokenizer(args.tokenizer)  # GPT-2's own files lack a padding
    warn_of_other_split(args)
    canaries = []
    if args.plant_canaries:
        canaries = make_canaries(args.canary_counts, per_count=args.canaries_per_count, seed=args.canary_seed)
        check_fit(canaries, tokenizer, context_length=args.context_length)
    passport = Passport(settings=settings_of(args), versions=versions())
    passport.tokenizer = {
        "sha256": tokenizer_sha256(tokenizer),
        "vocab_size": len(tokenizer),
        "separator": tokenizer.eos_token,
        "pad": tokenizer.pad_token,
    }
    if already_made(args, passport, sources, args.reading_options()):
        return {}
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=PASSPORT_NAME)

    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".hfgpt-") as cache_dir:
        # 2. Documents
        documents = load_documents(sources, args.reading_options(), passport, cache_dir=cache_dir)
        documents = drop_blank(documents, passport)
        if args.deduplicate:
            documents = drop_exact_duplicates(documents, passport)
        if not len(documents):
            raise UserError(f"the sources hold 0 tokens, need {args.context_length:,} for one row; give more text.")

        # 3. Train, validation, test; planted secrets go into training only, in all their copies
        splits = split_documents(documents, args.split())
        if canaries:
            splits["train"] = plant(splits["train"], canaries, passport, seed=args.canary_seed)

        # 4. Rows. Held-out text is always packed, each token predicted once, or its bits per byte would mean nothing.
        rows = DatasetDict()
        for name, split in splits.items():
            window = args.window if name == "train" else None
            rows[name], counts = rows_of(name, split, args, tokenizer, window=window)
            passport.splits[name] = asdict(counts)
            logger.info(
                f"{name}: {counts.documents:,} documents, {counts.bytes:,} bytes, {counts.tokens:,} tokens "
                f"({counts.bytes / max(1, counts.tokens):.2f} bytes each) in {counts.rows:,} rows of {args.context_length:,}, "
                f"{100 * counts.padding / (counts.rows * args.context_length):.1f} % padding"
            )
        tokens = passport.splits["train"]["tokens"]
        if tokens < args.context_length:
            raise UserError(
                f"the training documents hold {tokens:,} tokens, need {args.context_length:,} for one row; give more text."
            )

        # 5. What a compressor makes of the same bytes
        if args.lzma_baseline and "test" in splits:
            passport.lzma_bits_per_byte = lzma_bits_per_byte(splits["test"]["text"], splits["train"]["text"])

        # 6. Save
        with replaced_folder(output) as folder:
            rows.save_to_disk(folder)
            tokenizer.save_pretrained(folder / "tokenizer")
            if canaries:
                write_canaries(canaries, folder)
            passport.save(folder)
            save_settings(folder, args.card)
            write_card(folder)
    logger.info(f"data: saved in {output}, with {PASSPORT_NAME}")
    logger.info(f"next: python recipes/pretrain.py --dataset {output} --output_dir MODEL")
    return {f"{name}_{key}": value for name, counts in passport.splits.items() for key, value in counts.items()}


def rows_of(name: str, split: Dataset, args: PrepareArguments, tokenizer, *, window: int | None) -> tuple[Dataset, PackingCounts]:
    """Tokenise and pack, 10,000 documents at a time, so that memory stays constant."""
    counts = PackingCounts()
    special = dict(separator=tokenizer.eos_token_id, pad=tokenizer.pad_token_id, counts=counts)

    def to_rows(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        counts.bytes += sum(len(text.encode("utf-8")) for text in batch["text"])
        ids = encode_texts(tokenizer, batch["text"])
        if window is None:
            rows = pack(ids, context_length=args.context_length, **special)
        else:
            rows = cut_windows(ids, window=window, stride=args.stride, **special)
        return {"input_ids": rows.input_ids, "position_ids": rows.position_ids}

    columns = Features({name: List(Value("int32"), length=args.context_length) for name in ("input_ids", "position_ids")})
    rows = split.map(
        to_rows,
        batched=True,
        batch_size=10_000,
        remove_columns=split.column_names,
        features=columns,
        load_from_cache_file=False,  # the counts come from running
        new_fingerprint=f"rows-{name}",  # hashing the closure would take longer than running it
        desc="rows",
    )
    return rows, counts


def settings_of(args: PrepareArguments) -> dict:
    left_out = ("output_dir", "overwrite", "card")
    return {key: value for key, value in vars(args).items() if key not in left_out}


def versions() -> dict[str, str]:
    names = ("hfgpt", "datasets", "tokenizers", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def warn_of_other_split(args: PrepareArguments) -> None:
    """Say so where the tokenizer was trained on documents that are held out now."""
    try:
        earlier = Passport.load(Path(args.tokenizer)).settings
    except (FileNotFoundError, ValueError):
        return  # not one of ours: nothing is known about its text
    for key in ("split_by", "validation_share", "test_share", "split_seed"):
        if key in earlier and earlier[key] != getattr(args, key):
            logger.warning(
                f"warning: the tokenizer was trained with {key} {earlier[key]}, here it is {getattr(args, key)}: it has seen "
                "documents that are held out now; use the same value in both recipes."
            )


if __name__ == "__main__":
    datasets.disable_caching()
    launch(main, PrepareArguments)
