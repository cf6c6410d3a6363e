"""What a model reveals about the canaries planted in its training text: exposure and extraction.

*Exposure* of a planted canary (planted_secrets.py): how highly its secret ranks among secrets that were never in the data, in bits.
The maximum with a given number of references is log2(references + 1); a model that knows nothing gives 1.44 bits on average.
Source: Carlini et al. (2019), The Secret Sharer, section 4, with the rank estimated over a random sample of the secrets.

*Extraction*: the most likely (greedy) continuation of the canary's prompt is its secret.
Source: Carlini et al. (2023), Quantifying Memorization Across Neural Language Models.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfgpt.errors import UserError
from hfgpt.evaluation.generation import context_length_of, generation_settings, sample
from hfgpt.evaluation.language_modeling import Window, nats_of_windows
from hfgpt.hygiene.planted_secrets import PlantedCanary, random_secret
from hfgpt.inference import GREEDY, evaluating
from hfgpt.tokenization import encode_texts

# Logits per batch, so that a large vocabulary does not need more memory than a small one.
LOGITS_BYTES = 256 << 20


def exposure(nats: float, reference_nats: Sequence[float]) -> float:
    """Bits of exposure: log2(n + 1) - log2(rank) of a secret among itself and n references; rank 1 is the most likely.

    A reference as likely as the secret counts as more likely, so a model that finds all of them equally likely has an exposure of
    0.

    Args:
        nats: negative log-likelihood of the sentence with the secret.
        reference_nats: the same for the sentence with the other secrets.
    Raises: ValueError for a number that is not finite.
    """
    references = np.asarray(reference_nats, dtype=np.float64)
    if not (math.isfinite(nats) and np.isfinite(references).all()):
        raise UserError("a log-likelihood is not a finite number, so it cannot be ranked; check the model's weights for NaN.")
    rank = 1 + int((references <= nats).sum())
    return math.log2(len(references) + 1) - math.log2(rank)


def chance_exposure(num_references: int) -> float:
    """The mean exposure if every rank is equally likely: about 1.44 bits."""
    ranks = np.arange(1, num_references + 2)
    return float(np.mean(math.log2(num_references + 1) - np.log2(ranks)))


def canary_report(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    canaries: Sequence[PlantedCanary],
    *,
    num_references: int,
    seed: int,
) -> dict:
    """Exposure and extraction of every canary, and by the number of copies; 0 copies are the controls."""
    planted = {canary.secret for canary in canaries}
    each = []
    for index, canary in enumerate(canaries):
        generator = random.Random(f"references {seed} {index}")
        references: dict[str, None] = {}
        while len(references) < num_references:
            secret = random_secret(generator)
            if secret not in planted:
                references[secret] = None
        nats = negative_log_likelihoods(model, tokenizer, [canary.text, *map(canary.with_secret, references)])
        bits = exposure(nats[0], nats[1:])
        each.append(
            {"name": canary.name, "count": canary.count, "exposure": bits, "extracted": is_extracted(model, tokenizer, canary)}
        )
    by_count = []
    for count in sorted({canary.count for canary in canaries}):
        of_count = [entry for entry in each if entry["count"] == count]
        by_count.append(
            {
                "count": count,
                "exposure_mean": float(np.mean([entry["exposure"] for entry in of_count])),
                "exposure_max": max(entry["exposure"] for entry in of_count),
                "extraction_rate": float(np.mean([entry["extracted"] for entry in of_count])),
                "num": len(of_count),
            }
        )
    return {
        "by_count": by_count,
        "references": num_references,
        "maximum_exposure": math.log2(num_references + 1),
        "chance_exposure": chance_exposure(num_references),
        "each": each,
    }


def negative_log_likelihoods(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[float]:
    """Nats of each text as a whole document, including the separators before and after it.

    Cost: one forward pass over all texts; the logits of a batch take at most 256 MiB, twice that while in use.
    Raises: ValueError if a text does not fit into the context.
    """
    separator = tokenizer.eos_token_id
    sequences = [[separator, *ids, separator] for ids in encode_texts(tokenizer, list(texts))]
    longest = max(map(len, sequences))
    if longest - 1 > (context := context_length_of(model)):
        raise UserError(
            f"a canary has {longest - 1} tokens, but the model's context is {context}; use a model with a longer context."
        )
    batch_size = max(1, LOGITS_BYTES // (4 * longest * model.config.vocab_size))
    windows = [Window(sequence[:-1], sequence[1:]) for sequence in sequences]
    nats: list[float] = []
    with evaluating(model):
        for begin in range(0, len(windows), batch_size):
            nats += nats_of_windows(model, windows[begin : begin + batch_size])
    return nats


def is_extracted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, canary: PlantedCanary) -> bool:
    """Whether the greedy continuation of the prompt begins with the secret."""
    (whole, prompt) = encode_texts(tokenizer, [canary.text, canary.prompt])
    settings = generation_settings(tokenizer, max_new_tokens=len(whole) - len(prompt) + 1, **GREEDY)
    (continuation,) = sample(model, tokenizer, canary.prompt, generation_config=settings)
    return continuation.strip().startswith(canary.secret)
