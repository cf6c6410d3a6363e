"""An adapter is merged into the weights without changing the logits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from twins import book_model, modern_model, randomized

from hfgpt import HfGptForCausalLM, HfGptForSequenceClassification
from hfgpt.conversion.adapters import merge_adapter
from hfgpt.conversion.weights_out import twin_of
from hfgpt.data.passport import Passport
from hfgpt.fingerprint import weights_sha256

peft = pytest.importorskip("peft", reason="needs PEFT, an extra")
MATRICES = ["q_proj", "v_proj", "up_proj"]


def adapted(model, **settings):
    """The model with an unmerged adapter that changes every targeted matrix."""
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": MATRICES, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    torch.manual_seed(3)
    return peft.get_peft_model(model, peft.LoraConfig(**defaults | settings)).eval()


def rows():
    return torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("make", [book_model, modern_model])
def test_merged_equals_unmerged_and_is_not_the_base(make, tmp_path):
    beside = adapted(make())
    beside.save_pretrained(tmp_path)
    merged, difference = merge_adapter(make(), tmp_path)
    assert type(merged) is HfGptForCausalLM
    assert not any(module.training for module in merged.modules())
    assert 0 < difference < 1e-5
    with torch.no_grad():
        base, expected, found = (model(rows()).logits for model in (make(), beside, merged))
    assert (found - expected).abs().max() < 1e-5
    assert (found - base).abs().max() > 0.1  # the adapter does something
    assert not any("lora" in name for name in merged.state_dict())
    with torch.no_grad():
        assert (twin_of(merged)(rows()).logits - expected).abs().max() < 1e-5


@pytest.mark.parametrize("with_config", [True, False])
def test_a_classifiers_adapter_brings_head_and_labels_to_the_language_model(with_config, tmp_path):
    base = modern_model(pad_token_id=3)
    base.save_pretrained(tmp_path / "base")
    labels = {0: "ham", 1: "spam", 2: "other"}
    classifier = HfGptForSequenceClassification.from_pretrained(tmp_path / "base", id2label=labels, num_labels=3).eval()
    beside = adapted(classifier, task_type="SEQ_CLS")
    beside.save_pretrained(tmp_path / "adapter")
    if with_config:
        classifier.config.problem_type, classifier.config.max_text_length = "multi_label_classification", 9
        classifier.config.save_pretrained(tmp_path / "adapter")
    merged, difference = merge_adapter(base, tmp_path / "adapter")
    assert difference < 1e-5
    assert merged.config.id2label == (labels if with_config else {number: f"LABEL_{number}" for number in range(3)})
    if with_config:
        assert (merged.config.problem_type, merged.config.max_text_length) == ("multi_label_classification", 9)
    ids = torch.tensor([[3, 3, 5, 9, 11], [8, 7, 6, 3, 3]])
    with torch.no_grad():
        expected, found = (model(ids, attention_mask=(ids != 3).long()).logits for model in (beside, merged))
        twins = twin_of(merged)(ids, attention_mask=(ids != 3).long()).logits
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < 1e-5
    assert (twins - expected).abs().max() < 1e-5


def test_a_half_precision_model_is_not_merged(tmp_path):
    adapted(book_model()).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="the model is torch.bfloat16; adapters are merged in float32"):
        merge_adapter(book_model().to(torch.bfloat16), tmp_path)


def test_an_adapter_knows_its_base_by_a_hash_that_the_layout_belongs_to(tmp_path):
    adapted(book_model()).save_pretrained(tmp_path)
    own = weights_sha256(book_model())
    Passport(base={"name": "mine", "class": "HfGptForCausalLM", "sha256": own}).save(tmp_path)
    assert merge_adapter(book_model(), tmp_path)[1] < 1e-5
    other = randomized(book_model())
    with pytest.raises(ValueError, match=f"'mine', whose weights have the SHA-256 {own}; those .* have {weights_sha256(other)}"):
        merge_adapter(other, tmp_path)
    # The same weights have another hash in another layout, so this hash proves nothing.
    Passport(base={"name": "mine", "class": "GPT2LMHeadModel", "sha256": "0" * 64}).save(tmp_path)
    assert merge_adapter(book_model(), tmp_path)[1] < 1e-5


def test_why_merging_in_half_precision_is_refused():
    """Rounding the merged weights alone gives an error thousands of times that of float32."""
    beside = adapted(book_model())
    with torch.no_grad():
        expected = beside(rows()).logits
        rounded = beside.merge_and_unload().to(torch.bfloat16).float()(rows()).logits
    assert (rounded - expected).abs().max() > 1e-3


def test_every_lost_unexpected_and_misshapen_tensor_is_named(tmp_path):
    adapted(book_model()).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    start = "base_model.model.model.layers"
    del tensors[f"{start}.1.self_attn.q_proj.lora_A.weight"], tensors[f"{start}.2.mlp.up_proj.lora_B.weight"]
    tensors[f"{start}.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 48)
    tensors[f"{start}.0.self_attn.v_proj.lora_A.weight"] = torch.zeros(2, 48)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="does not match HfGptForCausalLM and its adapter_config.json") as refusal:
        merge_adapter(book_model(), tmp_path)
    for words in (
        f"{start}.1.self_attn.q_proj.lora_A.weight",
        f"{start}.2.mlp.up_proj.lora_B.weight",
        f"unexpected: {start}.7.self_attn.q_proj.lora_A.weight",
        f"{start}.0.self_attn.v_proj.lora_A.weight has the shape (2, 48), but must have (4, 48)",
    ):
        assert words in str(refusal.value)


def test_an_adapter_of_another_model_or_kind(tmp_path):
    adapted(book_model()).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    with pytest.raises(ValueError, match="lora_A.weight has the shape"):
        merge_adapter(book_model(hidden_size=64), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": ["c_attn"]}))
    with pytest.raises(ValueError, match="does not fit: Target modules .*c_attn.* not found"):
        merge_adapter(book_model(), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(ValueError, match="peft_type is 'PREFIX_TUNING'; only LORA can be merged"):
        merge_adapter(book_model(), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        merge_adapter(book_model(), tmp_path)


@pytest.mark.parametrize("make", [book_model, modern_model])
def test_trained_rows_of_the_vocabulary_are_merged_into_head_and_embedding(make, tmp_path):
    beside = adapted(make(), trainable_token_indices={"embed_tokens": [2, 5]})
    rows_of = [parameter for name, parameter in beside.named_parameters() if "trainable_tokens_delta" in name]
    assert len(rows_of) == 1  # one matrix
    torch.nn.init.normal_(rows_of[0].data, std=0.5)
    beside.save_pretrained(tmp_path, save_embedding_layers=False)
    merged, difference = merge_adapter(make(), tmp_path)
    assert difference < 1e-5
    with torch.no_grad():
        assert (merged(rows()).logits - beside(rows()).logits).abs().max() < 1e-5
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    changed = (merged.model.embed_tokens.weight != make().model.embed_tokens.weight).any(dim=1)
    assert changed.nonzero()[:, 0].tolist() == [2, 5]


@pytest.mark.parametrize("settings", [{"target_modules": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_that_would_part_head_and_embedding(settings, tmp_path):
    adapted(book_model(), **settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="head and embedding are one matrix"):
        merge_adapter(book_model(), tmp_path)
