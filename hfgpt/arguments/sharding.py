"""How a model may be divided among processes: what accelerate and Trainer offer, and what is refused and why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from hfgpt.errors import UserError

if TYPE_CHECKING:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from transformers import TrainingArguments

# Settings of accelerate's files, by the variables that `accelerate launch` sets for them.
_SIZE = "PARALLELISM_CONFIG_{}_SIZE"
_WHOLE_ROWS = "a recipe can divide rows among processes (ddp.yaml), and the weights too (fsdp2.yaml)"
_DIVIDED_OTHERWISE = {
    "TP": f"tensor parallelism divides each matrix product, which only pays off if a layer does not fit on one GPU; {_WHOLE_ROWS}",
    "CP": f"context parallelism divides a row, which would tear apart the documents packed into it; {_WHOLE_ROWS}",
    "SP": f"sequence parallelism divides a row, which would tear apart the documents packed into it; {_WHOLE_ROWS}",
}


def _switched_on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1", "yes")


def asked_for_fsdp(args: TrainingArguments) -> bool:
    """Whether to shard the weights, according to accelerate's file or the option fsdp."""
    return _switched_on("ACCELERATE_USE_FSDP") or bool(args.fsdp)


def fsdp_plugin(args: TrainingArguments) -> FullyShardedDataParallelPlugin:
    """How FSDP shards, according to accelerate's file or the option fsdp_config."""
    from accelerate.utils import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(**cast("dict[str, Any]", args.fsdp_plugin_args or {}))


def refuse_other_divisions(args: TrainingArguments) -> None:
    """Refuse settings that would divide a model in a way that a recipe cannot, or silently not divide it.

    Raises: UserError.
    """
    for name, reason in _DIVIDED_OTHERWISE.items():
        size = os.environ.get(_SIZE.format(name), "1")
        if size != "1":
            raise UserError(f"parallelism_config has {name.lower()}_size {size}; {reason}. Leave it out.")
    if _switched_on("ACCELERATE_USE_MEGATRON_LM"):
        raise UserError(f"distributed_type is MEGATRON_LM, which only trains its own models; {_WHOLE_ROWS}.")
    if not (args.deepspeed or _switched_on("ACCELERATE_USE_DEEPSPEED")):
        return
    if spikes := getattr(args, "skip_loss_spikes", 0):
        raise UserError(
            f"skip_loss_spikes is {spikes:g}, but DeepSpeed takes a step before its gradient norm is known; leave it out."
        )
    if args.use_cpu:
        raise UserError(
            "DeepSpeed was requested but there is no GPU: accelerate would silently train a full copy of the model in each "
            "process. Use ddp.yaml for full copies, or fsdp2.yaml, which also shards on CPUs."
        )


def build_whole_models(args: TrainingArguments) -> None:
    """Build and use models as usual, although DeepSpeed was requested: a recipe's Trainer shards the one that it trains.

    transformers remembers the request, which Trainer's parts repeat: new models get placeholders for weights, and `generate` waits
    for the other processes.
    """
    if args.deepspeed_plugin is not None:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()


def check_fsdp(args: TrainingArguments) -> None:
    """Refuse what FSDP cannot do here, if it was requested. Raises: UserError."""
    if not asked_for_fsdp(args):
        return
    from transformers.training_args import ParallelMode

    # Every process loads the whole base: the checks of its weights before training need them in each.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if args.fsdp_plugin_args:
        cast("dict[str, Any]", args.fsdp_plugin_args)["cpu_ram_efficient_loading"] = False
    plugin = fsdp_plugin(args)
    if plugin.fsdp_version != 2:
        raise UserError(
            "fsdp_version is 1, which merges many parameters into one tensor; give fsdp_version: 2, as fsdp2.yaml does."
        )
    if plugin.activation_checkpointing:
        raise UserError("fsdp_activation_checkpointing is true; give --gradient_checkpointing true instead, which does the same.")
    if args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise UserError("fsdp divides a model among several processes, but this run has only one; leave it out.")
