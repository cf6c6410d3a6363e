"""What recipes/train_tokenizer.py does with the documents: draw a sample, train on it, and measure the result."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.tokenizers import ALGORITHMS
from hfgpt.counting import counted
from hfgpt.data.passport import Passport
from hfgpt.data.sampling import Sample, texts_of_sides
from hfgpt.data.splitting import Split
from hfgpt.errors import require
from hfgpt.files import public_name
from hfgpt.tables import resolve
from hfgpt.tokenization.loading import load_or_wrap_tokenizer
from hfgpt.tokenization.measuring import count_tokens, measure
from hfgpt.tokenization.memory import expected_memory, say_memory
from hfgpt.tokenization.report import Report
from hfgpt.tokenization.special_tokens import WithoutSpecialTokens, reserved
from hfgpt.tokenization.training import suitable_vocab_size

logger = logging.getLogger(__name__)

THIS = "this tokenizer"
MEASURED_BYTES = 8 << 20  # of held-out text, and of training text for the token counts
NO_COMPARISON = (
    "To compare with GPT-2's tokenizer: `--compare_with openai-community/gpt2`, or a folder with its `encoder.json` and "
    "`vocab.bpe`."
)


def require_packages(algorithm: str) -> None:
    """Raises: UserError if a package that the algorithm needs is not installed."""
    if (needs := ALGORITHMS.find(algorithm).needs) is not None:
        require(needs[0], extra=needs[1], purpose=f"algorithm {algorithm} needs {needs[0]}")


def load_compared(places: Sequence[str]) -> dict[str, PreTrainedTokenizerFast]:
    """The tokenizers in these folders or on the Hub, by names that may be published. Raises: see `load_tokenizer`."""
    found: dict[str, PreTrainedTokenizerFast] = {}
    for place in places:
        name = public_name(place)
        found[name if name not in found else f"{name} ({len(found) + 1})"] = load_or_wrap_tokenizer(place)
    return found


def training_sample(documents, split: Split, passport: Passport, *, max_bytes: int) -> Sample:
    """The training texts of all sources, or `max_bytes` drawn evenly from all of them; recorded in `passport`."""
    sample = Sample(lambda: texts_of_sides(documents, split, {"train"}), max_bytes=max_bytes, seed=split.seed)
    if not sample.is_whole:
        share = 100 * sample.bytes / sample.all_bytes
        logger.info(
            f"tokenizer: trained on {sample.bytes:,} of {sample.all_bytes:,} bytes ({share:.1f} %), drawn evenly from all "
            f"{len(sample.sources):,} sources, because max_bytes is {max_bytes:,}"
        )
        sources = [
            {"source": public_name(name), "bytes_in": one.bytes, "bytes_out": one.taken} for name, one in sample.sources.items()
        ]
        amounts = {"documents_in": sample.all_documents, "documents_out": sample.documents}
        amounts |= {"bytes_in": sample.all_bytes, "bytes_out": sample.bytes, "max_bytes": max_bytes}
        passport.steps.append({"step": "sample for the tokenizer", **amounts, "sources": sources})
    return sample


def train_on(
    sample: Sample, passport: Passport, *, algorithm: str, vocab_size: int | None, max_bytes: int, settings: dict[str, Any]
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the sample, leaving out special tokens that occur in it.

    Args:
        vocab_size: None chooses a number that suits the size of the text.
        max_bytes: the limit of the sample; mentioned if memory is short.
        settings: further settings of the algorithm (`Algorithm.takes`).
    """
    entry, more = ALGORITHMS.find(algorithm), settings.get("reserved_tokens", 0)
    if vocab_size is None and entry.sized:
        vocab_size = suitable_vocab_size(sample.bytes, algorithm=algorithm, reserved_tokens=more)
        logger.info(
            f"tokenizer: vocab_size {vocab_size:,}, which suits {counted(sample.bytes, 'bytes')} of text; --vocab_size sets another"
        )
    expected = expected_memory(_texts(sample), num_bytes=sample.bytes, algorithm=algorithm)
    say_memory(expected, max_bytes=max_bytes, num_bytes=sample.bytes)
    plain = WithoutSpecialTokens([*entry.special_tokens, *reserved(more)])
    tokenizer = resolve(entry.train)(plain.texts(_texts(sample)), vocab_size=vocab_size, **settings)
    if plain.found:
        passport.settings["special_tokens_left_out"] = found = dict(sorted(plain.found.items()))
        said = ", ".join(f"{token} {count:,}" for token, count in found.items())
        logger.info(
            f"tokenizer: special tokens written in the text were left out of training ({said}): they are not used to build the "
            f"vocabulary, and in rows they are treated like any other text"
        )
    return tokenizer


def _texts(sample: Sample) -> Iterator[str]:
    return (text for _, text in sample)


def report_on(
    tokenizer: PreTrainedTokenizerFast,
    sample: Sample,
    documents,
    split: Split,
    *,
    described: str,
    compared: dict[str, PreTrainedTokenizerFast],
    languages: bool,
) -> Report:
    """Measure the tokenizer and others on the held-out documents, and count its tokens in the training text.

    Args: `described` is the tokenizer in words.
    Cost: encodes up to `MEASURED_BYTES` of each, about 2 MB per second per core.
    """
    tokenizers = {THIS: tokenizer, **compared}
    held_out = Sample(lambda: texts_of_sides(documents, split, {"validation", "test"}), max_bytes=MEASURED_BYTES, seed=split.seed)
    part = Sample(lambda: iter(sample), max_bytes=MEASURED_BYTES, seed=split.seed)
    return Report(
        described=f"{described}, {len(tokenizer):,} tokens",
        trained_on=f"{counted(sample.documents, 'documents')}, {counted(sample.bytes, 'bytes')}",
        sizes={name: len(one) for name, one in tokenizers.items()},
        held_out=measure(tokenizers, held_out, languages=languages),
        held_out_in_all=held_out.all_bytes,
        vocabulary=count_tokens(tokenizer, _texts(part)),
        counted_bytes=part.bytes,
        notes=[] if compared else [NO_COMPARISON],
    )
