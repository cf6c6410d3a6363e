"""Options of Trainer that a recipe refuses: there they would do nothing, or something else than they say.

All others do what transformers documents, as tests/training/test_training_options.py shows of each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from hfgpt.errors import UserError
from hfgpt.tables import nearest

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from transformers.trainer_pt_utils import AcceleratorConfig

_ROUNDED = (
    "an evaluation would round the weights in place, which are saved after it; precision says how all is computed, leave it out."
)
_NO_KERNEL = "Liger has no kernels for hfgpt models, whose head and loss are one step already; leave it out."
_MEASURED = "how a recipe measures does not depend on it; leave it out."
_WHOLE = "a run could not go on from such checkpoints as if nothing had happened; leave it out."
_ALWAYS = "a recipe always trains, evaluates as eval_strategy says, and tests once at its end; leave it out."
REFUSED = {
    "bf16_full_eval": _ROUNDED,
    "fp16_full_eval": _ROUNDED,
    "use_liger_kernel": _NO_KERNEL,
    "liger_kernel_config": _NO_KERNEL,
    "use_cache": "with a cache the documents of a packed row would see each other; training has none, the saved model has.",
    "auto_find_batch_size": "the run would take other steps than it says and notes; give a smaller per_device_train_batch_size and "
    "as many times more gradient_accumulation_steps, which takes the same steps.",
    "parallelism_config": "the packed rows of the recipes are divided among processes whole (DDP, FSDP, DeepSpeed); leave it out.",
    "remove_unused_columns": "a recipe chooses the columns that its model is given; leave it out.",
    "label_names": "a recipe's labels are in the column labels; leave it out.",
    "length_column_name": "a recipe notes the lengths of its rows in the column length; leave it out.",
    "prediction_loss_only": _MEASURED,
    "eval_do_concat_batches": _MEASURED,
    "batch_eval_metrics": _MEASURED,
    "include_for_metrics": _MEASURED,
    "do_train": _ALWAYS,
    "do_eval": _ALWAYS,
    "do_predict": _ALWAYS,
    "logging_nan_inf_filter": "a loss that is not finite stops a run; leave it out.",
    "save_only_model": _WHOLE,
    "ignore_data_skip": "a run that goes on would read the same rows again; leave it out.",
    "enable_jit_checkpoint": "a signal is answered at the end of a step already, by all processes alike; leave it out.",
    "resume_from_checkpoint": "a run goes on by itself from the newest checkpoint in its output_dir, and resume names another "
    "one; leave it out.",
}
# The least that makes sense of a number.
LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "skip_loss_spikes": 0,
    "label_smoothing_factor": 0,
}


def refuse_options(given: Mapping[str, object], table: Mapping[str, str]) -> None:
    """Refuse what was given of `table`, with its reason. Raises: UserError."""
    for name, reason in table.items():
        if name in given:
            raise UserError(f"{name} is {given[name]!r}; {reason}")


KERNELS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")  # what transformers brings or knows


def check_attention(name: str, *, on_cpu: bool) -> None:
    """Refuse an attention that this machine has no kernel for. Raises: UserError."""
    if on_cpu and name not in ("eager", "sdpa"):
        is_flex = name == "flex_attention"
        reason = "FlexAttention has no backward pass there (pytorch#148752)" if is_flex else "other kernels are for GPUs"
        raise UserError(f"attn_implementation is {name!r}; on a CPU it can be eager or sdpa, because {reason}.")
    if name not in KERNELS and "/" not in name:
        raise UserError(f"attn_implementation is {name!r}; it can be {', '.join(KERNELS)}, or a kernel of the Hub (user/name).")
    packages = ("kernels", "flash_attn" if name == "flash_attention_2" else "flash_attn_interface")
    if name.startswith("flash_attention") and not any(map(find_spec, packages)):
        raise UserError(f"attn_implementation is {name!r}, which needs {' or '.join(packages)} installed; sdpa needs neither.")


# Reporters of Trainer that need one of these packages, and what installs it where an extra of ours does not.
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
            known = f"did you mean {near!r}?" if near else f"it can be {', '.join(INTEGRATION_TO_CALLBACK)}, all or none."
            raise UserError(f"report_to is {name!r}, which nobody knows; {known}")
        packages, install = REPORTERS.get(name, ((), ""))
        if packages and not any(map(find_spec, packages)):
            raise UserError(f"report_to is {name}, and {packages[0]} is not installed; pip install {install}.")


def check_training(args: TrainingArguments, *, given: Collection[str]) -> None:
    """Refuse what the trainer would stumble over later, its optimizer and its schedule included.

    Args: `given` are the keys that differ from their defaults.
    Raises: UserError.
    """
    import torch
    from transformers.optimization import get_scheduler
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    if args.label_smoothing_factor >= 1:
        raise UserError(
            f"label_smoothing_factor is {args.label_smoothing_factor}; a share below 1 is spread over the other tokens."
        )
    if cast("AcceleratorConfig", args.accelerator_config).split_batches:  # which __post_init__ makes of whatever was given
        raise UserError(
            "accelerator_config has split_batches; per_device_train_batch_size counts the rows of one process here, leave it out."
        )
    if args.fp16 and args.use_cpu:
        raise UserError("precision is fp16, which only a GPU computes in; on a CPU it can be bf16 or fp32.")
    steps = {"num_warmup_steps": 1, "num_training_steps": 4}
    try:
        if "optim" in given and args.optim_target_modules is None:  # with those, the optimizer asks for the model
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
