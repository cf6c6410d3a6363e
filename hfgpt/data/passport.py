"""The passport of prepared data: what was read, dropped and kept, with counts and hashes, in one JSON file."""

import logging
import platform
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import read_json, write_json

logger = logging.getLogger(__name__)

PASSPORT_NAME = "passport.json"


@dataclass
class Passport:
    """What happened to the data, in order.

    `inputs` names every source with its SHA-256; `steps` counts documents in and out; `splits` accounts for every position
    of every row: rows x context_length = tokens + separators + repeated + padding. `tokens_by_source` says for each split what the
    documents of each source have, by the name that the user gave it.
    """

    inputs: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)
    splits: dict[str, dict] = field(default_factory=dict)
    tokens_by_source: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    lzma_bits_per_byte: dict[str, float] = field(default_factory=dict)
    base: dict = field(default_factory=dict)  # of a fine-tuned model: which weights it began with
    versions: dict[str, str] = field(default_factory=dict)

    def record(
        self, step: str, before: int | None, after: int, start: float, *, what: str = "documents", **details: object
    ) -> None:
        """Add one step and log its line.

        Args:
            before, after: how many there were and are; None where the step is the first.
            start: the `time.perf_counter()` at which it began.
            what: of what, in the plural.
            details: more that is worth knowing of the step, for the passport.
        """
        seconds = time.perf_counter() - start
        if before is None:
            logger.info(f"{step}: {after:,} {what}, {seconds:.1f} s")
        else:
            change = 100 * (after - before) / before if before else 0.0
            logger.info(f"{step}: {before:,} -> {after:,} {what} ({change:+.1f} %), {seconds:.1f} s")
        counts = {f"{what}_in": before, f"{what}_out": after}
        self.steps.append({"step": step, **counts, "seconds": round(seconds, 2), **details})

    def save(self, folder: Path) -> None:
        write_json(folder / PASSPORT_NAME, asdict(self), ensure_ascii=False)

    @classmethod
    def load(cls, folder: Path) -> "Passport":
        """Raises: FileNotFoundError where there is none, ValueError where it is not one of ours."""
        if not folder.is_dir():
            raise MissingFileError(f"{folder} does not exist (looked from {Path.cwd()}); recipes/prepare_data.py writes one.")
        path = folder / PASSPORT_NAME
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist; a folder that recipes/prepare_data.py wrote is needed here.")
        try:
            return cls(**read_json(path))
        except TypeError as error:
            raise UserError(f"{path} is not a passport of hfgpt ({error}); prepare the data again.") from None


def contents_of(inputs: list[dict]) -> list[dict]:
    """Inputs by what they hold: without the names of those whose SHA-256 is known, which may be spelled in many ways."""
    return [{key: value for key, value in one.items() if key != "name" or "sha256" not in one} for one in inputs]


def library_versions() -> dict[str, str]:
    """Python and the packages on which the prepared data depends."""
    names = ("hfgpt", "datasets", "tokenizers", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
