"""Turn documents into fixed-length training rows, and write down what happened to them.

    python recipes/prepare_data.py recipes/configs/quickstart/data.yaml
    python recipes/prepare_data.py --tokenizer runs/mine/tokenizer --output_dir runs/mine/data
    python recipes/prepare_data.py --sources 'other/*.txt' --tokenizer runs/mine/tokenizer --output_dir runs/mine/other

    python recipes/prepare_data.py recipes/configs/quickstart/data.yaml --plant_canaries true --output_dir runs/canaries/data

What is read, how, and how it is split is what the tokenizer was trained with, as the passport beside it says, unless other sources
or another split are given. The result is a `datasets` folder with the columns `input_ids` and `position_ids`, the tokenizer that
made them, and `passport.json`: every input with its SHA-256, every step with its counts, every token accounted for. With
`plant_canaries`, made-up secrets stand among the training documents a known number of times, and `planted_canaries.json` says
which, so that recipes/evaluate.py can report how many of them a model gives away.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.documents:PrepareArguments")

import platform
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict
from datasets.utils import tqdm

from hfgpt.arguments.documents import READING_DEFAULTS, SPLIT_DEFAULTS, PrepareArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.data.cleaning import drop_blank
from hfgpt.data.dedup import drop_exact_duplicates
from hfgpt.data.on_disk import text_batches, texts_of, write_rows
from hfgpt.data.packing import PackingCounts, cut_windows, pack
from hfgpt.data.passport import PASSPORT_NAME, Passport, contents_of
from hfgpt.data.sources import ReadingOptions, Source, find_sources, load_documents
from hfgpt.data.splitting import Split, split_documents
from hfgpt.errors import MissingFileError, UserError
from hfgpt.evaluation.compression import lzma_bits_per_byte
from hfgpt.files import claim_output, replaced_folder
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.card.settings import save_settings
from hfgpt.hygiene.planted_secrets import check_fit, make_canaries, plant, write_canaries
from hfgpt.tokenization import encode_texts, load_or_wrap_tokenizer, tokenizer_sha256
from hfgpt.training.already_made import already_made, asked_of
from hfgpt.training.next_steps import command, free_folder

# A longer row sees more of a text; fewer rows than these are too few steps (16 rows each, where nothing else is asked for).
ENOUGH_ROWS = 512
LONGEST_ROW, SHORTEST_ROW = 1024, 64
FEW_TOKENS = 500


def main(args: PrepareArguments) -> dict[str, float]:
    # 1. Everything that can be wrong before reading; what is not given is as it was for the tokenizer
    earlier = passport_of(args.tokenizer)
    given, args = args, args.filled(earlier.settings)
    sources = find_as_given(given, args)
    tokenizer = load_or_wrap_tokenizer(args.tokenizer)  # GPT-2's own files lack a padding
    canaries = []
    if args.plant_canaries:
        canaries = make_canaries(args.canary_counts, per_count=args.canaries_per_count, seed=args.canary_seed)
        if args.context_length is not None:
            check_fit(canaries, tokenizer, context_length=args.context_length)
    passport = Passport(versions=versions())
    passport.tokenizer = {
        "sha256": tokenizer_sha256(tokenizer),
        "vocab_size": len(tokenizer),
        "separator": tokenizer.eos_token,
        "pad": tokenizer.pad_token,
    }
    asked = asked_of(args)
    if already_made(args, asked, passport, sources, ReadingOptions(**args.reading_options())):
        return {}
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=PASSPORT_NAME)

    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".hfgpt-") as cache_dir:
        # 2. Documents
        documents = load_documents(
            sources, ReadingOptions(**args.reading_options()), passport, cache_dir=cache_dir, on_error=args.on_error
        )
        documents = drop_blank(documents, passport)
        if args.deduplicate:
            documents = drop_exact_duplicates(documents, passport)
        if not len(documents):
            raise UserError(f"the sources hold 0 tokens, need {args.context_length or SHORTEST_ROW:,} for one row; give more text.")

        # 3. Train, validation, test; planted secrets go into training only, in all their copies
        split = Split(**args.split()).settled(texts_of(documents))
        warn_of_other_text(args, split, passport, earlier)
        splits = split_documents(documents, split)
        if args.context_length is None:
            args = replace(args, context_length=suitable_context_length(texts_of(splits["train"]), tokenizer))
        passport.settings = settings_of(args) | {"split_by": split.by, "asked": asked}
        if canaries:
            check_fit(canaries, tokenizer, context_length=args.context_length)
            splits["train"] = plant(splits["train"], canaries, passport, seed=args.canary_seed)

        # 4. Rows. Held-out text is always packed, each token predicted once, or its bits per byte would mean nothing.
        rows = DatasetDict()
        for name, part in splits.items():
            window = args.window if name == "train" else None
            rows[name], counts = rows_of(name, part, args, tokenizer, window=window, cache_dir=cache_dir)
            passport.splits[name] = asdict(counts)
            logger.info(
                f"{name}: {counts.documents:,} documents, {counts.bytes:,} bytes, {counts.tokens:,} tokens "
                f"({counts.bytes / max(1, counts.tokens):.2f} bytes each) in {counts.rows:,} rows of {args.context_length:,}, "
                f"{100 * counts.padding / (counts.rows * args.context_length):.1f} % padding"
            )
            if name != "train" and counts.tokens < FEW_TOKENS:
                logger.info(f"{name}: so few tokens give rough figures; a larger {name}_share holds out more")
        tokens = passport.splits["train"]["tokens"]
        if tokens < args.context_length:
            raise UserError(
                f"the training documents hold {tokens:,} tokens, need {args.context_length:,} for one row; give more text."
            )

        # 5. What a compressor makes of the same bytes
        if args.lzma_baseline and "test" in splits:
            passport.lzma_bits_per_byte = lzma_bits_per_byte(texts_of(splits["test"]), texts_of(splits["train"]))

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
    logger.info(f"next: {command('pretrain', '--dataset', output, '--output_dir', free_folder(output, 'base'))}")
    return {f"{name}_{key}": value for name, counts in passport.splits.items() for key, value in counts.items()}


def rows_of(
    name: str, split: Dataset, args: PrepareArguments, tokenizer, *, window: int | None, cache_dir: str
) -> tuple[Dataset, PackingCounts]:
    """Tokenise on all cores and pack, a batch of texts at a time and straight to disk, so that memory stays constant."""
    counts = PackingCounts()

    def documents() -> Iterator[list[int]]:
        with tqdm(total=len(split), desc=f"rows of {name}", unit=" documents") as progress:
            for texts in text_batches(split):
                counts.bytes += sum(len(text.encode("utf-8")) for text in texts)
                yield from encode_texts(tokenizer, texts)
                progress.update(len(texts))

    special = dict(separator=tokenizer.eos_token_id, pad=tokenizer.pad_token_id, counts=counts)
    if window is None:
        blocks = pack(documents(), context_length=args.context_length, **special)
    else:
        blocks = cut_windows(documents(), window=window, stride=args.stride, **special)
    return write_rows(blocks, Path(cache_dir) / f"rows-{name}.arrow", context_length=args.context_length), counts


def settings_of(args: PrepareArguments) -> dict:
    left_out = ("output_dir", "overwrite", "card")
    return {key: value for key, value in vars(args).items() if key not in left_out}


def versions() -> dict[str, str]:
    names = ("hfgpt", "datasets", "tokenizers", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def passport_of(tokenizer: str) -> Passport:
    """The passport beside a tokenizer; an empty one where nothing is known about the text that it was trained on."""
    try:
        earlier = Passport.load(Path(tokenizer))
    except (FileNotFoundError, ValueError):
        return Passport()
    return earlier if "split_by" in earlier.settings else Passport()  # others have sources that are no documents


def find_as_given(given: PrepareArguments, args: PrepareArguments) -> list[Source]:
    """The sources of `args`; where they are the tokenizer's, it is said."""
    if given.sources:
        return find_sources(args.sources)
    if not args.sources:
        here = "" if Path(args.tokenizer).exists() else " (there is no such folder here)"
        raise UserError(f"no sources given, and no passport beside the tokenizer {args.tokenizer}{here} names any; give --sources.")
    defaults = READING_DEFAULTS | dict.fromkeys(SPLIT_DEFAULTS)
    taken = {key: getattr(args, key) for key, default in defaults.items() if getattr(given, key) != getattr(args, key) != default}
    said = ", ".join([f"sources {' '.join(args.sources)}", *(f"{key} {value}" for key, value in taken.items())])
    logger.info(f"data: as for the tokenizer {args.tokenizer}: {said}")
    try:
        return find_sources(args.sources)
    except MissingFileError as error:
        raise MissingFileError(
            f"{error} (The passport of the tokenizer {args.tokenizer} names this source; run from the same folder as "
            "train_tokenizer.py, or give --sources.)"
        ) from None


def suitable_context_length(texts: Iterable[str], tokenizer) -> int:
    """The longest row that leaves `ENOUGH_ROWS` of them for training: a power of two from `SHORTEST_ROW` to `LONGEST_ROW`."""
    tokens = 0
    for text in texts:
        # Of a long text its beginning is enough: it alone fills all rows.
        tokens += len(encode_texts(tokenizer, [text[: 16 * LONGEST_ROW * ENOUGH_ROWS]])[0]) + 1
        if tokens >= LONGEST_ROW * ENOUGH_ROWS:
            return LONGEST_ROW
    length = LONGEST_ROW
    while length > SHORTEST_ROW and tokens < length * ENOUGH_ROWS:
        length //= 2
    logger.info(
        f"data: context_length {length}, because {tokens:,} tokens of training text would fill only {tokens // LONGEST_ROW:,} rows "
        f"of {LONGEST_ROW:,}; --context_length sets another"
    )
    return length


def warn_of_other_text(args: PrepareArguments, split: Split, passport: Passport, earlier: Passport) -> None:
    """Say so where the tokenizer was trained on documents that are held out now."""
    now = {"split_by": split.by, **{key: getattr(args, key) for key in SPLIT_DEFAULTS if key != "split_by"}}
    for key, value in now.items():
        if key in earlier.settings and earlier.settings[key] != value:
            logger.warning(
                f"warning: the tokenizer was trained with {key} {earlier.settings[key]}, here it is {value}: it has seen documents "
                "that are held out now; use the same value in both recipes."
            )
    if args.sources == earlier.settings.get("sources") and contents_of(passport.inputs) != contents_of(earlier.inputs):
        logger.warning(
            "warning: the sources are not what they were when the tokenizer was trained; it may have seen text that is held out "
            "now. Train it again if that matters."
        )


if __name__ == "__main__":
    datasets.disable_caching()
    launch(main, PrepareArguments)
