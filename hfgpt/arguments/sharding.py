"""How a model may be divided among processes: what accelerate and Trainer offer of it, and what is refused with the reason."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from hfgpt.errors import UserError

if TYPE_CHECKING:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from transformers import TrainingArguments

# Of accelerate's files, by the variables that `accelerate launch` makes of them.
_SIZE = "PARALLELISM_CONFIG_{}_SIZE"
_WHOLE_ROWS = "a recipe divides rows among processes (ddp.yaml), and the weights with them (fsdp2.yaml)"
_DIVIDED_OTHERWISE = {
    "TP": f"tensor parallelism divides each matrix product, which pays where one GPU is too small for a layer; {_WHOLE_ROWS}",
    "CP": f"context parallelism divides a row, and the documents packed into it would be torn apart; {_WHOLE_ROWS}",
    "SP": f"sequence parallelism divides a row, and the documents packed into it would be torn apart; {_WHOLE_ROWS}",
}


def _switched_on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1", "yes")


def asked_for_fsdp(args: TrainingArguments) -> bool:
    """Whether the weights are to be sharded: by accelerate's file, or by the option fsdp."""
    return _switched_on("ACCELERATE_USE_FSDP") or bool(args.fsdp)


def fsdp_plugin(args: TrainingArguments) -> FullyShardedDataParallelPlugin:
    """How FSDP is to shard, as accelerate's file or the option fsdp_config says."""
    from accelerate.utils import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(**cast("dict[str, Any]", args.fsdp_plugin_args or {}))


def refuse_other_divisions(args: TrainingArguments) -> None:
    """Refuse what would divide a model otherwise than a recipe can, or would silently not divide it.

    Raises: UserError.
    """
    for name, reason in _DIVIDED_OTHERWISE.items():
        size = os.environ.get(_SIZE.format(name), "1")
        if size != "1":
            raise UserError(f"parallelism_config has {name.lower()}_size {size}; {reason}. Leave it out.")
    if _switched_on("ACCELERATE_USE_MEGATRON_LM"):
        raise UserError(f"distributed_type is MEGATRON_LM, which trains models of its own; {_WHOLE_ROWS}.")
    if args.use_cpu and (args.deepspeed or _switched_on("ACCELERATE_USE_DEEPSPEED")):
        raise UserError(
            "DeepSpeed was asked for and there is no GPU: accelerate would train whole copies of the model and not say so. "
            "Take ddp.yaml for whole copies, or fsdp2.yaml, which shards on processors, too."
        )


def check_fsdp(args: TrainingArguments) -> None:
    """Refuse what FSDP cannot do here, where it was asked for. Raises: UserError."""
    if not asked_for_fsdp(args):
        return
    from transformers.training_args import ParallelMode

    # Every process reads the base whole: what a run checks of its weights before it trains needs them in each.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if args.fsdp_plugin_args:
        cast("dict[str, Any]", args.fsdp_plugin_args)["cpu_ram_efficient_loading"] = False
    plugin = fsdp_plugin(args)
    if plugin.fsdp_version != 2:
        raise UserError("fsdp_version is 1, which makes one tensor of many parameters; give fsdp_version: 2, as fsdp2.yaml does.")
    if plugin.activation_checkpointing:
        raise UserError("fsdp_activation_checkpointing is true; give --gradient_checkpointing true instead, which does the same.")
    if args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise UserError("fsdp divides a model among several processes, and this run has one; leave it out.")
