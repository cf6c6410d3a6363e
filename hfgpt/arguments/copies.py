"""What happens to documents that are copies of others."""

from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.keys import data_key
from hfgpt.errors import UserError

COPY_DEFAULTS = {"deduplicate": "near", "near_copy_similarity": 0.8}


@dataclass
class CopyKeys:
    """None means that a key was not given, so prepare_data.py can take it from the tokenizer."""

    deduplicate: Literal["none", "exact", "near"] | None = data_key(
        None,
        "Which copies of a document are dropped, keeping the first: 'near' (default) drops equal and nearly equal ones, 'exact' "
        "only equal ones, 'none' keeps all. Near copies that stay are put on the same side of the split.",
    )
    near_copy_similarity: float | None = data_key(
        None, "Jaccard similarity, over runs of five words, from which documents count as near copies (default: 0.8)."
    )

    def check_copies(self) -> None:
        """Raises: UserError for an impossible similarity."""
        if self.near_copy_similarity is not None and not 0 < self.near_copy_similarity <= 1:
            raise UserError(f"near_copy_similarity is {self.near_copy_similarity}; it must be above 0 and at most 1.")
