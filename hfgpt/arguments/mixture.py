"""Keys of the mixture: in which shares the sources stand in the training text, and in which order its documents."""

import math
from dataclasses import dataclass
from typing import Any

from hfgpt.arguments.keys import RecipeArguments, data_key
from hfgpt.errors import UserError


@dataclass
class MixtureKeys(RecipeArguments):
    """How much of each source is trained on; of held-out documents each is there once, whatever is asked."""

    source_weights: list[float] = data_key(
        [], "Share of the training tokens of each of the sources, in their order, such as 2 1 1; a pattern or folder is one source."
    )
    mixture_alpha: float | None = data_key(
        None, "Shares proportional to tokens ** alpha instead: 1 leaves the sources as they are, 0 makes them equal; 0.7 is usual."
    )
    mixture_tokens: int | None = data_key(
        None, "Training tokens of the mixture; without it as many as the training documents have."
    )
    shuffle_documents: bool = data_key(True, "Put the training documents into a random order before they become rows.")
    mixture_seed: int = data_key(0, "Another seed draws other documents, in another order.")

    def check_mixture(self) -> None:
        """Raises: UserError for shares that cannot be, and for keys that contradict each other."""
        for weight in self.source_weights:
            if not 0 < weight < math.inf:
                raise UserError(f"source_weights has {weight}; each is above 0, and a source that is not wanted is not named.")
        if self.mixture_alpha is not None:
            if self.source_weights:
                raise UserError("source_weights and mixture_alpha are given, which both say the shares of the sources; give one.")
            if not 0 <= self.mixture_alpha <= 1:
                raise UserError(f"mixture_alpha is {self.mixture_alpha}; from 0 (equal shares) to 1 (by size) is allowed.")
        self.check_least(mixture_tokens=1, mixture_seed=0)

    def mixture(self, sources: list[str]) -> dict[str, Any] | None:
        """The values of `hfgpt.data.mixture.Mixture` for these sources; None where they are taken as they are.

        Raises: UserError where there is not one weight for each, and where a single source leaves nothing to mix.
        """
        if not self.source_weights and self.mixture_alpha is None:
            return None
        if len(sources) == 1 and self.mixture_tokens is None:
            name = "source_weights" if self.source_weights else "mixture_alpha"
            raise UserError(
                f"{name} is given, but there is one source ({sources[0]}), all of which is trained on, so it would do nothing; "
                f"name several sources (a pattern or folder is one), set mixture_tokens, or leave {name} out."
            )
        weights = None
        if self.source_weights:
            if len(self.source_weights) != len(sources):
                raise UserError(
                    f"source_weights are {len(self.source_weights)} ({' '.join(f'{weight:g}' for weight in self.source_weights)}), "
                    f"sources {len(sources)} ({' '.join(sources)}); give one for each, in their order."
                )
            weights = dict(zip(sources, self.source_weights, strict=True))
        return dict(weights=weights, alpha=self.mixture_alpha, tokens=self.mixture_tokens, seed=self.mixture_seed)
