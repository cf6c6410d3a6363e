"""recipes/convert.py, as a command and in this process: folders that load with and without hfgpt, nothing half-written."""

import json
import os
import pickle

import pytest
import torch
from conftest import ROOT, run_python
from hub_server import HubServer
from peft import LoraConfig, get_peft_model
from published import GPT
from recipes_in_process import recipe, run_script
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification
from twins import book_model, gpt2_twin, modern_model

from hfgpt.chat_templates import set_prompt_style
from hfgpt.data.passport import Passport
from hfgpt.tokenization import encode_texts, gpt2_tokenizer, load_tokenizer

LOAD = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

def what_loads(folder, **options):
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    ids = torch.tensor([[5, 9, 11, 3, 96]])
    with torch.no_grad():
        return [type(model).__module__, model(ids).logits.tolist(), tokenizer("don't").input_ids, model.config.pad_token_id]
"""
IN_ONE_PROCESS = """
import json, sys
sys.path.append(sys.argv[1])
from recipes_in_process import run_script
runs = [run_script("convert.py", *words) for words in json.loads(sys.argv[2])]
print(json.dumps([[done.returncode, done.stdout + done.stderr] for done in runs]))
"""


@pytest.fixture(scope="module")
def gpt2_with_tokenizer(tmp_path_factory, shared_data):
    """A small GPT-2 with the published vocabulary, as on the Hub: no padding token anywhere."""
    folder = tmp_path_factory.mktemp("gpt2") / "gpt2"
    model = gpt2_twin(book_model(vocab_size=50257))
    model.config.eos_token_id = model.config.bos_token_id = 50256
    model.save_pretrained(folder)
    (folder / "vocab.json").write_bytes((shared_data / "gpt2_bpe" / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((shared_data / "gpt2_bpe" / "vocab.bpe").read_bytes())
    return model, folder


def test_nanogpts_characters_become_a_tokenizer(tmp_path):
    """A character-level model has its vocabulary in meta.pkl, next to it or in its data folder."""
    text = "O God, I have an ill-divining soul!\nMethinks I see thee, now thou art below"
    characters = sorted(set(text))
    model = GPT(vocab_size=len(characters))
    torch.save(model.checkpoint(compiled=True), tmp_path / "ckpt.pt")
    stoi = {character: id for id, character in enumerate(characters)}
    meta = {"vocab_size": len(stoi), "itos": dict(enumerate(characters)), "stoi": stoi}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    recipe("convert", source=str(tmp_path), output_dir=str(tmp_path / "out"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(text).input_ids
    assert ids == [stoi[character] for character in text]
    assert tokenizer.decode(ids) == text
    assert tokenizer("Ω").input_ids == [tokenizer.unk_token_id] == [len(stoi)]
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    rows = torch.tensor([ids[:32]])
    assert (converted(rows).logits[..., : len(stoi)] - model(rows)).abs().max() < 1e-5
    (tmp_path / "data").mkdir()
    (tmp_path / "meta.pkl").rename(tmp_path / "data" / "meta.pkl")
    for number, place in enumerate((tmp_path / "data", tmp_path / "data" / "meta.pkl")):
        recipe("convert", source=str(tmp_path / "ckpt.pt"), tokenizer=str(place), output_dir=str(tmp_path / str(number)))
        assert AutoTokenizer.from_pretrained(tmp_path / str(number))(text).input_ids == ids


def test_a_meta_pkl_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save(GPT().checkpoint(), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": Evil()}))
    with pytest.raises(ValueError, match=r"meta\.pkl is not nanoGPT's meta\.pkl.*it refers to posix\.system"):
        recipe("convert", source=str(tmp_path), output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_gpt2_passes_both_doors(gpt2_with_tokenizer, stranger, tmp_path):
    source, folder = gpt2_with_tokenizer
    done = run_script("convert.py", folder, "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "difference from source: " in done.stdout
    assert "note: 3 rows were added to the embedding (50,257 -> 50,260)" in done.stdout
    assert f"next: python recipes/generate.py {tmp_path / 'out'}\n" in done.stdout
    code = LOAD + "print(json.dumps(what_loads(sys.argv[1], trust_remote_code=True)))"
    env = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", **stranger}
    done = run_python("-S", "-c", code, tmp_path / "out", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs[0].startswith("transformers_modules.")
    imported: dict = {}
    exec(LOAD, imported)
    ours = imported["what_loads"](tmp_path / "out")
    assert ours[0] == "hfgpt.model.modeling_hfgpt"
    assert ours[1:] == theirs[1:]
    with torch.no_grad():
        expected = source(torch.tensor([[5, 9, 11, 3, 96]])).logits
    logits = torch.tensor(ours[1])
    assert logits.shape[-1] == 50260
    assert (logits[..., :50257] - expected).abs().max() < 1e-5
    # The added rows return the mean of all logits, so none of them is ever likelier than the average token.
    assert (logits[..., 50257:] - expected.mean(-1, keepdim=True)).abs().max() < 1e-4
    assert ours[2] == [50256, 9099, 470]  # the separator, then GPT-2's ids of "don't"
    assert ours[3] == 50257
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert report["difference_from_source"] < 1e-5
    # The command it prints as the next step works.
    done = run_script("generate.py", tmp_path / "out", "--prompt", "The ", "--max_new_tokens", "3")
    assert done.returncode == 0, done.stderr


def test_gpt2_from_a_hub(gpt2_with_tokenizer, tmp_path):
    """By name over HTTP, from a repository with the same weights in two formats: only one of them is downloaded."""
    source, folder = gpt2_with_tokenizer
    repository = tmp_path / "hub" / "models" / "someone" / "small-gpt2"
    repository.mkdir(parents=True)
    for path in folder.iterdir():
        (repository / path.name).symlink_to(path)
    (repository / "pytorch_model.bin").write_bytes(b"never asked for")
    with HubServer(tmp_path / "hub") as hub:
        runs = json.dumps([[f"someone/{name}", "--output_dir", str(tmp_path / name)] for name in ("small-gpt2", "nothing")])
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        done = run_python("-c", IN_ONE_PROCESS, ROOT / "tests", runs, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    (code, said), (code_of_missing, said_of_missing) = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, said
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small-gpt2").eval()
    ids = torch.tensor([[5, 9, 11]])
    with torch.no_grad():
        assert (model(ids).logits[..., :50257] - source(ids).logits).abs().max() < 1e-5
    assert not list((tmp_path / "home").rglob("pytorch_model.bin"))
    assert code_of_missing == 1
    assert "error: someone/nothing is neither a file or folder here" in said_of_missing
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("family", ["book", "modern"])
def test_out_and_in_again(small_tokenizer, tmp_path, family):
    fields = dict(vocab_size=512, bos_token_id=0, eos_token_id=0, pad_token_id=1)
    model = book_model(**fields) if family == "book" else modern_model(**fields)
    model.save_pretrained(tmp_path / "ours")
    load_tokenizer(small_tokenizer).save_pretrained(tmp_path / "ours")
    metrics = recipe("convert", source=str(tmp_path / "ours"), target="native", output_dir=str(tmp_path / "native"))
    assert metrics["difference_of_twin"] < 1e-5
    assert metrics["parameters"] == model.num_parameters()
    assert not list((tmp_path / "native").glob("*.py"))
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    assert type(twin).__module__.startswith("transformers.models.")
    if family == "book":
        metrics = recipe("convert", source=str(tmp_path / "native"), output_dir=str(tmp_path / "again"))
        assert metrics["difference_from_source"] < 1e-5
        again = AutoTokenizer.from_pretrained(tmp_path / "again")
        assert again("os.path").input_ids == load_tokenizer(small_tokenizer)("os.path").input_ids
        ours, weights = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
        assert ours.keys() == weights.keys()
        assert all(torch.equal(ours[name], weights[name]) for name in ours)


def test_the_dtype_of_the_source_is_kept_and_another_one_is_written(tmp_path):
    book_model().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    for dtype, expected in (("source", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float16)):
        recipe("convert", source=str(tmp_path / "half"), dtype=dtype, output_dir=str(tmp_path / dtype))
        assert {tensor.dtype for tensor in load_file(tmp_path / dtype / "model.safetensors").values()} == {expected}
        assert AutoModelForCausalLM.from_pretrained(tmp_path / dtype, dtype="auto").dtype == expected


def test_weights_above_the_maximum_of_a_dtype_are_refused(tmp_path):
    model = book_model()
    model.model.layers[1].mlp.down_proj.bias.data[3] = -7e4
    model.save_pretrained(tmp_path / "large")
    with pytest.raises(ValueError, match=r"down_proj.bias contains values up to 7e\+04, but the maximum of float16 is 65504"):
        recipe("convert", source=str(tmp_path / "large"), dtype="float16", output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["hfgpt", "native"])
def test_a_classifier_in_gpt2s_layout_still_reads_as_much_of_a_text(target, small_tokenizer, tmp_path):
    tokenizer = load_tokenizer(small_tokenizer)
    shape = dict(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, pad_token_id=1, num_labels=3)
    GPT2ForSequenceClassification(GPT2Config(**shape)).save_pretrained(tmp_path / "gpt2")
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(tmp_path / "gpt2")
    recipe("convert", source=str(tmp_path / "gpt2"), target=target, output_dir=str(tmp_path / "out"))
    assert load_tokenizer(tmp_path / "out").model_max_length == 8
    assert json.loads((tmp_path / "out" / "config.json").read_text()).get("max_text_length") == (8 if target == "hfgpt" else None)


def test_a_gguf_folder_has_the_file_and_a_modelfile_that_names_it(small_families, tmp_path):
    pytest.importorskip("gguf", reason="needs the package gguf, an extra")
    recipe("convert", source=str(small_families["modern"]), target="gguf", gguf_type="q8_0", output_dir=str(tmp_path / "mine"))
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert names == {"Modelfile", "README.md", "conversion.json", "fingerprint.json", "mine-q8_0.gguf"}
    lines = (tmp_path / "mine" / "Modelfile").read_text().splitlines()
    assert "FROM ./mine-q8_0.gguf" in lines
    assert "PARAMETER num_ctx 256" in lines


def test_an_adapter_is_merged_and_measured(tmp_path):
    peft = pytest.importorskip("peft", reason="needs PEFT, an extra")
    book_model().save_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    beside = peft.get_peft_model(book_model(), settings).eval()
    beside.save_pretrained(tmp_path / "adapter")
    arguments = dict(source=str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    metrics = recipe("convert", **arguments, output_dir=str(tmp_path / "merged"))
    assert 0 < metrics["difference_of_merging"] < 1e-5
    recipe("convert", **arguments, target="native", output_dir=str(tmp_path / "native"))
    ids = torch.tensor([[5, 9, 11, 3, 96]])
    with torch.no_grad():
        expected = beside(ids).logits
        for name in ("merged", "native"):
            model = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
            assert (model(ids).logits - expected).abs().max() < 1e-5


def test_a_merged_adapter_has_the_adapters_tokenizer_ends_passport_and_card(small_tokenizer, tmp_path):
    tokenizer = load_tokenizer(small_tokenizer)
    base, model = tmp_path / "base", book_model(vocab_size=len(tokenizer))
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    Passport(inputs=[{"name": "base.txt"}]).save(base)
    (base / "card.yaml").write_text("license: mit\n")
    settings = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    convert = lambda: recipe("convert", source=str(base), adapter=str(adapter), output_dir=str(merged), overwrite=True)  # noqa: E731
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    get_peft_model(model, settings).save_pretrained(adapter)
    convert()
    assert Passport.load(merged).inputs == [{"name": "base.txt"}]
    assert (merged / "card.yaml").read_text() == "license: mit\n"

    set_prompt_style(tokenizer, "chat")
    tokenizer.save_pretrained(adapter)
    # Sampling without do_sample, as in older repositories: transformers refuses to save it once anything in it is changed.
    (adapter / "generation_config.json").write_text('{"eos_token_id": [3, 0], "temperature": 0.7}')
    Passport(inputs=[{"name": "questions.jsonl"}]).save(adapter)
    (adapter / "card.yaml").write_text("license: apache-2.0\n")
    convert()
    assert AutoTokenizer.from_pretrained(merged).chat_template == tokenizer.chat_template
    generation = json.loads((merged / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["do_sample"], generation["temperature"]) == ([3, 0], True, 0.7)
    assert Passport.load(merged).inputs == [{"name": "questions.jsonl"}]
    assert (merged / "card.yaml").read_text() == "license: apache-2.0\n"


def test_gpt2s_tokenizer_keeps_its_ids_and_gets_a_padding_of_its_own(shared_data, tmp_path):
    tokenizer = gpt2_tokenizer(shared_data / "gpt2_bpe")
    published = json.loads((shared_data / "gpt2_bpe" / "encoder.json").read_text())
    assert {token: id for token, id in tokenizer.get_vocab().items() if id < 50257} == published
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (50256, 50257, 50260)
    assert encode_texts(tokenizer, ["Hello, world", "naïve  text"]) == [[15496, 11, 995], [2616, 38776, 220, 2420]]
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again("Every effort").input_ids == [50256, 6109, 3626]
    assert again.padding_side == "left"
    assert 50256 not in encode_texts(again, ["<|endoftext|>"])[0]


# What is refused, and what is left behind


def refused(done, *words):
    assert done.returncode == 1, done.stdout + done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in sentence
    assert "Traceback" not in done.stderr


def test_a_refusal_is_one_sentence_and_leaves_nothing(tmp_path):
    torch.save({"tok_emb.weight": torch.zeros(97, 48), "pos_emb.weight": torch.zeros(8, 48)}, tmp_path / "cut.pth")
    done = run_script("convert.py", tmp_path / "cut.pth", "--output_dir", tmp_path / "out")
    refused(done, "lacks the tensor trf_blocks.0.ff.layers.0.weight")
    refused(
        run_script("convert.py", tmp_path / "nothing.pth", "--output_dir", tmp_path / "out"),
        "nothing.pth does not exist (looked from",
    )
    refused(run_script("convert.py", "--output_dir", tmp_path / "out"), "source is missing")
    refused(run_script("convert.py", tmp_path, "--output_dir", tmp_path / "out", "--taget", "gguf"), "did you mean 'target'?")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.pth"]


class Payload:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


def test_code_in_a_pth_is_not_run_by_the_recipe(tmp_path):
    torch.save({"model_state_dict": {}, "optimizer_state_dict": Payload(str(tmp_path / "trap"))}, tmp_path / "code.pth")
    done = run_script("convert.py", tmp_path / "code.pth", "--output_dir", tmp_path / "out")
    refused(done, "contains more than tensors, and the code it refers to was not run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.pth"]


def test_a_filled_folder_is_replaced_only_where_it_is_ours_and_it_was_asked_for(tmp_path):
    book_model().save_pretrained(tmp_path / "base")
    arguments = dict(source=str(tmp_path / "base"), output_dir=str(tmp_path / "out"))
    recipe("convert", **arguments)
    with pytest.raises(ValueError, match="is not empty; give another one, or --overwrite true"):
        recipe("convert", **arguments)
    recipe("convert", **arguments, overwrite=True, target="native")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "gpt2"
    with pytest.raises(ValueError, match="contains files that this recipe did not write"):
        recipe("convert", source=str(tmp_path / "out"), output_dir=str(tmp_path / "base"), overwrite=True)
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    book_model(norm_type="rmsnorm").save_pretrained(tmp_path / "odd")
    with pytest.raises(ValueError, match="no transformers class"):
        recipe("convert", source=str(tmp_path / "odd"), target="native", output_dir=str(tmp_path / "out"), overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            300,
            "the tokenizer has 512 tokens, but the model's embedding has 300 rows; 212 of the ids without a row .the first is 300, "
            "",
        ),
        (700, "the tokenizer has 512 tokens, but the model's embedding has 700 rows; extra rows"),
        (1024, "the tokenizer has 512 tokens, but the model's embedding has 1,024 rows; extra rows"),
    ],
)
def test_a_vocabulary_that_is_not_the_tokenizers(small_tokenizer, tmp_path, rows, sentence):
    book_model(vocab_size=rows).save_pretrained(tmp_path / "base")
    arguments = dict(source=str(tmp_path / "base"), tokenizer=str(small_tokenizer), output_dir=str(tmp_path / "out"))
    for target in ("hfgpt", "native", "gguf"):
        with pytest.raises(ValueError, match=sentence):
            recipe("convert", **arguments, target=target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_a_shard_that_is_lost_on_the_way_leaves_nothing(tmp_path):
    book_model().save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    lost = sorted(tensors)[3:5]
    save_file({name: tensor for name, tensor in tensors.items() if name not in lost}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing: ") as refusal:
        recipe("convert", source=str(tmp_path / "base"), output_dir=str(tmp_path / "out"))
    assert all(name in str(refusal.value) for name in lost)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(target="gguf"), "GGUF includes the tokenizer, but none was found"),
        (dict(gguf_type="q8_0"), "gguf_type is q8_0, but target is hfgpt"),
        (dict(target="gguf", dtype="float16"), "dtype is float16, but target is gguf"),
        (dict(num_attention_heads=0), "num_attention_heads is 0"),
        (dict(adapter="no/adapter"), "no/adapter/adapter_config.json does not exist"),
        (dict(tokenizer="no/tokenizer"), "no/tokenizer has no tokenizer that can be loaded"),
    ],
)
def test_options_that_cannot_be(tmp_path, arguments, sentence):
    book_model().save_pretrained(tmp_path / "base")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        recipe("convert", source=str(tmp_path / "base"), output_dir=str(tmp_path / "out"), **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
