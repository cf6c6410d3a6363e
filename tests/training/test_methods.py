"""What each method trains, on a model of ours and on one with other names for everything."""

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from twins import book_model, modern_model

from hfgpt import HfGptForSequenceClassification
from hfgpt.arguments.finetuning import ClassificationArguments
from hfgpt.arguments.methods import METHODS, Method, TuningMethod
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.errors import UserError
from hfgpt.training.methods import (
    FrozenWeights,
    apply_method,
    describe_trainable,
    linear_names,
    trainable_parameters,
)

GPT2 = dict(vocab_size=97, n_positions=64, n_embd=32, n_layer=3, n_head=4, pad_token_id=3)


def classifier(kind: str):
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2ForSequenceClassification(GPT2Config(**GPT2, num_labels=3))
    model = book_model(pad_token_id=3) if kind == "book" else modern_model(pad_token_id=3)
    model.config.num_labels = 3
    return HfGptForSequenceClassification(model.config)


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("kind", "last", "norm"),
    [
        ("gpt2", "transformer.h.2.", "transformer.ln_f."),
        ("book", "model.layers.2.", "model.norm."),
        ("modern", "model.layers.2.", "model.norm."),
    ],
)
def test_last_block_is_the_last_block_the_final_norm_and_the_head(kind, last, norm):
    model = classifier(kind)
    names = trained(apply_method(model, Method(name="last_block")))
    assert "score.weight" in names
    assert any(name.startswith(norm) for name in names)
    assert any(name.startswith(last) for name in names)
    assert {name for name in names if not name.startswith((last, norm, "score."))} == set()
    assert len([name for name, _ in model.named_parameters() if name.startswith(last)]) == len(
        [name for name in names if name.startswith(last)]
    )


@pytest.mark.parametrize("kind", ["gpt2", "book", "modern"])
def test_head_trains_the_head_alone_and_full_everything(kind):
    assert trained(apply_method(classifier(kind), Method(name="head"))) == {"score.weight"}
    model = apply_method(classifier(kind), Method(name="full"))
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("kind", ["gpt2", "book", "modern"])
@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True}])
def test_lora_goes_beside_every_matrix_of_the_blocks_and_the_head_is_trained_whole(kind, settings):
    model = classifier(kind)
    linear = linear_names(model)
    adapted = apply_method(model, Method(rank=2, alpha=4, **settings))
    assert isinstance(adapted, peft.PeftModelForSequenceClassification)
    names = trained(adapted)
    assert all("lora_" in name or "score" in name for name in names)
    assert {name for name in names if "score" in name} == {"base_model.model.score.modules_to_save.default.weight"}
    beside = {name.split(".lora_")[0].rpartition(".")[2] for name in names if "lora_A" in name}
    assert beside == set(linear)
    matrices = [
        module.weight.shape
        for name, module in classifier(kind).named_modules()
        if name.rpartition(".")[2] in linear and hasattr(module, "weight")
    ]
    assert len(matrices) == model.config.num_hidden_layers * {"gpt2": 4, "book": 6, "modern": 7}[kind]
    assert len([name for name in names if "lora_A" in name]) == len(matrices)
    # rank x (in + out) for each matrix, plus the head
    expected = sum(2 * sum(shape) for shape in matrices)
    plain = trainable_parameters(adapted)[0] - sum(p.numel() for n, p in adapted.named_parameters() if "magnitude" in n)
    assert plain == expected + 3 * model.config.hidden_size


def test_a_language_models_tied_head_is_its_embedding_and_stays_frozen_with_the_last_block():
    model = GPT2LMHeadModel(GPT2Config(**GPT2))
    names = trained(apply_method(model, Method(name="last_block")))
    assert "transformer.wte.weight" not in names
    assert "transformer.h.2.mlp.c_fc.weight" in names
    with pytest.raises(ValueError, match="method head trains nothing: the head of GPT2LMHeadModel is its embedding"):
        apply_method(GPT2LMHeadModel(GPT2Config(**GPT2)), Method(name="head"))


def train_a_little(model) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    ids = torch.arange(12).view(1, 12)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["lora", "last_block"])
@pytest.mark.parametrize("make", [lambda: GPT2LMHeadModel(GPT2Config(**GPT2)), modern_model])
def test_of_the_embedding_only_new_tokens_are_trained(name, make):
    model = make()
    before = model.get_input_embeddings().weight.detach().clone()
    adapted = apply_method(model, Method(name=name, rank=2, new_tokens=[5, 7]))
    train_a_little(adapted)
    merged = adapted.merge_and_unload() if name == "lora" else adapted
    changed = (merged.get_input_embeddings().weight.detach() != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [5, 7]
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight


def test_beside_an_embedding_of_its_own_a_lora_trains_the_new_tokens_in_the_head_too():
    model = modern_model(tie_word_embeddings=False)
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    before = [table.weight.detach().clone() for table in tables]
    adapted = apply_method(model, Method(name="lora", rank=2, new_tokens=[5, 7]))
    train_a_little(adapted)
    ids = torch.arange(12).view(1, 12)
    expected = adapted(input_ids=ids).logits
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=0)
    for table, old in zip((merged.get_input_embeddings(), merged.get_output_embeddings()), before, strict=True):
        assert (table.weight.detach() != old).any(dim=1).nonzero().flatten().tolist() == [5, 7]


def test_frozen_weights_notice_a_change_and_name_it():
    model = apply_method(classifier("modern"), Method(name="head"))
    frozen = FrozenWeights(model)
    with torch.no_grad():
        model.score.weight += 1  # trained: may change
    assert frozen.check(model) == len(list(model.parameters())) - 1
    with torch.no_grad():
        model.model.norm.weight += 1
    with pytest.raises(RuntimeError, match=r"changed 1 frozen parameters: model\.norm\.weight"):
        frozen.check(model)


def test_what_is_trained_is_said_in_one_line():
    line = describe_trainable(apply_method(classifier("modern"), Method(name="head")))
    total = sum(parameter.numel() for parameter in classifier("modern").parameters())
    assert line.startswith(f"trained: {3 * classifier('modern').config.hidden_size:,} of {total:,} parameters")
    assert line.endswith(f"score {3 * classifier('modern').config.hidden_size:,}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "lora_rank is 0; it must be at least 1"),
        ({"alpha": 0}, "lora_alpha is 0; it must be above 0"),
        ({"dropout": 1.0}, "lora_dropout is 1.0; it must be a probability"),
        ({"name": "adapter"}, "method is 'adapter'; allowed: lora, last_block, full, head"),
    ],
)
def test_what_no_method_can_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Method(**settings)


def test_targets_that_match_nothing_are_answered_with_the_candidates():
    with pytest.raises(ValueError, match=r"lora_targets q_projj matches no linear layer .* have q_proj, k_proj, v_proj, o_proj"):
        apply_method(classifier("book"), Method(targets=["q_proj", "q_projj"]))
    with pytest.raises(ValueError, match="lora_targets is empty matches no linear layer"):
        apply_method(classifier("book"), Method(targets=[]))


@pytest.mark.parametrize(("make", "name"), [(modern_model, "lm_head"), (modern_model, "embed_tokens"), (book_model, "lm_head"),
                                            (lambda: GPT2LMHeadModel(GPT2Config(**GPT2)), "wte")])  # fmt: skip
def test_lora_beside_head_or_embedding_is_refused_with_the_reason(make, name):
    with pytest.raises(ValueError, match=rf"lora_targets {name}: .* head and embedding can be one matrix, .* --method full"):
        apply_method(make(), Method(targets=["mlp.up_proj", name]))


def test_a_method_of_another_package_is_one_entry(monkeypatch, tmp_path):
    def train_biases(model, method):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))
        return model

    monkeypatch.setitem(METHODS, "biases", TuningMethod(prepare=train_biases))
    names = trained(apply_method(classifier("book"), Method("biases")))
    assert names
    assert all(name.endswith(".bias") for name in names)
    words = ["--model", "a/b", "--sources", "a.csv", "--output_dir", str(tmp_path / "out"), "--method", "biases"]
    assert parse_arguments(ClassificationArguments, words).method == "biases"
    with pytest.raises(UserError, match="quantization is 4bit, but method is biases; only LoRA can train on top of 4-bit weights"):
        parse_arguments(ClassificationArguments, [*words, "--quantization", "4bit"])
    with pytest.raises(UserError, match="optimizer is muon, but method is biases; Muon updates whole matrices"):
        parse_arguments(ClassificationArguments, [*words, "--optimizer", "muon"])
