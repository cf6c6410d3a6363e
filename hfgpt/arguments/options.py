"""Options of Trainer that a recipe refuses, because they would have no effect or not the documented one.

All others do what transformers documents, as tests/training/test_training_options.py shows for each.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from hfgpt.errors import UserError
from hfgpt.tables import nearest

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from transformers.trainer_pt_utils import AcceleratorConfig

_ROUNDED = (
    "an evaluation would round the weights in place before they are saved. precision sets the dtype of all computation; leave it "
    "out."
)
_NO_KERNEL = "Liger has no kernels for hfgpt models, whose head and loss are already fused; leave it out."
_MEASURED = "it does not affect how a recipe measures; leave it out."
_WHOLE = "a run could not resume exactly from such checkpoints; leave it out."
_ALWAYS = "a recipe always trains, evaluates according to eval_strategy, and tests once at the end; leave it out."
REFUSED = {
    "bf16_full_eval": _ROUNDED,
    "fp16_full_eval": _ROUNDED,
    "use_liger_kernel": _NO_KERNEL,
    "liger_kernel_config": _NO_KERNEL,
    "dataloader_persistent_workers": "Trainer would read the validation rows again instead of the test rows; leave it out.",
    "use_cache": "with a cache, the documents of a packed row would see each other; training uses none, the saved model does.",
    "auto_find_batch_size": "the run would not take the steps it reports; give a smaller --per_device_train_batch_size and "
    "proportionally more gradient_accumulation_steps, which gives the same steps.",
    "parallelism_config": "recipes distribute whole packed rows among processes (DDP, FSDP, DeepSpeed); leave it out.",
    "remove_unused_columns": "a recipe chooses the columns its model receives; leave it out.",
    "label_names": "a recipe's labels are always in the column labels; leave it out.",
    "length_column_name": "a recipe stores the lengths of its rows in the column length; leave it out.",
    "prediction_loss_only": _MEASURED,
    "eval_do_concat_batches": _MEASURED,
    "batch_eval_metrics": _MEASURED,
    "include_for_metrics": _MEASURED,
    "do_train": _ALWAYS,
    "do_eval": _ALWAYS,
    "do_predict": _ALWAYS,
    "logging_nan_inf_filter": "a loss that is not finite stops a run; leave it out.",
    "save_only_model": _WHOLE,
    "ignore_data_skip": "a resumed run would read the same rows again; leave it out.",
    "enable_jit_checkpoint": "signals are already handled at the end of a step, by all processes alike; leave it out.",
    "resume_from_checkpoint": "a run resumes automatically from the newest checkpoint in its output_dir, and resume selects "
    "another one; leave it out.",
}


class Range(NamedTuple):
    """The sensible values of a key: at least `least`, above `above` and below `below`."""

    least: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:  # False for NaN
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        said = {"at least": self.least, "above": self.above, "below": self.below}
        return " and ".join(
            f"{how} {limit:,}" if limit != math.inf else "finite" for how, limit in said.items() if limit is not None
        )


_SEED = Range(least=0, below=2**32)  # as numpy takes them
_RATE = Range(least=0, below=math.inf)
_STEPS = Range(above=0)  # below 1, a share of all steps
RANGES = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), Range(least=1)),
    **dict.fromkeys(("cpu_threads", "dataloader_prefetch_factor", "sample_tokens"), Range(least=1)),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "skip_loss_spikes", "label_smoothing_factor"), Range(least=0)),
    **dict.fromkeys(("adam_epsilon", "dataloader_num_workers"), Range(least=0)),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), Range(least=0, below=1)),
    **dict.fromkeys(("learning_rate", "muon_learning_rate", "embedding_learning_rate"), _RATE),
    **dict.fromkeys(("seed", "seeds", "data_seed", "split_seed"), _SEED),
    **dict.fromkeys(("eval_steps", "save_steps", "logging_steps"), _STEPS),
    "num_train_epochs": Range(above=0, below=math.inf),
}


def check_ranges(values: Mapping[str, Any]) -> None:
    """Refuse a number out of its range, also in a list; None means not given. Raises: UserError."""
    for name, range in RANGES.items():
        value = values.get(name)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one not in range:
                raise UserError(f"{name} is {one}; it must be {range}.")


def refuse_options(given: Mapping[str, object], table: Mapping[str, str]) -> None:
    """Refuse given options of `table`, with the reason. Raises: UserError."""
    for name, reason in table.items():
        if name in given:
            raise UserError(f"{name} is {given[name]!r}; {reason}")


KERNELS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")  # those that transformers contains or knows


def check_attention(name: str, *, on_cpu: bool) -> None:
    """Refuse an attention implementation that this machine has no kernel for. Raises: UserError."""
    if on_cpu and name not in ("eager", "sdpa"):
        is_flex = name == "flex_attention"
        reason = "FlexAttention has no backward pass there (pytorch#148752)" if is_flex else "other kernels need a GPU"
        raise UserError(f"attn_implementation is {name!r}; on a CPU, only eager and sdpa are possible, because {reason}.")
    if name not in KERNELS and "/" not in name:
        raise UserError(f"attn_implementation is {name!r}; allowed: {', '.join(KERNELS)}, or a kernel from the Hub (user/name).")
    packages = ("kernels", "flash_attn" if name == "flash_attention_2" else "flash_attn_interface")
    if name.startswith("flash_attention") and not any(map(find_spec, packages)):
        raise UserError(
            f"attn_implementation is {name!r}, which needs {' or '.join(packages)} installed; sdpa needs no extra package."
        )


# Reporters of Trainer that need one of these packages, and what installs it if none of our extras does.
REPORTERS = {
    "tensorboard": (("tensorboard", "tensorboardX"), "'hfgpt[watching]'"),
    "trackio": (("trackio",), "'hfgpt[watching]'"),
    **{name: ((name,), name) for name in ("wandb", "mlflow", "comet_ml", "codecarbon", "clearml", "swanlab", "dvclive")},
}


def check_reporters(names: Collection[str]) -> None:
    """Refuse a reporter that Trainer does not know, or whose package is missing. Raises: UserError."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            near = nearest(name, INTEGRATION_TO_CALLBACK)
            known = f"did you mean {near!r}?" if near else f"allowed: {', '.join(INTEGRATION_TO_CALLBACK)}, all or none."
            raise UserError(f"report_to is {name!r}, which is unknown; {known}")
        packages, install = REPORTERS.get(name, ((), ""))
        if packages and not any(map(find_spec, packages)):
            raise UserError(f"report_to is {name}, but {packages[0]} is not installed; pip install {install}")


def check_training(args: TrainingArguments, *, given: Collection[str]) -> None:
    """Refuse what would make the trainer fail later, including its optimizer and schedule.

    Args: `given` are the keys that differ from their defaults.
    Raises: UserError.
    """
    import torch
    from transformers.optimization import get_scheduler
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    if args.max_steps < 1 and args.max_steps != -1:  # transformers would take it for -1
        raise UserError(f"max_steps is {args.max_steps}; it must be at least 1, or -1 for num_train_epochs.")
    if args.label_smoothing_factor >= 1:
        raise UserError(
            f"label_smoothing_factor is {args.label_smoothing_factor}; it must be below 1: the share that is spread over the other "
            f"tokens."
        )
    if cast("AcceleratorConfig", args.accelerator_config).split_batches:  # __post_init__ always creates one
        raise UserError(
            "accelerator_config has split_batches; here, per_device_train_batch_size counts the rows of one process; leave it out."
        )
    if args.fp16 and args.use_cpu:
        raise UserError("precision is fp16, which needs a GPU; on a CPU, use bf16 or fp32.")
    steps = {"num_warmup_steps": 1, "num_training_steps": 4}
    try:
        if "optim" in given and args.optim_target_modules is None:  # with those, the optimizer needs the model
            from transformers import Trainer

            Trainer.get_optimizer_cls_and_kwargs(args)
        if "lr_scheduler_type" in given or "lr_scheduler_kwargs" in given:
            stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
            settings = cast("dict | None", args.lr_scheduler_kwargs)
            get_scheduler(args.lr_scheduler_type, stand_in, **steps, scheduler_specific_kwargs=settings)
    except (ImportError, TypeError, ValueError, KeyError) as error:
        optimizer, schedule = OptimizerNames(args.optim).value, SchedulerType(args.lr_scheduler_type).value
        raise UserError(
            f"optim {optimizer} with optim_args {args.optim_args}, lr_scheduler_type {schedule} with lr_scheduler_kwargs "
            f"{args.lr_scheduler_kwargs}: {' '.join(str(error).split())}"
        ) from None
