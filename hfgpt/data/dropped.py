"""Write dropped documents to a file for inspection."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hfgpt.data.on_disk import column_batches, select
from hfgpt.data.steps import Outcome, TextStep

DROPPED_NAME = "dropped.jsonl"
FILE_BYTES = 1 << 30


class DroppedDocuments:
    """Writes dropped documents as JSON lines with `step`, `reason`, `source`, `row_id` and `text`, in order.

    Args:
        folder: where they are written while a recipe runs; `move_into` moves them beside its result.
        conceal: removes from a text what must not be written, such as personal data.
        file_bytes: the size at which a new file is started.
    """

    def __init__(self, folder: Path, *, conceal: Callable[[str], str] = str, file_bytes: int = FILE_BYTES):
        self.folder, self.conceal, self.file_bytes = folder, conceal, file_bytes
        self.paths: list[Path] = []
        self.num_documents = 0
        self._file: BinaryIO | None = None
        self._next_file()

    def add(self, document: Mapping[str, object], *, step: str, reason: str) -> None:
        """Write one document, with its text before the step."""
        assert self._file is not None, "the files have been moved"
        if self._file.tell() >= self.file_bytes:
            self._next_file()
        text = self.conceal(str(document["text"]))
        line = {"step": step, "reason": reason, "source": document["source"], "row_id": document["row_id"], "text": text}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.num_documents += 1

    def add_copies(self, documents, rows: Sequence[int] | np.ndarray, of: np.ndarray, *, step: str) -> None:
        """Write the documents of these rows, each a copy of the one in row `of[row]`."""
        columns = ("text", "source", "row_id")
        originals = column_batches(select(documents, of[rows]), "source", "row_id")
        places = (f"copy of {source}:{row_id}" for batch in originals for source, row_id in zip(*batch, strict=True))
        copies = (row for batch in column_batches(select(documents, rows), *columns) for row in zip(*batch))
        for copy, reason in zip(copies, places, strict=True):
            document: dict[str, object] = dict(zip(columns, copy))
            self.add(document, step=step, reason=reason)

    def of_step(self, document: Mapping[str, object], step: TextStep, outcome: Outcome) -> None:
        """Write one document dropped by a text step, for `apply_steps`."""
        self.add(document, step=step.name, reason=", ".join(sorted(outcome.counts)))

    def move_into(self, folder: Path) -> None:
        """Move the files to a folder, as dropped.jsonl, or dropped-00001-of-00003.jsonl and so on."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for number, path in enumerate(self.paths, start=1):
            name = DROPPED_NAME if len(self.paths) == 1 else f"dropped-{number:05}-of-{len(self.paths):05}.jsonl"
            path.rename(folder / name)

    def _next_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self.paths.append(self.folder / f"dropped-{len(self.paths):05}.jsonl")
        self._file = self.paths[-1].open("wb")
