"""What recipes/from_text.py decides before anything is measured, the YAML of its steps, and its last screen."""

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hfgpt.arguments.commands import COMMANDS, command_line, repeats
from hfgpt.arguments.documents import PrepareArguments, TokenizerArguments
from hfgpt.arguments.keys import RecipeArguments
from hfgpt.arguments.parsing import read_values
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.artifacts import RUN_FILE
from hfgpt.counting import counted, in_words
from hfgpt.data.passport import Passport
from hfgpt.data.text_pieces import UNKNOWN_BYTES
from hfgpt.data.verification import open_rows
from hfgpt.errors import OtherResultError, TooLittleTimeError, UserError
from hfgpt.files import claim_output, hold, read_json, write_json, write_whole
from hfgpt.tokenization import load_tokenizer
from hfgpt.tokenization.training import suitable_vocab_size
from hfgpt.training.next_steps import opening_of_rows
from hfgpt.training.plan import MANY_EPOCHS

logger = logging.getLogger(__name__)

BYTES = "size of the texts"  # what is asked for besides the keys
STEPS: dict[str, type[RecipeArguments]] = {"tokenizer": TokenizerArguments, "data": PrepareArguments, "pretrain": PretrainArguments}
RESULTS = {"tokenizer": "tokenizer", "data": "data", "pretrain": "base"}
ASKED_FILE = "from_text.json"  # identifies the folder
PIECES_FOLDER = "read_texts"  # version 0.2.0 kept copies of what it read of large texts there
# The share of the time for preparing the data, and the bytes per second that are read, cleaned, split, tokenized and packed.
# Measured: prepare_data.py and train_tokenizer.py on 20 MB of novels, one core, 2026-11-26.
SHARE_OF_PREPARING, PREPARED_PER_SECOND = 0.15, 0.35e6
# Startup, plan, a few steps and the test.
FEWEST_SECONDS = 15
# A smaller text teaches spelling at most.
FEW_BYTES = 200_000
# By the FLOPs that the time allows: the largest vocabulary and the longest rows that pay off. With a large vocabulary, the head is
# most of a small model, and long rows cost attention that a short run does not learn to use.
LIMITS = ((1e15, 4096, 256), (1e17, 8192, 512), (1e19, 16_384, 1024), (math.inf, 32_768, 1024))
# The share of this machine's matrix-product throughput that training a small model reaches.
SHARE_OF_CEILING = 0.25
# The size of a model that suits 3e13 FLOPs, which are ten minutes of two cores. That it grows with their square root: Hoffmann et
# al. (2022, arXiv 2203.15556).
PARAMETERS = 1.2e6
# The minimum rows for training, and bytes per token, before either is known.
ENOUGH_ROWS, SHORTEST_ROW, BYTES_PER_TOKEN = 512, 64, 3.5
# Bytes held out for validation, and the same for the test: enough for two digits, and evaluated within seconds.
HELD_OUT_BYTES = 200_000
# lzma reads about this many bytes per second; it may take a fiftieth of the time.
LZMA_PER_SECOND = 1e6


@dataclass(frozen=True)
class Preparation:
    """How a text is prepared for training, and how much of it is used.

    Args:
        read_bytes: the maximum to read of the text; None reads all of it.
        vocab_size: that of the tokenizer.
        context_length: tokens per row.
        held_out_share: the share of the text for validation, and the same for the test.
        lzma: whether there is time to compare with lzma.
    """

    read_bytes: int | None
    vocab_size: int
    context_length: int
    held_out_share: float
    lzma: bool


def choose_preparation(num_bytes: int, *, seconds: float, flops_per_second: float) -> Preparation:
    """How to prepare a text of this many bytes for a run within `seconds` on a machine with this matrix-product speed."""
    flops = SHARE_OF_CEILING * flops_per_second * seconds
    most_tokens, longest_row = next((vocab, row) for limit, vocab, row in LIMITS if flops < limit)
    # What a model of a suitable size, which grows with the square root of the FLOPs, could read once in the time; anything more
    # would be prepared but never seen.
    readable = BYTES_PER_TOKEN * flops / (6 * PARAMETERS * math.sqrt(flops / 3e13))
    most = int(max(2e6, min(SHARE_OF_PREPARING * seconds * PREPARED_PER_SECOND, readable)))
    read = min(num_bytes, most)
    rows = read / BYTES_PER_TOKEN / ENOUGH_ROWS
    row = min(longest_row, max(SHORTEST_ROW, 2 ** int(math.log2(max(rows, 1)))))
    share = 0.1 if read < 1e5 else min(0.05, HELD_OUT_BYTES / read)
    return Preparation(
        read_bytes=most if num_bytes > most else None,
        vocab_size=min(suitable_vocab_size(read), most_tokens),
        context_length=row,
        held_out_share=round(share, 4),
        lzma=read / LZMA_PER_SECOND < 0.02 * seconds,
    )


def describe_preparation(num_bytes: int, preparation: Preparation, *, minutes: float) -> list[str]:
    """The decisions before training, with reasons, and a warning if the text is too small."""
    read = min(num_bytes, preparation.read_bytes or num_bytes)
    known = num_bytes < UNKNOWN_BYTES
    lines = [
        f"from-text: {f'{num_bytes:,} bytes' if known else 'an unknown number of bytes'} of text, {counted(minutes, 'minutes')}",
        f"  vocabulary: at most {preparation.vocab_size:,} tokens; with a larger one, the head would be most of a small model",
        f"  context: rows of {preparation.context_length:,} tokens, short enough to get about {ENOUGH_ROWS} or more of them",
        f"  held out: {100 * preparation.held_out_share:.1f} % for validation and the same for the test at the end",
    ]
    if preparation.read_bytes is not None:
        lines.append(
            f"  read: {read:,} bytes"
            + (
                f", {100 * read / num_bytes:.3g} % of the text, in pieces from all over it"
                if known
                else ", the beginning of the text"
            )
            + f"; more could not be prepared and trained on in {counted(minutes, 'minutes')} on this machine"
        )
    if num_bytes < FEW_BYTES:
        lines.append(
            f"  small: {num_bytes:,} bytes only teach spelling and frequent words; sentences begin at about 1 MB (a long novel). "
            f"Give more text of this kind, or fewer minutes"
        )
    return lines


# The folder


@dataclass(frozen=True)
class Steps:
    """The folder of a run: one YAML file per step, written once, for the step's own recipe.

    That of the training holds the time that was left: another machine, or another load, gives another plan. The plan that was
    carried out is in base/run.yaml.

    Args: `folder` contains tokenizer.yaml, data.yaml, pretrain.yaml, and their results in folders beside them.
    """

    folder: Path

    @classmethod
    def in_folder(cls, folder: Path, *, asked: Mapping[str, object], overwrite: bool) -> "Steps":
        """The folder, new or with the steps of an earlier start of the same command.

        Until training has begun, another command may take its place; what still fits is kept (`make`).

        Args: `asked` are the keys of the command and the bytes of its texts.
        Raises: UserError if it holds something else.
        """
        marker = folder / ASKED_FILE
        if marker.is_file():
            hold(folder)
        if marker.is_file() and not overwrite:
            before = read_json(marker)
            now = json.loads(json.dumps(asked))
            changed = [
                f"{key} was {before.get(key, 'the default')}, is now {now.get(key, 'the default')}"
                for key in sorted({*before, *now})
                if before.get(key) != now.get(key) and (key != BYTES or key in before)
            ]
            if changed and cls(folder).training_has_begun():
                raise UserError(
                    f"output_dir {folder} was made with other settings ({'; '.join(changed)}); give another --output_dir, or "
                    "--overwrite true to replace it."
                )
            if not changed:
                return cls(folder)
            logger.info(f"from-text: {'; '.join(changed)}: it begins anew with the steps that this changes")
            claim_output(str(folder), overwrite=True, marker=ASKED_FILE)
            outdated = ("base", PIECES_FOLDER)
        else:
            claim_output(str(folder), overwrite=overwrite, marker=ASKED_FILE)
            hold(folder)
            outdated = (*RESULTS.values(), PIECES_FOLDER)
        for name in STEPS:
            (folder / f"{name}.yaml").unlink(missing_ok=True)
        for name in outdated:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
        folder.mkdir(exist_ok=True)
        write_json(marker, dict(asked))
        return cls(folder)

    def training_has_begun(self) -> bool:
        return (self.folder / "base" / RUN_FILE).is_file()

    @contextmanager
    def removed_if_nothing_was_made(self) -> Iterator[None]:
        """After a mistake, leave nothing behind that is not a result."""
        try:
            yield
        except UserError:
            if not any((self.folder / name).is_dir() for name in RESULTS.values()):
                for name in (*(f"{step}.yaml" for step in STEPS), ASKED_FILE):
                    (self.folder / name).unlink(missing_ok=True)
                with suppress(OSError):  # something else is in it
                    self.folder.rmdir()
            raise

    def make(self, step: str, run: Callable[..., object]) -> None:
        """Run the recipe of a step; a result for other texts or settings is replaced, unless training with it has begun.

        Args: `run` is `hfgpt.api.calls.run_recipe`.
        """
        recipe, where = COMMANDS[step].recipe.removesuffix(".py"), f"{step}.yaml"
        try:
            run(recipe, self.settings(step), where=where)
        except OtherResultError as error:
            if self.training_has_begun():
                raise
            logger.info(f"from-text: {self.folder / step} is made anew ({'; '.join(error.changed)})")
            run(recipe, self.settings(step) | {"overwrite": True}, where=where)

    def has(self, step: str) -> bool:
        """Whether the YAML of a step exists."""
        return (self.folder / f"{step}.yaml").is_file()

    def settings(self, step: str) -> dict[str, Any]:
        """The contents of the YAML of a step, by its recipe's keys; its places are those in this folder, wherever it is now.

        The YAML names them as seen from where the command was first started.
        """
        settings = read_values(STEPS[step], [str(self.folder / f"{step}.yaml")])
        places = {"tokenizer": self.folder / "tokenizer", "dataset": self.folder / "data"}
        here = {key: str(place) for key, place in places.items() if key in settings}
        return settings | here | {"output_dir": str(self.folder / RESULTS[step])}

    def write(self, step: str, **settings: object) -> None:
        """Write the YAML of a step; None means not given."""
        given = {key: value for key, value in settings.items() if value is not None}
        recipe, file = COMMANDS[step].recipe, f"{self.folder / step}.yaml"
        if step == "pretrain":
            head = repeats(recipe, self.folder / "base" / RUN_FILE, what="this training exactly")
            head += f"# This file plans anew: {command_line(step, file, '--output_dir', 'ANOTHER')}\n"
        else:
            head = repeats(recipe, file, what="this step")
        write_whole(self.folder / f"{step}.yaml", head + yaml.safe_dump(given, allow_unicode=True, sort_keys=False))

    def write_preparation(
        self, preparation: Preparation, *, sources: Sequence[str], reading: Mapping[str, object], card: object
    ) -> None:
        """Write the YAML of the tokenizer and of the rows; the tokenizer's last, as the sign that both exist."""
        share, folder = preparation.held_out_share, self.folder
        self.write(
            "data",
            tokenizer=str(folder / "tokenizer"),
            context_length=preparation.context_length,
            lzma_baseline=preparation.lzma or None,
            streaming=reading.get("streaming"),
            card=card,
            output_dir=str(folder / "data"),
        )
        held_out = dict(validation_share=share, test_share=share)
        vocab_size = preparation.vocab_size
        self.write("tokenizer", sources=list(sources), **reading, vocab_size=vocab_size, **held_out, card=card,
                   output_dir=str(folder / "tokenizer"))  # fmt: skip

    def write_training(self, *, seconds: float, card: object, cpu_threads: int | None = None) -> None:
        """Write the YAML of the training, with the seconds that are left; only once, so that a resumed run is the same run.

        Raises: UserError if no time is left.
        """
        if self.has("pretrain"):
            return
        if seconds < FEWEST_SECONDS:
            raise TooLittleTimeError(
                f"tokenizer and rows left only {max(0, seconds):.0f} seconds, but training needs at least {FEWEST_SECONDS}",
                cure="give more minutes.",
                missing=4 * FEWEST_SECONDS - seconds,
            )
        budget = float(f"{seconds:.0f}")
        self.write(
            "pretrain",
            dataset=str(self.folder / "data"),
            time_budget=budget,
            cpu_threads=cpu_threads,
            card=card,
            output_dir=str(self.folder / "base"),
        )

    def prompt(self) -> str | None:
        """The first words of a text the model has not seen."""
        data = self.folder / "data"
        return opening_of_rows(open_rows(data), load_tokenizer(data / "tokenizer"))


@contextmanager
def one_command() -> Iterator[None]:
    """Suppress the steps' own suggestions of what to run next: the command continues by itself."""

    def goes_on(record: logging.LogRecord) -> bool:
        lines = str(record.msg).splitlines()
        kept = [line for line in lines if not line.startswith("next: ")]
        if len(kept) < len(lines):  # for a training, the last line of its report
            record.msg = "\n".join(kept)
        return bool(kept) or not lines

    handlers = logging.getLogger("hfgpt").handlers[:]
    for handler in handlers:
        handler.addFilter(goes_on)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(goes_on)


# The last screen


def meaning(bits_per_byte: float) -> str:
    """What a model with this figure writes, described in words; from runs on English (docs/from_text.md)."""
    for least, words in (
        (2.4, "letters and the most frequent words: gibberish is normal here"),
        (1.9, "mostly real words in short runs that mean nothing, which is normal after minutes"),
        (1.5, "phrases of this kind of text, sentences that wander; do not trust any facts"),
        (1.15, "sentences and layout of this kind of text; do not trust any facts"),
    ):
        if bits_per_byte >= least:
            return words
    return "fluent text of this kind; still, do not trust any facts"


def last_screen(
    metrics: Mapping[str, Any], passport: Passport, *, folder: Path, minutes: float, opening: str, commands: Sequence[str]
) -> list[str]:
    """What was made, how good it is, what that means, what would improve it, and three commands: eight lines.

    Args: `opening` are some words of the text: what bits per byte mean is known only for scripts with a byte per letter.
    """
    bits = metrics.get("test_bits_per_byte", metrics.get("validation_bits_per_byte"))
    good = "no text was held out" if bits is None else f"{bits:.3f} bits per byte on unseen text"
    if bits is not None and (lzma := passport.lzma_bits_per_byte):
        verdict = "better than lzma, which needs" if bits < lzma["after_training"] else "not yet as good as lzma, which needs"
        good += f"; {verdict} {lzma['after_training']:.3f} after reading the training text"
    read, epochs = passport.splits["train"]["bytes"], metrics.get("epochs") or 0.0
    return [
        f"made: {folder / 'base'}, a GPT of {in_words(metrics['parameters'])} parameters, from {read:,} bytes of text",
        f"how good: {good}",
        f"it writes: {meaning(bits) if bits is not None and len(opening.encode()) < 1.3 * len(opening) else 'see samples.md'}",
        f"better with: {improvement(epochs, minutes=minutes, share=passport.settings.get('read_share'))}",
        "to try:",
        *(f"  {command}" for command in commands),
    ]


def improvement(epochs: float, *, minutes: float, share: float | None = None) -> str:
    """What would help most, depending on how often the text was read.

    Args: `share` is that of the text which was read; None for all of it.
    """
    longer = f"more time, such as --minutes {4 * minutes:g}"
    if share is not None:
        return f"{longer}, which reads more of the text than these {100 * share:.2g} %, or a GPU"
    if epochs > MANY_EPOCHS:
        return f"more text; this one was read {epochs:.1f} times, and with more time the model would only memorize it"
    return f"{longer}, or a GPU; the text was read {epochs:.1f} times and has more to teach"
