"""Classification without training: which label does a language model find most likely after the text?

The model reads every label after the same prompt, and the log-likelihoods of the label's tokens are summed. Any causal language
model with a key/value cache works; the prompt is computed once for all labels, unless the cache also holds other states.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import tqdm

from hfgpt.errors import UserError
from hfgpt.evaluation.batches import batches_by_length, padded
from hfgpt.evaluation.classification import probabilities_of
from hfgpt.evaluation.generation import context_length_of
from hfgpt.evaluation.language_modeling import takes
from hfgpt.inference import evaluating
from hfgpt.tokenization import encode_texts, start_token

# The line break is part of the label, so that "os" does not beat "os.path" just because it is its beginning.
TEMPLATE = "{text}\nLabel: {label}\n"


@dataclass(frozen=True)
class LikelihoodOptions:
    """How labels are requested.

    Args:
        template: the model's input, with the fields {text} and, after it, {label}. Text after {label} is scored with it and
            separates examples; the likelihood of a label's end distinguishes it from a longer label.
        shots: maximum number of solved examples before the text; fewer if the context is short.
        seed: the seed for choosing examples.
        length_normalised: divide each label's log-likelihood by its number of tokens, so that long labels are not penalized.
        calibrated: subtract each label's log-likelihood after an empty text, its prior advantage. Source: Zhao et al. (2021),
            Calibrate Before Use, section 5, with the empty text as the content-free input.
        batch_size: pairs of text and label computed at once; with 4 labels, 64 means 16 texts.
        max_length: maximum tokens of a text, including those of examples; None only cuts what does not fit the context.
    Raises: ValueError for a template without its fields or with them in another order, and for numbers out of range.
    """

    template: str = TEMPLATE
    shots: int = 0
    seed: int = 0
    length_normalised: bool = False
    calibrated: bool = False
    batch_size: int = 64
    max_length: int | None = None

    def __post_init__(self):
        counts = self.template.count("{text}"), self.template.count("{label}")
        if counts != (1, 1) or self.template.index("{text}") > self.template.index("{label}"):
            raise UserError(f"template is {self.template!r}; it needs {{text}} and then {{label}}, once each.")
        if self.shots < 0 or self.batch_size < 1:
            raise UserError(f"shots is {self.shots}, batch_size {self.batch_size}; they must be at least 0 and 1.")
        if self.shots and self.template.endswith("{label}"):
            raise UserError(f"template is {self.template!r}; with shots, it needs something after {{label}} that ends an example.")


@dataclass(frozen=True)
class LikelihoodResult:
    """A language model's results for N texts and C labels.

    Args:
        probabilities: (N, C), the softmax of `scores`.
        scores: (N, C), log-likelihoods in nats, normalised and calibrated as requested.
        shots: for each text, the number of examples that fitted before it.
        texts_cut: how many texts were cut to fit the context.
    """

    probabilities: np.ndarray
    scores: np.ndarray
    shots: list[int]
    texts_cut: int


def classify_by_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    names: list[str],
    options: LikelihoodOptions,
    example_texts: Sequence[str] = (),
    example_labels: Sequence[int] = (),
) -> LikelihoodResult:
    """Probabilities of the labels `names` for each text; the model's mode is restored.

    Args: `example_texts` and `example_labels` (ids) are the pool for `options.shots`: the training split, never the others.
    Raises: ValueError for labels that cannot be distinguished, a context too short for prompt and label, shots without examples,
    and a model without a cache.
    Cost: one forward pass over each prompt, and one over the labels' tokens except the last (none for single-token labels).
    """
    if options.shots and not len(example_texts):
        raise UserError(f"shots is {options.shots}, but there are no examples to draw from; give a training split, or shots: 0.")
    prompt = LabelPrompt(
        tokenizer,
        names,
        options.template,
        context_length=context_length_of(model),
        max_length=options.max_length,
    )
    check_labels(prompt.labels, names=names, length_normalised=options.length_normalised)
    examples = draw_examples(prompt, example_texts, example_labels, shots=options.shots, seed=options.seed)

    contexts, shots, texts_cut = [], [], 0
    for text in prompt.encode(texts):
        used = prompt.fitting(examples, text)
        context, is_cut = prompt.context(examples[:used], text)
        contexts.append(context)
        shots.append(used)
        texts_cut += is_cut
    # A label's prior depends on the examples before it, so it is computed for each number of examples.
    numbers = sorted(set(shots)) if options.calibrated else []
    contexts += [prompt.context(examples[:number], prompt.encode([""])[0])[0] for number in numbers]

    scores = score_labels(model, contexts, prompt.labels, batch_size=max(options.batch_size // len(names), 1))
    if options.length_normalised:
        scores = scores / [len(label) for label in prompt.labels]
    if options.calibrated:
        head_starts = dict(zip(numbers, scores[len(shots) :], strict=True))
        scores = scores[: len(shots)] - np.array([head_starts[number] for number in shots])
    return LikelihoodResult(probabilities_of(scores, multi_label=False), scores, shots, texts_cut)


class LabelPrompt:
    """The template as token ids: the parts before a text and between it and the label, and the labels with what follows them.

    Every piece is encoded separately, so a label's tokens are the same after every text, and text never becomes a special token. A
    space before a field belongs to the field's first word, as in the tokenizer's training.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        names: list[str],
        template: str,
        *,
        context_length: int,
        max_length: int | None = None,
    ):
        before, rest = template.split("{text}")
        between, after = rest.split("{label}")
        before, self._text_space = _without_last_space(before)
        between, label_space = _without_last_space(between)
        self._tokenizer = tokenizer
        self.before, self.between = encode_texts(tokenizer, [before, between])
        self.labels = [
            _continuation(tokenizer, between, label_space + name) + _continuation(tokenizer, between + label_space + name, after)
            for name in names
        ]
        start = start_token(tokenizer)
        self.start = [] if start is None else [start]
        room = context_length - len(self.start) - len(self.before) - len(self.between) - max(map(len, self.labels))
        if room < 1 or not (self.start or self.before or self.between):
            raise UserError(
                f"the template and the longest label leave {room} of {context_length:,} tokens for a text; at least one must fit, "
                f"and at least one must precede the label. Use another template, shorter labels or a model with a longer context."
            )
        self.room = room  # tokens for a text and the examples before it
        self.longest = min(max_length or room, room)  # of a text

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return encode_texts(self._tokenizer, [self._text_space + text for text in texts]) if len(texts) else []

    def example(self, text: list[int], label: int) -> list[int]:
        return [*self.before, *text[: self.longest], *self.between, *self.labels[label]]

    def fitting(self, examples: list[list[int]], text: list[int]) -> int:
        """How many of the first examples fit before the whole text, or the part of it that is used."""
        taken = np.cumsum([min(len(text), self.longest), *map(len, examples)])
        return max(int(np.searchsorted(taken, self.room, side="right")) - 1, 0)

    def context(self, examples: list[list[int]], text: list[int]) -> tuple[list[int], bool]:
        """The model's input before a label, and whether the text was cut."""
        in_front = [token for example in examples for token in example]
        room = min(self.room - len(in_front), self.longest)
        return [*self.start, *in_front, *self.before, *text[:room], *self.between], len(text) > room


def check_labels(labels: list[list[int]], *, names: list[str], length_normalised: bool) -> None:
    """Raises: ValueError for fewer than two labels, labels with no or the same tokens, and one that is a prefix of another."""
    if len(names) < 2:
        raise UserError(f"the labels are {names}; there must be at least two to choose from.")
    for index, label in enumerate(labels):
        if not label:
            raise UserError(f"the label {names[index]!r} has no tokens; give it a word.")
        for other, longer in enumerate(labels):
            if other != index and longer == label:
                raise UserError(
                    f"the labels {names[index]!r} and {names[other]!r} have the same tokens with this tokenizer; rename one."
                )
            if other != index and longer[: len(label)] == label and not length_normalised:
                raise UserError(
                    f"the label {names[index]!r} is a prefix of {names[other]!r}, which can therefore never be more likely; put "
                    f"something after {{label}} in the template, such as a line break."
                )


def draw_examples(prompt: LabelPrompt, texts: Sequence[str], labels: Sequence[int], *, shots: int, seed: int) -> list[list[int]]:
    """Token ids of `shots` solved examples, alternating between labels, so that any number of the first ones is balanced.

    Examples longer than their share of the context come last; otherwise they would keep all others out.
    """
    if not shots:
        return []
    draw = random.Random(seed)
    share = prompt.room // (shots + 1)
    queues = []
    for label in sorted(set(map(int, labels))):
        rows = [row for row, of_row in enumerate(labels) if of_row == label]
        # Enough to find short ones; a large training split need not be encoded for a handful of examples.
        rows = draw.sample(rows, min(len(rows), 8 * shots))
        encoded = [prompt.example(text, label) for text in prompt.encode([texts[row] for row in rows])]
        queues.append(sorted(encoded, key=lambda example: len(example) > share))  # stable: keeps the random order
    draw.shuffle(queues)  # the last example has the most influence, and should not always belong to the last label
    in_turn = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return in_turn[:shots]


def score_labels(model: PreTrainedModel, contexts: list[list[int]], labels: list[list[int]], *, batch_size: int) -> np.ndarray:
    """Log-likelihood in nats (N, C), float64, of each label's tokens after each context.

    Args: `contexts` and `labels` as token ids, none empty; `batch_size` in contexts.
    Raises: ValueError for a model that returns no cache.
    """
    scores = np.zeros((len(contexts), len(labels)))
    batches = batches_by_length(contexts, batch_size=batch_size)
    with evaluating(model):
        for batch in tqdm(batches, desc="labels", disable=len(batches) < 10):
            scores[batch] = _score_batch(model, [contexts[index] for index in batch], labels)
    return scores


def _score_batch(model: PreTrainedModel, contexts: list[list[int]], labels: list[list[int]]) -> np.ndarray:
    # B contexts, C labels, T tokens of the longest context, L of the longest label
    takes_positions = takes(model, "position_ids")

    def run(ids: torch.Tensor, mask: torch.Tensor, **settings):
        if takes_positions:  # learned positions count from the beginning of a text; other models use the mask
            settings["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return model(input_ids=ids, attention_mask=mask, **settings)

    # Contexts are padded on the left, so that every label directly follows its context; labels are padded on the right.
    ids, mask = padded(contexts, left=True, device=model.device)  # (B, T)
    label_ids, label_mask = padded(labels, device=model.device)  # (C, L)
    longest = label_ids.shape[1]
    output = run(ids, mask, use_cache=longest > 1, logits_to_keep=1)
    first = output.logits[:, -1].float().log_softmax(-1)[:, label_ids[:, 0]].double()  # (B, C)
    if longest == 1:
        return first.cpu().numpy()
    if "past_key_values" not in output:
        raise UserError(f"{type(model).__name__} has no key/value cache, which zero-shot classification needs.")

    B, C = len(contexts), len(labels)
    rows, row_mask = label_ids.repeat(B, 1), label_mask.repeat(B, 1)  # (B * C, L): all labels of the first context, then ...
    whole_mask = torch.cat((mask.repeat_interleave(C, dim=0), row_mask[:, :-1]), dim=1)
    cache = output.past_key_values
    if all(hasattr(part, "batch_repeat_interleave") for part in (cache, *cache.layers)):
        cache.batch_repeat_interleave(C)
        logits = run(rows[:, :-1], whole_mask, past_key_values=cache, use_cache=True).logits  # (B * C, L - 1, V)
    else:  # the states of convolutions and linear attention (LFM2, Qwen3.5) cannot be repeated: each label reads its whole context
        whole = torch.cat((ids.repeat_interleave(C, dim=0), rows[:, :-1]), dim=1)
        logits = run(whole, whole_mask, use_cache=False, logits_to_keep=longest - 1).logits
    logits = logits.float()
    # Only one of V log-probabilities is needed, so the full softmax is not materialized.
    later = (logits.gather(-1, rows[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)).double()
    later = (later * row_mask[:, 1:]).sum(-1).view(B, C)
    return (first + later).cpu().numpy()


def _without_last_space(text: str) -> tuple[str, str]:
    return (text[:-1], " ") if text.endswith(" ") else (text, "")


def _continuation(tokenizer: PreTrainedTokenizerFast, before: str, piece: str) -> list[int]:
    """The ids of `piece` when it follows `before`.

    A byte-level BPE gives a piece the same ids as on its own. SentencePiece adds a space before its input, so the ids are taken
    from the end of both together.
    """
    start, together, alone = encode_texts(tokenizer, [before, before + piece, piece])
    return together[len(start) :] if together[: len(start)] == start else alone
