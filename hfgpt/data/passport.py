"""The passport of prepared data: what was read, dropped and kept, with counts and hashes, in one JSON file."""

import logging
import platform
import time
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hfgpt import __version__
from hfgpt.counting import counted
from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import read_json, write_json

logger = logging.getLogger(__name__)

PASSPORT_NAME = "passport.json"
HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)
# Steps that cut text out of documents, which leaves the text before and after it as two documents.
CUTTING_STEPS = ("drop leaks", "drop benchmark text", "cut repeated passages")


def held_out_split(known: Container[str], ending: str = "") -> str | None:
    """The held-out split whose figures count: test or, if that name with `ending` is not known, validation; else None."""
    return next((name for name in reversed(HELD_OUT) if f"{name}{ending}" in known), None)


@dataclass
class Passport:
    """What happened to the data, in order.

    `inputs` lists every source with its SHA-256, its licence and its outcome; `steps` counts documents in and out; `splits`
    accounts for every position of every row: rows x context_length = tokens + separators + repeated + padding. Every field is
    explained in docs/data/passport.md.
    """

    inputs: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)
    splits: dict[str, dict] = field(default_factory=dict)
    rows: dict[str, dict] = field(default_factory=dict)  # by split, the SHA-256 of the contents (row_hashes.py)
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)  # by split, documents of 0, 1, 2 to 3, 4 to 7, ... tokens
    lzma_bits_per_byte: dict[str, float] = field(default_factory=dict)
    base: dict = field(default_factory=dict)  # for a fine-tuned model: the weights it started from
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""  # without paths of this machine

    def __post_init__(self):
        # Not a field: seconds differ from run to run, but the file must be the same for the same data.
        self.seconds: dict[str, float] = {}

    def record(
        self, step: str, before: int | None, after: int, start: float, *, what: str = "documents", **details: object
    ) -> None:
        """Add one step and log its line.

        Args:
            before, after: counts before and after; None if the step is the first. A step that cuts documents may leave
                more of them.
            start: the `time.perf_counter()` at which it began.
            what: the counted things, in the plural.
            details: further details of the step for the passport: `bytes_in`, `bytes_out` (UTF-8), `reasons` (counts of dropped
                items), `settings`.
        """
        seconds = self.took(step, start)
        if before is None:
            logger.info(f"{step}: {counted(after, what)}, {seconds:.1f} s")
        elif step in CUTTING_STEPS and after > before:
            logger.info(f"{step}: {counted(before, what)}, cut into {counted(after, 'pieces')}, {seconds:.1f} s")
        else:
            change = 100 * (after - before) / before if before else 0.0
            logger.info(f"{step}: {before:,} -> {counted(after, what)} ({change:+.1f} %), {seconds:.1f} s")
        counts = {f"{what}_in": before, f"{what}_out": after}
        self.steps.append({"step": step, **counts, **details})

    def took(self, what: str, start: float) -> float:
        """Record for the log that `what` took from `start` until now. Returns: the seconds."""
        seconds = time.perf_counter() - start
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds
        return seconds

    def log_shares(self, start: float) -> None:
        """Log the share of the time since `start` for each step; those below half a percent are combined with the rest."""
        total = time.perf_counter() - start
        named = {what: seconds for what, seconds in self.seconds.items() if seconds >= 0.005 * total}
        parts = [f"{what} {100 * seconds / total:.0f} %" for what, seconds in sorted(named.items(), key=lambda one: -one[1])]
        rest = 100 * max(0.0, 1 - sum(named.values()) / total)
        logger.info(f"time: {total:.1f} s, of which {', '.join([*parts, f'everything else {rest:.0f} %'])}")

    def count_rows(self, split: str, counts: dict, *, by_source: dict[str, dict], lengths: dict[str, int]) -> None:
        """Record the outcome of a split.

        Args:
            counts: values of `PackingCounts`.
            by_source: documents, bytes and tokens by the `source` of the documents.
            lengths: documents by the lower bound of their length in tokens: 0, 1, 2, 4, 8, ...
        """
        self.splits[split], self.lengths[split] = counts, lengths
        for entry in self.inputs:
            nothing = {"documents": 0, "bytes": 0, "tokens": 0}  # of a source of which the steps left none
            entry.setdefault("splits", {})[split] = by_source.get(str(entry["name"]), nothing)

    def save(self, folder: Path) -> None:
        write_json(folder / PASSPORT_NAME, asdict(self), ensure_ascii=False)

    @classmethod
    def load(cls, folder: Path) -> "Passport":
        """Raises: FileNotFoundError if there is none, ValueError if it is not one of ours."""
        if folder.is_file():
            raise UserError(f"{folder} is a file; give a folder that recipes/prepare_data.py made of it (--sources).")
        if not folder.is_dir():
            raise MissingFileError(f"{folder} does not exist (looked from {Path.cwd()}); recipes/prepare_data.py writes one.")
        path = folder / PASSPORT_NAME
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist; give a folder written by recipes/prepare_data.py.")
        return cls.read(read_json(path), path)

    @classmethod
    def read(cls, content: dict, path: Path) -> "Passport":
        """A passport from the contents of its file. Raises: ValueError if it is not one of ours."""
        try:
            return cls(**content)
        except TypeError as error:
            raise UserError(f"{path} is not an hfgpt passport ({error}); prepare the data again.") from None


# Entries of an input that do not identify it: the owner's information, and the outcome.
_TOLD = {"given", "license", "url", "documents", "text_bytes", "splits"}
# Those of the packages that steps may use are told where they are installed.
_PACKAGES = ("datasets", "numpy", "pyarrow", "tokenizers", "transformers")
_STEP_PACKAGES = ("datatrove", "detect-secrets", "ftfy", "pydivsufsort", "rensa")


def contents_of(inputs: list[dict]) -> list[dict]:
    """Inputs by content: without the names of those with a known SHA-256, which may be spelled in many ways."""

    def content(one: dict) -> dict:
        about = _TOLD | ({"name", "revision"} if "sha256" in one else set())
        return {key: value for key, value in one.items() if key not in about}

    return [content(one) for one in inputs]


def library_versions() -> dict[str, str]:
    """Python and the packages on which the prepared data depends."""
    versions = {"python": platform.python_version(), "hfgpt": __version__}
    for name in (*_PACKAGES, *_STEP_PACKAGES):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
