"""Keys of the mixture: the share of each source in the training text, and the order of the documents."""

import math
from dataclasses import dataclass
from typing import Any

from hfgpt.arguments.keys import RecipeArguments, data_key
from hfgpt.errors import UserError


@dataclass
class MixtureKeys(RecipeArguments):
    """How much of each source is trained on; each held-out document is always used exactly once."""

    source_weights: list[float] = data_key(
        [], "Relative share of the training tokens for each source, in order, such as 2 1 1; a pattern or folder is one source."
    )
    mixture_alpha: float | None = data_key(
        None, "Shares proportional to tokens ** alpha instead: 1 leaves the sources as they are, 0 makes them equal; 0.7 is usual."
    )
    mixture_tokens: int | None = data_key(
        None, "Training tokens in the mixture (default: as many as the training documents contain)."
    )
    shuffle_documents: bool = data_key(True, "Shuffle the training documents before they are packed into rows.")
    mixture_seed: int = data_key(0, "Seed that decides which documents are drawn, and in which order.")

    def check_mixture(self) -> None:
        """Raises: UserError for impossible shares, and for keys that contradict each other."""
        for weight in self.source_weights:
            if not 0 < weight < math.inf:
                raise UserError(
                    f"source_weights has {weight}; each weight must be above 0. To leave a source out, remove it from sources."
                )
        if self.mixture_alpha is not None:
            if self.source_weights:
                raise UserError("source_weights and mixture_alpha both set the shares of the sources; give only one.")
            if not 0 <= self.mixture_alpha <= 1:
                raise UserError(f"mixture_alpha is {self.mixture_alpha}; it must be between 0 (equal shares) and 1 (by size).")
        self.check_least(mixture_tokens=1, mixture_seed=0)

    def mixture(self, sources: list[str]) -> dict[str, Any] | None:
        """The values of `hfgpt.data.mixture.Mixture` for these sources; None if they are used as they are.

        Raises: UserError if the number of weights is wrong, or if there is only one source and so nothing to mix.
        """
        if not self.source_weights and self.mixture_alpha is None:
            return None
        if len(sources) == 1 and self.mixture_tokens is None:
            name = "source_weights" if self.source_weights else "mixture_alpha"
            raise UserError(
                f"{name} is given, but there is only one source ({sources[0]}), so it would have no effect; give several sources "
                f"(a pattern or folder is one), set --mixture_tokens, or leave {name} out."
            )
        weights = None
        if self.source_weights:
            if len(self.source_weights) != len(sources):
                raise UserError(
                    f"source_weights has {len(self.source_weights)} entries "
                    f"({' '.join(f'{weight:g}' for weight in self.source_weights)}), "
                    f"but sources has {len(sources)} ({' '.join(sources)}); give one weight per source, in the same order."
                )
            weights = dict(zip(sources, self.source_weights, strict=True))
        return dict(weights=weights, alpha=self.mixture_alpha, tokens=self.mixture_tokens, seed=self.mixture_seed)
