"""`tokenizer_report.md` and its picture: how well a tokenizer fits unseen text, compared with others on the same text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hfgpt.files import write_picture, write_whole
from hfgpt.tokenization.measuring import Amounts, Measures, Vocabulary

REPORT_NAME, PICTURE_NAME = "tokenizer_report.md", "tokenizer_report.png"
# The names of sources come last, under this heading, so that a published copy can omit them.
SOURCES_HEADING = "\n## Sources\n"
MOST_GROUPS = 20  # sources, scripts or languages in a table
LONGEST = 12
_MOST_BARS = 8
_COLORS = ("#2c6fbb", "#c0392b", "#7f8c8d", "#8e6bb0")


def without_names(page: str) -> str:
    """The page without the names of the measured files, which may reveal their contents."""
    return page.partition(SOURCES_HEADING)[0]


@dataclass
class Report:
    """The report on a tokenizer.

    Args:
        described: the tokenizer in words, such as "bpe, 4,096 tokens, pattern qwen2".
        trained_on: its training text, in words.
        sizes: the vocabulary sizes of the measured tokenizers; the first is this one.
        held_out: measurements on text not seen in training.
        held_out_in_all: all bytes of held-out text, if only a part was measured.
        vocabulary: the tokens of this tokenizer, with their counts in the training text.
        counted_bytes: bytes of training text used for these counts.
        notes: further remarks, one sentence each.
    """

    described: str
    trained_on: str
    sizes: Mapping[str, int]
    held_out: Measures
    held_out_in_all: int
    vocabulary: Vocabulary
    counted_bytes: int
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of this tokenizer among the measured ones."""
        return next(iter(self.sizes))

    def write(self, folder: Path) -> None:
        """Write page and picture; equal reports give equal files."""
        write_whole(folder / REPORT_NAME, self.page())
        _draw(self, folder / PICTURE_NAME)

    def page(self) -> str:
        """The page as Markdown."""
        lines = ["# Tokenizer report", "", f"{self.described}, trained on {self.trained_on}.", ""]
        amounts = self.held_out.all
        if amounts.tokens[self.name]:
            lines += self._held_out(amounts)
        else:
            lines += [
                "There is no held-out text to measure it on: validation_share and test_share are 0, or the held-out splits are "
                "empty.",
                "",
            ]
        lines += self._vocabulary()
        lines += ["", f"![bytes per token, and the vocabulary by length]({PICTURE_NAME})", ""]
        text = "\n".join(lines)
        if len(self.held_out.sources) > 0:
            names = list(self.held_out.sources)[:MOST_GROUPS]
            text += SOURCES_HEADING + "\n" + "\n".join(f"{place}. {_code(name)}" for place, name in enumerate(names, 1)) + "\n"
        return text

    def _held_out(self, amounts: Amounts) -> list[str]:
        part = f" (a sample of {self.held_out_in_all:,})" if self.held_out_in_all > amounts.bytes else ""
        lines = [
            f"Measured on {amounts.documents:,} texts held out for validation and test, {amounts.bytes:,} bytes{part}, which it "
            f"has not seen.",
            "",
            "| tokenizer | vocabulary | tokens | bytes per token | tokens per word |",
            "|---|--:|--:|--:|--:|",
        ]
        for name, size in self.sizes.items():
            figures = f"{amounts.tokens[name]:,} | {amounts.bytes_per_token(name):.3f} | {amounts.tokens_per_word(name):.3f}"
            lines.append(f"| {name if name == self.name else _code(name)} | {size:,} | {figures} |")
        lines += ["", "Words are separated by spaces; tokens per word is also called fertility.", ""]
        if unknown := amounts.unknown[self.name]:
            share = 100 * unknown / amounts.tokens[self.name]
            lines += [f"{unknown:,} of the tokens ({share:.1f} %) are unknown words, whose text is lost.", ""]
        lines += [line for note in self.notes for line in (note, "")]
        numbered = {str(place): group for place, group in enumerate(self.held_out.sources.values(), 1)}
        for title, groups in (("source", numbered), ("script", self.held_out.scripts), ("language", self.held_out.languages)):
            if len(groups) > 1:
                lines += self._table(title, groups)
            elif groups and title != "source":  # it is named below
                lines += [f"All of it has the same {title}: {next(iter(groups))}.", ""]
        return lines

    def _table(self, title: str, groups: Mapping[str, Amounts]) -> list[str]:
        others = "".join(f" {_code(name)} |" for name in list(self.sizes)[1:])
        lines = [
            f"## By {title}", "",
            f"| {title} | texts | bytes | bytes per token | tokens per word |{others}",
            "|---|--:|--:|--:|--:|" + "--:|" * (len(self.sizes) - 1),
        ]  # fmt: skip
        shown = dict(list(groups.items())[:MOST_GROUPS])
        if len(groups) > MOST_GROUPS:
            rest = Amounts()
            for group in list(groups.values())[MOST_GROUPS:]:
                for key in ("documents", "bytes", "words", "tokens"):
                    setattr(rest, key, getattr(rest, key) + getattr(group, key))
            shown[f"{len(groups) - MOST_GROUPS:,} others"] = rest
        for key, group in shown.items():
            figures = f"{group.bytes_per_token(self.name):.3f} | {group.tokens_per_word(self.name):.3f}"
            beside = "".join(f" {group.bytes_per_token(name):.3f} |" for name in list(self.sizes)[1:])
            lines.append(f"| {key} | {group.documents:,} | {group.bytes:,} | {figures} |{beside}")
        if others:
            lines += ["", "The last columns are also bytes per token."]
        return [*lines, ""]

    def _vocabulary(self) -> list[str]:
        vocabulary = self.vocabulary
        num_tokens = len(vocabulary.texts)
        share = 100 * vocabulary.num_unused / max(1, num_tokens)
        lines = [
            "## Vocabulary", "",
            f"{vocabulary.num_unused:,} of {num_tokens:,} tokens ({share:.1f} %) do not occur in {self.counted_bytes:,} bytes of "
            f"the training text, {vocabulary.num_unused_bytes:,} of them single bytes; special tokens are not counted.",
            "", "| longest tokens | bytes |", "|---|--:|",
        ]  # fmt: skip
        return lines + [f"| {_code(repr(text))} | {size} |" for text, size in vocabulary.longest(LONGEST)]


def _code(text: str) -> str:
    """Text as code in a Markdown table, on one line whatever it contains."""
    text = text if text.isprintable() else ascii(text)
    text = text.replace("|", r"\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _draw(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    groups = _bars(report.held_out)
    measured = report.held_out.all.tokens[report.name] > 0
    height = max(4.0, 1.6 + 0.24 * len(groups) * (len(report.sizes) + 1))
    figure = Figure(figsize=(11 if measured else 6, height), layout="constrained")
    plots = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    if measured:
        axes = plots[0]
        width = 0.8 / len(report.sizes)
        for place, name in enumerate(report.sizes):
            values = [group.bytes_per_token(name) for group in groups.values()]
            at = [row + (place - (len(report.sizes) - 1) / 2) * width for row in range(len(groups))]
            bars = axes.barh(at, values, 0.9 * width, color=_COLORS[place % len(_COLORS)], label=name.replace("$", r"\$"))
            axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7.5)
        axes.set_yticks(range(len(groups)), list(groups), parse_math=False)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel="bytes per token", title="Held-out text")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13 * 4 / height), ncols=3, fontsize=8, frameon=False)
    axes = plots[-1]
    sizes, used = report.vocabulary.sizes, report.vocabulary.counts > 0
    longest = int(sizes.max(initial=1))
    bins = np.arange(0.5, longest + 1)
    axes.hist([sizes[used], sizes[~used]], bins=bins, stacked=True, color=["#2c6fbb", "#e3a23c"], label=["used", "unused"])  # pyright: ignore[reportArgumentType]
    axes.set(xlabel="bytes of a token", ylabel="tokens", title="Vocabulary on the training text")
    axes.legend(frameon=False, fontsize=8)
    write_picture(path, figure)


def _bars(measures: Measures) -> dict[str, Amounts]:
    """All text, and the largest groups of each kind with more than one; sources by their number on the page."""
    bars = {"all": measures.all}
    sources = {f"source {place}": group for place, group in enumerate(measures.sources.values(), 1)}
    for groups in (sources, measures.scripts, measures.languages):
        if len(groups) > 1:
            bars |= dict(list(groups.items())[:_MOST_BARS])
    return bars
