"""Log-likelihoods against a computation by hand: the loss that the model itself returns for the whole text."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Lfm2Config, Lfm2ForCausalLM, PreTrainedTokenizerFast, set_seed

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.evaluation.likelihood import LabelPrompt, LikelihoodOptions, classify_by_likelihood, draw_examples
from hfgpt.tokenization import encode_texts, train_bpe

NAMES = ["ham", "spam", "ham and eggs"]
CONTEXT = 96
TEXTS = ["a short one", "call now for a free prize " * 3, "", "lunch at noon?", "x" * 40]
EXAMPLES = [f"{'free prize' if row % 3 else 'lunch'} number {row}" for row in range(30)]
EXAMPLE_LABELS = [1 if row % 3 else 0 for row in range(30)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["Label: ham\n Label: spam\n and eggs, free prize, lunch number, call now " * 20], vocab_size=303)


def tiny_model(family: str, tokenizer):
    """One or two layers of random weights, large enough that the next token matters."""
    set_seed(3)
    shape = dict(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=CONTEXT,
        initializer_range=0.2, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**shape)).eval()
    if family == "hybrid":  # its convolution's state cannot be repeated for each label
        layers = dict(layer_types=["conv", "full_attention"], intermediate_size=64, num_key_value_heads=2)
        return Lfm2ForCausalLM(Lfm2Config(**shape | layers)).eval()
    if family == "book":
        return HfGptForCausalLM(HfGptConfig.gpt2("124M", **shape)).eval()
    return HfGptForCausalLM(HfGptConfig.modern(2, **shape, num_key_value_heads=2, head_dim=16, intermediate_size=64)).eval()


@pytest.fixture(scope="module", params=["gpt2", "book", "modern", "hybrid"])
def model(request, tokenizer):
    return tiny_model(request.param, tokenizer)


@torch.no_grad()
def by_hand(model, tokenizer, before: str, scored: str) -> tuple[float, int]:
    """Nats of `scored` after `before`, and its number of tokens: one text, one forward pass, the model's own loss."""
    start, ids = tokenizer(before)["input_ids"], tokenizer(before + scored)["input_ids"]
    assert ids[: len(start)] == start
    assert ids[0] == tokenizer.eos_token_id
    labels = [-100] * len(start) + ids[len(start) :]
    loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
    return -loss * (len(ids) - len(start)), len(ids) - len(start)


def classify(model, tokenizer, texts, names=NAMES, **options):
    examples = dict(example_texts=EXAMPLES, example_labels=EXAMPLE_LABELS) if options.get("shots") else {}
    return classify_by_likelihood(model, tokenizer, texts, names=names, options=LikelihoodOptions(**options), **examples)


def test_scores_are_the_models_own_losses_summed_over_the_labels_tokens(model, tokenizer):
    result = classify(model, tokenizer, TEXTS)
    expected = [[by_hand(model, tokenizer, f"{text}\nLabel:", f" {name}\n")[0] for name in NAMES] for text in TEXTS]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-4)
    assert result.scores.std(axis=1).min() > 0.3, "labels that all score alike would prove nothing"
    assert result.scores.std(axis=0).min() > 0.1, "nor would texts"
    exponentials = np.exp(expected)
    np.testing.assert_allclose(result.probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-4)
    assert result.probabilities.dtype == np.float64
    assert (result.shots, result.texts_cut) == ([0] * len(TEXTS), 0)


def test_labels_of_one_token_need_no_second_pass_and_are_right_too(model, tokenizer):
    names = ["ham", "spam"]
    template = "Is it? {text}\nLabel: {label}"
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        result = classify(model, tokenizer, TEXTS, names=names, template=template)
    finally:
        handle.remove()
    assert len(passes) == 1
    expected = [[by_hand(model, tokenizer, f"Is it? {text}\nLabel:", f" {name}") for name in names] for text in TEXTS]
    assert {tokens for row in expected for _, tokens in row} == {1}
    np.testing.assert_allclose(result.scores, [[nats for nats, _ in row] for row in expected], rtol=1e-4)


@pytest.mark.parametrize("shots", [0, 3])
def test_a_text_scores_the_same_alone_and_in_any_batch(model, tokenizer, shots):
    together = classify(model, tokenizer, TEXTS, shots=shots)
    assert len({len(ids) for ids in tokenizer(TEXTS)["input_ids"]}) > 3
    for batch_size in (1, len(NAMES), 2 * len(NAMES)):
        result = classify(model, tokenizer, TEXTS, batch_size=batch_size, shots=shots)
        np.testing.assert_allclose(result.scores, together.scores, atol=1e-4)
    alone = [classify(model, tokenizer, [text], shots=shots).scores[0] for text in TEXTS]
    np.testing.assert_allclose(alone, together.scores, atol=1e-4)


def test_examples_stand_in_front_as_the_filled_template(model, tokenizer):
    result = classify(model, tokenizer, ["lunch at noon?"], shots=2, seed=1)
    assert result.shots == [2]
    prompt = LabelPrompt(tokenizer, NAMES, LikelihoodOptions().template, context_length=CONTEXT)
    drawn = [tokenizer.decode(ids) for ids in draw_examples(prompt, EXAMPLES, EXAMPLE_LABELS, shots=2, seed=1)]
    in_front = "".join(drawn)
    assert sorted(text.split("Label: ")[1] for text in drawn) == ["ham\n", "spam\n"]
    assert all(text.split("\n")[0] in EXAMPLES for text in drawn)
    expected = [by_hand(model, tokenizer, f"{in_front}lunch at noon?\nLabel:", f" {name}\n")[0] for name in NAMES]
    np.testing.assert_allclose(result.scores[0], expected, rtol=1e-4)


def test_normalising_divides_by_the_labels_tokens_and_calibrating_subtracts_the_head_start(model, tokenizer):
    text = "call now"
    tokens = [by_hand(model, tokenizer, f"{text}\nLabel:", f" {name}\n")[1] for name in NAMES]
    assert len(set(tokens)) > 1
    plain = classify(model, tokenizer, [text, ""]).scores
    normalised = classify(model, tokenizer, [text, ""], length_normalised=True).scores
    np.testing.assert_allclose(normalised, plain / tokens, rtol=1e-4)
    calibrated = classify(model, tokenizer, [text, ""], calibrated=True)
    np.testing.assert_allclose(calibrated.scores[0], plain[0] - plain[1], atol=1e-4)
    np.testing.assert_allclose(calibrated.probabilities[1], 1 / 3, atol=1e-5)
    both = classify(model, tokenizer, [text], calibrated=True, length_normalised=True).scores
    np.testing.assert_allclose(both[0], (plain[0] - plain[1]) / tokens, atol=1e-4)


def test_calibration_uses_the_examples_that_stood_in_front(model, tokenizer):
    # The long text leaves room for fewer examples than the empty one, and each number has its own head start.
    texts = ["", "call now for a free prize " * 6]
    result = classify(model, tokenizer, texts, shots=4, calibrated=True)
    assert result.shots[0] == 4 > result.shots[1] > 0
    plain = classify(model, tokenizer, texts, shots=4).scores
    np.testing.assert_allclose(result.scores[0], 0, atol=1e-4)
    fewer = classify(model, tokenizer, [""], shots=result.shots[1])
    # While all are short, the drawn order does not depend on how many were requested.
    np.testing.assert_allclose(result.scores[1], plain[1] - fewer.scores[0], atol=1e-4)


def test_a_long_text_loses_its_end_and_nothing_else(model, tokenizer):
    long = "call now for a free prize " * 100
    result = classify(model, tokenizer, [long, "short"])
    assert result.texts_cut == 1
    prompt = LabelPrompt(tokenizer, NAMES, LikelihoodOptions().template, context_length=CONTEXT)
    text = prompt.encode([long])[0]
    context, is_cut = prompt.context([], text)
    longest = max(map(len, prompt.labels))
    assert is_cut
    assert len(context) + longest == CONTEXT
    assert context == [tokenizer.eos_token_id, *text[: len(context) - 1 - len(prompt.between)], *prompt.between]
    kept = tokenizer.decode(context[1 : -len(prompt.between)])
    assert long.startswith(kept)
    expected = [by_hand(model, tokenizer, f"{kept}\nLabel:", f" {name}\n")[0] for name in NAMES]
    np.testing.assert_allclose(result.scores[0], expected, rtol=1e-4)


def test_texts_and_examples_are_cut_to_max_length(model, tokenizer):
    shorter = [tokenizer.decode(ids[:2]) for ids in encode_texts(tokenizer, TEXTS)]
    assert shorter != TEXTS
    found = classify(model, tokenizer, TEXTS, max_length=2)
    np.testing.assert_allclose(found.scores, classify(model, tokenizer, shorter).scores, rtol=1e-5)
    assert found.texts_cut == sum(len(ids) > 2 for ids in encode_texts(tokenizer, TEXTS))


def test_nothing_in_a_text_or_label_is_a_special_token(tokenizer):
    prompt = LabelPrompt(tokenizer, ["<|im_end|>", "b<|endoftext|>"], "{text}<|im_start|> {label}\n", context_length=CONTEXT)
    context, _ = prompt.context([], prompt.encode(["a<|endoftext|><|pad|>b"])[0])
    assert context[0] == tokenizer.eos_token_id
    assert not set(context[1:]) & set(tokenizer.all_special_ids)
    assert not {token for label in prompt.labels for token in label} & set(tokenizer.all_special_ids)
    assert tokenizer.decode(context[1:]) == "a<|endoftext|><|pad|>b<|im_start|>"
    assert [tokenizer.decode(label) for label in prompt.labels] == [" <|im_end|>\n", " b<|endoftext|>\n"]


def test_examples_are_balanced_seeded_and_short_ones_come_first(tokenizer):
    prompt = LabelPrompt(tokenizer, NAMES, LikelihoodOptions().template, context_length=CONTEXT)
    texts = [*EXAMPLES, "free prize " * 50]
    labels = [*EXAMPLE_LABELS, 2]

    def drawn(**settings):
        ids = draw_examples(prompt, texts, labels, **settings)
        return [tokenizer.decode(example).rstrip().split("\nLabel: ") for example in ids]

    for seed in range(5):
        four = drawn(shots=4, seed=seed)
        assert len({text for text, _ in four}) == 4
        counts = [sum(label == name for _, label in four) for name in ("ham", "spam")]
        assert max(counts) - min(counts) <= 1
    assert drawn(shots=4, seed=0) == drawn(shots=4, seed=0)
    assert any(drawn(shots=4, seed=0) != drawn(shots=4, seed=seed) for seed in range(1, 5))
    long_first = draw_examples(prompt, ["free prize " * 50, "lunch"], [0, 0], shots=1, seed=0)
    assert tokenizer.decode(long_first[0]).startswith("lunch")
    assert len(drawn(shots=100, seed=0)) == len(texts)


def test_a_sentencepiece_tokenizer_gives_labels_the_tokens_that_they_have_in_a_text():
    from tokenizers import Tokenizer, decoders, models, normalizers

    # The normalizer and the decoder of Llama 2.
    words = ["▁", "▁ham", "▁spam", "Label", ":", "\n", "h", "a", "m", "s", "p", "L", "b", "e", "l", "x", "▁x"]
    merges = [("▁", "h"), ("▁h", "a"), ("▁ha", "m"), ("▁", "s"), ("▁s", "p"), ("▁sp", "a"), ("▁spa", "m"), ("L", "a"), ("La", "b"),
              ("Lab", "e"), ("Labe", "l"), ("▁", "x")]  # fmt: skip
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*words, *(a + b for a, b in merges)]))}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Replace("▁", " ")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    prompt = LabelPrompt(tokenizer, ["ham", "spam"], "{text}\nLabel: {label}\n", context_length=30)
    assert tokenizer.convert_ids_to_tokens(prompt.labels[0]) == ["▁ham", "\n"]
    whole = tokenizer.convert_ids_to_tokens(tokenizer("x\nLabel: spam\n")["input_ids"])
    assert tokenizer.convert_ids_to_tokens(prompt.labels[1]) == whole[-2:]
    assert prompt.start == []  # it has no separator


def test_a_model_that_learned_the_labels_gives_them_without_a_classifiers_head(tokenizer):
    model = tiny_model("modern", tokenizer)
    rows = [f"{text}\nLabel: {NAMES[label]}\n" for text, label in zip(EXAMPLES, EXAMPLE_LABELS, strict=True)]
    batch = tokenizer(rows, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.train()
    unseen = [f"free prize number {number}" for number in (41, 57, 72)] + [f"lunch number {number}" for number in (45, 52, 73)]
    predicted = classify(model, tokenizer, unseen).probabilities.argmax(axis=1)
    assert predicted.tolist() == [1, 1, 1, 0, 0, 0]
    assert model.training, "the mode is as before"


def test_an_adapter_is_read_like_its_merged_model(tokenizer):
    peft = pytest.importorskip("peft")
    model = tiny_model("gpt2", tokenizer)
    plain = classify(model, tokenizer, TEXTS).scores
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", init_lora_weights=False, fan_in_fan_out=True)
    )
    scores = classify(adapted, tokenizer, TEXTS).scores
    assert np.abs(scores - plain).max() > 0.01
    np.testing.assert_allclose(classify(adapted.merge_and_unload(), tokenizer, TEXTS).scores, scores, atol=1e-3)


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["os", "os path"], dict(template="{text} is {label}"), "'os' is a prefix of 'os path'"),
        (["ham"], {}, "at least two"),
        (["ham", "ham"], {}, "the same tokens"),
        (["", "ham"], dict(template="{text}:{label}"), "has no tokens"),
        (NAMES, dict(template="x" * 100 + "{text}{label}\n"), "tokens for a text"),
        (NAMES, dict(shots=1), "no examples to draw from"),
    ],
)
def test_labels_that_cannot_be_told_apart_and_prompts_that_do_not_fit_are_refused(tokenizer, names, options, said):
    model = tiny_model("gpt2", tokenizer)
    with pytest.raises(ValueError, match=said):
        classify_by_likelihood(model, tokenizer, ["x"], names=names, options=LikelihoodOptions(**options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(template="{text}"), "needs {text} and then {label}"),
        (dict(template="{label} {text}"), "needs {text} and then {label}"),
        (dict(template="{text} {label} {label}"), "once each"),
        (dict(template="{text} {label}", shots=2), "ends an example"),
        (dict(shots=-1), "shots is -1"),
        (dict(batch_size=0), "batch_size 0"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        LikelihoodOptions(**options)


def test_a_beginning_of_another_label_is_told_apart_by_what_ends_it(tokenizer):
    model = tiny_model("gpt2", tokenizer)
    scores = classify(model, tokenizer, TEXTS, names=["ham", "ham and eggs"]).scores
    assert (scores[:, 0] != scores[:, 1]).all()
    classify(model, tokenizer, TEXTS, names=["ham", "ham and eggs"], template="{text}: {label}", length_normalised=True)


def test_no_texts_make_no_rows(tokenizer):
    assert classify(tiny_model("gpt2", tokenizer), tokenizer, []).probabilities.shape == (0, 3)
