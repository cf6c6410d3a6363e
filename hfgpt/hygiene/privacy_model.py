"""Personal data by a token classifier, for what has no form: names and addresses of people.

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
# Where in a place a token stands is not needed: tokens of one type that follow each other are one place, whatever a model says of
# its beginning and end.
_POSITION = re.compile(r"[BIESLU]-")
WINDOW, OVERLAP = 512, 64  # tokens; of an overlap each half is read from the window that has more text around it
PIECE = 100_000  # characters of a document that are tokenized at once


@dataclass(frozen=True)
class ModelFinder:
    """The step for what a model finds, a document at a time in windows; memory does not grow with the document.

    Args:
        action: "mask" or "drop".
        model: folder or Hub id.
        batch_size: windows of one document that are read at once.
    Raises: UserError for a model that is not there or gives no labels to tokens.
    Cost: one forward pass over all tokens; on a CPU some hundred times what the patterns cost.
    """

    action: str
    model: str
    batch_size: int = 16
    name = "personal data by a model"  # without an annotation it is no field

    def __post_init__(self):
        _config(self.model)  # before anything is read; the weights are loaded in the process that needs them

    @property
    def settings(self) -> dict[str, object]:
        """For the passport: the folder by its name and the hash of its weights, a Hub id with its commit."""
        config, folder = _config(self.model), Path(self.model)
        weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        version = {"commit": config._commit_hash} if not weights else {"sha256": {one.name: sha256_of_file(one) for one in weights}}
        types = sorted({kind for kind in _labels(config).values() if kind is not None})
        return {"action": self.action, "model": folder.name if weights else self.model, **version, "types": types}

    def __call__(self, text: str) -> Outcome:
        """The text without what the model finds, or None."""
        return outcome(text, self.find(text), self.action)

    def find(self, text: str) -> Iterator[Found]:
        """What the model takes for personal data, as places of the text."""
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
        """Each token that stands for characters, once: where it begins and ends, and the number of its label."""
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
    """A place without the spaces around it, which many tokenizers count as part of a word."""
    piece = text[first:last]
    return first + len(piece) - len(piece.lstrip()), last - len(piece) + len(piece.rstrip()), kind


@functools.cache
def _config(name: str) -> Any:
    from transformers import AutoConfig

    check_model_folder(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"privacy_model {name!r} does not load ({str(error).splitlines()[0]}); give a folder or Hub id.") from None
    if not any(one.endswith("ForTokenClassification") for one in config.architectures or []):
        kind = ", ".join(config.architectures or []) or "no model that says what it is"
        raise UserError(f"privacy_model {name} is {kind}; one for token classification is needed, as openai/privacy-filter.")
    if None not in _labels(config).values():
        raise UserError(f"privacy_model {name} has no label {OUTSIDE!r} for tokens that are nothing, so all text would be masked.")
    return config


def _labels(config: Any) -> dict[int, str | None]:
    """Of each label its type, None for "O": B-private_person is a "person"."""
    found = {}
    for number, label in config.id2label.items():
        kind = re.sub(r"\W+", "_", _POSITION.sub("", label, count=1)).lower().removeprefix("private_")
        found[int(number)] = None if label == OUTSIDE else kind
    return found


@functools.cache  # in each process once
def _loaded(name: str) -> tuple[Any, Any, int]:
    """The model in evaluation mode, on the GPU where there is one, its tokenizer, and the tokens of a window."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    if not tokenizer.is_fast:
        raise UserError(f"privacy_model {name} has a slow tokenizer, which cannot say where its tokens stand; save a fast one.")
    model = AutoModelForTokenClassification.from_pretrained(name).eval()
    longest = getattr(model.config, "max_position_embeddings", None) or WINDOW
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, min(WINDOW, longest, tokenizer.model_max_length)
