import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hfgpt.chat_templates import CHAT_STYLES, ChatStyle, set_prompt_style, stop_token_ids, style_of, style_token_ids
from hfgpt.tokenization import CHAT_TOKENS, PAD, SEPARATOR, ensure_pad_token, load_tokenizer

CONVERSATION = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "Of Italy?"},
]


@pytest.fixture
def tokenizer(small_tokenizer):
    return load_tokenizer(small_tokenizer)


@pytest.fixture
def bare_tokenizer():
    """Like the published GPT-2 tokenizer: one special token, no padding token, no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=[SEPARATOR], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat and the rat on the hat"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        unk_token=SEPARATOR,
        clean_up_tokenization_spaces=False,
    )


def render(tokenizer, messages, **settings):
    return tokenizer.apply_chat_template(messages, tokenize=False, **settings)


def test_the_chat_style_is_chatml_after_the_separator(tokenizer):
    assert set_prompt_style(tokenizer, "chat") == []
    expected = (
        "<|endoftext|><|im_start|>system\nAnswer in one word.<|im_end|>\n<|im_start|>user\nCapital of France?<|im_end|>\n"
        "<|im_start|>assistant\nParis.<|im_end|>\n<|im_start|>user\nOf Italy?<|im_end|>\n"
    )
    assert render(tokenizer, CONVERSATION) == expected
    assert render(tokenizer, CONVERSATION, add_generation_prompt=True) == expected + "<|im_start|>assistant\n"
    tokenizer.bos_token = None
    assert render(tokenizer, CONVERSATION) == expected.removeprefix("<|endoftext|>")


def test_the_alpaca_style_is_the_books_text(tokenizer):
    """Source: Raschka (2024), section 7.2, figure 7.4 and listing 7.2."""
    set_prompt_style(tokenizer, "alpaca")
    instruction = "Edit the following sentence for grammar.\n\n### Input:\nHe go to the park every day."
    messages = [{"role": "user", "content": instruction}, {"role": "assistant", "content": "He goes to the park every day."}]
    prompt = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nEdit the following sentence for grammar."
        "\n\n### Input:\nHe go to the park every day."
        "\n\n### Response:\n"
    )
    assert render(tokenizer, messages[:1], add_generation_prompt=True) == prompt
    assert render(tokenizer, messages) == prompt + "He goes to the park every day.<|endoftext|>"


def test_in_the_alpaca_style_a_system_message_takes_the_preambles_place_and_turns_chain(tokenizer):
    set_prompt_style(tokenizer, "alpaca")
    assert render(tokenizer, CONVERSATION, add_generation_prompt=True) == (
        "Answer in one word.\n\n### Instruction:\nCapital of France?\n\n### Response:\nParis.<|endoftext|>"
        "\n\n### Instruction:\nOf Italy?\n\n### Response:\n"
    )
    with pytest.raises(Exception, match="misplaced role system"):
        render(tokenizer, [*CONVERSATION, CONVERSATION[0]])


@pytest.mark.parametrize("style", ["chat", "alpaca"])
def test_transformers_own_mask_covers_the_answer_and_its_end(tokenizer, style):
    set_prompt_style(tokenizer, style)
    messages = [*CONVERSATION, {"role": "assistant", "content": "Rome."}]
    encoded = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True)
    answers = [id for id, of_assistant in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if of_assistant]
    end = "<|im_end|>" if style == "chat" else "<|endoftext|>"
    assert tokenizer.decode(answers) == f"Paris.{end}Rome.{end}"


@pytest.mark.parametrize("style", ["chat", "alpaca"])
def test_a_style_is_saved_with_the_tokenizer(bare_tokenizer, style, tmp_path):
    set_prompt_style(bare_tokenizer, style)
    ensure_pad_token(bare_tokenizer)
    bare_tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.chat_template == bare_tokenizer.chat_template
    assert again.pad_token == PAD
    for prompt in (True, False):
        ids = again.apply_chat_template(CONVERSATION, add_generation_prompt=prompt)["input_ids"]
        assert ids == bare_tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=prompt)["input_ids"]
    assert stop_token_ids(again) == stop_token_ids(bare_tokenizer)


def test_chat_tokens_are_added_where_they_are_missing_and_named(bare_tokenizer):
    size = len(bare_tokenizer)
    assert set_prompt_style(bare_tokenizer, "alpaca") == []
    new = set_prompt_style(bare_tokenizer, "chat")
    assert new == [size, size + 1] == bare_tokenizer.convert_tokens_to_ids(list(CHAT_TOKENS))
    assert set(new) < set(bare_tokenizer.all_special_ids)
    assert bare_tokenizer.decode(bare_tokenizer.apply_chat_template(CONVERSATION)["input_ids"], skip_special_tokens=True) == (
        "system\nAnswer in one word.\nuser\nCapital of France?\nassistant\nParis.\nuser\nOf Italy?\n"
    )
    assert set_prompt_style(bare_tokenizer, "chat") == []


def test_special_tokens_that_are_there_stay_special(bare_tokenizer):
    bare_tokenizer.add_special_tokens({"extra_special_tokens": ["<|call|>"]})
    new = [*set_prompt_style(bare_tokenizer, "chat"), *ensure_pad_token(bare_tokenizer)]
    assert len(new) == 3
    assert set(bare_tokenizer.all_special_tokens) == {SEPARATOR, "<|call|>", PAD, *CHAT_TOKENS}


def test_a_padding_of_its_own_is_given_where_there_is_none_or_it_ends_texts(bare_tokenizer, tokenizer):
    assert ensure_pad_token(tokenizer) == []
    bare_tokenizer.pad_token = bare_tokenizer.eos_token
    size = len(bare_tokenizer)
    assert ensure_pad_token(bare_tokenizer) == [size]
    assert bare_tokenizer.pad_token_id == size
    assert bare_tokenizer.pad_token_id != bare_tokenizer.eos_token_id
    assert ensure_pad_token(bare_tokenizer) == []
    # a padding token that is already in the vocabulary adds no row
    tokenizer.pad_token = tokenizer.eos_token
    assert ensure_pad_token(tokenizer) == []
    assert tokenizer.pad_token == PAD


def test_stop_tokens_are_what_the_template_ends_an_answer_with(tokenizer):
    set_prompt_style(tokenizer, "chat")
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == ["<|im_end|>", "<|endoftext|>"]
    set_prompt_style(tokenizer, "alpaca")
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == ["<|endoftext|>"]
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    with pytest.raises(ValueError, match="would never learn to stop"):
        stop_token_ids(tokenizer)


@pytest.mark.parametrize("style", [name for name, style in CHAT_STYLES.items() if style.template])
def test_the_stop_token_of_an_entry_is_what_its_template_ends_an_answer_with(tokenizer, style):
    set_prompt_style(tokenizer, style)
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)[0]) == (CHAT_STYLES[style].stop_token or SEPARATOR)


def test_the_base_style_keeps_the_template_that_is_there(tokenizer):
    assert list(CHAT_STYLES) == ["chat", "alpaca", "base"]
    own = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{{ eos_token }}{% endfor %}"
    tokenizer.chat_template = own
    assert set_prompt_style(tokenizer, "base") == []
    assert tokenizer.chat_template == own
    assert style_of(tokenizer) == "base"
    assert stop_token_ids(tokenizer) == [tokenizer.eos_token_id]


def test_styles_that_cannot_be_had_are_refused_with_a_cure(bare_tokenizer):
    with pytest.raises(ValueError, match="'base', but .* has no chat template; choose 'chat' or 'alpaca'"):
        set_prompt_style(bare_tokenizer, "base")
    with pytest.raises(ValueError, match="the prompt style is 'chatml'; allowed: chat, alpaca, base"):
        set_prompt_style(bare_tokenizer, "chatml")
    with pytest.raises(ValueError, match="no chat template; set_prompt_style"):
        stop_token_ids(bare_tokenizer)
    bare_tokenizer.eos_token = None
    with pytest.raises(ValueError, match="'alpaca', but the tokenizer has no eos_token"):
        set_prompt_style(bare_tokenizer, "alpaca")


def test_a_style_from_outside_is_one_entry(tokenizer, monkeypatch):
    template = (
        "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|stop|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokens = ("<|user|>", "<|assistant|>", "<|stop|>")
    style = ChatStyle(template, special_tokens=tokens, stop_token="<|stop|>", instruction_with_input="{instruction} ({input})")
    monkeypatch.setitem(CHAT_STYLES, "toy", style)
    assert len(set_prompt_style(tokenizer, "toy")) == 3
    assert style_of(tokenizer) == "toy"
    assert tokenizer.convert_ids_to_tokens(style_token_ids(tokenizer, "toy")) == list(tokens)
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == ["<|stop|>", SEPARATOR]
    assert style.user_message("Add {these}.", "2, 2") == "Add {these}. (2, 2)"
    assert style.user_message("Add {these}.", "") == "Add {these}."
