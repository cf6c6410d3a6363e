"""The keys of documents that belong together, and of what may not stand on both sides of a split."""

from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.keys import RecipeArguments, data_key, hygiene_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home

LEAST_PASSAGE_BYTES, LEAST_LEAK_TOKENS = 200, 20


@dataclass
class SplitKeys(RecipeArguments):
    """Which documents have one side, and what of their text is cut out before they are split."""

    group_field: str | None = data_key(
        None,
        "With split_by group: documents with the same value of this column (book, author, site) are on one side; 'source': those "
        "of one file; of python-docs 'module'.",
    )
    repeated_passage_bytes: int | None = data_key(
        None,
        "Cut out passages of so many bytes or more that stand earlier in the documents (50 tokens of English are about 200); "
        "without it they stay.",
    )

    def check_splits(self) -> None:
        """Raises: UserError for a length that would cut out what texts share by chance."""
        self.check_least(repeated_passage_bytes=LEAST_PASSAGE_BYTES)

    def check_groups(self, split_by: str) -> None:
        """Raises: UserError where one of the two keys of a split by group is missing, or contradicts the other."""
        if split_by == "group" and self.group_field is None:
            raise UserError(
                "split_by is 'group', but group_field is missing; name the column that says which documents belong together, or "
                "'source' to keep each file on one side."
            )
        if self.group_field is not None and split_by not in ("group", "auto"):
            raise UserError(f"group_field is {self.group_field!r}, but split_by is {split_by!r}; groups need split_by: group.")


@dataclass
class LeakKeys(RecipeArguments):
    """What training text may not share with held-out text and benchmarks."""

    leaks: Literal["drop", "count", "ignore"] = hygiene_key(
        "drop", "What training text shares with held-out text, copies and long passages: drop it from training, or only count it."
    )
    leak_tokens: int = hygiene_key(50, "Shared runs of so many tokens or more are leaks.")
    decontaminate_against: list[str] = hygiene_key([], "More files (benchmarks) whose text must not be trained on.")

    def check_leaks(self) -> None:
        """Raises: UserError for runs so short that texts share them by chance."""
        expand_home(self, "decontaminate_against")
        self.check_least(leak_tokens=LEAST_LEAK_TOKENS)
