"""Train a tokenizer on any text.

    python recipes/train_tokenizer.py recipes/configs/quickstart/tokenizer.yaml
    python recipes/train_tokenizer.py --sources 'texts/*.txt' --output_dir runs/mine/tokenizer

The text that prepare_data.py will hold out for validation and test is left out here, too, so a tokenizer has never seen the text
that its model is tested on. Sources, reading options and split are recorded in the passport beside the tokenizer, and
prepare_data.py takes them from there.
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
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# env = { PYTHONPATH = "/code" }
# volumes = ["./hfgpt:/code/hfgpt", "./recipes:/code/recipes", "./model_cards:/code/model_cards"]
# ///

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.documents:TokenizerArguments")

import time
from pathlib import Path
from typing import cast

from hfgpt.arguments.commands import command_line
from hfgpt.arguments.documents import READING_DEFAULTS, SPLIT_DEFAULTS, STEP_DEFAULTS, TokenizerArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.terminal import RESULT
from hfgpt.counting import counted
from hfgpt.data.filters import cleaning_steps
from hfgpt.data.passport import PASSPORT_NAME, Passport, library_versions
from hfgpt.data.sources import ReadingOptions, find_sources, identity, refuse_unread_options
from hfgpt.data.splitting import Split
from hfgpt.errors import UserError
from hfgpt.files import claim_output, replaced_folder, work_folder
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.card.settings import save_settings
from hfgpt.hygiene.documents import clean_documents
from hfgpt.hygiene.privacy import privacy_steps
from hfgpt.tokenization import check_vocab_size, tokenizer_sha256
from hfgpt.tokenization.hard_texts import HARD_TEXTS
from hfgpt.tokenization.reloading import check_reloaded
from hfgpt.training.already_made import already_made
from hfgpt.training.next_steps import free_folder
from hfgpt.training.tokenizers import load_compared, report_on, require_packages, train_on, training_sample


def main(args: TokenizerArguments) -> dict[str, float]:
    # 1. Everything that can be wrong before reading
    given, args = args, args.filled({})
    vocab_size = cast("int | None", args.vocab_size)
    check_vocab_size(vocab_size, algorithm=args.algorithm, reserved_tokens=args.reserved_tokens)
    require_packages(args.algorithm)
    compared = load_compared(args.compare_with)
    sources = find_sources(args.sources)
    refuse_unread_options(sources, given.given())
    options = ReadingOptions(**args.reading_options())
    steps = [*cleaning_steps(**args.cleaning()), *privacy_steps(**args.privacy())]
    passport, asked = Passport(versions=library_versions(), command=given.command("train_tokenizer.py")), args.asked()
    known = dict(asked=asked, inputs=lambda: [identity(source, options) for source in sources])
    if already_made(Path(args.output_dir), **known, passport=passport, overwrite=args.overwrite, card=args.card):
        return {}
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=PASSPORT_NAME, whole=True)

    start = time.perf_counter()
    with work_folder(output) as cache_dir:
        # 2. Documents, the same as in prepare_data.py
        split = Split(**args.split())
        documents = clean_documents(
            sources,
            options,
            passport,
            steps=steps,
            **args.document_steps(),
            split=split,
            cache_dir=cache_dir,
            on_error=args.on_error,
            num_proc=args.processes(),
        )
        if not len(documents):
            raise UserError("the sources contain no text; give files with text in --sources.")
        split = split.settled(documents)

        # 3. The training documents, up to a limit
        sample = training_sample(documents, split, passport, max_bytes=args.max_bytes)
        if not sample.documents:
            raise UserError(
                f"no document is left to train on: everything in the sources is held out (validation_share "
                f"{args.validation_share}, test_share {args.test_share}) or exceeds max_bytes {args.max_bytes:,}; "
                + (
                    "give more text."
                    if split.by == "position"
                    else "for a corpus of one or a few documents, give --split_by position."
                )
            )

        # 4. Train, and measure on the held-out documents
        how = dict(algorithm=args.algorithm, vocab_size=vocab_size, max_bytes=args.max_bytes, settings=args.training_settings())
        tokenizer = train_on(sample, passport, **how)
        report = report_on(
            tokenizer,
            sample,
            documents,
            split,
            described=args.tokenizer_in_words(),
            compared=compared,
            languages=args.report_languages,
        )

    # 5. Save, with a passport that tells prepare_data.py what to read, and how
    passport.settings |= {
        "algorithm": args.algorithm,
        "vocab_size": len(tokenizer),
        **{name: getattr(args, name) for name in ("sources", *READING_DEFAULTS, *STEP_DEFAULTS, *SPLIT_DEFAULTS)},
        "split_by": split.by,
        "asked": asked,
    }
    passport.tokenizer = {"sha256": tokenizer_sha256(tokenizer), "vocab_size": len(tokenizer)}
    passport.splits = {"train": {"documents": sample.documents, "bytes": sample.bytes}}
    with replaced_folder(output) as folder:
        tokenizer.save_pretrained(folder)
        if args.check_reload:
            check_reloaded(folder, tokenizer, HARD_TEXTS, lossless=tokenizer.unk_token_id is None)
        report.write(folder)
        passport.save(folder)
        save_settings(folder, args.card)
        write_card(folder)
    logger.log(
        RESULT,
        f"tokenizer: {len(tokenizer):,} tokens from {counted(sample.documents, 'documents')}, {counted(sample.bytes, 'bytes')}, in "
        f"{time.perf_counter() - start:.1f} s; saved in {output}",
    )
    how = ("--streaming", "true") if args.streaming else ()  # the rest of how texts are read is in the passport
    logger.log(RESULT, f"next: {command_line('data', '--tokenizer', output, *how, '--output_dir', free_folder(output, 'data'))}")
    return {"documents": sample.documents, "bytes": sample.bytes, "vocab_size": len(tokenizer)}


if __name__ == "__main__":
    launch(main, TokenizerArguments)
