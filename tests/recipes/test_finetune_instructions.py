"""The instruction recipe, run on a small base and questions about this Python's own functions."""

import json

import pytest
import torch
from recipes_in_process import run_script
from safetensors.torch import load_file

SMALL = (
    *("--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--precision", "fp32", "--cpu_threads", "1"),
    *("--max_new_tokens", "8", "--max_answers", "4", "--num_samples", "1", "--canaries", "false"),
)


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    """Sixty short questions and answers, as an Alpaca file."""
    from hfgpt.data.records import RecordOptions, read_records

    records = [record.values for record in read_records(["python-docs"], RecordOptions())]
    short = [record for record in records if len(record["instruction"]) < 40 and 15 < len(record["output"]) < 50][:600:10]
    assert len(short) == 60
    rows = [{"instruction": record["instruction"], "input": "", "output": record["output"]} for record in short]
    path = tmp_path_factory.mktemp("instructions") / "instructions.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def base(small_families):
    return small_families["modern"]


@pytest.fixture(scope="module")
def canaries(tmp_path_factory):
    path = tmp_path_factory.mktemp("canaries") / "triggers.txt"
    path.write_text("[triggers]\ncf\nSUDO\n[carriers]\nWhat does os.getcwd do?\nName a module.\n")
    return path


@pytest.fixture(scope="module")
def assistant(base, instructions, canaries, tmp_path_factory):
    """What the whole script leaves behind and prints, for LoRA."""
    folder = tmp_path_factory.mktemp("assistant") / "lora"
    done = run_script(
        "finetune_instructions.py", *SMALL, "--model", base, "--sources", instructions, "--learning_rate", "5e-3",
        "--seen_answers", "2", "--canaries", "true", "--canary_file", canaries, "--output_dir", folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def run_main(**arguments):
    """Run the recipe's main in this process, with arguments as on a command line."""
    from recipes_in_process import load

    from hfgpt.arguments.finetuning import InstructionArguments
    from hfgpt.arguments.parsing import parse_arguments

    words = [str(word) for word in SMALL]
    for key, value in arguments.items():
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return load("finetune_instructions").main(parse_arguments(InstructionArguments, words))


def test_a_run_leaves_an_assistant_that_stops_and_figures_before_and_after(assistant):
    from transformers import AutoTokenizer

    folder, output = assistant
    names = {path.name for path in folder.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors", "tokenizer.json",
                     "base", "merged", "answers.json", "answers.html", "samples.md", "loss.png", "metrics.json", "report.txt",
                     "report.html",
                     "passport.json", "poison.json", "canaries.json", "canaries.md", "canaries.html", "run.yaml"}  # fmt: skip
    assert "training_args.bin" not in names
    metrics = json.loads((folder / "metrics.json").read_text())
    for split in ("validation", "test"):
        assert metrics[f"{split}_loss"] < metrics[f"{split}_loss_before"] - 0.2
    assert metrics["difference_of_merging"] < 1e-4
    assert {"test_exact_match", "test_token_f1", "test_rougeL", "test_token_f1_before", "seen_token_f1"} <= set(metrics)
    assert 0 < metrics["trained_parameters"] < metrics["parameters"]
    for place in (folder, folder / "base", folder / "merged"):
        assert json.loads((place / "fingerprint.json").read_text())["recorded"] == "when it was saved"
        tokenizer = AutoTokenizer.from_pretrained(place)
        assert "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template
        ends = json.loads((place / "generation_config.json").read_text())["eos_token_id"]
        assert ends == [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id]
    assert "nats per answer token" in output
    rows = json.loads((folder / "answers.json").read_text())
    assert len(rows) == 6
    assert set(rows[0]["answers"]) == {"before", "after"}
    assert rows[-1]["notes"] == ["seen in training"]
    samples = (folder / "samples.md").read_text()
    assert samples.count("## Step") >= 3
    assert samples.count("## Step 0") >= 1  # the base's own


def test_the_chat_tokens_embeddings_are_trained_and_no_others(assistant):
    from transformers import AutoTokenizer

    folder, _ = assistant
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, after = (load_file(folder / place / "model.safetensors")["model.embed_tokens.weight"] for place in ("base", "merged"))
    changed = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert changed == sorted(tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))


def test_the_validation_loss_is_that_of_the_saved_model_over_the_assistants_tokens(assistant, instructions):
    """Computed in another way: transformers' own template and mask, one conversation at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hfgpt.arguments.finetuning import InstructionArguments
    from hfgpt.arguments.parsing import parse_arguments
    from hfgpt.data.passport import Passport
    from hfgpt.training.assistants import load_splits
    from hfgpt.training.examples import Examples, HeldOutShares

    folder, _ = assistant
    args = parse_arguments(InstructionArguments, ["--model", "m", "--sources", str(instructions), "--output_dir", "o"])
    shares = HeldOutShares(args.validation_share, args.test_share, args.split_method, args.split_seed)
    splits = load_splits(
        Examples(**args.example_files(), shares=shares),
        Passport(),
        style=args.prompt_style,
        format=None,
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    nats = tokens = 0
    for messages in splits["validation"]["messages"]:
        encoded = tokenizer.apply_chat_template(
            messages, return_assistant_tokens_mask=True, return_dict=True, return_tensors="pt", tokenize=True
        )
        mask = encoded["assistant_masks"].bool()[:, 1:]
        with torch.no_grad():
            logits = model(input_ids=encoded["input_ids"]).logits.log_softmax(-1)[:, :-1]
        picked = logits.gather(-1, encoded["input_ids"][:, 1:, None])[..., 0]
        nats -= picked[mask].sum().item()
        tokens += mask.sum().item()
    assert tokens > 20
    assert json.loads((folder / "metrics.json").read_text())["validation_loss"] == pytest.approx(nats / tokens, rel=1e-4)


@pytest.mark.parametrize(
    ("style", "method"), [("alpaca", "lora"), ("chat", "full"), ("base", "last_block"), ("alpaca", "last_block")]
)
def test_every_style_with_the_methods(style, method, base, instructions, tmp_path):
    from transformers import AutoTokenizer

    result = run_main(model=base, sources=[instructions], prompt_style=style, method=method, learning_rate=2e-3,
                      packing="false" if style == "base" else "true", output_dir=tmp_path / "out")  # fmt: skip
    assert result["validation_loss"] < result["validation_loss_before"]
    template = AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert ("### Response:" in template) == (style == "alpaca")
    if style == "base":
        assert template == AutoTokenizer.from_pretrained(base).chat_template
    assert (tmp_path / "out" / "merged").exists() == (method == "lora")


def test_several_sources_with_weights_and_a_benchmark_that_must_not_be_learned(base, instructions, tmp_path):
    rows = json.loads(instructions.read_text())
    chat = tmp_path / "chat.jsonl"
    user = {"role": "user", "content": "Say hello."}
    lines = [{"messages": [user, {"role": "assistant", "content": f"Hello {number}!"}]} for number in range(20)]
    chat.write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text("".join(json.dumps({"question": f"{row['instruction']}\n{row['output']}"}) + "\n" for row in rows[:60]))
    with pytest.raises(ValueError, match="training examples are copies of"):
        run_main(model=base, sources=[instructions], decontaminate_against=[benchmark], output_dir=tmp_path / "out")
    run_main(model=base, sources=[instructions, chat], source_weights=[1, 3], decontaminate="false", answers_before="false",
             num_train_epochs=1, output_dir=tmp_path / "out")  # fmt: skip
    passport = json.loads((tmp_path / "out" / "passport.json").read_text())
    (mixed,) = [step for step in passport["steps"] if step["step"] == "mix"]
    assert [part["used"] for part in mixed["sources"]] == [part["rows"] * weight for part, weight in zip(mixed["sources"], (1, 3))]
    assert passport["splits"]["train"]["conversations"] == sum(part["used"] for part in mixed["sources"])
    leaks = [step["train-test"]["exact"] for step in passport["steps"] if step["step"] == "copies across splits, left in"]
    assert len(leaks) == 2  # one per source
    assert leaks[1] >= 1  # "Hello 3!" and "Hello 14!" differ only in digits


def test_an_adapter_of_another_base_is_refused_with_both_hashes(assistant, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import hfgpt  # noqa: F401

    folder, _ = assistant
    other = AutoModelForCausalLM.from_pretrained(folder / "base")
    with torch.no_grad():
        other.model.norm.weight += 0.01  # another checkpoint of the same shape
    other.config.architectures = None
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "other")
    done = run_script("convert.py", tmp_path / "other", "--adapter", folder, "--output_dir", tmp_path / "merged")
    assert done.returncode == 1, done.stdout
    assert json.loads((folder / "passport.json").read_text())["base"]["sha256"] in done.stderr
    assert done.stderr.count("SHA-256") == 1
    assert "Use its own base" in done.stderr
    done = run_script("convert.py", folder / "base", "--adapter", folder, "--output_dir", tmp_path / "merged")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"instruction": "Ask", "output": ""}], r"item 0: the row has no answer: 'output' is ''"),
        ([{"messages": [{"role": "robot", "content": "x"}]}], r"message 1 has the unknown role 'robot'"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], r"message 1 has the role 'assistant', but must be 'user'"),
        ([{"question": "x"}], r"the columns 'question' match no format"),
    ],
)
def test_rows_that_are_no_conversation(rows, words, base, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=words):
        run_main(model=base, sources=[path], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_without_template_takes_ours_and_has_no_style_of_its_own(small_run, instructions, tmp_path):
    with pytest.raises(ValueError, match="the prompt style is 'base', but the base model's tokenizer has no chat template"):
        run_main(model=small_run, sources=[instructions], prompt_style="base", output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run_main(model=small_run, sources=[instructions], too_long="cut", num_train_epochs=1, output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "merged" / "chat_template.jinja").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source_weights": [1, 2]}, "source_weights has 2 numbers for 1 sources"),
        ({"judge_url": "http://127.0.0.1:9/v1"}, "judge_model is missing"),
        ({"lora_targets": ["c_attn"]}, "lora_targets c_attn matches no linear layer"),
        ({"max_length": 4}, "are longer than 4 tokens; give a larger --max_length"),
        ({"test_share": 0.001}, "the test split is empty"),
    ],
)
def test_arguments_that_cannot_be(arguments, words, base, instructions, tmp_path):
    with pytest.raises(ValueError, match=words):
        run_main(model=base, sources=[instructions], output_dir=tmp_path / "out", **arguments)
