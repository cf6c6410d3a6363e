"""Comparison of packing methods on real texts: padding, cut documents, and time.

    python benchmarks/packing.py [--data ../shared/data] [--context_length 256 1024]

The texts are novels, whole and paragraph by paragraph, and SMS messages; the tokens are GPT-2's. "padding" is the share of all
positions that are empty, "cut" the share of documents that would fit into one row but are split, "repeated" the share of positions
that repeat a token at the beginning of a row.
"""

import argparse
import itertools
import time
from pathlib import Path

from hfgpt.data.packing import PACKINGS, PackingCounts, pack
from hfgpt.data.sources import ReadingOptions, find_sources, read_documents
from hfgpt.tokenization import encode_texts, load_or_wrap_tokenizer


def texts_of(data: Path) -> dict[str, list[str]]:
    """The texts by their names in the table."""
    novels = find_sources([str(data / "english_novels" / "train.txt")])
    messages = (data / "sms_spam" / "SMSSpamCollection.tsv").read_text(encoding="utf-8").splitlines()
    rules = {"novels, paragraphs": "paragraph", "novels, whole": "<|endoftext|>"}
    texts = {
        name: [document["text"] for document in read_documents(novels, ReadingOptions(text_documents=rule))]
        for name, rule in rules.items()
    }
    return texts | {"SMS messages": [line.partition("\t")[2] for line in messages]}


def whole(rows, separator: int) -> int:
    """How many documents are whole in one row: those between two separators."""
    return sum(max(0, int((ids == separator).sum()) - 1) for block in rows for ids in block.input_ids)


def main(args: argparse.Namespace) -> None:
    tokenizer = load_or_wrap_tokenizer(str(args.data / "gpt2_bpe"))
    separator, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    print("padding |    cut | repeated | CPU s per million tokens | way, rows of, documents, tokens")
    for name, texts in texts_of(args.data).items():
        documents = [ids for start in range(0, len(texts), 1000) for ids in encode_texts(tokenizer, texts[start : start + 1000])]
        tokens = sum(map(len, documents))
        for context_length, packing in itertools.product(args.context_length, PACKINGS):
            counts, start = PackingCounts(), time.process_time()
            given = dict(context_length=context_length, separator=separator, pad=pad, counts=counts, packing=packing)
            rows = list(pack(documents, **given))
            seconds = time.process_time() - start
            fitting = sum(len(ids) + 2 <= context_length for ids in documents)
            cut = 100 * (fitting - whole(rows, separator)) / fitting if fitting else 0.0
            positions = counts.rows * context_length
            print(
                f"{100 * counts.padding / positions:5.2f} % | {cut:4.1f} % | {100 * counts.repeated / positions:6.2f} % | "
                f"{seconds / tokens * 1e6:24.2f} | {packing}, {context_length:,}, {len(documents):,} {name}, {tokens:,}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="Folder of the data sets.")
    parser.add_argument("--context_length", type=int, nargs="+", default=[256, 1024])
    main(parser.parse_args())
