"""What becomes of documents that are copies of others."""

from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.keys import data_key
from hfgpt.errors import UserError

COPY_DEFAULTS = {"deduplicate": "near", "near_copy_similarity": 0.8}


@dataclass
class CopyKeys:
    """None means that a key was not given, so that prepare_data.py can take it from the tokenizer."""

    deduplicate: Literal["none", "exact", "near"] | None = data_key(
        None,
        "Of documents that are copies the first stays: 'near' drops equal and nearly equal ones, 'exact' only equal ones, 'none' "
        "keeps all. Near copies that stay are put on one side of the split. 'near' without it.",
    )
    near_copy_similarity: float | None = data_key(
        None, "Jaccard similarity, of runs of five words, of documents that are near copies; 0.8 without it."
    )

    def check_copies(self) -> None:
        """Raises: UserError for a similarity that is none."""
        if self.near_copy_similarity is not None and not 0 < self.near_copy_similarity <= 1:
            raise UserError(f"near_copy_similarity is {self.near_copy_similarity}; above 0, up to 1 is needed.")
