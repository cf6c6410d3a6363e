"""The keys for documents that belong together, and for text that must not be on both sides of a split."""

from dataclasses import dataclass
from typing import Literal

from hfgpt.arguments.keys import RecipeArguments, data_key, hygiene_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home

LEAST_PASSAGE_BYTES, LEAST_LEAK_TOKENS = 200, 20


@dataclass
class SplitKeys(RecipeArguments):
    """Which documents stay together in a split, and which text is cut out before it."""

    group_field: str | None = data_key(
        None,
        "With split_by group: documents with the same value of this column (book, author, site) stay on one side; 'source' keeps "
        "each file together; for python-docs, use 'module'.",
    )
    repeated_passage_bytes: int | None = data_key(
        None,
        "Cut out passages of at least this many bytes that already occurred earlier (50 tokens of English are about 200); by "
        "default they stay.",
    )

    def check_splits(self) -> None:
        """Raises: UserError for a length so short that it would cut out text shared by chance."""
        self.check_least(repeated_passage_bytes=LEAST_PASSAGE_BYTES)

    def check_groups(self, split_by: str) -> None:
        """Raises: UserError if one of the two keys of a split by group is missing or contradicts the other."""
        if split_by == "group" and self.group_field is None:
            raise UserError(
                "split_by is 'group', but group_field is missing; name the column that says which documents belong together, or "
                "'source' to keep each file on one side."
            )
        if self.group_field is not None and split_by not in ("group", "auto"):
            raise UserError(
                f"group_field is {self.group_field!r}, but split_by is {split_by!r}; group_field needs --split_by group."
            )


@dataclass
class LeakKeys(RecipeArguments):
    """What training text must not share with held-out text and benchmarks."""

    leaks: Literal["drop", "count", "ignore"] = hygiene_key(
        "drop",
        "Text that training shares with held-out documents (copies and long passages): drop it from training, or only count it.",
    )
    leak_tokens: int = hygiene_key(50, "Shared runs of at least this many tokens are leaks.")
    decontaminate_against: list[str] = hygiene_key([], "Additional files (benchmarks) whose text must not be trained on.")

    def check_leaks(self) -> None:
        """Raises: UserError for runs so short that texts may share them by chance."""
        expand_home(self, "decontaminate_against")
        self.check_least(leak_tokens=LEAST_LEAK_TOKENS)
