"""Turn documents into fixed-length training rows, and record what happened to them.

    python recipes/prepare_data.py recipes/configs/quickstart/data.yaml
    python recipes/prepare_data.py --tokenizer runs/mine/tokenizer --output_dir runs/mine/data
    python recipes/prepare_data.py --sources 'other/*.txt' --tokenizer runs/mine/tokenizer --output_dir runs/mine/other

    python recipes/prepare_data.py recipes/configs/quickstart/data.yaml --plant_canaries true --output_dir runs/canaries/data
    python recipes/prepare_data.py --verify runs/mine/data        # do rows, tokenizer and sources match the passport?

Sources, reading options and split are those the tokenizer was trained with, from the passport beside it, unless others are given.
The result is a `datasets` folder with the columns `input_ids` and `position_ids`, the tokenizer that
made them, and `passport.json`: every input with its SHA-256, every step with its counts, every token accounted for; the card
(README.md) and overview.png present the same for people. With `plant_canaries`, made-up secrets are inserted among the training
documents a known number of times and listed in `planted_canaries.json`, so that recipes/evaluate.py can report how many of them a
model reveals.
"""

# hf jobs uv run runs this file on Hugging Face's machines, from the checkout (recipes/jobs/train.sh).
# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "torch>=2.10", "transformers>=5.20,<6", "tokenizers>=0.22", "datasets>=4.0,<6", "accelerate>=1.10,<2",
#   "huggingface_hub>=2.0,<3", "safetensors>=0.5", "pyarrow>=15", "numpy>=1.26", "pandas>=2.2", "scipy>=1.13",
#   "matplotlib>=3.8", "psutil>=5.9", "PyYAML>=6.0", "Jinja2>=3.1.6", "wrapt>=1.16,<3", "peft>=0.21,<1", "evaluate>=0.4.5,<1",
#   "scikit-learn>=1.5,<2", "rouge_score>=0.1.2,<0.2", "tqdm>=4.66", "rensa>=0.5,<1",
#   "datatrove>=0.10.1,<0.11", "loguru>=0.7", "dill>=0.3.8", "ftfy>=6.3,<7", "py3langid>=0.4,<0.5", "regex>=2024.5.15",
#   "detect-secrets>=1.5,<2", "phonenumberslite>=9.0,<10", "python-stdnum>=2.0,<3"
# ]
# [tool.hf-jobs]
# flavor = "cpu-upgrade"
# timeout = "1d"
# secrets = ["HF_TOKEN"]
# env = { PYTHONPATH = "/code" }
# volumes = ["./hfgpt:/code/hfgpt", "./recipes:/code/recipes", "./model_cards:/code/model_cards"]
# ///

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.documents:PrepareArguments")

import sys
import time
from pathlib import Path

import datasets
from datasets import DatasetDict
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.commands import command_line
from hfgpt.arguments.documents import READING_DEFAULTS, SPLIT_DEFAULTS, STEP_DEFAULTS, PrepareArguments
from hfgpt.arguments.engine import MACHINE_KEYS
from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.terminal import RESULT
from hfgpt.counting import listed
from hfgpt.data.cluster_tokens import EncodedTexts
from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.engine import Engine, clear_tasks, tasks_folder
from hfgpt.data.filters import cleaning_steps
from hfgpt.data.mixture import Mixture, mix, names_as_given, report_sources, shuffle_documents
from hfgpt.data.on_disk import save_rows, texts_of
from hfgpt.data.overview import OVERVIEW_NAME, draw_overview
from hfgpt.data.passport import PASSPORT_NAME, Passport, library_versions
from hfgpt.data.preparation import (
    SHORTEST_ROW,
    passport_of_tokenizer,
    prepare_split,
    suitable_context_length,
    warn_of_seen_text,
)
from hfgpt.data.reading import Source
from hfgpt.data.records import RecordOptions, identities
from hfgpt.data.row_hashes import hash_of_rows
from hfgpt.data.sources import ReadingOptions, find_sources, identity, refuse_unread_options
from hfgpt.data.splitting import Split, split_documents
from hfgpt.data.verification import report, verify_folder
from hfgpt.errors import MissingFileError, UserError
from hfgpt.evaluation.compression import lzma_bits_per_byte
from hfgpt.files import claim_output, replaced_folder, work_folder
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.card.settings import save_settings
from hfgpt.hygiene.decontamination import reference_texts
from hfgpt.hygiene.documents import clean_documents
from hfgpt.hygiene.leaks import drop_benchmark_text, drop_leaks
from hfgpt.hygiene.planted_secrets import check_fit, make_canaries, plant, write_canaries
from hfgpt.hygiene.privacy import concealing, privacy_steps
from hfgpt.tokenization import load_or_wrap_tokenizer, tokenizer_sha256
from hfgpt.training.already_made import already_made
from hfgpt.training.next_steps import free_folder


def main(args: PrepareArguments) -> dict[str, float]:
    if args.verify:
        findings = verify_folder(Path(args.verify))
        report(findings, Path(args.verify))
        return {"compared": sum(one.outcome == "matches" for one in findings)}

    # 1. Everything that can be wrong before reading; keys that are not given default to the tokenizer's
    start = time.perf_counter()
    earlier = passport_of_tokenizer(args.tokenizer)
    given, args = args, args.filled(earlier.settings)
    sources, options = find_as_given(given, args), ReadingOptions(**args.reading_options())
    refuse_unread_options(sources, given.given())
    privacy = privacy_steps(**args.privacy())
    steps = [*cleaning_steps(**args.cleaning()), *privacy]
    tokenizer = load_or_wrap_tokenizer(args.tokenizer)  # GPT-2's own files lack a padding token
    mixture, names = args.mixture(args.sources), names_as_given(sources)
    canaries = []
    if args.plant_canaries:
        canaries = make_canaries(args.canary_counts, per_count=args.canaries_per_count, seed=args.canary_seed)
        if args.context_length is not None:
            check_fit(canaries, tokenizer, context_length=args.context_length)
    passport = Passport(versions=library_versions(), command=given.command("prepare_data.py"))
    passport.tokenizer = {
        "sha256": tokenizer_sha256(tokenizer),
        "vocab_size": len(tokenizer),
        "separator": tokenizer.eos_token,
        "pad": tokenizer.pad_token,
    }
    asked, benchmark_options = args.asked(), RecordOptions(hub_split="test")
    if args.decontaminate_against:
        asked["decontaminate_against"] = identities(args.decontaminate_against, benchmark_options)
    benchmarks = reference_texts(args.decontaminate_against, benchmark_options) if args.decontaminate_against else {}
    tasks = tasks_folder(Path(args.output_dir))
    known = dict(asked=asked, inputs=lambda: [identity(source, options) for source in sources])
    if already_made(Path(args.output_dir), **known, passport=passport, overwrite=args.overwrite, card=args.card):
        if tasks.exists():
            logger.info(f"data: {tasks} is left over from tasks on a cluster; it can be removed if none is running")
        return {}
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=PASSPORT_NAME, whole=True)

    with work_folder(output) as cache_dir:
        # 2. Documents
        engine = None if args.engine == "local" else engine_for(args, tasks, tokenizer)
        split = Split(**args.split())
        dropped = DroppedDocuments(cache_dir, conceal=concealing(privacy)) if args.keep_dropped else None
        documents = clean_documents(
            sources,
            options,
            passport,
            steps=steps,
            **args.document_steps(),
            dropped=dropped,
            split=split,
            cache_dir=cache_dir,
            on_error=args.on_error,
            num_proc=args.processes(),
            engine=engine,
        )
        if not len(documents):
            needed = args.context_length or SHORTEST_ROW
            raise UserError(
                f"the sources contain no text: 0 tokens, but one row needs {needed:,}; give files with text in --sources."
            )

        encode = None if engine is None else EncodedTexts(engine.folder, tokenizer)

        # 3. Train, validation, test: no held-out text in training, and all copies of planted secrets only in training
        split = split.settled(documents)
        settled = {**{key: getattr(args, key) for key in SPLIT_DEFAULTS}, "split_by": split.by, "group_field": args.group_field}
        warn_of_seen_text(earlier, passport, split=settled, same_sources=args.sources == earlier.settings.get("sources"))
        splits = split_documents(documents, split, passport)
        held_out = {str(name): part for name, part in splits.items() if name != "train"}
        known_texts = dict(tokenizer=tokenizer, leak_tokens=args.leak_tokens, cache_dir=cache_dir, dropped=dropped)
        splits["train"] = drop_leaks(splits["train"], held_out, passport, how=args.leaks, **known_texts)
        splits["train"] = drop_benchmark_text(splits["train"], benchmarks, passport, **known_texts)
        context_length = args.context_length or suitable_context_length(texts_of(splits["train"]), tokenizer)
        left_out = ("output_dir", "overwrite", "card", "verify", *MACHINE_KEYS)
        passport.settings = {key: value for key, value in vars(args).items() if key not in left_out}
        passport.settings |= {"context_length": context_length, "split_by": split.by, "asked": asked}
        if mixture is not None:
            splits["train"] = mix(splits["train"], Mixture(**mixture), tokenizer, passport, names=names, encode=encode)
        elif args.shuffle_documents:
            splits["train"] = shuffle_documents(splits["train"], seed=args.mixture_seed)
        if canaries:
            check_fit(canaries, tokenizer, context_length=context_length)
            splits["train"] = plant(splits["train"], canaries, passport, seed=args.canary_seed)

        # 4. Rows. Held-out text is always packed, with each token predicted once, or its bits per byte would be meaningless.
        rows = DatasetDict()
        for name, part in splits.items():
            how = {"packing": args.packing, "window": args.window, "stride": args.stride} if name == "train" else {}
            rows[name] = prepare_split(
                part,
                tokenizer,
                passport,
                name=str(name),
                context_length=context_length,
                cache_dir=cache_dir,
                encode=encode,
                **how,
            )
        report_sources(passport, what="training text by source:")

        # 5. A compressor on the same bytes
        if args.lzma_baseline and "test" in splits:
            passport.lzma_bits_per_byte = lzma_bits_per_byte(texts_of(splits["test"]), texts_of(splits["train"]))

        # 6. Save
        saving = time.perf_counter()
        with replaced_folder(output, work=cache_dir) as folder:
            save_rows(rows, folder)
            passport.rows = {str(name): hash_of_rows(folder / str(name)) for name in rows}
            tokenizer.save_pretrained(folder / "tokenizer")
            if canaries:
                write_canaries(canaries, folder)
            if dropped is not None:
                dropped.move_into(folder)
            passport.save(folder)
            draw_overview(passport, folder / OVERVIEW_NAME)
            save_settings(folder, args.card)
            write_card(folder)
        clear_tasks(tasks)  # also those of another engine: they are no longer needed
        passport.took("save", saving)
    passport.log_shares(start)
    logger.log(RESULT, f"data: saved in {output}, with {PASSPORT_NAME}")
    logger.log(RESULT, f"next: {command_line('pretrain', '--dataset', output, '--output_dir', free_folder(output, 'base'))}")
    return {f"{name}_{key}": value for name, counts in passport.splits.items() for key, value in counts.items()}


def engine_for(args: PrepareArguments, tasks: Path, tokenizer: PreTrainedTokenizerFast) -> Engine:
    """The cluster that reads, compares and encodes the documents."""
    command = (sys.executable, *map(str, sys.argv))
    settings = args.engine_settings
    assert settings is None or isinstance(settings, dict)  # check_engine has read it
    return Engine(args.engine, tasks, tokenizer, tasks=args.num_tasks, settings=settings or {}, command=command)


def find_as_given(given: PrepareArguments, args: PrepareArguments) -> list[Source]:
    """The sources of `args`; settings taken from the tokenizer that differ from the defaults are logged."""
    if not args.sources:
        here = "" if Path(args.tokenizer).exists() else " (no such folder)"
        raise UserError(
            f"no sources given, and there is no passport beside the tokenizer {args.tokenizer}{here} that lists any; give "
            f"--sources."
        )
    # With the tokenizer's sources, the split is logged even if it is the default: both recipes must do the same.
    split = SPLIT_DEFAULTS if given.sources else dict.fromkeys(SPLIT_DEFAULTS)
    defaults = {"sources": []} | READING_DEFAULTS | STEP_DEFAULTS | split
    taken = {key: getattr(args, key) for key, default in defaults.items() if getattr(given, key) != getattr(args, key) != default}
    if taken:
        said = ", ".join(
            f"{key} {listed(value, between=' ') if isinstance(value, list) else value}" for key, value in taken.items()
        )
        logger.info(f"data: same as for the tokenizer {args.tokenizer}: {said}")
    if given.sources:
        return find_sources(args.sources)
    try:
        return find_sources(args.sources)
    except MissingFileError as error:
        raise MissingFileError(
            f"{error} (This source comes from the passport of the tokenizer {args.tokenizer}; run this in the same folder as "
            f"train_tokenizer.py, or give --sources.)"
        ) from None


if __name__ == "__main__":
    datasets.disable_caching()
    launch(main, PrepareArguments)
