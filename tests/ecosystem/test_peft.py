"""PEFT's methods on both families: the loss falls, and the saved adapter gives the same logits on a fresh base."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

import hfgpt  # noqa: F401  registers the classes

peft = pytest.importorskip("peft", minversion="0.18", reason="adapters need the package peft")

TASK = dict(task_type="CAUSAL_LM")
FOUR = dict(target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
MERGED = {  # each method's configuration and learning rate
    "LoRA": (peft.LoraConfig(**TASK, r=4, target_modules="all-linear"), 1e-2),
    "DoRA": (peft.LoraConfig(**TASK, r=4, target_modules="all-linear", use_dora=True), 1e-2),
    "IA3": (
        peft.IA3Config(**TASK, target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        5e-2,
    ),
    "VeRA": (peft.VeraConfig(**TASK, r=8, target_modules="all-linear"), 3e-2),
    "LoHa": (peft.LoHaConfig(**TASK, r=4, **FOUR), 1e-2),
    "LoKr": (peft.LoKrConfig(**TASK, r=4, **FOUR), 1e-2),
    "AdaLoRA": (peft.AdaLoraConfig(**TASK, init_r=6, target_r=4, total_step=40, tinit=5, tfinal=10, **FOUR), 1e-2),
    "OFT": (peft.OFTConfig(**TASK, oft_block_size=16, **FOUR), 1e-2),
}
PROMPTED = {
    "prompt tuning": (peft.PromptTuningConfig(**TASK, num_virtual_tokens=8), 5e-2),
    "prefix tuning": (peft.PrefixTuningConfig(**TASK, num_virtual_tokens=8), 1e-2),
    "P-tuning": (peft.PromptEncoderConfig(**TASK, num_virtual_tokens=8), 2e-2),
}


@pytest.fixture(scope="module", params=["book", "modern"])
def folder(request, small_families):
    return small_families[request.param]


@pytest.fixture(scope="module")
def batch(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["user: what is os? assistant: files!", "user: what is re? assistant: text patterns!"]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    return batch | {"labels": batch.input_ids.masked_fill(batch.attention_mask == 0, -100)}


@torch.no_grad()
def logits_of(model, batch) -> torch.Tensor:
    return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def train(folder, config, batch, *, learning_rate: float):
    """Thirty steps on one batch; the base must stay unchanged, and the loss must fall by at least 0.2 nats."""
    set_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = base.state_dict()["model.layers.0.mlp.up_proj.weight"].clone()
    model = peft.get_peft_model(base, config)
    trainable, total = model.get_nb_trainable_parameters()
    assert 0 < trainable < 0.25 * total
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=learning_rate)
    losses = []
    for step in range(30):
        loss = model.train()(**batch).loss
        loss.backward()
        optimizer.step()
        if isinstance(config, peft.AdaLoraConfig):
            model.base_model.update_and_allocate(step)  # it reduces its ranks between steps 5 and 30
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    after = next(
        weight for name, weight in model.named_parameters() if "layers.0.mlp.up_proj" in name and weight.shape == before.shape
    )
    assert torch.equal(after, before)
    return model


@pytest.mark.parametrize("method", MERGED)
def test_an_adapter_trains_saves_loads_and_merges(folder, batch, tmp_path, method):
    config, learning_rate = MERGED[method]
    trained = train(folder, config, batch, learning_rate=learning_rate)
    expected = logits_of(trained, batch)
    assert (expected - logits_of(AutoModelForCausalLM.from_pretrained(folder), batch)).abs().max() > 0.5
    trained.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(loaded, batch), expected, atol=1e-5, rtol=0)

    merged = loaded.merge_and_unload()
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    torch.testing.assert_close(logits_of(merged, batch), expected, atol=1e-4, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(again, batch), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", PROMPTED)
def test_a_learned_prompt_trains_saves_loads_and_generates(folder, batch, tmp_path, method):
    config, learning_rate = PROMPTED[method]
    trained = train(folder, config, batch, learning_rate=learning_rate)
    trained.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path)
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(trained, batch), atol=1e-5, rtol=0)
    settings = dict(max_new_tokens=5, do_sample=False, eos_token_id=-1)
    prompt = {name: batch[name][1:2] for name in ("input_ids", "attention_mask")}
    generated = loaded.generate(**prompt, **settings)
    assert generated.shape[1] >= 5
    assert torch.equal(generated, trained.generate(**prompt, **settings))


TIED = {  # adapters that change the head or the embedding (one matrix)
    "head": dict(target_modules=["lm_head"]),
    "head, DoRA": dict(target_modules=["lm_head"], use_dora=True),
    "embedding": dict(target_modules=["embed_tokens", "q_proj"]),
    "both": dict(target_modules=["embed_tokens", "lm_head"]),
    "both alike": dict(target_modules=["embed_tokens"], ensure_weight_tying=True),
    "whole head": dict(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "whole embedding": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "rows of both": dict(target_modules=["q_proj"], trainable_token_indices=[1, 2]),
    "rows of the head": dict(target_modules=["q_proj"], trainable_token_indices={"lm_head": [1, 2]}),
    "other rows of each": dict(target_modules=["q_proj"], trainable_token_indices={"lm_head": [1, 2], "embed_tokens": [4]}),
}
SPLIT = set(TIED) - {"rows of both"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", TIED)
def test_an_adapter_on_the_tied_head_or_embedding_merges_into_what_it_was(folder, batch, tmp_path, kind):
    def base():
        return AutoModelForCausalLM.from_pretrained(folder)

    set_seed(0)
    trained = peft.get_peft_model(base(), peft.LoraConfig(**TASK, r=4, **TIED[kind]))
    optimizer = torch.optim.AdamW([weight for weight in trained.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(3):
        trained(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    expected = logits_of(trained, batch)
    assert (expected - logits_of(base(), batch)).abs().max() > 0.1
    trained.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(loaded, batch), expected, atol=1e-5, rtol=0)
    merged = loaded.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits_of(merged, batch), expected, atol=1e-4, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert again.config.tie_word_embeddings is (kind not in SPLIT)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is (kind not in SPLIT)
    torch.testing.assert_close(logits_of(again, batch), expected, atol=1e-4, rtol=0)
