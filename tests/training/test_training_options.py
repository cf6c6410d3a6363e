"""Every option of TrainingArguments: with it, plain Trainer trains our models exactly as their native twins.

If an option makes no sense in a recipe, the recipe refuses it; no option is silently ignored.
"""

import copy
import inspect
from dataclasses import fields
from functools import cache

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother
from twins import book_model, modern_model

from hfgpt import HfGptForCausalLM, HfGptForSequenceClassification
from hfgpt.arguments.finetuning import ClassificationArguments, InstructionArguments
from hfgpt.arguments.preferences import PreferenceArguments
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.conversion.layouts import GPT2, Biases, entries, take_in
from hfgpt.conversion.weights_out import twin_of
from hfgpt.errors import UserError
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.trainer import LanguageModelTrainer

MODELS = {"book": book_model, "modern": modern_model}
NO_DROPOUT = dict(embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
PLAIN = dict(
    per_device_train_batch_size=4, max_steps=3, learning_rate=1e-2, logging_steps=1, save_strategy="no", use_cpu=True,
    disable_tqdm=True,
)  # fmt: skip
KEPT_WORST = dict(
    eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
    metric_for_best_model="eval_loss", greater_is_better=True,
)  # fmt: skip

# Options that change what is learned, some in combination; the result differs from that without them.
CHANGING = {
    "batch size": dict(per_device_train_batch_size=3),
    "number of epochs": dict(num_train_epochs=1, max_steps=-1),
    "last batch dropped": dict(num_train_epochs=1, max_steps=-1, dataloader_drop_last=True),
    "steps": dict(max_steps=2),
    "rate": dict(learning_rate=3e-3),
    "schedule": dict(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.5}),
    "warm-up": dict(warmup_steps=2),
    "optimizer": dict(optim="adafactor"),
    "optimizer's own options": dict(optim="sgd", optim_args="momentum=0.9"),
    "weight decay": dict(weight_decay=1.0),
    "betas and epsilon": dict(adam_beta1=0.5, adam_beta2=0.5, adam_epsilon=1e-3),
    "accumulation": dict(gradient_accumulation_steps=2),
    "clipping": dict(max_grad_norm=0.01, optim="sgd"),
    "smoothing": dict(label_smoothing_factor=0.1),
    "smoothing, accumulated": dict(label_smoothing_factor=0.1, gradient_accumulation_steps=2),
    "noise on the embeddings": dict(neftune_noise_alpha=5.0),
    "seed": dict(seed=7),
    "data seed": dict(data_seed=7),
    "order of the rows": dict(train_sampling_strategy="sequential"),
    "order by length": dict(train_sampling_strategy="group_by_length"),
    "order by a column": dict(train_sampling_strategy="group_by_length", length_column_name="size"),
    "bfloat16": dict(bf16=True),
    "state that is kept": KEPT_WORST,
}
# Options that do not change the result.
NEUTRAL = {
    "activation checkpointing": dict(activation_checkpointing=True, activation_checkpointing_kwargs={"every_n_layers": 2}),
    "gradient checkpointing": dict(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}),
    "compiled": dict(torch_compile=True, torch_compile_backend="eager", max_steps=1),
    "tokens averaged across devices": dict(average_tokens_across_devices=False),
    "accelerate's loader": dict(accelerator_config={"split_batches": True, "even_batches": False}),
    "columns": dict(label_names=["labels"], remove_unused_columns=False),
    "tokens counted": dict(include_num_input_tokens_seen="non_padding"),
    "batch size by memory": dict(auto_find_batch_size=True),
    "cache": dict(use_cache=True),
    "determinism": dict(full_determinism=True),
}
# Options that cannot be tested on a CPU, in one process or with the installed packages; they do not depend on the model.
ELSEWHERE = {
    *("fp16", "tf32", "torch_empty_cache_steps"),  # GPUs
    *("deepspeed", "fsdp", "fsdp_config", "parallelism_config", "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb",
      "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout", "local_rank"),
    *("use_liger_kernel", "liger_kernel_config", "optim_target_modules", "torch_compile_mode"),
}  # fmt: skip
# Options for what is logged, measured, saved or pushed, and for how rows reach the model.
AROUND = {
    *("output_dir", "use_cpu", "do_train", "do_eval", "do_predict", "debug", "skip_memory_metrics", "push_to_hub", "run_name"),
    *("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter", "log_level",
      "log_level_replica", "disable_tqdm", "report_to", "project", "trackio_space_id", "trackio_bucket_id",
      "trackio_static_space_id"),
    *("eval_delay", "per_device_eval_batch_size", "prediction_loss_only", "eval_on_start", "eval_do_concat_batches",
      "eval_use_gather_object", "eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "bf16_full_eval",
      "fp16_full_eval"),
    *("save_only_model", "save_on_each_node", "save_total_limit", "enable_jit_checkpoint", "ignore_data_skip",
      "restore_callback_states_from_checkpoint", "resume_from_checkpoint"),
    *("hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
      "dataloader_multiprocessing_context", "dataloader_in_order"),
}  # fmt: skip
KNOWN = [field.name for field in fields(TrainingArguments)]
COMPARED = {name for options in (*CHANGING.values(), *NEUTRAL.values()) for name in options}


def test_no_option_of_trainer_is_passed_over():
    """Fails with a new version of transformers until somebody has checked its new options."""
    assert set(KNOWN) - COMPARED - ELSEWHERE - AROUND == set()
    assert len(KNOWN) > 100
    assert COMPARED.isdisjoint(ELSEWHERE | AROUND)


@cache
def rows() -> list[dict]:
    """Texts of different lengths; the first tokens of each are not learned."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(6, 20, (26,), generator=generator).tolist()
    ids = [torch.randint(1, 97, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": row, "labels": [-100, -100, *row[2:]], "length": len(row), "size": -len(row) % 7 + 1} for row in ids]


def batched(examples: list[dict]) -> dict[str, torch.Tensor]:
    length = max(len(example["input_ids"]) for example in examples)
    batch = {"input_ids": [], "labels": [], "attention_mask": []}
    for example in examples:
        size = len(example["input_ids"])
        batch["input_ids"].append(example["input_ids"] + [0] * (length - size))
        batch["labels"].append(example["labels"] + [-100] * (length - size))
        batch["attention_mask"].append([1] * size + [0] * (length - size))
    return {name: torch.tensor(values) for name, values in batch.items()}


def train(model, folder, **options) -> tuple[list[float], dict[str, torch.Tensor], int]:
    """The loss of each step, the final weights, and the number of tokens counted."""
    from datasets import Dataset

    settings = {name: value for name, value in (PLAIN | options).items() if name in KNOWN}
    dataset = Dataset.from_list(rows())
    trainer = Trainer(
        model, TrainingArguments(str(folder), **settings), train_dataset=dataset, eval_dataset=dataset.select(range(6)),
        data_collator=batched,
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return (
        losses,
        {name: weight.detach().clone() for name, weight in model.state_dict().items()},
        trainer.state.num_input_tokens_seen,
    )


def pair(family: str):
    model = MODELS[family](**NO_DROPOUT, pad_token_id=0)
    return model, twin_of(model)


@cache
def plain_losses(family: str) -> tuple[float, ...]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return tuple(train(pair(family)[0], folder)[0])


@pytest.fixture
def determinism_undone(monkeypatch):
    for name in ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC",
                 "FLASH_ATTENTION_DETERMINISTIC"):  # fmt: skip
        monkeypatch.setenv(name, "")
    yield
    torch.use_deterministic_algorithms(False)


# GPT-2's layout differs, so most options are tested with the modern family; those that depend on names or modules with both.
CASES = [("modern", name) for name in (*CHANGING, *NEUTRAL)]
CASES += [
    ("book", name) for name in ("smoothing, accumulated", "weight decay", "noise on the embeddings", "activation checkpointing")
]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("family", "name"), CASES)
def test_an_option_does_to_our_model_what_it_does_to_its_twin(family, name, tmp_path, determinism_undone):
    options = CHANGING.get(name) or NEUTRAL[name]
    model, twin = pair(family)
    before = copy.deepcopy(model.state_dict())
    losses, ours, tokens = train(model, tmp_path / "ours", **options)
    expected, theirs, their_tokens = train(twin, tmp_path / "twin", **options)
    if family == "book":
        theirs = take_in(theirs, entries(GPT2, model.config, biases=Biases(), heads=("lm_head.weight",)))
    # In bfloat16 the two round in different places, and AdamW's first steps depend on the sign of a gradient.
    tolerance = 0.3 if options.get("bf16") else 2e-2 if "optim" not in options else 1e-3
    assert losses == pytest.approx(expected, rel=2e-2 if options.get("bf16") else 1e-4)
    assert tokens == their_tokens
    for key, weight in ours.items():
        if key.endswith("k_proj.bias"):
            continue  # no score depends on it: its gradient is only rounding error
        moved = (theirs[key] - before[key]).norm()
        assert (weight - theirs[key]).norm() <= tolerance * moved + 1e-6, key
    plain = plain_losses(family)
    if name in CHANGING and options is not KEPT_WORST:
        assert len(losses) != len(plain) or losses != pytest.approx(plain, rel=1e-6)
    elif name in NEUTRAL:
        assert losses == pytest.approx(plain[: len(losses)], rel=1e-5)


class Renamed(HfGptForCausalLM):
    """A user's class with an arbitrary name."""


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("kind", ["ours", "in our trainer", "subclass", "LoRA", "LoRA on a subclass", "fully sharded"])
def test_smoothed_labels_are_shifted(family, kind, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = MODELS[family](**NO_DROPOUT)
    if kind.endswith("subclass"):
        model = Renamed(model.config)
        assert model.loss_type == "ForCausalLM"  # tells Trainer how many tokens are predicted
    if kind.startswith("LoRA"):
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
    if kind == "fully sharded":  # as FSDP2 does
        model.__class__ = type(f"FSDP{type(model).__name__}", (type(model),), {})
    trainer_class = LanguageModelTrainer if kind == "in our trainer" else Trainer
    trainer = trainer_class(model, TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, use_cpu=True))
    batch = batched(rows()[:4])
    loss = trainer.compute_loss(model, dict(batch))
    outputs = model(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    expected = LabelSmoother(0.1)(outputs, batch["labels"], shift_labels=True)
    torch.testing.assert_close(loss, expected)
    assert abs(loss - LabelSmoother(0.1)(outputs, batch["labels"])) > 1e-3
    # Under gradient accumulation, every token counts the same.
    num_items = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    assert num_items == (batch["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch), num_items_in_batch=2 * num_items), expected / 2)


def test_a_subclass_of_a_classifier_has_the_loss_of_a_classifier():
    class Mine(HfGptForSequenceClassification):
        pass

    config = modern_model(pad_token_id=0).config
    config.num_labels = 3
    ids, labels = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([0, 2])
    output = Mine(config)(ids, labels=labels)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))


# The recipes

GIVEN = {
    PretrainArguments: dict(dataset="rows"),
    ClassificationArguments: dict(model="base", sources=["rows"]),
    InstructionArguments: dict(model="base", sources=["rows"]),
    PreferenceArguments: dict(model="base", sources=["rows"]),
}
EVERYWHERE = {
    "bf16_full_eval": (True, "round the weights"),
    "fp16_full_eval": (True, "round the weights"),
    "dataloader_persistent_workers": (True, "would read the validation rows again"),
    "use_liger_kernel": (True, "no kernels for hfgpt"),
    "liger_kernel_config": ({"rope": True}, "no kernels for hfgpt"),
    "use_cache": (True, "would see each other"),
    "auto_find_batch_size": (True, "gradient_accumulation_steps"),
    "remove_unused_columns": (False, "chooses the columns"),
    "label_names": (["ids"], "in the column labels"),
    "length_column_name": ("size", "in the column length"),
    "prediction_loss_only": (True, "does not affect"),
    "eval_do_concat_batches": (False, "does not affect"),
    "batch_eval_metrics": (True, "does not affect"),
    "include_for_metrics": (["loss"], "does not affect"),
    "do_train": (True, "always trains"),
    "do_eval": (True, "always trains"),
    "do_predict": (True, "always trains"),
    "resume_from_checkpoint": ("checkpoint-3", "resumes automatically"),
    "logging_nan_inf_filter": (False, "stops a run"),
    "save_only_model": (True, "could not resume exactly"),
    "ignore_data_skip": (True, "same rows again"),
    "enable_jit_checkpoint": (True, "end of a step"),
    "skip_loss_spikes": (-1.0, "it must be at least 0"),
    "accelerator_config": ({"split_batches": True}, "counts the rows of one process"),
    "attn_implementation": ("flex_attention", "no backward pass"),
    "lr_scheduler_type": ("warmup_stable_decay", "num_decay_steps"),
    "bf16": (True, "set through precision"),
    "load_best_model_at_end": (True, "set through keep"),
    "metric_for_best_model": ("accuracy", "set through keep"),
    "greater_is_better": (True, "set through keep"),
    "precision": ("fp16", "needs a GPU"),
    "fsdp": ("true", "this run has only one"),
    "gradient_accumulation_steps": (0, "it must be at least 1"),
    "max_steps": (-7, "it must be at least 1, or -1 for num_train_epochs"),
    "cpu_threads": (0, "it must be at least 1"),
    "per_device_train_batch_size": (0, "it must be at least 1"),
    "learning_rate": (float("nan"), "it must be at least 0"),
    "max_grad_norm": (-1.0, "it must be at least 0"),
    "num_train_epochs": (0.0, "it must be above 0 and finite"),
    "seed": (2**32, "it must be at least 0 and below 4,294,967,296"),
    "adam_beta1": (1.5, "it must be at least 0 and below 1"),
    "adam_epsilon": (-1.0, "it must be at least 0"),
    "dataloader_num_workers": (-1, "it must be at least 0"),
    "logging_steps": (-5, "it must be above 0"),
}
FINE_TUNING = {
    "muon_learning_rate": (0.1, "needs optimizer: muon"),
    "embedding_learning_rate": (0.1, "needs optimizer: muon"),
}
REFUSED = [(one, name, *case) for one in GIVEN for name, case in EVERYWHERE.items()]
REFUSED += [(one, name, *case) for one in list(GIVEN)[1:] for name, case in FINE_TUNING.items()]
REFUSED += [
    (PretrainArguments, "depth", 0, "it must be at least 1"),
    (PretrainArguments, "label_smoothing_factor", 1.0, "it must be below 1"),
    (PretrainArguments, "label_smoothing_factor", -0.1, "it must be at least 0"),
    (PretrainArguments, "num_train_epochs", float("inf"), "it must be above 0 and finite"),
    (PretrainArguments, "num_train_epochs", float("nan"), "it must be above 0 and finite"),
    (PretrainArguments, "sample_tokens", 0, "it must be at least 1"),
    (PretrainArguments, "save_steps", -2, "it must be above 0"),
    (PretrainArguments, "eval_steps", 0, "it must be above 0"),
    (ClassificationArguments, "seeds", [0, -1], "seeds is -1; it must be at least 0"),
    (PretrainArguments, "optim", "adafactor", "need optimizer: adamw"),
    (PretrainArguments, "optim_args", "momentum=0.9", "need optimizer: adamw"),
    (PretrainArguments, "optim_target_modules", ["q_proj"], "need optimizer: adamw"),
    (PretrainArguments, "attn_implementation", "flash_attention_2", "kernels need a GPU"),
    (PreferenceArguments, "label_smoothing_factor", 0.1, "preferences compare two"),
    (PreferenceArguments, "train_sampling_strategy", "sequential", "drawn at random"),
    (ClassificationArguments, "optim", "galore_adamw", "galore_torch"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU other attention kernels are right")
@pytest.mark.parametrize(("arguments", "name", "value", "reason"), REFUSED)
def test_a_recipe_refuses_what_would_do_nothing(arguments, name, value, reason, tmp_path):
    with pytest.raises(UserError, match=reason) as refusal:
        arguments(output_dir=str(tmp_path), **GIVEN[arguments], **{name: value})
    assert name in str(refusal.value)


def test_every_option_that_a_recipe_refuses_is_tried():
    from hfgpt.arguments import options
    from hfgpt.arguments.optimizers import OPTIMIZERS

    tables = (options.REFUSED, OPTIMIZERS["muon"].refuses, OPTIMIZERS["adamw"].refuses)
    refused = {name for table in tables for name in table}
    # A ParallelismConfig needs as many processes as it specifies.
    assert refused - {name for _, name, _, _ in REFUSED} == {"parallelism_config"}
    assert refused - {"muon_learning_rate", "embedding_learning_rate"} <= set(KNOWN)


def test_a_schedule_with_a_lowest_rate_goes_with_muon(tmp_path):
    from transformers.optimization import get_scheduler

    args = PretrainArguments(
        dataset="rows", output_dir=str(tmp_path), lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 3e-4}
    )
    factory, settings = trainer_optimizer(args.optimizer, args.optimizer_settings())
    optimizer = factory()(modern_model(), **settings)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, 0, 4, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.002, 3e-4])  # a tenth of both


def test_the_classifiers_loss_smooths_labels_as_trainers_does():
    from hfgpt.training.classifiers import classification_loss

    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1, 0])
    smoothed = classification_loss(None, multi_label=False, label_smoothing=0.1)({"logits": logits}, labels)
    torch.testing.assert_close(smoothed, LabelSmoother(0.1)({"logits": logits}, labels))


def test_trainer_still_goes_by_the_names_that_we_register():
    assert "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()" in inspect.getsource(Trainer.compute_loss)
