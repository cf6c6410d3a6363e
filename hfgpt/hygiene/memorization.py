"""What a model has memorized: planted secrets that it reveals (`hfgpt/hygiene/exposure.py`), and training text that it repeats
verbatim.

*Overlap*: the longest run of a sampled text that occurs in the training rows, compared with held-out text of the same length, since
some overlap is normal. Planted canaries count as training text. The report quotes the longest run, so some training text is
published with it.
"""

import logging
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.data.passport import PASSPORT_NAME, held_out_split
from hfgpt.data.verification import open_rows
from hfgpt.errors import UserError
from hfgpt.evaluation.generation import context_length_of, generation_settings, sample
from hfgpt.files import sha256_of_file, write_json, write_picture
from hfgpt.hygiene.exposure import canary_report
from hfgpt.hygiene.overlap import longest_overlaps
from hfgpt.hygiene.planted_secrets import read_canaries
from hfgpt.tokenization import encode_texts, load_tokenizer

logger = logging.getLogger(__name__)

REPORT_NAME = "memorization.json"
FIGURE_NAME = "memorization.png"
SAMPLES_AT_ONCE = 16
# Runs of this many tokens are unlikely to be chance. Source: Lee et al. (2022), Deduplicating Training Data Makes Language Models
# Better.
LONG_RUN_TOKENS = 50
QUOTED_CHARACTERS = 300


def memorization_report(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    data: Path,
    output: Path,
    *,
    num_samples: int = 64,
    sample_tokens: int = 128,
    num_references: int = 255,
    max_rows: int = 250_000,
    seed: int = 0,
) -> dict:
    """Measure what `model` has memorized of the prepared data, and write `memorization.json` and `memorization.png`.

    Args:
        model: any causal language model, on any device; its mode and the random state are restored.
        tokenizer: the model's; the data may have been prepared with a different one.
        data: folder written by recipes/prepare_data.py; canaries are measured if some were planted.
        output: folder for the two files.
        num_samples: texts sampled from the model, from the beginning of a document, at temperature 1.
        sample_tokens: maximum tokens in each; fewer if the context is short.
        num_references: secrets to rank each canary's secret against; exposure is at most log2 of this number plus one.
        max_rows: training rows to search, evenly spaced if there are more; runs in the others are missed.
        seed: for samples, references and the choice of held-out text.
    Returns: the contents of `memorization.json`; `canaries` is None if none were planted, `held_out` if nothing was held out.
    Raises: FileNotFoundError and ValueError for a folder that is not prepared data, or canaries that do not match its passport;
        ValueError for numbers out of range, a context that is too short, and log-likelihoods that are not numbers.
    Cost: canaries x references sentences of some 30 tokens, num_samples x sample_tokens generated tokens, and the search of
        `longest_overlaps`; memory is that of the model, 0.5 GiB for logits and 100 MB for the search.
    """
    settings = dict(num_samples=num_samples, sample_tokens=sample_tokens, num_references=num_references, max_rows=max_rows)
    for name, value in settings.items():
        if value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1.")
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no eos_token, which must begin and end each document; use the tokenizer from training.")
    canaries = read_canaries(data)
    rows = open_rows(data)
    sample_tokens = min(sample_tokens, context_length_of(model) - 1)
    report = {
        "format": 1,
        "settings": {
            "num_samples": num_samples, "sample_tokens": sample_tokens, "temperature": 1.0, "num_references": num_references,
            "max_rows": max_rows, "seed": seed,
        },
        "data": {"passport_sha256": sha256_of_file(data / PASSPORT_NAME)},
        "canaries": None,
    }  # fmt: skip
    if canaries:
        report["canaries"] = canary_report(model, tokenizer, canaries, num_references=num_references, seed=seed)
    else:
        logger.info("memorization: no canaries were planted in this data (plant_canaries), so only overlap is measured")
    samples = draw_samples(model, tokenizer, num_samples=num_samples, sample_tokens=sample_tokens, seed=seed)
    report["overlap"], found = overlap_report(
        samples, rows, tokenizer=tokenizer, data_tokenizer=load_tokenizer(data / "tokenizer"), max_rows=max_rows, seed=seed
    )
    output.mkdir(parents=True, exist_ok=True)
    draw_memorization(report, found, output / FIGURE_NAME)
    write_json(output / REPORT_NAME, report, ensure_ascii=False, allow_nan=False)
    for line in [*describe(report), f"memorization: {output / REPORT_NAME}, {output / FIGURE_NAME}"]:
        logger.info(line)
    return report


def describe(report: dict) -> list[str]:
    """The report in a few lines for the terminal and the model card."""
    lines = []
    if report["canaries"]:
        canaries = report["canaries"]
        for row in canaries["by_count"]:
            lines.append(
                f"canaries in the data {_times(row['count'])}: exposure {row['exposure_mean']:.2f} bits (at most "
                f"{canaries['maximum_exposure']:.2f}, by chance {canaries['chance_exposure']:.2f}), "
                f"{100 * row['extraction_rate']:.0f} % of {row['num']} extracted"
            )
    for what, key in (("sampled", "samples"), ("held-out", "held_out")):
        if entry := report["overlap"][key]:
            lines.append(
                f"longest run of a {what} text in the training rows: median {entry['tokens']['median']:.0f}, longest "
                f"{entry['tokens']['maximum']} tokens; {100 * entry['long_runs']:.0f} % have one of at least {LONG_RUN_TOKENS}"
            )
    return lines


def draw_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, num_samples: int, sample_tokens: int, seed: int
) -> list[str]:
    """Sample texts from the model's full distribution (temperature 1), from the beginning of a document."""
    texts: list[str] = []
    while len(texts) < num_samples:
        number = min(SAMPLES_AT_ONCE, num_samples - len(texts))
        # Explicit, because a model's own generation_config may differ.
        whole = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        settings = generation_settings(tokenizer, max_new_tokens=sample_tokens, num_return_sequences=number, **whole)
        texts += sample(model, tokenizer, "", generation_config=settings, seed=seed + len(texts))
    return texts


def documents_of(rows: Dataset, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    """The texts of packed rows, without separators and padding; a document that was cut across rows is returned in pieces.

    Args: `tokenizer` is the one used to prepare the data.
    """
    special = np.array([tokenizer.eos_token_id, tokenizer.pad_token_id])
    for batch in cast("Iterator[dict]", rows.with_format("numpy").iter(batch_size=500)):
        pieces = []
        for ids in batch["input_ids"]:
            pieces += [piece[piece != special[0]] for piece in np.split(ids, np.flatnonzero(np.isin(ids, special)))]
        # A piece that begins with padding is all padding: every piece begins at a special token.
        pieces = [piece.tolist() for piece in pieces if len(piece) and piece[0] != special[1]]
        yield from tokenizer.batch_decode(pieces)


def overlap_report(
    samples: list[str],
    rows: DatasetDict,
    *,
    tokenizer: PreTrainedTokenizerFast,
    data_tokenizer: PreTrainedTokenizerFast,
    max_rows: int,
    seed: int,
) -> tuple[dict, dict[str, list[int]]]:
    """The longest runs of samples and of the same amount of held-out text in the training rows, as quantiles; and the bytes of each
    run."""
    split = held_out_split(rows)
    held_out = []
    if split:
        documents = list(documents_of(_evenly(rows[split], max(1000, 4 * len(samples))), data_tokenizer))
        held_out = held_out_like(samples, documents, seed=seed)
    train = _evenly(rows["train"], max_rows)
    runs = longest_overlaps([*samples, *held_out], documents_of(train, data_tokenizer))
    longest = [_quoted(text, *run) for text, run in zip([*samples, *held_out], runs, strict=True)]
    of_samples, of_held_out = longest[: len(samples)], longest[len(samples) :]
    report = {
        "rows": len(rows["train"]),
        "rows_searched": len(train),
        "samples": _distribution(samples, of_samples, tokenizer) | {"longest": max(of_samples, key=_size)[:QUOTED_CHARACTERS]},
        "held_out": {"split": split} | _distribution(held_out, of_held_out, tokenizer) if held_out else None,
    }
    return report, {"samples": list(map(_size, of_samples)), "held_out": list(map(_size, of_held_out))}


def held_out_like(samples: Sequence[str], documents: Sequence[str], *, seed: int) -> list[str]:
    """A piece of held-out text per sample, with the same length in bytes; fewer or shorter ones if there is less text.

    Args: `documents` are used in random order, piece by piece, and none twice.
    """
    order = list(documents)
    random.Random(f"held out {seed}").shuffle(order)
    rest = b""
    pieces = []
    for sample_bytes in filter(None, map(_size, samples)):
        # A document's last piece is too short to compare; a short document is used as a whole.
        if len(rest) < sample_bytes:
            if not order:
                break
            rest = order.pop().encode()
        piece, rest = rest[:sample_bytes], rest[sample_bytes:]
        pieces.append(piece.decode(errors="ignore"))
    return pieces


def _evenly(rows: Dataset, most: int) -> Dataset:
    if len(rows) <= most:
        return rows
    return rows.select(np.linspace(0, len(rows) - 1, most).astype(int))


def _size(text: str) -> int:
    return len(text.encode())


def _quoted(text: str, start: int, length: int) -> str:
    """The run as text, without partial characters at its borders."""
    return text.encode()[start : start + length].decode(errors="ignore")


def _distribution(texts: Sequence[str], runs: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> dict:
    tokens = [len(ids) for ids in encode_texts(tokenizer, list(runs))]
    shares = [_size(run) / _size(text) for text, run in zip(texts, runs, strict=True) if text]
    return {
        "num": len(texts),
        "mean_bytes": float(np.mean([_size(text) for text in texts])),
        "bytes": _quantiles([_size(run) for run in runs]),
        "tokens": _quantiles(tokens),
        "mean_share": float(np.mean(shares)) if shares else 0.0,
        "long_runs": float(np.mean([number >= LONG_RUN_TOKENS for number in tokens])),
    }


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count:,} times")


def _quantiles(values: Sequence[int]) -> dict[str, int | float]:
    return {
        "mean": float(np.mean(values)),
        "median": int(np.quantile(values, 0.5, method="inverted_cdf")),  # one of the values, like the maximum
        "p90": int(np.quantile(values, 0.9, method="inverted_cdf")),
        "maximum": max(values),
    }


def draw_memorization(report: dict, overlaps: dict[str, list[int]], path: Path) -> None:
    """Plot exposure and extraction over the number of copies, if canaries were planted, and the two overlaps.

    Legends are below the axes, where they cover nothing.

    Args: `overlaps` are the bytes of the longest runs, of `samples` and of `held_out` text.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display
    from matplotlib.ticker import MaxNLocator

    canaries = report["canaries"]
    figure = Figure(figsize=(11 if canaries else 6, 5), layout="constrained")
    below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8, frameon=False)
    plots = figure.subplots(1, 2 if canaries else 1, squeeze=False)[0]
    if canaries:
        axes = plots[0]
        planted = [row for row in canaries["by_count"] if row["count"]]
        counts = [row["count"] for row in planted]
        axes.plot(counts, [row["exposure_mean"] for row in planted], color="#c0392b", marker="o", label="exposure, mean")
        axes.plot(counts, [row["exposure_max"] for row in planted], color="#c0392b", marker=".", linestyle=":", label="highest")
        controls = next((row for row in canaries["by_count"] if not row["count"]), None)
        if controls:
            axes.axhline(controls["exposure_mean"], color="#7f8c8d", linestyle="--", label="never planted, mean")
        axes.axhline(canaries["maximum_exposure"], color="#7f8c8d", linewidth=0.8, label="maximum measurable")
        axes.set(xscale="log", xlabel="copies in the training text", ylabel="exposure (bits)", title="Planted secrets")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.set_xticks([], minor=True)
        axes.set_ylim(0, 1.1 * canaries["maximum_exposure"])
        rates = axes.twinx()
        rates.plot(counts, [100 * row["extraction_rate"] for row in planted], color="#2c6fbb", marker="s", label="extracted")
        rates.set(ylim=(-3, 130), yticks=range(0, 101, 20), ylabel="extracted (%)")  # 100 % apart from the highest exposure
        lines = [*axes.get_legend_handles_labels()[0], *rates.get_legend_handles_labels()[0]]
        axes.legend(lines, [line.get_label() for line in lines], **below)
    axes = plots[-1]
    highest = max([*overlaps["samples"], *overlaps["held_out"], 1])
    bins = np.arange(-0.5, highest + 1, max(1, math.ceil(highest / 24)))  # bytes are integers
    if bins[-1] < highest:
        bins = np.append(bins, 2 * bins[-1] - bins[-2])
    for key, color, label in (("held_out", "#9db4cf", "held-out text"), ("samples", "#c0392b", "sampled by the model")):
        if overlaps[key]:
            axes.hist(overlaps[key], bins=bins, color=color, alpha=0.6, label=label)
    axes.set(xlabel="longest run in the training rows (bytes)", ylabel="texts", title="Verbatim overlap")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend(**below)
    write_picture(path, figure)
