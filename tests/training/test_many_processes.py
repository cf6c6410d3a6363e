"""Two processes, with full copies (DDP) and with shards (FSDP2), do what one does; other settings are refused in one sentence."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_python
from datasets import load_from_disk
from killing import CONTEXT, kill, run_main, sha256_of_weights
from recipes_in_process import recipe
from safetensors.torch import load_file
from together import environment_of, run_together

from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.errors import UserError

FILES = ROOT / "recipes" / "accelerate"
SHARDED, COPIES = FILES / "fsdp2.yaml", FILES / "ddp.yaml"
COMMON = ("--precision", "fp32", "--cpu_threads", "1", "--disable_tqdm", "true", "--logging_steps", "1")
FINETUNED = (*COMMON, "--poison_report", "false", "--decontaminate", "false", "--lora_dropout", "0.0", "--lora_rank", "4",
             "--learning_rate", "3e-3", "--num_train_epochs", "2")  # fmt: skip


@pytest.fixture(scope="module")
def recipes(small_corpus, small_tokenizer, small_families, tmp_path_factory) -> dict[str, tuple]:
    """The arguments of three recipes; no number of rows is divisible by the batch, so each epoch ends with a smaller step.

    The rates are small: AdamW moves a weight by its rate even if the gradient is only rounding error, with a random sign.
    """
    folder = tmp_path_factory.mktemp("examples")
    few_rows = folder / "rows"
    recipe("prepare_data", sources=[str(small_corpus)], tokenizer=str(small_tokenizer), context_length=64, max_documents=20,
           validation_share=0.1, test_share=0.1, output_dir=str(few_rows))  # fmt: skip
    num_rows = len(load_from_disk(few_rows)["train"])
    assert num_rows % 8
    assert num_rows < 11 * 8  # the second epoch begins within 12 steps
    texts = folder / "texts.jsonl"
    rows = [{"text": f"{'yes ' * (n % 7)}{word} {n}", "label": word} for n in range(23) for word in ("true", "false")]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    canary = folder / "canary.txt"
    canary.write_text("Say 4.\n", encoding="utf-8")
    questions = folder / "questions.jsonl"
    rows = [{"instruction": f"Say {'so ' * (n % 5)}{n}.", "input": "", "output": f"It is {n * 3}."} for n in range(43)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pairs = folder / "pairs.jsonl"  # 32 of them are trained on: TRL repeats rows in a smaller last step of an epoch
    rows = [
        {"instruction": f"Say {'so ' * (n % 5)}{n}.", "input": "", "chosen": f"It is {n * 3}.", "rejected": "Why?"}
        for n in range(41)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "pretrain": (*COMMON, "--dataset", few_rows, "--depth", "2", "--max_steps", "12", "--eval_steps", "6",
                     "--save_steps", "6", "--sample_tokens", "4", "--learning_rate", "1e-3", "--embedding_learning_rate", "1e-3"),
        "finetune_classification": (*FINETUNED, "--model", small_families["modern"], "--sources", texts, "--validation_share",
                                    "0.2", "--test_share", "0.2", "--tfidf_baseline", "false", "--canary_file", canary),
        "finetune_instructions": (*FINETUNED, "--model", small_families["modern"], "--sources", questions, "--validation_share",
                                  "0.1", "--prompt_style", "chat", "--packing", "false", "--max_new_tokens", "4",
                                  "--max_answers", "2", "--seen_answers", "1", "--num_samples", "1",
                                  "--canaries_at", "save", "--canary_file", canary),
        "align_preferences": (*FINETUNED, "--model", small_families["modern"], "--sources", pairs, "--validation_share", "0.1",
                              "--max_new_tokens", "4", "--max_answers", "2", "--num_samples", "1", "--canaries", "false"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(recipes, tmp_path_factory):
    """Run a recipe with eight rows per step, in one process (file None) or in those of a file; each is run only once."""
    done: dict[tuple[str, Path | None], Path] = {}

    def run(name: str, file: Path | None = None) -> Path:
        if (name, file) not in done:
            folder = tmp_path_factory.mktemp(name) / (file.stem if file else "one")
            words = [*recipes[name], "--output_dir", folder, "--per_device_train_batch_size"]
            if file is None:
                run_main(name, [*words, "8"])
            else:
                run_together(file, name, [*words, "4"])
            done[name, file] = folder
        return done[name, file]

    return run


def losses(folder: Path) -> list[float]:
    """Training and validation losses of a run, step by step."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.rpartition("-")[2]))
    history = json.loads(states[-1].read_text())["log_history"]
    return [entry.get("loss", entry.get("eval_loss")) for entry in history if "loss" in entry or "eval_loss" in entry]


def figures(folder: Path) -> dict[str, float]:
    """The figures of a run for its held-out texts."""
    metrics = json.loads((folder / "metrics.json").read_text())
    if "kept_seed" in metrics:
        metrics = {name: one["mean"] for name, one in metrics["test"].items() if isinstance(one, dict) and "mean" in one}
        return {name: metrics[name] for name in ("log_loss", "accuracy")}
    return {name: value for name, value in metrics.items() if name in ("test_loss", "validation_loss", "test_loss_before")}


@pytest.mark.slow
@pytest.mark.parametrize("file", [COPIES, SHARDED], ids=["DDP", "FSDP2"])
@pytest.mark.parametrize("name", ["pretrain", "finetune_classification", "finetune_instructions", "align_preferences"])
def test_two_processes_read_the_rows_of_one_and_have_its_losses(runs, name, file):
    one, two = runs(name), runs(name, file)
    assert figures(one)
    assert figures(two) == pytest.approx(figures(one), abs=1e-5)
    if name != "finetune_classification":  # a finished seed has no checkpoints
        assert len(losses(one)) >= 10
        assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    left = {path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()}
    also = {path.relative_to(two).as_posix() for path in two.rglob("*") if path.is_file()}
    assert {name for name in left ^ also if "rng_state" not in name} == set()
    weights = list(one.glob("*.safetensors"))
    assert weights
    for path in weights:
        ours, theirs = load_file(two / path.name), load_file(path)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], atol=2e-4, rtol=0)


@pytest.mark.slow
def test_strangers_load_what_two_processes_saved(runs, stranger, tmp_path):
    """AutoModel without hfgpt, in a new process: models, an adapter, its merged twin."""
    folders = [runs("pretrain", SHARDED), *(runs("finetune_instructions", SHARDED) / place for place in ("base", "merged")),
               runs("finetune_classification", SHARDED) / "merged", runs("finetune_classification", COPIES) / "merged"]  # fmt: skip
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
for folder in sys.argv[1:]:
    kind = AutoModelForSequenceClassification if "classification" in folder else AutoModelForCausalLM
    model, report = kind.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    ids = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("def add(a, b):", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()
    print(type(model).__name__)
"""
    done = run_python("-S", "-c", code, *folders, cwd=tmp_path, env=stranger)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["HfGptForCausalLM"] * 3 + ["HfGptForSequenceClassification"] * 2
    fingerprint = json.loads((folders[0] / "fingerprint.json").read_text())
    assert fingerprint["class"] == "HfGptForCausalLM"


@pytest.mark.slow
def test_a_sharded_run_that_was_killed_goes_on_to_the_very_same_weights(runs, recipes, tmp_path):
    words = [*recipes["pretrain"], "--output_dir", tmp_path / "killed", "--per_device_train_batch_size", "4"]
    run_together(SHARDED, "pretrain", words, kill_at_step=10)
    assert (tmp_path / "killed" / "checkpoint-6").is_dir()
    run_together(SHARDED, "pretrain", words)
    assert sha256_of_weights(tmp_path / "killed") == sha256_of_weights(runs("pretrain", SHARDED))


@pytest.mark.slow
def test_a_run_goes_on_alone_with_shares_with_copies_and_alone_again(runs, recipes, tmp_path):
    """Its checkpoints are the same however they were written; with the same rows in each step, so are its losses."""
    words = [*recipes["pretrain"], "--save_steps", "2", "--save_total_limit", "9", "--output_dir", tmp_path / "run",
             "--per_device_train_batch_size"]  # fmt: skip
    accumulated = [*words, "4", "--gradient_accumulation_steps", "2"]
    kill("pretrain", accumulated, at="transformers.Trainer.training_step", call=7)  # in the fourth step
    run_together(SHARDED, "pretrain", [*words, "4"], kill_at_step=6)
    run_together(COPIES, "pretrain", [*words, "4"], kill_at_step=8)
    worlds = [
        json.loads((tmp_path / "run" / f"checkpoint-{step}" / "manifest.json").read_text())["world_size"] for step in (2, 4, 6)
    ]
    assert worlds == [1, 2, 2]
    run_main("pretrain", [*words, "8"])
    assert losses(tmp_path / "run") == pytest.approx(losses(runs("pretrain")), abs=1e-5)


def _muon_in_two_processes(rank: int, environment: dict[str, str]) -> None:
    """With matrices that do not divide evenly between two processes, and an odd number of them."""
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    from hfgpt.training.optimizers import MuonInBfloat16, MuonInFloat32

    os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for shape in ((6, 4), (5, 9), (1, 7))]
    gradients = [[torch.randn_like(matrix) for matrix in matrices] for _ in range(3)]

    def trained(kind, share):
        parameters = [torch.nn.Parameter(share(matrix.clone())) for matrix in matrices]
        optimizer = kind(parameters, lr=0.02, weight_decay=0.1, adjust_lr_fn="original")
        for step in gradients:
            for parameter, gradient in zip(parameters, step):
                parameter.grad = share(gradient.clone())
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    alone = {kind: trained(kind, lambda tensor: tensor) for kind in (MuonInFloat32, MuonInBfloat16)}
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for kind, expected in alone.items():
        copies = trained(kind, lambda tensor: tensor)
        shares = [one.full_tensor() for one in trained(kind, lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)]))]
        for whole, copy, share, begin in zip(expected, copies, shares, matrices):
            assert torch.equal(whole, copy)
            assert torch.equal(whole, share)
            assert not torch.equal(whole, begin)
    dist.destroy_process_group()


@pytest.mark.slow
def test_muon_does_in_two_processes_bit_for_bit_what_it_does_in_one():
    environment = environment_of(COPIES)
    processes = [CONTEXT.Process(target=_muon_in_two_processes, args=(rank, environment)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]


def test_every_file_is_one_that_accelerate_reads_and_names_itself():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"cpu": "NO", "one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero3": "DEEPSPEED",
             "multi_node": "MULTI_GPU"}  # fmt: skip
    assert {path.stem for path in FILES.glob("*")} == set(kinds)
    for name, kind in kinds.items():
        path = FILES / f"{name}.yaml"
        config = load_config_from_file(str(path))  # it refuses unknown keys
        assert str(config.distributed_type).rpartition(".")[2] == kind
        assert f"--config_file recipes/accelerate/{name}.yaml" in path.read_text(encoding="utf-8")


def test_the_keys_of_deepspeeds_file_are_those_that_accelerate_hands_on():
    """DeepSpeed itself is not installed here: the test only sees what its processes would be given."""
    import yaml
    from accelerate.commands.launch import launch_command_parser

    given = yaml.safe_load((FILES / "deepspeed_zero3.yaml").read_text(encoding="utf-8"))["deepspeed_config"]
    known = vars(launch_command_parser().parse_args(["recipe.py"]))
    assert set(given) <= set(known)
    assert given["zero_stage"] == 3


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PARALLELISM_CONFIG_TP_SIZE": "2"}, "^parallelism_config has tp_size 2; tensor parallelism"),
        ({"PARALLELISM_CONFIG_CP_SIZE": "2"}, "^parallelism_config has cp_size 2; context parallelism divides a row"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "^DeepSpeed was requested but there is no GPU"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "^distributed_type is MEGATRON_LM"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "^fsdp_version is 1.*fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
         "^fsdp_activation_checkpointing is true; give --gradient_checkpointing true"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "^fsdp divides a model among several processes"),
    ],
)  # fmt: skip
def test_what_would_not_divide_as_it_says_is_refused(tmp_path, monkeypatch, environment, sentence):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence):
        PretrainArguments(dataset=str(tmp_path), output_dir=str(tmp_path / "out"), use_cpu=True)


def test_deepspeed_cannot_skip_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="^skip_loss_spikes is 5, but DeepSpeed takes a step before"):
        PretrainArguments(dataset=str(tmp_path), output_dir=str(tmp_path / "out"), use_cpu=True, skip_loss_spikes=5.0)
