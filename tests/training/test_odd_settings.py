"""Runs with settings that the recipes' own YAML files do not use: evaluations after epochs, few rows, changed patience, ..."""

import os
import signal
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    GPTNeoXConfig,
    MixtralConfig,
    PreTrainedConfig,
    TrainerCallback,
    default_data_collator,
    set_seed,
)

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.arguments.finetuning import ClassificationArguments, InstructionArguments
from hfgpt.arguments.methods import Method
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.arguments.run import RunArguments
from hfgpt.artifacts import step_of
from hfgpt.chat_templates import set_prompt_style
from hfgpt.errors import UserError
from hfgpt.training.advice import planned_steps
from hfgpt.training.assistants import encode_splits
from hfgpt.training.budgets import within_budget
from hfgpt.training.checkpoints import newest_whole_checkpoint
from hfgpt.training.methods import apply_method
from hfgpt.training.optimizers import trainer_optimizer
from hfgpt.training.run import _checkpoint
from hfgpt.training.run_folder import Run
from hfgpt.training.trainer import LanguageModelTrainer, token_metrics


@pytest.fixture(autouse=True)
def _speed(monkeypatch):
    """Measuring the machine would take longer than these runs."""
    monkeypatch.setattr("hfgpt.training.flops.measured_ceiling", lambda *args, **settings: 1e11)


def new_trainer(
    folder, *, keep="best", patience=0, num_rows=22, callbacks=(), lengths=False, other: PreTrainedConfig | None = None, **settings
) -> LanguageModelTrainer:
    """A tiny model with dropout, or one of `other`, and rows that it can learn; six steps are an epoch."""
    torch.manual_seed(0)
    config = HfGptConfig.modern(1, vocab_size=64, max_position_embeddings=32, residual_dropout=0.1)
    model = HfGptForCausalLM(config) if other is None else AutoModelForCausalLM.from_config(other)
    ids = [[(row * 7 + place * 5) % 60 for place in range(16)] for row in range(num_rows)]
    columns = {"input_ids": ids, "labels": ids} | ({"length": [(row * 13) % 17 + 1 for row in range(num_rows)]} if lengths else {})
    steps = {"save_steps": 2} if settings.get("save_strategy", "steps") == "steps" else {}
    given = {"max_steps": 8, **steps, "per_device_train_batch_size": 4, "learning_rate": 1e-3, **settings}
    args = RunArguments(output_dir=str(folder), use_cpu=True, precision="fp32", disable_tqdm=True, optimizer="adamw", cpu_threads=1,
                        logging_steps=1, **given)  # fmt: skip
    trainer = LanguageModelTrainer(
        model, args, keep=keep, early_stopping_patience=patience, train_dataset=Dataset.from_dict(columns),
        eval_dataset=Dataset.from_dict({"input_ids": ids[:4], "labels": ids[:4]}), data_collator=default_data_collator,
        compute_metrics=token_metrics(), callbacks=callbacks,
        optimizer_cls_and_kwargs=trainer_optimizer("adamw", args.optimizer_settings()),
    )  # fmt: skip
    trainer.run_id = "one"
    return trainer


def train(trainer):
    """Train to the end, or resume from the newest checkpoint."""
    newest = newest_whole_checkpoint(trainer.folder, run="one") if trainer.folder.is_dir() else None
    if newest is None:
        set_seed(trainer.args.seed)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    return trainer


def evaluations(trainer):
    return [(entry["step"], entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.trained.state_dict().values(), other.trained.state_dict().values()))


class Stop(TrainerCallback):
    """SIGTERM within these steps, or (`evaluating`) within the evaluations after them."""

    def __init__(self, *steps, evaluating=False):
        self.steps, self.evaluating = set(steps), evaluating

    def on_step_begin(self, args, state, control, **kwargs):
        if not self.evaluating and state.global_step + 1 in self.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.evaluating and state.global_step in self.steps:
            self.steps.discard(state.global_step)
            os.kill(os.getpid(), signal.SIGTERM)


OTHERS = {
    "head": GPTNeoXConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
    "experts": MixtralConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                             intermediate_size=16, num_local_experts=2),
}  # fmt: skip


@pytest.mark.parametrize("names", OTHERS)
def test_tensors_that_are_published_under_other_names_are_restored_too(names, tmp_path):
    """GPT-NeoX's head and Mixtral's experts have other names in memory, and a checkpoint is restored by names."""
    settings = dict(other=OTHERS[names], eval_strategy="steps", eval_steps=2, learning_rate=0.5)
    straight = train(new_trainer(tmp_path / "straight", **settings))
    best = straight.state.best_model_checkpoint
    assert step_of(Path(best)) < 8  # at this rate it gets worse, so that an earlier state is restored
    found = AutoModelForCausalLM.from_pretrained(best).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in straight.trained.state_dict().items())
    stopped = new_trainer(tmp_path / "stopped", callbacks=[Stop(3)], **settings)
    train(stopped)
    assert stopped.signals.stopped
    assert same_weights(train(new_trainer(tmp_path / "stopped", **settings)), straight)


@pytest.mark.parametrize("save", ["epoch", "steps"])
@pytest.mark.parametrize("evaluating", [False, True])
def test_signals_change_nothing_if_evaluations_come_after_epochs(save, evaluating, tmp_path):
    given = dict(eval_strategy="epoch", save_strategy=save, max_steps=-1, num_train_epochs=4, learning_rate=0.1, patience=2)
    whole = train(new_trainer(tmp_path / "whole", **given))
    for step in [6, 12] if evaluating else [3, 6, 9, 14]:
        stopped = train(new_trainer(tmp_path / "stopped", callbacks=[Stop(step, evaluating=evaluating)], **given))
        assert stopped.signals.stopped == (stopped.state.global_step < whole.state.global_step)
        assert max(step for step, _ in [(0, 0), *evaluations(stopped)]) % 6 == 0
    resumed = train(new_trainer(tmp_path / "stopped", **given))
    assert evaluations(resumed) == evaluations(whole)
    assert (resumed.state.global_step, resumed.kept_step) == (whole.state.global_step, whole.kept_step)
    assert same_weights(resumed, whole)


def test_a_run_killed_in_the_evaluation_after_an_epoch_evaluates_again(tmp_path):
    given = dict(eval_strategy="epoch", save_steps=3, max_steps=-1, num_train_epochs=2)
    whole = train(new_trainer(tmp_path / "whole", **given))
    killed = new_trainer(tmp_path / "killed", **given)
    evaluate = killed.evaluate

    def die(*args, **kwargs):
        if killed.state.global_step >= 12:
            raise RuntimeError("killed")
        return evaluate(*args, **kwargs)

    killed.evaluate = die
    with pytest.raises(RuntimeError, match="killed"):
        train(killed)
    resumed = train(new_trainer(tmp_path / "killed", **given))
    assert evaluations(resumed) == evaluations(whole)
    assert resumed.kept_step == whole.kept_step
    assert same_weights(resumed, whole)


def test_a_signal_within_an_evaluation_saves_if_only_the_best_states_are_saved(tmp_path):
    given = dict(eval_strategy="steps", eval_steps=2, save_strategy="best", max_steps=20, learning_rate=0.3)
    losses = dict(evaluations(train(new_trainer(tmp_path / "whole", **given))))
    worse = next(step for step in losses if step > 2 and losses[step] > min(loss for at, loss in losses.items() if at < step))
    stopped = train(new_trainer(tmp_path / "stopped", callbacks=[Stop(worse, evaluating=True)], **given))
    assert stopped.signals.stopped
    assert newest_whole_checkpoint(tmp_path / "stopped", run="one").name == f"checkpoint-{worse}"


def test_early_stopping_takes_the_patience_of_this_start_and_needs_evaluations(tmp_path):
    given = dict(eval_strategy="steps", eval_steps=2)
    train(new_trainer(tmp_path, patience=1, callbacks=[Stop(3)], **given))
    trainer = train(new_trainer(tmp_path, patience=5, **given))
    assert [
        one.early_stopping_patience for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)
    ] == [5]
    for other in (dict(eval_strategy="no"), dict(eval_strategy="epoch", save_strategy="no")):
        trainer = train(new_trainer(tmp_path / "none", patience=3, max_steps=1, **other))
        assert trainer.state.global_step == 1
        assert not [one for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]


def test_rows_grouped_by_length_have_one_order_however_a_step_is_divided(tmp_path):
    orders = [
        list(new_trainer(tmp_path, num_rows=200, lengths=True, train_sampling_strategy="group_by_length",
                         per_device_train_batch_size=size, gradient_accumulation_steps=batches)._get_train_sampler())
        for size, batches in ((8, 1), (4, 2), (2, 4))
    ]  # fmt: skip
    assert orders[0] == orders[1] == orders[2]
    with pytest.raises(UserError, match="train_sampling_strategy is batch_rebalance"):
        new_trainer(tmp_path, train_sampling_strategy="batch_rebalance")


def test_incomplete_batches_that_are_dropped_are_not_counted(tmp_path):
    args = new_trainer(tmp_path, max_steps=-1, num_train_epochs=2, dataloader_drop_last=True).args
    assert planned_steps(args, 22) == 10
    with pytest.raises(UserError, match="dataloader_drop_last is true, but the 3 training rows do not fill one batch of 4"):
        planned_steps(args, 3)


def test_a_schedule_that_follows_a_metric_needs_no_checkpoint_of_the_best_state(tmp_path):
    given = dict(keep="last", lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", eval_steps=2, save_steps=3)
    train(new_trainer(tmp_path, callbacks=[Stop(7)], **given))
    assert newest_whole_checkpoint(tmp_path, run="one").name == "checkpoint-7"


def test_the_newest_checkpoint_outlives_training_whatever_the_limit(tmp_path):
    trainer = train(new_trainer(tmp_path, eval_strategy="steps", eval_steps=2, save_total_limit=1, learning_rate=0.3))
    assert trainer.kept_step < 8
    assert newest_whole_checkpoint(tmp_path, run="one").name == "checkpoint-8"


def test_weight_decay_leaves_rows_alone_that_are_not_trained(tmp_path):
    trainer = new_trainer(tmp_path, save_strategy="no", eval_strategy="no", weight_decay=0.1, max_steps=2, learning_rate=0.01)
    new = [5, 6, 7, 8, 9]  # each row of the data has one of them
    table = apply_method(trainer.trained, Method(name="last_block", new_tokens=new)).get_input_embeddings().weight
    before = table.detach().clone()
    train(trainer)
    changed = ((table.detach() - before).abs().amax(1) > 0).nonzero().flatten().tolist()
    assert changed
    assert set(changed) <= set(new)


def test_an_older_checkpoint_can_be_resumed_from_again(tmp_path):
    for _ in range(2):
        trainer = new_trainer(tmp_path, eval_strategy="no", keep="last", save_total_limit=9)
        train(trainer)
        run = Run(recipe="pretrain.py", folder=tmp_path, settings={}, values={}, data="", overwrite=False,
                  resume=str(tmp_path / "checkpoint-4"))  # fmt: skip
        assert _checkpoint(trainer, run).name == "checkpoint-4"
    assert {path.name for path in tmp_path.glob("abandoned-*")} >= {"abandoned-checkpoint-8", "abandoned-checkpoint-8-2"}


def test_a_key_given_beside_the_plan_of_the_folder_is_not_overridden(tmp_path):
    for name in ("run", "data"):
        (tmp_path / name).mkdir()
    chosen = "{max_steps: 40, learning_rate: 0.006, logging_steps: 1, config_overrides: {a: 1, b: 2}}"
    plan = f"{{asked: {{time_budget: 60.0}}, chosen: {chosen}, expected: {{}}}}"
    (tmp_path / "run" / "run.yaml").write_text(f"time_budget: 60.0\nplan: {plan}\n")
    args = PretrainArguments(output_dir=str(tmp_path / "run"), dataset=str(tmp_path / "data"), time_budget=60.0, learning_rate=1e-4,
                             logging_steps=7, allow_change=["learning_rate"], config_overrides={"b": 2}, use_cpu=True)  # fmt: skip
    planned = within_budget(args, rows=None, passport=None, tokenizer=None)
    assert (planned.max_steps, planned.learning_rate, planned.logging_steps) == (40, 1e-4, 7)
    assert planned.config_overrides == {"a": 1, "b": 2}  # the plan's shape contains what was given when it was made
    assert planned.plan["chosen"]["learning_rate"] == 0.006  # so that a run compares only what differs


def test_the_threads_that_a_plan_chose_can_be_changed(tmp_path):
    plan = {"asked": {"time_budget": 60.0}, "chosen": {"max_steps": 40, "cpu_threads": 2}, "expected": {}}
    given = dict(dataset=str(tmp_path), time_budget=60.0, plan=plan, cpu_threads=1, use_cpu=True)
    args = PretrainArguments(output_dir=str(tmp_path), **given)
    assert within_budget(args, rows=None, passport=None, tokenizer=None).cpu_threads == torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (
            PretrainArguments,
            dict(dataset=".", train_sampling_strategy="group_by_length"),
            "all rows of prepared data have the same",
        ),
        (
            ClassificationArguments,
            dict(model=".", sources=["a.csv"], push_to_hub=True),
            "publish the finished classifier with `hfgpt",
        ),
        (InstructionArguments, dict(model=".", sources=["a.json"], max_answers=-1), "max_answers is -1; it must be at least 0"),
    ],
)
def test_settings_that_would_do_something_else_are_refused(arguments, given, said, tmp_path):
    with pytest.raises(UserError, match=said):
        arguments(output_dir=str(tmp_path / "run"), use_cpu=True, **given)


def test_held_out_conversations_that_are_all_too_long_are_named(small_tokenizer):
    turns = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "word"}]
    long = [turns[0], {"role": "assistant", "content": "word " * 400}]
    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer)
    set_prompt_style(tokenizer, "chat")
    splits = DatasetDict(
        {
            name: Dataset.from_dict({"messages": [said], "source": ["a"], "row_id": ["1"], "place": ["1"]})
            for name, said in (("train", turns), ("test", long))
        }
    )
    with pytest.raises(UserError, match="all 1 test conversations are longer than 64 tokens"):
        encode_splits(splits, tokenizer, max_length=64, too_long="drop", loss_on="assistant", packing=False)
