"""How a budget is spent: size, batch, steps and learning rates of pretraining, chosen by pure functions from measured speeds.

The choice weighs three uses of the same time: a larger model learns more from each token, a smaller one reads more tokens, and a
smaller batch gives more steps. `expected_bits_per_byte` rates each option, and `best_choice` takes the lowest, or the smallest that
is as good if the text is the limit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Depth and width of the modern models to try, each about 1.3 to 2 times as large as the previous one.
SHAPES = (
    *((2, 64), (2, 128), (4, 128), (4, 192), (4, 256), (6, 256), (6, 384), (8, 512), (10, 640), (12, 768)),
    *((16, 1024), (20, 1280), (24, 1536), (28, 1792)),
)
HEAD_WIDTH = 64
# Tokens per step to try.
FEWEST_TOKENS_PER_STEP, MOST_TOKENS_PER_STEP = 512, 2**19
# Fewer steps than this teach a model next to nothing; a budget for less is refused.
FEWEST_STEPS = 20
# Evaluations per run, and the share of its time for them, including checkpoints, samples and plots.
MOST_EVALUATIONS, SHARE_OF_EVALUATIONS = 10, 0.08
# Log lines, and the share of the time for them.
FEWEST_LINES, MOST_LINES, SHARE_OF_LINES = 5, 50, 0.02
# After this many passes over a text, nothing more is gained: with a fast embedding, models of 0.2 to 3.5 million parameters were
# best after 5 passes over 50 and 250 KB and after 3 over 1 MB, and worse after more. Measured: docs/lab_notes.md, "A small text".
MOST_EPOCHS = 5.0
# Choices are about equally good if the expected loss of one is at most this much higher. Measured on 50 KB, after 5 passes: 0.66,
# 1.05 and 3.5 million parameters differ by 0.1 %, where the law expects 2 %.
AS_GOOD = 1.01
# From this many passes on, the user is told that more text would help more than more time.
MANY_EPOCHS = 4.0


@dataclass(frozen=True)
class Law:
    """Bits per byte of unseen text, relative to the text's difficulty, as a function of size, tokens and batch.

    `limit + size / parameters^alpha + tokens / seen^beta`, all multiplied by the difficulty of the text. `seen` is the number of
    tokens as if all were new and every step had one row: a second pass over a text is worth less than the first, and a step with a
    large batch less than several with a small one.

    Args:
        half_value: passes over a text after which another one is worth 1/e of the first.
        per_token: parameters per token of the text above which more of them would only memorize it.
        batch: tokens per step at which two batches are worth one of half the size, for a run of a million tokens; it grows with the
            square root of the tokens.
    Source: the form is that of Hoffmann et al. (2022, arXiv 2203.15556), with repetition as in Muennighoff et al. (2023, arXiv
        2305.16264) and the batch as in McCandlish et al. (2018, arXiv 1812.06162).
    """

    limit: float
    size: float
    alpha: float
    tokens: float
    beta: float
    half_value: float
    per_token: float
    batch: float


LAW = Law(limit=0.291, size=4.81, alpha=0.352, tokens=7.81, beta=0.249, half_value=15.3, per_token=20.6, batch=11_300.0)


@dataclass(frozen=True)
class Text:
    """The training text of a run.

    Args:
        tokens: in the training rows, padding included, so that a pass over the text is a pass over its rows.
        bytes_per_token: UTF-8 bytes per token of the rows.
        row_tokens: the context length.
        difficulty: bits per byte a compressor needs for a part of it (`difficulty_of`).
    """

    tokens: int
    bytes_per_token: float
    row_tokens: int
    difficulty: float


@dataclass(frozen=True)
class Candidate:
    """A model that could be trained.

    Args:
        depth: its layers.
        width: that of the residual stream.
        overrides: fields of HfGptConfig besides those set by the depth.
        parameters: all of them.
        tables: those in the embedding and the head, which are one matrix or two.
        flops_per_token: in a training step.
    """

    depth: int
    width: int
    overrides: Mapping[str, object] = field(hash=False, compare=False)
    parameters: int
    tables: int
    flops_per_token: float

    @property
    def in_blocks(self) -> int:
        """Parameters in the blocks, the size used by the law: the tables grow with the vocabulary and add little."""
        return max(1, self.parameters - self.tables)


@dataclass(frozen=True)
class Speed:
    """The time of a training step: `per_step` seconds regardless of the batch (optimizer, kernel launches), plus `per_token`."""

    per_step: float
    per_token: float
    measured: bool = True

    def step(self, tokens: float) -> float:
        """Seconds per step with this many tokens."""
        return self.per_step + self.per_token * tokens

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> "Speed":
        """The line through two measurements (tokens, seconds); a part that noise would make negative is set to zero."""
        per_token = (large[1] - small[1]) / (large[0] - small[0])
        per_token = min(max(per_token, 0.1 * large[1] / large[0]), large[1] / large[0])
        return cls(max(0.0, small[1] - per_token * small[0]), per_token)


@dataclass(frozen=True)
class Budget:
    """What may be spent: `seconds` of training steps, `tokens`, or `flops`; the other two are None."""

    seconds: float | None = None
    tokens: float | None = None
    flops: float | None = None

    def tokens_for(self, candidate: Candidate, speed: Speed, batch: int) -> float:
        """Tokens that a candidate trains on within the budget."""
        if self.seconds is not None:
            return self.seconds / speed.step(batch) * batch
        if self.flops is not None:
            return self.flops / candidate.flops_per_token
        assert self.tokens is not None
        return self.tokens


@dataclass(frozen=True)
class Choice:
    """A candidate with its batch in tokens, its steps, and the expected result."""

    candidate: Candidate
    batch: int
    steps: int
    bits_per_byte: float
    step_seconds: float

    @property
    def tokens(self) -> int:
        """Tokens that the run reads."""
        return self.batch * self.steps


def shape(depth: int, width: int) -> dict[str, object]:
    """The fields of HfGptConfig for a modern model of this width, with head and embedding untied.

    A separate embedding costs a lookup, not time, and lowers the loss of small models.
    """
    heads = max(1, width // HEAD_WIDTH)
    return dict(
        num_hidden_layers=depth,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
        intermediate_size=64 * -(-8 * width // (3 * 64)),
        tie_word_embeddings=False,
    )


def rates(width: int, *, muon: bool = True) -> dict[str, float]:
    """Peak rates of AdamW and Muon for a model of this width, or of AdamW only; wider models take smaller steps.

    Measured: 0.03 and 6e-3 at width 128 (docs/lab_notes.md, "The quickstart's base"); the powers are those of maximal update
    parametrization for AdamW, tempered, and of Muon's adjustment.
    """
    narrow = max(1.0, width / 128)
    if not muon:
        return {"learning_rate": _rounded(3e-3 * narrow**-0.5)}
    return {"learning_rate": _rounded(6e-3 * narrow**-0.5), "muon_learning_rate": _rounded(0.03 * narrow**-0.25)}


def worth_of_tokens(tokens: float, *, unique: float, batch: float, law: Law = LAW) -> float:
    """The number of tokens as if all were new and every step small."""
    repeated = max(0.0, tokens / unique - 1)
    worth = min(tokens, unique) + unique * law.half_value * (1 - math.exp(-repeated / law.half_value))
    return worth / (1 + batch / (law.batch * math.sqrt(max(worth, 1.0) / 1e6)))


def expected_bits_per_byte(candidate: Candidate, text: Text, *, tokens: float, batch: float, law: Law = LAW) -> float:
    """Bits per byte on unseen text of the same kind, after a run that has read `tokens` in steps of `batch`."""
    seen = worth_of_tokens(tokens, unique=text.tokens, batch=batch, law=law) * text.bytes_per_token
    parameters = candidate.in_blocks / (1 + candidate.in_blocks / (law.per_token * text.tokens))
    return text.difficulty * (law.limit + law.size / parameters**law.alpha + law.tokens / max(seen, 1.0) ** law.beta)


def batches(text: Text, *, processes: int = 1) -> list[int]:
    """Tokens per step to try: powers of two in rows, the same number in every process."""
    rows = [processes * 2**power for power in range(20)]
    sizes = [count * text.row_tokens for count in rows]
    fitting = [size for size in sizes if FEWEST_TOKENS_PER_STEP <= size <= MOST_TOKENS_PER_STEP]
    return fitting or [max(sizes[0], next((size for size in sizes if size >= FEWEST_TOKENS_PER_STEP), sizes[-1]))]


def choice_for(candidate: Candidate, speed: Speed, text: Text, budget: Budget, *, sizes: Sequence[int]) -> Choice:
    """The batch (one of `sizes`) and the steps with which a candidate reaches the lowest loss within the budget."""
    choices = []
    for batch in sizes:
        most = math.inf if budget.tokens is not None else MOST_EPOCHS * text.tokens  # who gives a number of tokens gets it
        tokens = min(budget.tokens_for(candidate, speed, batch), most)
        steps = max(1, int(tokens / batch))
        bits = expected_bits_per_byte(candidate, text, tokens=steps * batch, batch=batch)
        choices.append(Choice(candidate, batch, steps, bits, speed.step(batch)))
    enough = [choice for choice in choices if choice.steps >= FEWEST_STEPS] or choices[:1]
    if budget.seconds is None:  # here a smaller batch is always better, but slower: take the largest that is about as good
        lowest = min(choice.bits_per_byte for choice in enough)
        return [choice for choice in enough if choice.bits_per_byte <= AS_GOOD * lowest][-1]
    return min(enough, key=lambda choice: choice.bits_per_byte)


def best_choice(choices: Sequence[Choice], text: Text, budget: Budget) -> Choice:
    """The choice with the lowest expected loss, from one choice per candidate, ordered by size.

    If that one would read the text as often as is useful, take the smallest that is about as good: it takes less time, in training
    and ever after. With a budget of tokens, the largest would always win; instead, take the largest that would also be chosen for
    the FLOPs it needs.
    """
    if budget.tokens is None:
        lowest = min(choices, key=lambda choice: choice.bits_per_byte)
        if lowest.tokens + lowest.batch < 0.95 * MOST_EPOCHS * text.tokens:  # the steps are rounded down
            return lowest
        return next(choice for choice in choices if choice.bits_per_byte <= AS_GOOD * lowest.bits_per_byte)

    def at(other: Choice, flops: float) -> float:
        tokens = flops / other.candidate.flops_per_token
        return expected_bits_per_byte(other.candidate, text, tokens=tokens, batch=other.batch)

    best = choices[0]
    for choice in choices:
        flops = choice.tokens * choice.candidate.flops_per_token
        if min(choices, key=lambda other: at(other, flops)) is choice:
            best = choice
    return best


def foreseen_speed(candidate: Candidate, measured: Mapping[Candidate, Speed]) -> Speed:
    """The speed of a candidate: as measured, or that of the measured one closest in size, scaled by FLOPs and size."""
    if candidate in measured:
        return measured[candidate]
    nearest = min(measured, key=lambda one: abs(math.log(one.flops_per_token / candidate.flops_per_token)))
    speed = measured[nearest]
    return Speed(
        speed.per_step * math.sqrt(candidate.parameters / nearest.parameters),
        speed.per_token * candidate.flops_per_token / nearest.flops_per_token,
        measured=False,
    )


def number_of_evaluations(seconds: float, *, each: float) -> int:
    """How often a run of this many seconds is evaluated and saved if that takes `each` seconds."""
    return max(1, min(MOST_EVALUATIONS, int(SHARE_OF_EVALUATIONS * seconds / max(each, 1e-9))))


def expected_memory(candidate: Candidate, *, vocab_size: int, row_tokens: int, device_tokens: int, heads: int) -> int:
    """Bytes for a training step in mixed precision on one device, besides those of the program itself.

    Weights, gradients and two optimizer states are float32, and a copy of the weights is bfloat16; per token and layer, about 40
    times the width in values and the attention probabilities are kept for the backward pass, and the logits once.
    """
    activations = device_tokens * (candidate.depth * (40 * candidate.width + 3 * heads * row_tokens) + 3 * vocab_size) * 2
    return 18 * candidate.parameters + activations


def allotted_steps(seconds: float, *, step: float, evaluation: float, most: int) -> tuple[int, int]:
    """Steps and evaluations that fill this many seconds; the steps are a multiple of the evaluations, so the last step has one.

    Args:
        step, evaluation: seconds of each.
        most: the maximum useful number of steps.
    """
    evaluations = number_of_evaluations(min(seconds, most * step), each=evaluation)
    steps = min(most, int((seconds - evaluations * evaluation) / step))
    evaluations = max(1, min(evaluations, steps))
    return max(0, steps - steps % evaluations), evaluations


def number_of_log_lines(seconds: float, *, each: float) -> int:
    """Log lines for a run of this many seconds if a line takes `each` seconds: each one measures the machine again for its MFU."""
    return max(FEWEST_LINES, min(MOST_LINES, int(SHARE_OF_LINES * seconds / max(each, 1e-9))))


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
