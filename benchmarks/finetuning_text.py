"""The pretraining text for the base of the fine-tuning tables: novels, and the training parts of the fine-tuning sets.

    python benchmarks/finetuning_text.py --output_dir runs/messages/text

Written from the splits that the recipes themselves make with the configs named below, so it contains no validation or test text of
any of them; this is checked, not assumed. Each text is a JSON line. The few messages are repeated.
"""

import argparse
import json
import sys
from pathlib import Path

from datasets import DatasetDict

from hfgpt.arguments.finetuning import ClassificationArguments, InstructionArguments
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.data.classification import LabelledOptions
from hfgpt.data.passport import Passport
from hfgpt.training import assistants, classifiers
from hfgpt.training.examples import Examples, HeldOutShares

CONFIGS = Path("recipes/configs")
NOVELS = Path("../shared/data/english_novels/train.txt")
NOVEL_BYTES = 1_200_000  # the first of them
REPEATED = 3  # how often each message occurs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    folder = parser.parse_args().output_dir
    if not NOVELS.is_file():
        sys.exit(f"{NOVELS} does not exist; this benchmark needs the data sets of ../shared/data.")

    training, held_out = [], set()
    for config in ("book/spam", "sms_spam/full"):
        splits = labelled_splits(arguments(ClassificationArguments, f"{config}.yaml"))
        training += splits["train"]["text"][:]
        held_out |= {folded(text) for name in ("validation", "test") for text in splits[name]["text"]}
    messages = list(dict.fromkeys(text for text in training if folded(text) not in held_out))

    instructions = []
    for config in ("dolly_lora", "rasbt_lora"):
        splits = conversation_splits(arguments(InstructionArguments, f"instructions/{config}.yaml"))
        instructions += ["\n".join(turn["content"] for turn in turns) for turns in splits["train"]["messages"]]
        held_out |= {folded(turns[-1]["content"]) for name in ("validation", "test") for turns in splits[name]["messages"]}

    with NOVELS.open("rb") as file:
        novels = file.read(NOVEL_BYTES).decode("utf-8", errors="ignore").rpartition("\n\n")[0]
    # as long as a page, so that rows hold several
    paragraphs = [text for text in novels.replace("<|endoftext|>", "").split("\n\n") if text.strip()]
    pages = ["\n\n".join(paragraphs[start : start + 12]) for start in range(0, len(paragraphs), 12)]

    assert not held_out & {folded(text) for text in messages}
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("messages", messages * REPEATED), ("instructions", instructions), ("novels", pages)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        print(f"{path}: {len(texts):,} texts, {sum(len(text.encode()) for text in texts):,} bytes")


def arguments(arguments_class, config: str):
    """The arguments of a recipe, from its YAML; the base there does not exist yet, and the one given is not loaded."""
    return parse_arguments(arguments_class, [str(CONFIGS / config), "--model", "openai-community/gpt2"])


def examples_of(args: ClassificationArguments | InstructionArguments) -> Examples:
    """The examples that a recipe with these arguments reads."""
    shares = HeldOutShares(args.validation_share, args.test_share, args.split_method, args.split_seed)
    return Examples(**args.example_files(), shares=shares)


def labelled_splits(args: ClassificationArguments) -> DatasetDict:
    """The splits that recipes/finetune_classification.py makes."""
    splits, _ = classifiers.load_splits(
        examples_of(args),
        Passport(),
        options=LabelledOptions(**args.labelled_options()),
        deduplicate=args.deduplicate,
        balance=args.balance,
        balance_before_split=args.balance_before_split,
    )
    return splits


def conversation_splits(args: InstructionArguments) -> DatasetDict:
    """The splits that recipes/finetune_instructions.py makes."""
    return assistants.load_splits(
        examples_of(args),
        Passport(),
        style=args.prompt_style,
        format=None if args.conversation_format == "auto" else args.conversation_format,
        weights=args.source_weights,
    )


def folded(text: str) -> str:
    """A text without the details in which copies differ."""
    return " ".join(text.casefold().split())


if __name__ == "__main__":
    main()
