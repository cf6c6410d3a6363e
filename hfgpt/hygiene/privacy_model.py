"""Personal data found by a token classifier, for data without a fixed form: names and addresses of people.

Any model for token classification with a fast tokenizer, whose labels are "O" and others, plain or with B-, I-, E-, S-:
`openai/privacy-filter` (1.5 billion parameters, 50 million of them active; in transformers since 5.6) is made for this.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgpt.artifacts import check_model_folder
from hfgpt.data.steps import Outcome
from hfgpt.errors import UserError
from hfgpt.files import sha256_of_file
from hfgpt.hygiene.masking import Found, outcome

OUTSIDE = "O"
# Positions within an entity are ignored: consecutive tokens of one type are one entity, whatever the model says about its beginning
# and end.
_POSITION = re.compile(r"[BIESLU]-")
WINDOW, OVERLAP = 512, 64  # tokens; each half of an overlap is taken from the window with more text around it
PIECE = 100_000  # characters of a document tokenized at once


@dataclass(frozen=True)
class ModelFinder:
    """The step for a model's findings, one document at a time in windows; memory does not grow with the document.

    Args:
        action: "mask" or "drop".
        model: folder or Hub id.
        batch_size: windows of one document per batch.
    Raises: UserError for a model that is missing or does not classify tokens.
    Cost: one forward pass over all tokens; on a CPU, roughly a hundred times as much as the patterns.
    """

    action: str
    model: str
    batch_size: int = 16
    name = "personal data by a model"  # without an annotation, it is not a field

    def __post_init__(self):
        _config(self.model)  # before any data is read; the weights are loaded in the process that needs them

    @property
    def settings(self) -> dict[str, object]:
        """For the passport: a folder by its name and the hash of its weights, or a Hub id with its commit."""
        config, folder = _config(self.model), Path(self.model)
        weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        version = {"commit": config._commit_hash} if not weights else {"sha256": {one.name: sha256_of_file(one) for one in weights}}
        types = sorted({kind for kind in _labels(config).values() if kind is not None})
        return {"action": self.action, "model": folder.name if weights else self.model, **version, "types": types}

    def __call__(self, text: str) -> Outcome:
        """The text without what the model finds, or None."""
        return outcome(text, self.find(text), self.action)

    def find(self, text: str) -> Iterator[Found]:
        """What the model considers personal data, as spans of the text."""
        start = 0
        while start < len(text):
            end = _end_of_piece(text, start)
            for first, last, kind in self._places(text[start:end]):
                yield Found(start + first, start + last, kind, kind)
            start = end

    def _places(self, text: str) -> Iterator[tuple[int, int, str]]:
        labels = _labels(_config(self.model))
        open_place: tuple[int, int, str] | None = None
        for first, last, label in self._tokens(text):
            kind = labels[label]
            if open_place and kind == open_place[2]:
                open_place = (open_place[0], last, open_place[2])
                continue
            if open_place:
                yield _without_spaces(text, *open_place)
            open_place = (first, last, kind) if kind is not None else None
        if open_place:
            yield _without_spaces(text, *open_place)

    def _tokens(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Each token that covers characters, once: its beginning and end, and its label id."""
        import torch

        model, tokenizer, window = _loaded(self.model)
        overlap = min(OVERLAP, window // 4)
        encoded = tokenizer(
            text,
            truncation=True,
            max_length=window,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            split_special_tokens=True,
        )
        windows = list(zip(encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True))
        seen = 0  # characters
        for start in range(0, len(windows), self.batch_size):
            batch = windows[start : start + self.batch_size]
            padded = tokenizer.pad({"input_ids": [ids for ids, _, _ in batch]}, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                best = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits.argmax(-1).tolist()
            for number, ((_, offsets, special), labels) in enumerate(zip(batch, best, strict=True), start=start):
                content = [place for place, is_special in enumerate(special) if not is_special]
                if number + 1 < len(windows):
                    content = content[: len(content) - overlap // 2]
                for place in content:
                    first, last = offsets[place]
                    if last > first and first >= seen:
                        yield first, last, labels[place]
                        seen = last


def _end_of_piece(text: str, start: int) -> int:
    """Where a piece that begins at `start` ends: after a line, or a word, if there is one in its second half."""
    end = start + PIECE
    if end >= len(text):
        return len(text)
    half = start + PIECE // 2
    return text.rfind("\n", half, end) + 1 or text.rfind(" ", half, end) + 1 or end


def _without_spaces(text: str, first: int, last: int, kind: str) -> tuple[int, int, str]:
    """A span without surrounding spaces, which many tokenizers include in a word."""
    piece = text[first:last]
    return first + len(piece) - len(piece.lstrip()), last - len(piece) + len(piece.rstrip()), kind


@functools.cache
def _config(name: str) -> Any:
    from transformers import AutoConfig

    check_model_folder(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"privacy_model {name!r} cannot be loaded ({str(error).splitlines()[0]}); give a folder or Hub id."
        ) from None
    if not any(one.endswith("ForTokenClassification") for one in config.architectures or []):
        kind = ", ".join(config.architectures or []) or "a model of unknown type"
        raise UserError(
            f"privacy_model {name} is {kind}; it must be a model for token classification, such as openai/privacy-filter."
        )
    if None not in _labels(config).values():
        raise UserError(f"privacy_model {name} has no label {OUTSIDE!r} for ordinary tokens, so all text would be masked.")
    return config


def _labels(config: Any) -> dict[int, str | None]:
    """The type of each label, None for "O": B-private_person is a "person"."""
    found = {}
    for number, label in config.id2label.items():
        kind = re.sub(r"\W+", "_", _POSITION.sub("", label, count=1)).lower().removeprefix("private_")
        found[int(number)] = None if label == OUTSIDE else kind
    return found


@functools.cache  # once per process
def _loaded(name: str) -> tuple[Any, Any, int]:
    """The model in evaluation mode, on the GPU if there is one, its tokenizer, and the tokens per window."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    if not tokenizer.is_fast:
        raise UserError(f"privacy_model {name} has a slow tokenizer, which cannot report token positions; save a fast one.")
    model = AutoModelForTokenClassification.from_pretrained(name).eval()
    longest = getattr(model.config, "max_position_embeddings", None) or WINDOW
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, min(WINDOW, longest, tokenizer.model_max_length)
