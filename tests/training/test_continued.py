"""Pretraining from a base: its class stays, only rows of its own tokenizer are accepted, old and new text are compared."""

import json
import re
import shutil

import pytest
import torch
from recipes_in_process import recipe
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    TrainerCallback,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.data.passport import Passport
from hfgpt.errors import UserError
from hfgpt.fingerprint import weights_sha256
from hfgpt.tokenization import load_or_wrap_tokenizer, load_tokenizer
from hfgpt.training.continued import _check_split, optimizer_for

SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=128)
SETTINGS = dict(
    max_steps=4, per_device_train_batch_size=8, precision="fp32", cpu_threads=1, use_cpu=True, eval_steps=2, save_steps=2,
    sample_prompts=[], disable_tqdm=True,
)  # fmt: skip


class Crash(TrainerCallback):
    """Ends the process in step 3, after a checkpoint at step 2."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise RuntimeError("crash")


@pytest.fixture(scope="module", autouse=True)
def crash():
    INTEGRATION_TO_CALLBACK["crash"] = Crash
    yield
    del INTEGRATION_TO_CALLBACK["crash"]


@pytest.fixture(scope="module")
def foreign(small_tokenizer, tmp_path_factory):
    """Untrained models of transformers' own classes, with the small tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer)
    ids = dict(vocab_size=len(tokenizer), bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(0)
    models = {
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**SHAPE, **ids, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True)),
        "llama": LlamaForCausalLM(LlamaConfig(**SHAPE, **ids, tie_word_embeddings=False)),
        "gpt2": GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **ids)),
    }
    folders = {name: tmp_path_factory.mktemp(name) / "base" for name in models}
    for name, model in models.items():
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def report_of(folder):
    return (folder / "report.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "llama", "gpt2"])
def test_a_foreign_model_stays_what_it_is_and_says_what_it_forgot(name, foreign, small_rows, tmp_path):
    base, folder = foreign[name], tmp_path / "run"
    metrics = recipe("pretrain", **SETTINGS, model=str(base), dataset=str(small_rows), old_dataset=str(small_rows),
                     output_dir=str(folder))  # fmt: skip
    before, after = (AutoModelForCausalLM.from_pretrained(place) for place in (base, folder))
    assert type(after) is type(before)
    assert after.config.tie_word_embeddings is before.config.tie_word_embeddings
    assert after.config.use_cache is True
    assert load_file(folder / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    passport = json.loads((folder / "passport.json").read_text())
    assert passport["base"]["sha256"] == weights_sha256(before) != weights_sha256(after)
    assert json.loads((folder / "fingerprint.json").read_text())["weights_sha256"] == weights_sha256(after)
    card = (folder / "README.md").read_text()
    assert f"Base model | {base.name}" in card
    assert "| bits per byte, old text |" in card
    assert "name: bits per byte, old text" not in card  # the model-index, which is about the new text
    # Old and new text are the same rows here, so they have the same figures, and both improve.
    assert metrics["old_loss_before"] == pytest.approx(metrics["test_loss_before"], rel=1e-6)
    assert metrics["old_loss"] == pytest.approx(metrics["test_loss"], rel=1e-6)
    assert metrics["test_bits_per_byte"] < metrics["test_bits_per_byte_before"]
    said = r"old text (\d\.\d{4}) -> (\d\.\d{4}) bits per byte, new text \(test\) \1 -> \2 bits per byte"
    (line,) = [line for line in report_of(folder).splitlines() if line.startswith("old text")]
    assert re.fullmatch(said, line)


@pytest.mark.slow
def test_old_rows_whose_held_out_text_may_be_trained_on_are_refused(small_run, small_rows, small_corpus, tmp_path):
    mixed = tmp_path / "mixed"
    recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_run), context_length=64, output_dir=str(mixed),
           validation_share=0.2, test_share=0.1)  # fmt: skip
    sentence = "is read in .*mixed and in old_dataset .*, but with validation_share 0.2 and 0.1: .*--validation_share 0.1"
    with pytest.raises(UserError, match=sentence):
        recipe("pretrain", **SETTINGS, model=str(small_run), dataset=str(mixed), old_dataset=str(small_rows),
               output_dir=str(tmp_path / "run"))  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_old_rows_may_share_a_part_of_pythons_documentation():
    """The hash of a part is not that of the whole."""
    whole, train, test = ({"name": f"python-docs{part}", "kind": "python-docs", "sha256": part} for part in ("", ":train", ":test"))
    old = Passport(inputs=[whole], settings={"split_by": "document", "validation_share": 0.2})
    with pytest.raises(
        UserError, match="python-docs:train is read in new and in old_dataset old, but with validation_share 0.1 and"
    ):
        _check_split("old", old, "new", Passport(inputs=[train], settings=old.settings | {"validation_share": 0.1}))
    _check_split("old", old, "new", Passport(inputs=[train], settings=old.settings))
    _check_split("old", Passport(inputs=[test]), "new", Passport(inputs=[train], settings=old.settings))


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_weights_of_one_that_was_not_stopped(small_run, small_rows, tmp_path):
    settings = dict(SETTINGS, model=str(small_run), dataset=str(small_rows), old_dataset=str(small_rows))
    settings |= dict(config_overrides={"residual_dropout": 0.1})
    metrics = recipe("pretrain", **settings, output_dir=str(tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="crash"):
        recipe("pretrain", **settings, output_dir=str(tmp_path / "run"), report_to=["crash"])
    # A run cannot be resumed with another base, whatever its name.
    other = tmp_path / "other"
    shutil.copytree(small_run / "checkpoint-6", other)
    with pytest.raises(UserError, match=r"began with different weights of .*; give another --output_dir"):
        recipe("pretrain", **settings | {"model": str(other)}, output_dir=str(tmp_path / "run"))
    again = recipe("pretrain", **settings, output_dir=str(tmp_path / "run"))
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert {name: again[name] for name in metrics if "loss" in name} == {name: metrics[name] for name in metrics if "loss" in name}
    # A finished run is recognised without loading the model, and a moved base is the same base.
    shutil.copytree(small_run, tmp_path / "moved")
    assert recipe("pretrain", **settings, output_dir=str(tmp_path / "run")) == {}
    assert recipe("pretrain", **settings | {"model": str(tmp_path / "moved")}, output_dir=str(tmp_path / "run")) == {}


@pytest.mark.slow
def test_rows_for_a_gpt2_without_padding_are_prepared_by_its_own_folder(small_gpt2, small_corpus, tmp_path):
    recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_gpt2), context_length=64, validation_share=0.1,
           test_share=0.1, output_dir=str(tmp_path / "rows"))  # fmt: skip
    recipe("pretrain", **SETTINGS, model=str(small_gpt2), dataset=str(tmp_path / "rows"), output_dir=str(tmp_path / "run"))
    tokenizer = load_tokenizer(tmp_path / "run")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "run")
    assert model.config.vocab_size == len(tokenizer) > 400
    assert model.generation_config.pad_token_id == model.config.pad_token_id == tokenizer.pad_token_id
    assert "old text" not in report_of(tmp_path / "run")
    assert "new text (test)" in report_of(tmp_path / "run")


@pytest.mark.slow
def test_rows_of_another_tokenizer_and_longer_ones_are_refused(foreign, small_rows, small_gpt2, small_run, tmp_path):
    given = dict(SETTINGS, dataset=str(small_rows), output_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"were made with a different tokenizer than .*; prepare the data with --tokenizer "):
        recipe("pretrain", **given, model=str(small_gpt2))
    short = tmp_path / "short"
    shutil.copytree(foreign["llama"], short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    with pytest.raises(UserError, match=r"are 64 tokens long, .* reads at most 32 at once .*--context_length 32 or less"):
        recipe("pretrain", **given, model=str(short))
    with pytest.raises(UserError, match="unknown key 'residual_dropout' in config_overrides, for llama"):
        recipe("pretrain", **given, model=str(foreign["llama"]), config_overrides={"residual_dropout": 0.1})
    other = tmp_path / "other"
    shutil.copytree(small_rows, other)
    passport = json.loads((other / "passport.json").read_text())
    passport["tokenizer"]["sha256"] = "0" * 64
    (other / "passport.json").write_text(json.dumps(passport))
    with pytest.raises(UserError, match="the rows in old_dataset .* were made with a different tokenizer"):
        recipe("pretrain", **given, model=str(foreign["llama"]), old_dataset=str(other))
    assert not (tmp_path / "run").exists()


def test_rates_rise_again_to_a_share_of_their_peak(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    given = dict(dataset="d", output_dir="o", model=str(tmp_path))
    usual, warm = PretrainArguments(dataset="d", output_dir="o"), PretrainArguments(**given)
    assert usual.warmup_steps == 0
    assert warm.warmup_steps == 0.1
    assert warm.learning_rate == pytest.approx(0.3 * usual.learning_rate)
    assert warm.muon_learning_rate == pytest.approx(0.3 * usual.muon_learning_rate)
    settled = PretrainArguments(**given, learning_rate=1e-3, rewarm_to=1.0, warmup_steps=5)
    assert (settled.learning_rate, settled.warmup_steps) == (1e-3, 5)
    assert usual.embedding_learning_rate == 0.2
    assert warm.embedding_learning_rate is None
    # The values in run.yaml give the same arguments again, also where they equal the usual default.
    told = PretrainArguments(**given, embedding_learning_rate=0.2, warmup_steps=0)
    assert (told.embedding_learning_rate, told.warmup_steps) == (pytest.approx(0.06), 0)
    for one in (warm, settled, told):
        again = PretrainArguments(**one.resolved)
        names = ("learning_rate", "muon_learning_rate", "embedding_learning_rate", "warmup_steps", "rewarm_to")
        assert [getattr(again, name) for name in names] == [getattr(one, name) for name in names]
        assert again.resolved == one.resolved


def test_matrices_that_lie_transposed_are_left_to_adamw(caplog):
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=1, n_positions=8, vocab_size=8, bos_token_id=0, eos_token_id=0))
    llama = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_hidden_layers": 1}, vocab_size=8))
    with caplog.at_level("INFO", logger="hfgpt"):
        assert optimizer_for(gpt2, "muon", given={}) == "adamw"
    assert "Muon does not support the fused, transposed matrices (Conv1D) of GPT2LMHeadModel" in caplog.text
    assert optimizer_for(llama, "muon", given={"muon_learning_rate": 0.01}) == "muon"
    with pytest.raises(UserError, match=r"muon_learning_rate is 0.01; it needs optimizer: muon"):
        optimizer_for(gpt2, "muon", given={"muon_learning_rate": 0.01})


def test_a_tokenizer_without_padding_gets_its_own_whatever_its_kind(small_tokenizer, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="they must differ"):
        load_tokenizer(tmp_path)
    assert load_or_wrap_tokenizer(tmp_path).pad_token == "<|pad|>"


@pytest.mark.parametrize("added", ["tokens", "template", "normalizer"])
def test_a_tokenizer_of_gpt2s_kind_with_additions_keeps_them_and_every_id(tmp_path, added):
    backend = Tokenizer(
        models.BPE(vocab={token: id for id, token in enumerate([*bytes_to_unicode().values(), "<|endoftext|>"])}, merges=[])
    )
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if added == "normalizer":
        backend.normalizer = normalizers.NFC()
    published = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    if added == "tokens":
        published.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|bot|>"]})
    if added == "template":
        published.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    published.save_pretrained(tmp_path)
    found = load_or_wrap_tokenizer(tmp_path)
    text = "<|user|>caf\u0065\u0301<|bot|>"
    assert found(text, add_special_tokens=False).input_ids == published(text, add_special_tokens=False).input_ids
    assert found.chat_template == published.chat_template
    assert found.pad_token_id == len(published)
