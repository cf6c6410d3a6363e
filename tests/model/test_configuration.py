import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

from hfgpt import HfGptConfig, HfGptForCausalLM


# Source: the parameter counts of OpenAI's released checkpoints (head tied, mask buffers not counted).
@pytest.mark.parametrize(
    ("size", "published"), [("124M", 124_439_808), ("355M", 354_823_168), ("774M", 774_030_080), ("1558M", 1_557_611_200)]
)
def test_gpt2_presets_have_the_published_parameter_counts(size, published):
    import torch

    with torch.device("meta"):
        model = HfGptForCausalLM(HfGptConfig.gpt2(size))
    assert model.num_parameters() == published


def test_an_unpublished_gpt2_size_is_refused_with_the_published_ones():
    with pytest.raises(ValueError, match="'117M' is not a published GPT-2 size; choose one of 124M, 355M, 774M, 1558M"):
        HfGptConfig.gpt2("117M")


@pytest.mark.parametrize(
    ("depth", "width", "heads", "kv_heads", "intermediate"),
    [(1, 128, 2, 1, 384), (4, 256, 4, 2, 704), (7, 512, 8, 4, 1408), (12, 768, 12, 6, 2048)],
)
def test_one_dial_picks_the_modern_shape(depth, width, heads, kv_heads, intermediate):
    config = HfGptConfig.modern(depth)
    assert (config.num_hidden_layers, config.hidden_size) == (depth, width)
    assert (config.num_attention_heads, config.num_key_value_heads) == (heads, kv_heads)
    assert config.head_dim == 64
    assert config.intermediate_size == intermediate
    assert config.rope_parameters["rope_type"] == "default"


def test_a_depth_of_zero_is_refused():
    with pytest.raises(ValueError, match="depth is 0"):
        HfGptConfig.modern(0)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(hidden_size=100, num_attention_heads=12), r"hidden_size 100 is not divisible by num_attention_heads 12"),
        (dict(num_attention_heads=12, num_key_value_heads=5), r"num_attention_heads 12 is not divisible by num_key_value_heads 5"),
        (dict(position_embedding_type="rotary", hidden_size=36, num_attention_heads=4), r"head_dim 9 .* is odd"),
        (dict(position_embedding_type="alibi"), r"position_embedding_type is 'alibi'; allowed: 'learned' and 'rotary'"),
        (dict(residual_dropout=1.5), r"residual_dropout is 1.5"),
        (dict(vocab_size=0), r"vocab_size is 0"),
    ],
)
def test_contradictions_name_both_numbers(fields, sentence):
    with pytest.raises(StrictDataclassClassValidationError, match=sentence):
        HfGptConfig(**fields)


def test_a_field_of_the_wrong_type_is_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match="Field 'hidden_size' expected int, got str"):
        HfGptConfig(hidden_size="wide")


def test_a_config_survives_the_round_trip_through_json(tmp_path):
    for config in (HfGptConfig.gpt2("124M"), HfGptConfig.modern(3, vocab_size=300, pad_token_id=1)):
        config.save_pretrained(tmp_path)
        assert HfGptConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_every_entry_of_the_tensor_parallel_plan_names_a_module():
    import re

    import torch

    for config in (HfGptConfig.gpt2("124M"), HfGptConfig.modern(2), HfGptConfig.modern(2, qk_norm=False)):
        with torch.device("meta"):
            names = [name for name, _ in HfGptForCausalLM(config).model.named_modules()]
        assert config.base_model_tp_plan
        for pattern in config.base_model_tp_plan:
            expression = re.escape(pattern).replace(r"\*", r"\d+")
            assert any(re.fullmatch(expression, name) for name in names), pattern
