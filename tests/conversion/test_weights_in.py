"""Every source becomes an hfgpt model with the logits of an independent forward pass."""

import json
import os
import pickle
import re

import numpy
import pytest
import torch
from published import BOOK_SHAPE, GPT, GPTModel, openai_variables, with_tanh
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2ForSequenceClassification
from twins import book_model, gpt2_twin, randomized

from hfgpt import HfGptConfig, HfGptForCausalLM, HfGptForSequenceClassification
from hfgpt.conversion.layouts import BOOK, GPT2, NANOGPT, OPENAI, Biases, entries
from hfgpt.conversion.readers import PUBLISHED_HEADS
from hfgpt.conversion.weights_in import read_source


@torch.no_grad()
def difference(converted, source, *, longest=32) -> float:
    """The largest difference of the logits, over rows of every length that matters: one token, some, all positions."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for tokens in (1, 9, longest):
        ids = torch.randint(97, (2, tokens), generator=generator)
        theirs = source(ids)
        theirs = getattr(theirs, "logits", theirs)
        assert theirs.std() > 0.05  # near-constant logits would agree with anything
        found.append((converted.model(ids).logits - theirs).abs().max().item())
    return max(found)


def saved(tmp_path, what, name="model.pth"):
    torch.save(what, tmp_path / name)
    return str(tmp_path / name)


@pytest.fixture
def gpt2(tmp_path):
    """A GPT-2 that transformers saved, and its folder."""
    model = gpt2_twin(book_model())
    model.save_pretrained(tmp_path / "gpt2")
    return model, tmp_path / "gpt2"


# GPT-2 as transformers writes it


def test_gpt2_from_safetensors(gpt2):
    model, folder = gpt2
    converted = read_source(str(folder))
    assert converted.format == "gpt2"
    assert isinstance(converted.model, HfGptForCausalLM)
    assert difference(converted, model) < 1e-5


def test_gpt2_in_shards(gpt2, tmp_path):
    model, _ = gpt2
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert difference(read_source(str(tmp_path / "shards")), model) < 1e-5


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("with_head", [True, False])
def test_gpt2_from_pytorch_model_bin_with_and_without_prefix_and_head(gpt2, prefix, with_head):
    model, folder = gpt2
    (folder / "model.safetensors").unlink()
    tensors = {name.replace("transformer.", prefix): tensor for name, tensor in model.state_dict().items()}
    if not with_head:
        del tensors["lm_head.weight"]
    # The published files also contain the causal masks.
    tensors |= {f"{prefix}h.{number}.attn.bias": torch.ones(1, 1, 64, 64).tril().bool() for number in range(3)}
    tensors |= {f"{prefix}h.{number}.attn.masked_bias": torch.tensor(-1e4) for number in range(3)}
    torch.save(tensors, folder / "pytorch_model.bin")
    assert difference(read_source(str(folder)), model) < 1e-5


def test_gpt2_with_a_head_of_its_own(gpt2, tmp_path):
    model = randomized(gpt2_twin(book_model(tie_word_embeddings=False)))
    model.config.tie_word_embeddings = False
    # As large as in a trained head: rounding errors grow with the logits, but the bound is absolute.
    model.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn(97, 48))
    model.save_pretrained(tmp_path / "untied")
    converted = read_source(str(tmp_path / "untied"))
    assert not converted.model.config.tie_word_embeddings
    assert difference(converted, model) < 1e-5


def test_a_gpt2_classifier_keeps_its_labels(tmp_path):
    torch.manual_seed(0)
    labels = {0: "ham", 1: "spam", 2: "other"}
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_layer=2, n_head=4, id2label=labels, pad_token_id=3)
    model = randomized(GPT2ForSequenceClassification(config))
    model.save_pretrained(tmp_path)
    converted = read_source(str(tmp_path))
    assert isinstance(converted.model, HfGptForSequenceClassification)
    assert converted.model.config.id2label == labels
    ids = torch.tensor([[3, 3, 5, 9, 11], [8, 7, 6, 3, 3]])  # padding on either side
    with torch.no_grad():
        mask = (ids != 3).long()
        # GPT-2's positions count the padding on the left unless they are given; ours start at the text.
        theirs = model(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
        ours = converted.model(ids, attention_mask=mask).logits
    assert theirs.std() > 0.05
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("size", ["124M", "355M", "774M", "1558M"])
def test_the_published_sizes_by_shape_alone(size):
    """Every layout of a published size describes exactly the parameters of transformers' GPT-2, without allocating memory."""
    config = HfGptConfig.gpt2(size)
    layers, width, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    with torch.device("meta"):
        published = AutoModelForCausalLM.from_config(GPT2Config(n_embd=width, n_layer=layers, n_head=heads)).state_dict()
    shapes = {entry.theirs: entry.shape for entry in entries(GPT2, config, biases=Biases(), heads=("lm_head.weight",))}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in published.items()}
    assert PUBLISHED_HEADS[width] == heads
    for layout, tensors in ((BOOK, 16), (NANOGPT, 12), (OPENAI, 12)):
        table = entries(layout, config, biases=Biases(), heads=())
        assert len({entry.theirs for entry in table}) == tensors * layers + 4
        assert sum(torch.Size(entry.shape).numel() for entry in table) == sum(tensor.numel() for tensor in published.values()) - (
            50257 * width
        )


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 20), (1600, 25)])
def test_the_heads_of_the_books_published_widths_are_known(tmp_path, width, heads):
    book = GPTModel(emb_dim=width, n_heads=heads, n_layers=1, context_length=8, vocab_size=11, qkv_bias=True)
    converted = read_source(saved(tmp_path, book.state_dict()))
    assert converted.model.config.num_attention_heads == heads


# The book


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("inside", [None, "model_state_dict"])
def test_the_books_model(tmp_path, qkv_bias, inside):
    book = randomized(GPTModel(qkv_bias=qkv_bias))
    weights = book.state_dict()
    assert "trf_blocks.0.att.mask" in weights
    if inside:
        optimizer = torch.optim.AdamW(book.parameters())
        book(torch.tensor([[1, 2]])).sum().backward()
        optimizer.step()
        weights = {inside: book.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    converted = read_source(saved(tmp_path, weights), num_attention_heads=4)
    assert converted.format == "book"
    assert difference(converted, book.eval()) < 1e-5
    assert not converted.model.config.tie_word_embeddings
    assert any("qkv_bias=False" in note for note in converted.notes) is not qkv_bias


def test_the_books_head_is_tied_where_it_is_the_embedding_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    book = randomized(GPTModel(qkv_bias=True))
    book.out_head.weight.data = book.tok_emb.weight.data.clone()
    converted = read_source(saved(tmp_path, book.state_dict()), num_attention_heads=4)
    assert converted.model.config.tie_word_embeddings
    assert difference(converted, book) < 1e-5
    assert converted.model.lm_head.weight is converted.model.model.embed_tokens.weight


def test_the_books_model_from_safetensors(tmp_path):
    book = randomized(GPTModel())
    save_file(book.state_dict(), tmp_path / "gpt.safetensors")
    assert difference(read_source(str(tmp_path / "gpt.safetensors"), num_attention_heads=4), book) < 1e-5


def test_heads_that_nobody_says_are_asked_for(tmp_path):
    path = saved(tmp_path, GPTModel().state_dict())
    with pytest.raises(
        ValueError, match="does not say how many attention heads it has, and its width of 48 .*give --num_attention_heads"
    ):
        read_source(path)
    with pytest.raises(ValueError, match="num_attention_heads is 5, but must divide the hidden_size 48"):
        read_source(path, num_attention_heads=5)


def test_other_heads_are_another_function(tmp_path):
    """Why the number of heads is required: the same tensors with half as many heads compute something else."""
    book = randomized(GPTModel())
    assert difference(read_source(saved(tmp_path, book.state_dict()), num_attention_heads=2), book) > 1e-3


# nanoGPT


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_nanogpts_checkpoint(tmp_path, bias, compiled):
    model = randomized(GPT(bias=bias))
    saved(tmp_path, model.checkpoint(compiled=compiled), "ckpt.pt")
    converted = read_source(str(tmp_path))  # its out_dir
    assert converted.format == "nanogpt"
    assert difference(converted, model) < 1e-5
    assert converted.model.config.attention_bias is bias


@pytest.mark.parametrize("wrapped", ["module._orig_mod.{}", "_orig_mod.module.{}", "module.module._orig_mod.module.{}"])
def test_what_wrappers_put_before_the_names_goes_in_any_order_and_depth(tmp_path, wrapped):
    for number, model in enumerate((randomized(GPT()), randomized(GPTModel()))):
        tensors = {wrapped.format(name): tensor for name, tensor in model.state_dict().items()}
        converted = read_source(saved(tmp_path, tensors, f"{number}.pth"), num_attention_heads=4)
        assert difference(converted, model) < 1e-5


def test_blocks_that_were_wrapped_one_by_one(tmp_path):
    model = randomized(GPT())
    block, wrapped = "transformer.h.1.", "transformer.h.1._orig_mod._fsdp_wrapped_module."
    tensors = {name.replace(block, wrapped): tensor for name, tensor in model.state_dict().items()}
    assert any("_orig_mod" in name for name in tensors)
    assert difference(read_source(saved(tmp_path, tensors), num_attention_heads=4), model) < 1e-5


def test_nanogpts_padded_vocabulary_is_kept(tmp_path):
    model = randomized(GPT(vocab_size=50304, n_embd=8, n_head=2, n_layer=1))
    converted = read_source(saved(tmp_path, model.checkpoint(), "ckpt.pt"))
    assert converted.model.config.vocab_size == 50304
    assert difference(converted, model) < 1e-5


def test_nanogpts_bare_weights_need_the_heads_and_may_have_the_older_gelu(tmp_path):
    model = with_tanh(randomized(GPT()))
    path = saved(tmp_path, model.state_dict())
    with pytest.raises(ValueError, match="give --num_attention_heads"):
        read_source(path)
    exact = difference(read_source(path, num_attention_heads=4), model)
    older = difference(read_source(path, num_attention_heads=4, hidden_act="gelu_new"), model)
    assert older < 1e-5 < exact


def test_a_nanogpt_checkpoint_that_contradicts_itself(tmp_path):
    checkpoint = GPT().checkpoint()
    checkpoint["model_args"]["block_size"] = 64
    with pytest.raises(ValueError, match="model_args says block_size 64, but the tensors say 32"):
        read_source(saved(tmp_path, checkpoint, "ckpt.pt"))


# OpenAI


def write_openai(folder, model):
    tensorflow = pytest.importorskip("tensorflow", reason="needs tensorflow, an extra, to write OpenAI's format")
    folder.mkdir()
    with tensorflow.Graph().as_default(), tensorflow.compat.v1.Session() as session:
        for name, tensor in openai_variables(model).items():
            tensorflow.compat.v1.get_variable(name, initializer=tensorflow.constant(tensor.numpy()))
        session.run(tensorflow.compat.v1.global_variables_initializer())
        tensorflow.compat.v1.train.Saver().save(session, str(folder / "model.ckpt"))
    shape = model.shape
    hparams = dict(n_vocab=shape["vocab_size"], n_ctx=shape["block_size"], n_embd=shape["n_embd"], n_head=shape["n_head"])
    (folder / "hparams.json").write_text(json.dumps(hparams | {"n_layer": shape["n_layer"]}))


def test_openais_tensorflow_checkpoint(tmp_path):
    model = with_tanh(randomized(GPT()))
    write_openai(tmp_path / "124M", model)
    assert (tmp_path / "124M" / "checkpoint").is_file()
    converted = read_source(str(tmp_path / "124M"))
    assert converted.format == "openai"
    assert difference(converted, model) < 1e-5


def test_openais_checkpoint_with_a_file_missing(tmp_path):
    write_openai(tmp_path / "124M", GPT())
    next((tmp_path / "124M").glob("model.ckpt.data*")).unlink()
    with pytest.raises(ValueError, match="not a complete TensorFlow checkpoint"):
        read_source(str(tmp_path / "124M"))


def test_openais_names_without_tensorflow(tmp_path):
    """The table alone, on variables as TensorFlow would return them."""
    from hfgpt.conversion.layouts import take_in

    model = randomized(GPT())
    config = HfGptConfig(vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=32)
    variables = openai_variables(model)
    table = entries(OPENAI, config, biases=Biases(), heads=())
    assert {entry.theirs: entry.shape for entry in table} == {name: tuple(tensor.shape) for name, tensor in variables.items()}
    ours = take_in(variables, table)
    direct = take_in(model.state_dict(), entries(NANOGPT, config, biases=Biases(), heads=()))
    assert ours.keys() == direct.keys()
    assert all(torch.equal(ours[name], direct[name]) for name in ours)


def test_openais_folder_says_what_to_install(tmp_path):
    try:
        import tensorflow  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        pytest.skip("tensorflow is installed")
    hparams = {"n_vocab": 97, "n_ctx": 32, "n_embd": 48, "n_head": 4, "n_layer": 3}
    (tmp_path / "hparams.json").write_text(json.dumps(hparams))
    with pytest.raises(ValueError, match=re.escape("tensorflow is not installed; pip install 'hfgpt[tensorflow]'")):
        read_source(str(tmp_path))


# hfgpt itself


def test_hfgpt_comes_in_as_it_is(tmp_path):
    model = book_model()
    model.save_pretrained(tmp_path)
    converted = read_source(str(tmp_path))
    assert converted.format == "hfgpt"
    assert difference(converted, model) == 0.0


def with_architecture(folder, name):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [name]}))


def test_a_language_model_may_name_the_auto_class_for_servers(tmp_path):
    model = book_model()
    model.save_pretrained(tmp_path)
    with_architecture(tmp_path, "AutoModelForCausalLM")
    assert difference(read_source(str(tmp_path)), model) == 0.0
    with_architecture(tmp_path, "HfGptForQuestionAnswering")
    with pytest.raises(ValueError, match="contains HfGptForQuestionAnswering; only HfGptForCausalLM and"):
        read_source(str(tmp_path))


def test_an_adapters_folder_comes_in_as_its_merged_twin_and_never_as_its_base(tmp_path):
    base, merged = book_model(), randomized(book_model())
    base.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ValueError, match=f"is an adapter, .* give the base as the source, and --adapter {tmp_path}"):
        read_source(str(tmp_path))
    merged.save_pretrained(tmp_path / "merged")
    converted = read_source(str(tmp_path))
    assert difference(converted, merged) == 0.0
    assert difference(converted, base) > 0.1
    assert converted.notes == [f"{tmp_path.name} is an adapter; its merged model {tmp_path.name}/merged was read."]


# What is wrong with a checkpoint


def test_every_missing_unexpected_and_misshapen_tensor_is_named(gpt2):
    _, folder = gpt2
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.ln_2.bias"], tensors["transformer.ln_f.weight"]
    tensors["transformer.h.0.attn.rotary"] = torch.zeros(3)
    tensors["transformer.wpe.weight"] = torch.zeros(32, 48)
    tensors["transformer.h.2.mlp.c_fc.weight"] = tensors["transformer.h.2.mlp.c_fc.weight"].t().contiguous()
    tensors["transformer.h.0.ln_1.weight"][5] = float("nan")
    tensors["transformer.h.0.ln_1.bias"] = torch.zeros(48, dtype=torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not match GPT-2") as refusal:
        read_source(str(folder))
    for words in (
        "missing: transformer.h.1.ln_2.bias, transformer.ln_f.weight;",
        "unexpected: transformer.h.0.attn.rotary;",
        "transformer.wpe.weight has the shape (32, 48), but must have (64, 48)",
        "transformer.h.2.mlp.c_fc.weight has the shape (192, 48), but must have (48, 192)",
        "transformer.h.0.ln_1.weight contains values that are not finite",
        "transformer.h.0.ln_1.bias has the dtype torch.int8, but must be a float",
    ):
        assert words in str(refusal.value).replace(", transformer.ln_f.weight", ", transformer.ln_f.weight")


def test_a_lost_tensor_of_the_book_and_of_hfgpt(tmp_path):
    weights = GPTModel().state_dict()
    del weights["trf_blocks.1.att.out_proj.bias"]
    with pytest.raises(ValueError, match=r"does not match the book's GPTModel: missing: trf_blocks\.1\.att\.out_proj\.bias\."):
        read_source(saved(tmp_path, weights), num_attention_heads=4)
    book_model().save_pretrained(tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.bias"]
    save_file(tensors, tmp_path / "ours" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: model\.layers\.2\.mlp\.up_proj\.bias\."):
        read_source(str(tmp_path / "ours"))


class Payload:
    """Unpickled without protection, it creates a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path):
    trap = tmp_path / "trap"
    path = saved(tmp_path, {"model_state_dict": GPTModel().state_dict(), "extra": Payload(str(trap))})
    with pytest.raises(ValueError, match="contains more than tensors, and the code it refers to was not run .*mkdir"):
        read_source(path)
    assert not trap.exists()
    with pytest.raises(pickle.UnpicklingError):  # torch's own protection
        torch.load(path, weights_only=True)
    torch.load(path, weights_only=False)
    assert trap.is_dir()  # the trap works


def test_a_whole_pickled_model_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ValueError, match=r"contains more than tensors.*GPTModel.*torch.save\(model.state_dict\(\), path\)"):
        read_source(saved(tmp_path, GPTModel()))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_pth(tmp_path, share, legacy):
    torch.save(GPTModel().state_dict(), tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="cut.pth is not a complete torch.save file"):
        read_source(str(tmp_path / "cut.pth"), num_attention_heads=4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_safetensors(gpt2, share):
    _, folder = gpt2
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        read_source(str(folder))


def test_a_missing_shard_is_named(gpt2, tmp_path):
    model, _ = gpt2
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    lost = sorted((tmp_path / "shards").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        read_source(str(tmp_path / "shards"))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"encoder.weight": torch.zeros(2, 2)}, "does not contain a known kind of checkpoint .its tensors: encoder.weight"),
        ({"weights": [1, 2]}, "contains besides tensors weights; it must be a state dict"),
        ({}, "contains nothing; it must be a state dict"),
        ([torch.zeros(2)], "contains a list; it must be a state dict"),
        ({"tok_emb.weight": torch.zeros(97, 48)}, "lacks the tensor trf_blocks.0.ff.layers.0.weight"),
    ],
)
def test_foreign_files(tmp_path, what, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_source(saved(tmp_path, what))


def test_foreign_folders(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="has the model_type 'bert'; only 'gpt2' and 'hfgpt' can be converted"):
        read_source(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        read_source(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has none of config.json"):
        read_source(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        read_source(str(tmp_path / "nothing"))


def test_a_switch_of_gpt2_that_hfgpt_lacks(gpt2):
    _, folder = gpt2
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"scale_attn_by_inverse_layer_idx": True}))
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx is True"):
        read_source(str(folder))


def test_options_that_contradict_the_source(gpt2, tmp_path):
    _, folder = gpt2
    with pytest.raises(ValueError, match="has the format 'gpt2', but source_format is 'book'"):
        read_source(str(folder), source_format="book")
    with pytest.raises(ValueError, match="already specifies num_attention_heads"):
        read_source(str(folder), num_attention_heads=4)
    with pytest.raises(ValueError, match="model_args says n_head 4, but num_attention_heads is 2"):
        read_source(saved(tmp_path, GPT().checkpoint(), "ckpt.pt"), num_attention_heads=2)


def test_a_head_that_should_be_the_embedding_and_is_not(gpt2):
    model, folder = gpt2
    (folder / "model.safetensors").unlink()
    tensors = dict(model.state_dict())
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="lm_head.weight should equal transformer.wte.weight"):
        read_source(str(folder))


def test_the_shapes_of_the_tests_are_the_ones_that_are_read(tmp_path):
    config = read_source(saved(tmp_path, GPTModel().state_dict()), num_attention_heads=4).model.config
    read = (config.vocab_size, config.max_position_embeddings, config.hidden_size, config.num_attention_heads)
    assert (*read, config.num_hidden_layers) == tuple(BOOK_SHAPE.values())[:5]
    assert numpy.isclose(config.norm_eps, 1e-5)
