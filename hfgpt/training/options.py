"""Options of Trainer that a recipe refuses: there they would do nothing, or something else than they say.

All others do what transformers documents, as tests/training/test_training_options.py shows of each.
"""

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from transformers import TrainingArguments
from transformers.optimization import get_scheduler

from hfgpt.errors import UserError

_ROUNDED = (
    "an evaluation would round the weights in place, which are saved after it; precision says how all is computed, leave it out."
)
_NO_KERNEL = "Liger has no kernels for hfgpt models, whose head and loss are one step already; leave it out."
_MEASURED = "how a recipe measures does not depend on it; leave it out."
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
    "resume_from_checkpoint": "a run goes on by itself from the newest checkpoint in its output_dir; leave it out.",
}
# Of the optimizers, the options that are for the other one.
REFUSED_BESIDE = {
    "muon": dict.fromkeys(
        ("optim", "optim_args", "optim_target_modules"), "it chooses among Trainer's optimizers, which go with optimizer: adamw."
    ),
    "adamw": {"muon_learning_rate": "it is for optimizer: muon; learning_rate is the rate of AdamW."},
}
# In the recipes that fine-tune.
REFUSED_WITH_KEEP = dict.fromkeys(
    ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    "keep says which state is kept, the best on the validation set or the last; leave it out.",
)


def refuse_options(args: TrainingArguments, table: Mapping[str, str]) -> None:
    """Refuse what was given of `table`, with its reason. Raises: UserError."""
    for name, reason in table.items():
        if name in args.resolved:
            raise UserError(f"{name} is {args.resolved[name]!r}; {reason}")


def check_attention(name: str, *, on_cpu: bool) -> None:
    """Refuse an attention that this machine has no kernel for. Raises: UserError."""
    if on_cpu and name not in ("eager", "sdpa"):
        is_flex = name == "flex_attention"
        reason = "FlexAttention has no backward pass there (pytorch#148752)" if is_flex else "other kernels are for GPUs"
        raise UserError(f"attn_implementation is {name!r}; on a CPU it can be eager or sdpa, because {reason}.")
    allowed = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
    if name not in allowed and "/" not in name:
        raise UserError(f"attn_implementation is {name!r}; it can be {', '.join(allowed)}, or a kernel of the Hub (user/name).")
    packages = ("kernels", "flash_attn" if name == "flash_attention_2" else "flash_attn_interface")
    if name.startswith("flash_attention") and not any(map(find_spec, packages)):
        raise UserError(f"attn_implementation is {name!r}, which needs {' or '.join(packages)} installed; sdpa needs neither.")


def check_optimization(args: TrainingArguments) -> None:
    """Try the optimizer and the schedule that were asked for, before anything is read. Raises: UserError with their own reason."""
    if args.accelerator_config.split_batches:
        raise UserError(
            "accelerator_config has split_batches; per_device_train_batch_size counts the rows of one process here, leave it out."
        )
    steps = {"num_warmup_steps": 1, "num_training_steps": 4}
    try:
        if "optim" in args.resolved and args.optim_target_modules is None:  # with those, the optimizer asks for the model
            from transformers import Trainer

            Trainer.get_optimizer_cls_and_kwargs(args)
        if "lr_scheduler_type" in args.resolved or "lr_scheduler_kwargs" in args.resolved:
            stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
            get_scheduler(args.lr_scheduler_type, stand_in, **steps, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
    except (ImportError, TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"optim {args.optim.value} with optim_args {args.optim_args}, lr_scheduler_type {args.lr_scheduler_type.value} with "
            f"lr_scheduler_kwargs {args.lr_scheduler_kwargs}: {' '.join(str(error).split())}"
        ) from None
