"""A twin in a native transformers class computes the same; a config without a twin is refused, naming the field."""

import json

import pytest
import torch
from conftest import run_python
from hard_texts import HARD_TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from twins import book_model, modern_model, randomized

from hfgpt import HfGptConfig, HfGptForQuestionAnswering, HfGptForSequenceClassification
from hfgpt.chat_templates import CHAT_STYLES, set_prompt_style
from hfgpt.conversion.weights_in import read_source
from hfgpt.conversion.weights_out import dropped_dropouts, twin_kind, twin_of
from hfgpt.fingerprint import check_equal, logits_of, probe_rows
from hfgpt.tokenization import encode_texts, load_tokenizer


@torch.no_grad()
def difference(ours, theirs) -> float:
    ids = torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(5))
    expected = ours(ids).logits
    assert expected.std() > 0.05
    return (theirs(ids).logits - expected).abs().max().item()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (book_model, "GPT2LMHeadModel"),
        (lambda: randomized(book_model(tie_word_embeddings=False)), "GPT2LMHeadModel"),
        (lambda: book_model(attention_bias=False, mlp_bias=False, hidden_act="gelu"), "GPT2LMHeadModel"),
        (lambda: book_model(intermediate_size=100), "GPT2LMHeadModel"),
        (modern_model, "Qwen3ForCausalLM"),
        (lambda: randomized(modern_model(tie_word_embeddings=False)), "Qwen3ForCausalLM"),
        (lambda: modern_model(attention_bias=True), "Qwen3ForCausalLM"),
        (lambda: modern_model(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}), "Qwen3ForCausalLM"),
        (lambda: modern_model(qk_norm=False, head_dim=8), "LlamaForCausalLM"),
        (lambda: modern_model(qk_norm=False), "LlamaForCausalLM"),  # heads twice as wide as hidden_size / heads
        (lambda: modern_model(qk_norm=False, attention_bias=True, mlp_bias=True, hidden_act="gelu"), "LlamaForCausalLM"),
    ],
)
def test_the_twin_computes_the_same(make, name):
    model = make()
    twin = twin_of(model)
    assert type(twin).__name__ == name
    assert difference(model, twin) < 1e-5
    assert twin.get_output_embeddings().weight.data_ptr() != model.lm_head.weight.data_ptr()
    tied = twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
    assert tied is model.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (lambda: book_model(norm_type="rmsnorm"), ["norm_type is 'rmsnorm', but must be 'layernorm'"]),
        (lambda: book_model(mlp_type="gated"), ["mlp_type is 'gated', but must be 'plain'"]),
        (lambda: book_model(qk_norm=True), ["qk_norm is True, but must be False"]),
        (lambda: book_model(num_key_value_heads=2), ["num_key_value_heads is 2, but must be 4"]),
        (lambda: book_model(head_dim=16), ["head_dim is 16, but must be 48 / 4"]),
        (lambda: book_model(position_embedding_type="rotary"), ["norm_type is 'layernorm'", "mlp_type is 'plain'"]),
        (lambda: modern_model(mlp_bias=True), ["as Qwen3ForCausalLM", "mlp_bias is True, but must be False"]),
        (lambda: modern_model(norm_type="layernorm", mlp_type="plain"), ["norm_type is 'layernorm'", "mlp_type is 'plain'"]),
        (lambda: modern_model(position_embedding_type="learned"), ["norm_type", "mlp_type", "qk_norm", "num_key_value_heads"]),
        (
            lambda: modern_model(qk_norm=False, num_attention_heads=5, num_key_value_heads=1),
            ["num_attention_heads is 5, but must divide the hidden_size 48"],
        ),
    ],
)
def test_a_config_without_a_twin_is_refused_by_its_fields(make, fields):
    with pytest.raises(ValueError, match="no transformers class computes the same as this model") as refusal:
        twin_of(make())
    for field in fields:
        assert field in str(refusal.value)


def test_a_head_without_a_twin_is_refused():
    with pytest.raises(TypeError, match="got a HfGptForQuestionAnswering"):
        twin_of(HfGptForQuestionAnswering(book_model().config))


def test_the_dropouts_travel_where_they_have_a_place():
    book = HfGptConfig.gpt2("124M", **TINY, embedding_dropout=0.2, residual_dropout=0.3, attention_dropout=0.4)
    modern = HfGptConfig.modern(1, **TINY, embedding_dropout=0.2, attention_dropout=0.4)
    config = twin_of(_model(book)).config
    assert (config.embd_pdrop, config.resid_pdrop, config.attn_pdrop) == (0.2, 0.3, 0.4)
    assert dropped_dropouts(book) == []
    assert twin_of(_model(modern)).config.attention_dropout == 0.4
    assert dropped_dropouts(modern) == ["embedding_dropout"]


TINY = dict(vocab_size=97, hidden_size=48, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=64)


def _model(config, model_class=None):
    from hfgpt import HfGptForCausalLM

    torch.manual_seed(0)
    return randomized((model_class or HfGptForCausalLM)(config))


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama"])
def test_a_classifier_travels_with_its_head_and_labels(family, tmp_path):
    labels = dict(id2label={0: "ham", 1: "spam", 2: "other"}, label2id={"ham": 0, "spam": 1, "other": 2}, pad_token_id=3)
    if family == "gpt2":
        config = HfGptConfig.gpt2("124M", **TINY, **labels)
    else:
        config = HfGptConfig.modern(1, **TINY | {"num_key_value_heads": 2, "qk_norm": family == "qwen3"}, **labels)
    model = _model(config, HfGptForSequenceClassification)
    assert twin_kind(config) == family
    twin_of(model).save_pretrained(tmp_path)
    from transformers import AutoModelForSequenceClassification

    twin = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(twin).__module__.startswith("transformers.models.")
    assert twin.config.id2label == labels["id2label"]
    ids = torch.tensor([[3, 3, 5, 9, 11], [8, 7, 6, 3, 3]])  # padding on either side
    mask = (ids != 3).long()
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        found = twin(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    assert expected.std() > 0.05
    assert (found - expected).abs().max() < 1e-5


def test_out_and_in_again_is_bit_for_bit_the_same(tmp_path):
    model = book_model()
    twin_of(model).save_pretrained(tmp_path)
    again = read_source(str(tmp_path)).model.state_dict()
    ours = model.state_dict()
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)


@pytest.fixture(scope="module")
def saved_twins(small_tokenizer, tmp_path_factory):
    """For each family a model and the folder of its twin, with tokenizer, template and generation settings."""
    tokenizer = load_tokenizer(small_tokenizer)
    set_prompt_style(tokenizer, "chat")
    fields = dict(vocab_size=512, bos_token_id=0, eos_token_id=0, pad_token_id=1)
    saved = {}
    for family in ("gpt2", "qwen3", "llama"):
        model = book_model(**fields) if family == "gpt2" else modern_model(**fields, qk_norm=family == "qwen3")
        model.generation_config = GenerationConfig(
            do_sample=True, temperature=0.7, top_k=9, bos_token_id=0, eos_token_id=0, pad_token_id=1
        )
        folder = tmp_path_factory.mktemp(family)
        twin_of(model).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        saved[family] = model, folder
    return saved


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama"])
def test_a_saved_twin_has_its_tokenizer_template_and_settings(family, small_tokenizer, saved_twins):
    model, folder = saved_twins[family]
    tokenizer = load_tokenizer(small_tokenizer)
    again = AutoTokenizer.from_pretrained(folder)
    assert encode_texts(again, HARD_TEXTS) == encode_texts(tokenizer, HARD_TEXTS)
    assert again(HARD_TEXTS).input_ids == tokenizer(HARD_TEXTS).input_ids
    assert again.chat_template == CHAT_STYLES["chat"].template
    twin = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert (twin.generation_config.temperature, twin.generation_config.top_k) == (0.7, 9)
    assert twin.config.eos_token_id == 0
    assert difference(model, twin) < 1e-5


def test_saved_twins_load_in_a_process_that_has_no_hfgpt_and_allows_no_remote_code(saved_twins, stranger, tmp_path):
    code = (
        "import json, sys, torch; from transformers import AutoModelForCausalLM as A, AutoTokenizer as T\n"
        "for folder in sys.argv[1:]:\n"
        "    m = A.from_pretrained(folder).eval(); t = T.from_pretrained(folder)\n"
        "    ids = torch.tensor([t('os.path ').input_ids])\n"
        "    print(json.dumps([type(m).__module__, m(ids).logits.tolist(), ids.tolist()]))"
    )
    folders = [folder for _, folder in saved_twins.values()]
    done = run_python("-S", "-c", code, *folders, cwd=tmp_path, env={**stranger, "HF_HOME": str(tmp_path / "home")})
    assert done.returncode == 0, done.stderr
    for (family, (model, _)), line in zip(saved_twins.items(), done.stdout.splitlines(), strict=True):
        module, logits, ids = json.loads(line)
        assert module.startswith(f"transformers.models.{family}.")
        with torch.no_grad():
            assert (torch.tensor(logits) - model(torch.tensor(ids)).logits).abs().max() < 1e-5


def test_a_difference_is_noticed():
    first, second = book_model(), book_model()
    rows = probe_rows(first)
    assert check_equal(logits_of(first, rows), logits_of(second, rows), what="a and b") == 0.0
    with torch.no_grad():
        second.model.layers[1].mlp.up_proj.bias[3] += 0.01
    with pytest.raises(ValueError, match="the logits of a and b differ by up to"):
        check_equal(logits_of(first, rows), logits_of(second, rows), what="a and b")
    first.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="differ by up to nan"):
        check_equal(logits_of(first, rows), logits_of(second, rows), what="a and b")
