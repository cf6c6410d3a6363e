"""llama.cpp reads the GGUF files: the same ids, the same 64 generated tokens."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from hard_texts import HARD_TEXTS
from tokenizers import Regex, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, GenerationConfig
from twins import book_model, modern_model, randomized

import hfgpt.hub
from hfgpt import HfGptForCausalLM
from hfgpt.chat_templates import CHAT_STYLES, set_prompt_style
from hfgpt.conversion.gguf_file import check_gguf, interleave_pairs, pre_tokenizer_type, write_gguf
from hfgpt.conversion.ollama import CHATML_TEMPLATE, is_chatml, modelfile
from hfgpt.conversion.vocabulary import adopt_tokenizer
from hfgpt.tokenization import encode_texts, gpt2_tokenizer, load_tokenizer, train_bpe, train_word_level, train_wordpiece

gguf = pytest.importorskip("gguf", reason="needs the package gguf, an extra")
PROMPTS = ("os.path", "The ", "class ")


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    tokenizer = load_tokenizer(small_tokenizer)
    set_prompt_style(tokenizer, "chat")
    return tokenizer


@pytest.fixture(scope="module")
def models(small_families):
    """A model for each architecture; the Llama is a Qwen3 without QK-norm, with larger random weights."""
    torch.manual_seed(0)
    families = {name: HfGptForCausalLM.from_pretrained(folder).eval() for name, folder in small_families.items()}
    ids = dict(bos_token_id=0, eos_token_id=0, pad_token_id=1)
    shape = dict(vocab_size=512, hidden_size=64, num_attention_heads=8, head_dim=8, max_position_embeddings=256)
    llama = modern_model(**shape, **ids, qk_norm=False, tie_word_embeddings=False)
    return {"gpt2": families["book"], "qwen3": families["modern"], "llama": randomized(llama)}


def llama_cpp(path, **settings):
    """The file in llama.cpp, all in float32, including the KV cache."""
    module = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, an extra, to read GGUF independently")
    settings = {"n_ctx": 256, "logits_all": True, "verbose": False, "type_k": 0, "type_v": 0, "n_threads": 1} | settings
    return module.Llama(str(path), **settings)


def greedy_in_transformers(model, ids: list[int], tokens: int) -> tuple[list[int], float]:
    """The greedy tokens, and the smallest lead that one of them had over the runner-up."""
    leads = []
    with torch.no_grad():
        for _ in range(tokens):
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            leads.append((best.values[0] - best.values[1]).item())
            ids = [*ids, best.indices[0].item()]
    return ids, min(leads)


def greedy_in_llama_cpp(engine, ids: list[int], tokens: int) -> list[int]:
    ids = list(ids)
    engine.reset()
    engine.eval(ids)
    for _ in range(tokens):
        ids.append(int(numpy.argmax(engine.scores[engine.n_tokens - 1])))
        engine.eval(ids[-1:])
    return ids


def logits_in_llama_cpp(engine, ids: list[int]) -> torch.Tensor:
    engine.reset()
    engine.eval(ids)
    return torch.tensor(engine.scores[: len(ids)].copy())


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "llama"])
def test_llama_cpp_continues_with_the_same_64_tokens(models, tokenizer, kind, tmp_path):
    model = models[kind]
    write_gguf(model, tokenizer, path=tmp_path / "model.gguf", gguf_type="f32")
    engine = llama_cpp(tmp_path / "model.gguf")
    assert engine.metadata["general.architecture"] == kind
    seen = set()
    for prompt in PROMPTS:
        ids = tokenizer(prompt).input_ids
        expected, lead = greedy_in_transformers(model, ids, 64)
        assert lead > 1e-4  # no near tie that rounding could decide
        assert greedy_in_llama_cpp(engine, ids, 64) == expected
        seen |= set(expected)
    assert len(seen) > 20  # not the same token over and over


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "llama"])
def test_the_logits_are_near_in_every_type(models, tokenizer, kind, tmp_path):
    model = models[kind]
    ids = tokenizer("os.path.join joins the parts of a path, and raises ValueError").input_ids
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    found, sizes = {}, {}
    for gguf_type in ("f32", "f16", "q8_0"):
        path = tmp_path / f"{gguf_type}.gguf"
        write_gguf(model, tokenizer, path=path, gguf_type=gguf_type)
        sizes[gguf_type] = path.stat().st_size
        found[gguf_type] = ((logits_in_llama_cpp(llama_cpp(path), ids) - expected).abs().max() / expected.std()).item()
    print(kind, found)
    # llama.cpp takes GPT-2's GELU from a table of half-precision values, whatever the file's type.
    assert found["f32"] < (5e-3 if kind == "gpt2" else 1e-4)
    assert found["f16"] < 1e-2
    # llama.cpp also rounds the inputs of these weights to 8 bits, differently on each kind of processor: up to 0.151 so far.
    assert found["q8_0"] < 0.2
    assert sizes["q8_0"] < sizes["f16"] < sizes["f32"]


def ids_in_llama_cpp(engine, text: str, *, special: bool = False) -> list[int]:
    return engine.tokenize(text.encode("utf-8"), add_bos=False, special=special)


def test_llama_cpp_reads_a_hard_corpus_as_the_same_ids(models, tokenizer, tmp_path):
    write_gguf(models["qwen3"], tokenizer, path=tmp_path / "model.gguf", gguf_type="f32")
    engine = llama_cpp(tmp_path / "model.gguf", vocab_only=True)
    assert engine.metadata["tokenizer.ggml.pre"] == "qwen2"
    different = [text for text in HARD_TEXTS if ids_in_llama_cpp(engine, text) != encode_texts(tokenizer, [text])[0]]
    assert different == []
    assert len(HARD_TEXTS) > 60
    # When special tokens are parsed, both find the same.
    text = "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>"
    expected = tokenizer(text, add_special_tokens=False).input_ids
    assert ids_in_llama_cpp(engine, text, special=True) == expected != encode_texts(tokenizer, [text])[0]
    # A text begins with the separator, as it does in training.
    assert engine.tokenize(b"os.path", add_bos=True) == tokenizer("os.path").input_ids
    assert engine.metadata["tokenizer.ggml.add_bos_token"] == "true"


def test_llama_cpp_reads_gpt2s_vocabulary_as_the_same_ids(shared_data, tmp_path):
    tokenizer = gpt2_tokenizer(shared_data / "gpt2_bpe")
    model = book_model(vocab_size=50257)
    adopt_tokenizer(model, tokenizer)
    write_gguf(model, tokenizer, path=tmp_path / "model.gguf", gguf_type="q8_0")
    engine = llama_cpp(tmp_path / "model.gguf", vocab_only=True)
    assert engine.metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert engine.n_vocab() == 50260
    prose = (shared_data / "the_verdict" / "the-verdict.txt").read_text(encoding="utf-8")
    different = [text for text in (*HARD_TEXTS, prose) if ids_in_llama_cpp(engine, text) != encode_texts(tokenizer, [text])[0]]
    assert different == []
    assert engine.detokenize(ids_in_llama_cpp(engine, prose)).decode("utf-8") == prose


def test_the_metadata_says_what_programs_ask_for(models, tokenizer, tmp_path):
    from gguf import GGUFReader, TokenType

    model = models["qwen3"]
    write_gguf(model, tokenizer, path=tmp_path / "model.gguf", gguf_type="q8_0", name="mine")
    reader = GGUFReader(tmp_path / "model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    expected = {
        "general.name": "mine",
        "qwen3.context_length": 256,
        "qwen3.attention.key_length": 16,
        "qwen3.rope.freq_base": 10000.0,
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
    }
    assert {name: fields[name] for name in expected} == expected
    types = fields["tokenizer.ggml.token_type"]
    special = sorted(id for id, kind in enumerate(types) if kind == TokenType.CONTROL)
    assert special == sorted(tokenizer.all_special_ids)
    assert len(special) == 4
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert "output.weight" not in types  # tied
    assert types["token_embd.weight"] == types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["blk.0.attn_q_norm.weight"] == types["output_norm.weight"] == "F32"


def test_the_chat_template_travels_and_llama_cpp_answers_through_it(models, tokenizer, tmp_path):
    write_gguf(models["qwen3"], tokenizer, path=tmp_path / "model.gguf", gguf_type="f32")
    engine = llama_cpp(tmp_path / "model.gguf")
    assert engine.metadata["tokenizer.chat_template"] == CHAT_STYLES["chat"].template
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "so"}]
    answer = engine.create_chat_completion(messages, max_tokens=4, temperature=0.0)
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert rendered[0] == tokenizer.bos_token_id != rendered[1]
    assert answer["usage"]["prompt_tokens"] == len(rendered)  # the separator once: the template writes it, llama.cpp adds none


def test_a_tokenizer_without_a_bos_adds_none(tokenizer, tmp_path):
    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    other.bos_token, other.backend_tokenizer.post_processor = None, None
    write_gguf(book_model(vocab_size=512), other, path=tmp_path / "model.gguf", gguf_type="f32")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert "tokenizer.ggml.bos_token_id" not in fields


def test_padded_rows_get_a_name(tokenizer, tmp_path):
    model = book_model(vocab_size=576, bos_token_id=0, eos_token_id=0, pad_token_id=1)
    write_gguf(model, tokenizer, path=tmp_path / "model.gguf", gguf_type="f32")
    assert llama_cpp(tmp_path / "model.gguf", n_ctx=64).n_vocab() == 576


def test_biases_travel_to_llama(tokenizer, tmp_path):
    model = modern_model(vocab_size=512, qk_norm=False, head_dim=8, attention_bias=True, mlp_bias=True)
    write_gguf(model, tokenizer, path=tmp_path / "model.gguf", gguf_type="f32")
    ids = list(range(40, 80))
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    assert (logits_in_llama_cpp(llama_cpp(tmp_path / "model.gguf", n_ctx=64), ids) - expected).abs().max() < 1e-3


def test_llamas_rows_are_interleaved_within_each_head():
    rows = torch.arange(8)  # two heads of four: pairs (0, 2), (1, 3) and (4, 6), (5, 7)
    assert interleave_pairs(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


# What llama.cpp cannot run


def changed(tokenizer, **parts):
    """The tokenizer with parts of its backend replaced."""
    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    for name, part in parts.items():
        setattr(other.backend_tokenizer, name, part)
    return other


def test_a_pattern_that_llama_cpp_does_not_know_is_named(tokenizer):
    assert pre_tokenizer_type(tokenizer) == "qwen2"
    pattern = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    with pytest.raises(ValueError, match=r"splits text with .*\\\\p\{N\}\{1,3\}.*llama.cpp only knows patterns by name"):
        pre_tokenizer_type(changed(tokenizer, pre_tokenizer=pattern))
    with pytest.raises(ValueError, match="not Qwen2's, GPT-4's or GPT-2's"):
        pre_tokenizer_type(changed(tokenizer, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)))
    with pytest.raises(ValueError, match="has the normalizer NFC, but llama.cpp does not apply one"):
        pre_tokenizer_type(changed(tokenizer, normalizer=normalizers.NFC()))
    with pytest.raises(ValueError, match="the tokenizer is a WordLevel; GGUF needs a byte-level BPE"):
        pre_tokenizer_type(train_word_level(["one two"]))


def test_gpt4s_pattern_goes_out_under_the_name_that_llama_cpp_has_for_it(models, tmp_path):
    text = [f"in {number} and {number * 977} of them, it's\n\n fine" for number in range(200)]
    tokenizer = train_bpe(text, vocab_size=512, pattern="gpt4")
    path = tmp_path / "model.gguf"
    write_gguf(models["qwen3"], tokenizer, path=path, gguf_type="f32")
    assert pre_tokenizer_type(tokenizer) == "dbrx"
    assert pre_tokenizer_type(train_bpe(text, vocab_size=300, pattern="gpt2")) == "gpt-2"
    # The gate has its own reader for such files, independent of our code; it gives the same ids.
    ids = [{"text": one, "ids": tokenizer(one).input_ids} for one in (*text[:3], *HARD_TEXTS)]
    assert "the ids of" in gate_reader().gguf_tokenizer(path, SimpleNamespace(recorded_texts=ids, compare_ids=compare))
    ids[0]["ids"] = ids[0]["ids"][::-1]
    with pytest.raises(AssertionError):
        gate_reader().gguf_tokenizer(path, SimpleNamespace(recorded_texts=ids, compare_ids=compare))


def compare(entry: dict, ids: list[int]) -> None:
    assert ids == entry["ids"], entry["text"]


def gate_reader():
    """gate/file_formats.py, which normally runs as part of another script."""
    gate = Path(hfgpt.hub.__file__).parent / "gate"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "stranger", SimpleNamespace(Failed=RuntimeError, Stranger=object))
        spec = importlib.util.spec_from_file_location("file_formats_alone", gate / "file_formats.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("settings", [{"pattern": "gpt2", "digits": "single"}, {"pattern": "gpt2", "digits": "groups_of_3"}])
def test_a_way_to_cut_numbers_that_no_engine_knows_is_refused_at_the_export(settings):
    with pytest.raises(ValueError, match="llama.cpp only knows patterns by name, .*: train a tokenizer with digits as_pattern"):
        pre_tokenizer_type(train_bpe(["text"], vocab_size=262, **settings))
    with pytest.raises(ValueError, match=r"the tokenizer is a WordPiece; GGUF needs a byte-level BPE \(algorithm bpe\)"):
        pre_tokenizer_type(train_wordpiece(["text"], vocab_size=520))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: book_model(vocab_size=512, hidden_act="relu"), "hidden_act is 'relu'; llama.cpp only supports gelu_new"),
        (lambda: modern_model(vocab_size=512, hidden_act="gelu"), "hidden_act is 'gelu'; llama.cpp only supports silu"),
        (lambda: modern_model(vocab_size=512, attention_bias=True), "attention_bias is True"),
        (
            lambda: modern_model(vocab_size=512, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "rope_parameters are .*linear",
        ),
        (lambda: book_model(vocab_size=512, norm_type="rmsnorm"), "norm_type is 'rmsnorm'"),
        (lambda: book_model(vocab_size=300), "the tokenizer has 512 tokens, but the model's embedding has 300 rows"),
        (lambda: book_model(vocab_size=600), "the tokenizer has 512 tokens, but the model's embedding has 600 rows"),
        (lambda: book_model(vocab_size=1088), "the tokenizer has 512 tokens, but the model's embedding has 1,088 rows"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused_before_writing(tokenizer, tmp_path, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_gguf(make(), tokenizer, path=tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_half_precision_are_refused_by_name(tokenizer, tmp_path):
    model = book_model(vocab_size=512)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = 70_000.0
    with pytest.raises(ValueError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight contains values up to 7e\+04"):
        write_gguf(model, tokenizer, path=tmp_path / "model.gguf", gguf_type="f16")


def test_the_exact_gelu_is_noted(tokenizer):
    (note,) = check_gguf(book_model(vocab_size=512, hidden_act="gelu").config, tokenizer)
    assert "differs by up to 0.0005" in note
    x = torch.linspace(-8, 8, 100_001, dtype=torch.double)
    worst = (torch.nn.functional.gelu(x) - torch.nn.functional.gelu(x, approximate="tanh")).abs().max()
    assert 0.0004 < worst < 0.0005


# Ollama


def test_the_modelfile_of_a_chat_model(tokenizer):
    settings = GenerationConfig(do_sample=True, temperature=0.8, top_k=50, top_p=0.9, repetition_penalty=1.1)
    assert is_chatml(tokenizer)
    text = modelfile(tokenizer, gguf_name="mine-f16.gguf", context_length=256, generation_config=settings)
    assert text.splitlines()[1:] == [
        "FROM ./mine-f16.gguf",
        'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}',
        "{{ .Content }}<|im_end|>",
        "{{ end }}<|im_start|>assistant",
        '"""',
        "PARAMETER num_ctx 256",
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER temperature 0.8",
        "PARAMETER top_k 50",
        "PARAMETER top_p 0.9",
        "PARAMETER repeat_penalty 1.1",
    ]


def in_ollama(tokenizer, template: str) -> list[int]:
    """Ids of a conversation as Ollama makes them: ChatML written out, with a BOS in front if add_bos_token is set."""
    text = template.removesuffix(CHATML_TEMPLATE) + "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer(text).input_ids  # with the tokenizer's own prefix, from which add_bos_token is derived


def test_the_separator_stands_once_before_a_conversation_in_ollama(tokenizer):
    template = CHAT_STYLES["chat"].template
    plain = template.split("\n", 1)[1]  # the earlier template, without a bos_token
    bare = changed(tokenizer, post_processor=processors.ByteLevel(trim_offsets=False))  # like GPT-2's own: no prefix
    assert bare("a").input_ids == bare("a", add_special_tokens=False).input_ids
    arguments = dict(gguf_name="a.gguf", context_length=64, generation_config=GenerationConfig())
    messages = [{"role": "user", "content": "hi"}]
    found = {}
    for name, one, words in (("ours", tokenizer, template), ("bare", bare, template), ("bare and plain", bare, plain)):
        one = AutoTokenizer.from_pretrained(tokenizer.name_or_path) if one is tokenizer else one
        one.chat_template = words
        assert is_chatml(one), name
        text = modelfile(one, **arguments).split('"""')[1]
        assert in_ollama(one, text) == one.apply_chat_template(messages, add_generation_prompt=True)["input_ids"], name
        found[name] = text.removesuffix(CHATML_TEMPLATE)
    assert found == {"ours": "", "bare": "<|endoftext|>", "bare and plain": ""}


def test_the_modelfile_of_a_base_model_and_of_a_foreign_template(small_tokenizer):
    tokenizer = load_tokenizer(small_tokenizer)
    arguments = dict(gguf_name="a.gguf", context_length=64, generation_config=GenerationConfig())
    base = modelfile(tokenizer, **arguments)
    assert base.splitlines()[1:] == [
        "FROM ./a.gguf", 'TEMPLATE """{{ .Prompt }}"""', "PARAMETER num_ctx 64", 'PARAMETER stop "<|endoftext|>"'
    ]  # fmt: skip
    tokenizer.chat_template = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    assert modelfile(tokenizer, **arguments) == base
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    assert modelfile(tokenizer, **arguments) == base
