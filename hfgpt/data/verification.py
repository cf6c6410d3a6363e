"""Verify prepared data against its passport: are rows, tokenizer and sources unchanged since it was written?"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pyarrow
from datasets import DatasetDict
from transformers import PreTrainedTokenizerFast

from hfgpt.counting import listed
from hfgpt.data.passport import PASSPORT_NAME, Passport, contents_of
from hfgpt.data.row_hashes import ROWS_PER_BLOCK, batches_of_rows, file_of_row, hash_of_rows
from hfgpt.data.sources import ReadingOptions, find_sources, identity
from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import read_json
from hfgpt.tokenization import load_tokenizer, tokenizer_sha256

logger = logging.getLogger(__name__)

_READING = ("text_field", "text_documents", "hub_split", "hub_revision")


@dataclass(frozen=True)
class Finding:
    """The result of one comparison.

    Args:
        what: what was compared, such as "rows of train" or "source novels.txt".
        outcome: "missing" means it cannot be compared because it is not here, which is not a difference.
        detail: how it differs, or what matches.
    """

    what: str
    outcome: Literal["matches", "differs", "missing"]
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.outcome}, {self.detail}"


def verify_folder(folder: Path) -> list[Finding]:
    """Recompute and compare every hash and count in the passport of prepared data.

    The rows and the tokenizer are those in the folder. Sources are searched at the passport's paths, relative to the current
    folder; for a published passport, which has no paths, none are found.

    Raises: UserError for a folder without a passport of prepared data.
    Cost: reads the rows and the sources once; memory stays constant.
    """
    passport = Passport.load(folder)
    if not (folder / "dataset_dict.json").is_file():
        raise MissingFileError(
            f"{folder} does not contain prepared data (dataset_dict.json); give a folder written by recipes/prepare_data.py."
        )
    if not passport.rows:
        raise UserError(_without_hashes(folder))
    pad, tokenizer = _tokenizer_finding(folder, passport)
    return [*_row_findings(folder, passport, pad=pad), tokenizer, *_source_findings(passport)]


def check_rows(folder: Path, passport: Passport, *, splits: Sequence[str] | None = None) -> None:
    """Refuse rows that do not match the passport, before training or evaluating on them.

    Args: `splits` are the ones to check; None means all.
    Raises: UserError with the split, both hashes and what to do.
    Cost: reads the rows once, at about 1 GB per second.
    """
    for split in splits if splits is not None else passport.splits:
        if split not in passport.rows:
            raise UserError(_without_hashes(folder))
        said, counted = passport.splits[split]["rows"], passport.rows[split]["rows"]
        if said != counted:
            raise UserError(
                f"{folder}: the passport says {said:,} {split} rows, but there are {counted:,}; prepare the data again."
            )
        found = _rows_finding(folder, split, passport.rows[split])
        if found.outcome == "differs":
            raise UserError(
                f"{folder}: the {split} rows have changed since they were prepared ({found.detail}); prepare the data again, or "
                f"copy it again from an intact source."
            )


def open_rows(folder: Path) -> DatasetDict:
    """The rows of a folder of prepared data. Raises: UserError if they cannot be opened."""
    try:
        return cast(DatasetDict, DatasetDict.load_from_disk(str(folder)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"{folder}: the rows cannot be opened ({reason}); prepare the data again, or copy it again from an intact source."
        ) from None


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, passport: Passport) -> None:
    """Raises: UserError if the tokenizer in a folder of prepared data is not the one that made the rows."""
    said, found = passport.tokenizer.get("sha256"), tokenizer_sha256(tokenizer)
    if said != found:
        raise UserError(
            f"the tokenizer in {folder} is not the one that made its rows (SHA-256 {_short(found)}, but the passport says "
            f"{_short(said)}); prepare the data again."
        )


def _without_hashes(folder: Path) -> str:
    return f"{folder / PASSPORT_NAME} has no SHA-256 of rows; prepare the data again."


def _short(sha256: object) -> str:
    return f"{str(sha256)[:16]}…"


def _row_findings(folder: Path, passport: Passport, *, pad: int | None) -> Iterator[Finding]:
    for split, said in passport.rows.items():
        found = _rows_finding(folder, split, said)
        yield found
        if found.outcome == "matches":
            yield _counts_finding(folder, split, passport, pad=pad)
    names = read_json(folder / "dataset_dict.json").get("splits") or []
    for split in names:
        if split not in passport.rows:
            yield Finding(f"rows of {split}", "differs", "the passport has no such split")


def _rows_finding(folder: Path, split: str, said: dict) -> Finding:
    what = f"rows of {split}"
    if not (folder / split).is_dir():
        return Finding(what, "differs", f"the folder {split} is missing; it should have {said['rows']:,} rows")
    try:
        found = hash_of_rows(folder / split)
    except UserError as error:
        return Finding(what, "differs", str(error))
    if found == said:
        return Finding(what, "matches", f"{said['rows']:,} rows, SHA-256 {_short(said['sha256'])}")
    hashes = f"SHA-256 {_short(found['sha256'])}, but the passport says {_short(said['sha256'])}"
    if found["rows"] != said["rows"]:
        return Finding(what, "differs", f"{found['rows']:,} rows, but the passport says {said['rows']:,}; {hashes}")
    pairs = zip(str(found["blocks"]).split(), str(said["blocks"]).split())
    changed = [number for number, (one, other) in enumerate(pairs) if one != other]
    where = "the passport's own hashes contradict each other"
    if changed:
        first, last = changed[0] * ROWS_PER_BLOCK, min((changed[0] + 1) * ROWS_PER_BLOCK, said["rows"]) - 1
        where = f"the first that differs is one of rows {first:,} to {last:,}, in {file_of_row(folder / split, first)}"
        if len(changed) > 1:
            where += f", and {len(changed) - 1:,} more blocks of {ROWS_PER_BLOCK:,} rows differ"
    return Finding(what, "differs", f"{hashes}; {where}")


def _counts_finding(folder: Path, split: str, passport: Passport, *, pad: int | None) -> Finding:
    """Whether rows x context_length matches the passport's account, and the number of padding positions is right.

    Args: `pad` is the id of the padding token; None if there is no tokenizer.
    """
    what, counts = f"counts of {split}", passport.splits.get(split) or {}
    positions = padding = 0
    for batch in batches_of_rows(folder / split):
        values = batch.column("input_ids").flatten()
        positions += len(values)
        padding += int((values.to_numpy() == pad).sum())
    accounted = sum(counts.get(name, 0) for name in ("tokens", "separators", "repeated", "padding"))
    if positions != accounted:
        return Finding(what, "differs", f"the rows have {positions:,} positions, but the passport accounts for {accounted:,}")
    if pad is not None and padding != counts.get("padding"):
        return Finding(what, "differs", f"{padding:,} positions are padding, but the passport says {counts.get('padding', 0):,}")
    return Finding(what, "matches", f"{counts['tokens']:,} tokens, {counts['padding']:,} padding, {positions:,} positions in all")


def _tokenizer_finding(folder: Path, passport: Passport) -> tuple[int | None, Finding]:
    """The id of the padding token, if this tokenizer made the rows, and the finding."""
    what = "tokenizer"
    try:
        tokenizer = load_tokenizer(folder / "tokenizer")
        check_tokenizer(tokenizer, folder, passport)
    except (OSError, ValueError) as error:
        return None, Finding(what, "differs", str(error))
    found = Finding(what, "matches", f"{len(tokenizer):,} tokens, SHA-256 {_short(passport.tokenizer['sha256'])}")
    return cast("int | None", tokenizer.pad_token_id), found  # one id, although pyright thinks there may be several


def _source_findings(passport: Passport) -> Iterator[Finding]:
    options = ReadingOptions(**{key: passport.settings[key] for key in _READING if passport.settings.get(key) is not None})
    for entry in passport.inputs:
        what = f"source {entry.get('name')}"
        try:
            (source,) = find_sources([str(entry.get("name"))])
            (now,), (then,) = contents_of([identity(source, options)]), contents_of([entry])
        except (MissingFileError, OSError):
            yield Finding(what, "missing", "it is not here, so it cannot be compared")
            continue
        except (UserError, ValueError) as error:  # something of another kind now has its name
            yield Finding(what, "differs", str(error))
            continue
        if now.get("python") != then.get("python"):
            yield Finding(what, "missing", f"it was from Python {then.get('python')}, but this is {now.get('python')}")
            continue
        if now.get("commit", "") is None and then.get("commit"):
            yield Finding(what, "missing", "the Hub cannot be reached")
            continue
        changed = [key for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
        if changed:
            values = (f"{key} {_shown(now.get(key))}, but the passport says {_shown(then.get(key))}" for key in changed)
            yield Finding(what, "differs", "; ".join(values))
        else:
            by = f"SHA-256 {_short(then['sha256'])}" if then.get("sha256") else f"commit {then.get('commit')}"
            yield Finding(what, "matches", by)


def _shown(value: object) -> str:
    return _short(value) if isinstance(value, str) and len(value) == 64 else f"{value:,}" if isinstance(value, int) else str(value)


def report(findings: Sequence[Finding], folder: Path) -> None:
    """Log every finding. Raises: UserError if anything differs, with the differences."""
    order = {"matches": 0, "missing": 1, "differs": 2}
    for one in sorted(findings, key=lambda one: order[one.outcome]):
        logger.info(str(one))
    differing = [one.what for one in findings if one.outcome == "differs"]
    if differing:
        raise UserError(
            f"{folder} does not match its passport: {listed(differing, most=5)}; prepare the data again, or copy it again "
            f"from an intact source."
        )
    missing = sum(one.outcome == "missing" for one in findings)
    beside = f"; {missing:,} {'source is' if missing == 1 else 'sources are'} not here and cannot be compared" if missing else ""
    logger.info(f"{folder}: everything matches{beside}")
