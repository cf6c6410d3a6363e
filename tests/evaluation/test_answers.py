import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, set_seed

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.evaluation.answer_rows import AnswerRow
from hfgpt.evaluation.answers import Answer, answer_rows, answers_report, generate_answers
from hfgpt.tokenization import encode_texts, load_tokenizer

CONTEXT = 48


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return load_tokenizer(small_tokenizer)


def make(kind: str, vocab_size: int):
    """An untrained model with large weights, so that its output depends on its whole input."""
    set_seed(3)
    shape = dict(vocab_size=vocab_size, bos_token_id=0, eos_token_id=0, pad_token_id=1, initializer_range=0.3)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=CONTEXT, **shape)).eval()
    shape |= dict(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, max_position_embeddings=CONTEXT)
    if kind == "modern":
        modern = dict(num_key_value_heads=1, head_dim=16, intermediate_size=64, tie_word_embeddings=True)
        return HfGptForCausalLM(HfGptConfig.modern(2, **shape, **modern)).eval()
    model = HfGptForCausalLM(HfGptConfig.gpt2("124M", **shape)).eval()
    if kind == "adapter":
        peft = pytest.importorskip("peft", reason="adapters need the package peft")
        model = peft.get_peft_model(
            model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
        )
    return model.eval()


@pytest.fixture(params=["book", "modern", "gpt2", "adapter"])
def model(request, tokenizer):
    return make(request.param, len(tokenizer))


@pytest.fixture(scope="module")
def prompts(tokenizer):
    texts = ["os.path", "", "Return a list of the names in the directory.", "a", "What does this do, and why?", "class"]
    return [[tokenizer.eos_token_id, *ids] for ids in encode_texts(tokenizer, texts)]


def test_answers_of_a_batch_are_those_of_single_prompts_in_the_order_of_the_prompts(model, tokenizer, prompts):
    settings = dict(max_new_tokens=12, stop_token_ids=[0])
    assert len({len(prompt) for prompt in prompts}) > 3
    single = [generate_answers(model, tokenizer, [prompt], **settings)[0] for prompt in prompts]
    assert generate_answers(model, tokenizer, prompts, batch_size=3, **settings) == single
    assert generate_answers(model, tokenizer, prompts, batch_size=99, **settings) == single
    assert len({answer.text for answer in single}) > 3
    # And they are what generate returns for the prompt alone, without padding or mask.
    ids = model.generate(input_ids=torch.tensor([prompts[2]]), max_new_tokens=12, do_sample=False, eos_token_id=0, pad_token_id=1)
    assert single[2].token_ids == tuple(ids[0, len(prompts[2]) :].tolist())


def test_an_answer_ends_at_the_first_stop_token_and_says_so(model, tokenizer, prompts):
    free = generate_answers(model, tokenizer, prompts, max_new_tokens=12, stop_token_ids=[0])
    # The stop tokens are chosen so that some answers stop early in a batch in which others continue.
    stops = [free[0].token_ids[4], free[1].token_ids[7]]
    answers = generate_answers(model, tokenizer, prompts, max_new_tokens=12, stop_token_ids=stops)
    for before, after in zip(free, answers):
        end = next((place for place, token in enumerate(before.token_ids) if token in stops), None)
        assert after.stopped == (end is not None)
        assert after.token_ids == (before.token_ids if end is None else before.token_ids[: end + 1])
        assert after.num_tokens == len(after.token_ids) - after.stopped
        assert after.text == tokenizer.decode(after.token_ids[: after.num_tokens], skip_special_tokens=True)
        assert not after.cut
    assert answers[0].stopped
    assert answers[0].num_tokens <= 4


def test_special_tokens_are_not_in_the_text(tokenizer):
    """A head that alternates between a chat token and the letter "a"."""
    model = make("book", len(tokenizer))
    letter, chat = encode_texts(tokenizer, ["a"])[0][0], tokenizer.convert_tokens_to_ids("<|im_start|>")
    said = []

    def say(module, inputs, logits):
        said.append(letter if len(said) % 2 else chat)
        return torch.full_like(logits, -100.0).index_fill(-1, torch.tensor([said[-1]]), 100.0)

    with_hook = model.lm_head.register_forward_hook(say)
    answer = generate_answers(model, tokenizer, [[0, 5]], max_new_tokens=6, stop_token_ids=[0])[0]
    with_hook.remove()
    assert answer.token_ids == (chat, letter) * 3
    assert answer.text == "aaa"


def test_the_context_ends_an_answer_and_never_cuts_a_prompt(model, tokenizer, prompts):
    def of_length(length: int) -> list[int]:
        return [0, *range(5, 4 + length)]

    lengths = [CONTEXT - 3, 5, CONTEXT, CONTEXT - 10, CONTEXT - 3, CONTEXT + 9]
    answers = generate_answers(model, tokenizer, [of_length(length) for length in lengths], max_new_tokens=10, stop_token_ids=[2])
    assert [len(answer.token_ids) for answer in answers] == [3, 10, 0, 10, 3, 0]
    assert [answer.cut for answer in answers] == [True, False, True, False, True, True]
    assert answers[1] == generate_answers(model, tokenizer, [of_length(5)], max_new_tokens=10, stop_token_ids=[2])[0]
    # An answer that ends within the available room is complete.
    stop = answers[0].token_ids[1]
    whole = generate_answers(model, tokenizer, [of_length(CONTEXT - 3)], max_new_tokens=10, stop_token_ids=[stop])[0]
    assert whole.stopped
    assert not whole.cut


def test_modes_cache_and_random_state_stay_as_they_were(tokenizer, prompts):
    model = make("adapter", len(tokenizer))
    model.train()
    frozen = model.base_model.model.model.layers[0]
    frozen.eval()
    model.config.use_cache = False
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sampled = dict(max_new_tokens=8, stop_token_ids=[0], do_sample=True, temperature=2.0, top_k=0)
    texts = [generate_answers(model, tokenizer, prompts, seed=seed, **sampled) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
    assert model.config.use_cache is False
    assert model(torch.tensor([prompts[0]])).logits.requires_grad


def test_sampling_settings_of_the_model_itself_do_not_make_greedy_answers_random(tokenizer, prompts):
    model = make("gpt2", len(tokenizer))
    settings = dict(max_new_tokens=8, stop_token_ids=[0])
    plain = generate_answers(model, tokenizer, prompts, **settings)
    model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=5.0, max_length=4)
    assert generate_answers(model, tokenizer, prompts, **settings) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(prompts=[[0], []]), r"prompts\[1\] is empty"),
        (dict(stop_token_ids=[]), "stop_token_ids is empty"),
        (dict(max_new_tokens=0), "max_new_tokens is 0; it must be at least 1"),
        (dict(batch_size=0), "batch_size is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_answered_is_refused(tokenizer, change, message):
    arguments = dict(prompts=[[0]], max_new_tokens=2, stop_token_ids=[0]) | change
    with pytest.raises(ValueError, match=message):
        generate_answers(make("book", len(tokenizer)), tokenizer, **arguments)


def test_no_prompts_have_no_answers(tokenizer):
    assert generate_answers(make("book", len(tokenizer)), tokenizer, [], max_new_tokens=2, stop_token_ids=[0]) == []


ANSWERS = [
    Answer("The cat sat.", (7, 8, 9, 0), 3, stopped=True, cut=False),
    Answer("A dog ran away", (7, 8, 9, 4, 4), 5, stopped=False, cut=True),
]


def test_the_report_scores_the_texts_and_counts_how_they_ended():
    report = answers_report(ANSWERS, ["the cat sat", "the dog ran"])
    assert report["exact_match"] == 0.5
    # The article is left out: "dog ran away" against "dog ran".
    assert report["token_f1"] == pytest.approx((1 + 2 * 2 / 5) / 2)
    assert 0.5 < report["rougeL"] < 1
    assert (report["stopped"], report["cut"], report["mean_tokens"], report["num_examples"]) == (0.5, 1, 4.0, 2)
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        answers_report(ANSWERS, ["one"])


def test_rows_for_the_page_hold_each_answers_scores_and_what_was_cut():
    messages = [[{"role": "user", "content": text}] for text in ("What did the cat do?", "And then?")]
    rows = answer_rows(messages, ["the cat sat", None], {"before": ANSWERS[::-1], "after": ANSWERS})
    assert [type(row) for row in rows] == [AnswerRow, AnswerRow]
    assert rows[0].messages == messages[0]
    assert rows[0].answers == {"before": "A dog ran away", "after": "The cat sat."}
    assert [rows[0].scores[name]["exact_match"] for name in ("before", "after")] == [0.0, 1.0]
    assert rows[0].notes == ["before: this answer was cut at the end of the context"]
    assert (rows[1].reference, rows[1].scores) == (None, {})
    assert rows[1].notes == ["after: this answer was cut at the end of the context"]


def test_no_answers_have_no_report():
    with pytest.raises(ValueError, match="there are no answers to measure"):
        answers_report([], [])
