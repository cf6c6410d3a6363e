"""A model that FSDP2 shards across processes, with everything around its steps as if one process had all of it.

FSDP2 gives each process a shard of every parameter, its gradient and its optimizer state. Here, only steps and the evaluations
between them are affected: a run begins and ends with the whole model, and its checkpoints are those of a run in one process. So
they can be resumed with any number of processes, and the end of a recipe is unchanged.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel, Trainer

from hfgpt.arguments.sharding import asked_for_fsdp, build_whole_models, fsdp_plugin
from hfgpt.errors import require


class ShardingTrainer(Trainer):
    """Trainer whose model is sharded during training, if FSDP2 was requested, and whole before and after.

    A checkpoint has the files of a run in one process, so it is gathered in the memory of the first process, and read by each. At
    an evaluation and at a checkpoint, callbacks get the whole model in the first process only. DeepSpeed writes its own
    checkpoints; before and after training its model is whole, too.

    Cost: every process holds the whole model in float32 before it is sharded, and again after training; the first one also at
    evaluations and checkpoints.
    """

    is_sharded = False

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        build_whole_models(self.args)
        if asked_for_fsdp(self.args) and not self.is_fsdp_enabled:
            shard_on_processors(self)
        # Until training begins, the model is whole, and Trainer's special treatment of sharded models would be wrong.
        self._shards_by = (self.is_fsdp_enabled, self.is_deepspeed_enabled)
        self.is_fsdp_enabled = self.is_deepspeed_enabled = False

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        if any(self._shards_by):
            self._skeleton = without_weights(cast(nn.Module, self.model))
            self.is_sharded = True
            self.is_fsdp_enabled, self.is_deepspeed_enabled = self._shards_by
            call_event = self.callback_handler.call_event

            def call_with_whole_model(event, *args, **kwargs):
                if not (self.is_sharded and event in ("on_evaluate", "on_save")):
                    return call_event(event, *args, **kwargs)
                self._show(self.whole_model(wanted=self.is_world_process_zero()))
                try:
                    return call_event(event, *args, **kwargs)
                finally:
                    self._show(self.model)

            self.callback_handler.call_event = call_with_whole_model
        with hidden_ties_sharded(self) if self.is_fsdp_enabled else nullcontext():
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        build_whole_models(self.args)
        return prepared

    def whole_model(self, *, wanted: bool) -> PreTrainedModel | None:
        """A whole copy of the sharded model in the processes that need it; called in every process."""
        model = cast(PreTrainedModel, self.model)
        weights = weights_from_deepspeed(model) if self.is_deepspeed_enabled else whole_weights(model, wanted=wanted)
        if not wanted:
            return None
        whole = cast(PreTrainedModel, copy.deepcopy(self._skeleton))
        # Shared tensors become one parameter.
        names = {name for name, _ in whole.named_parameters(remove_duplicate=False)}
        parameters = {id(tensor): nn.Parameter(tensor) for name, tensor in weights.items() if name in names}
        whole.load_state_dict({name: parameters.get(id(one), one) for name, one in weights.items()}, assign=True)
        return whole.train(model.training).to(cast(Any, self.args.device)).float()

    def become_whole(self) -> None:
        """Give each process the whole model, no longer sharded. Does nothing if it is already whole."""
        if self.is_sharded:
            self.model = self.model_wrapped = cast(PreTrainedModel, self.whole_model(wanted=True))
            self._show(self.model)
            self.accelerator._models.clear()
            self.is_sharded = self.is_fsdp_enabled = self.is_deepspeed_enabled = False

    def _show(self, model: object) -> None:
        self.callback_handler.model = cast(PreTrainedModel, model)  # the model that callbacks receive

    def _load_best_model(self):
        self.become_whole()
        super()._load_best_model()

    def evaluation_loop(self, *args, **kwargs):
        models = self.accelerator._models
        if models:
            return super().evaluation_loop(*args, **kwargs)
        # Before training, accelerate would prepare the model for this evaluation only and then treat it as prepared: each process
        # would train its own copy, and FSDP2 would refuse. A whole model only needs to be on its device.
        models.append(cast(nn.Module, self.model).to(cast(Any, self.args.device)))
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            models.clear()

    def save_model(self, output_dir=None, _internal_call=False):
        if not self.is_fsdp_enabled:
            return super().save_model(output_dir, _internal_call)
        self._save(output_dir, state_dict=whole_weights(cast(nn.Module, self.model), wanted=self.args.should_save))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if not self.is_sharded:  # a sharded model was loaded before it was sharded
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def shard_on_processors(trainer: Trainer) -> None:
    """Let accelerate also shard across processes on CPUs, which version 1.15 silently does not do, although FSDP2 itself can."""
    state = trainer.accelerator.state
    plugin = fsdp_plugin(trainer.args)
    if state.mixed_precision != "no":
        plugin.set_mixed_precision(state.mixed_precision)
    state.fsdp_plugin = plugin
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    trainer.is_fsdp_enabled = True


@contextmanager
def hidden_ties_sharded(trainer: Trainer) -> Iterator[None]:
    """Shard embedding and head together if they are one matrix and accelerate cannot detect it, because PEFT trains rows of it.

    Inside this context, the model hides both from accelerate.
    """
    model, plugin = cast(PreTrainedModel, trainer.model), cast(Any, trainer.accelerator.state.fsdp_plugin)
    tables = [table for table in (model.get_input_embeddings(), model.get_output_embeddings()) if table is not None]
    held = [{id(parameter) for parameter in table.parameters()} for table in tables]
    if len(tables) < 2 or not held[0] & held[1] or tables[0].weight is tables[1].weight:
        yield
        return
    policies = dict(mp_policy=plugin.mixed_precision_policy or MixedPrecisionPolicy(), offload_policy=plugin.cpu_offload)
    fully_shard(cast(Any, tables), reshard_after_forward=False, **cast(Any, policies))
    model.get_input_embeddings = model.get_output_embeddings = cast(Any, lambda: None)
    try:
        yield
    finally:
        del model.get_input_embeddings, model.get_output_embeddings


def without_weights(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters take no memory; shared parameters stay shared, buffers are copied."""
    memo = {id(one): nn.Parameter(one.detach().to("meta"), requires_grad=one.requires_grad) for one in model.parameters()}
    skeleton = copy.deepcopy(model, cast(Any, memo))
    for module in skeleton.modules():
        # TRL replaces the method of an instance with a closure, whose copy would still compute with the original, sharded model: a
        # process alone would wait in it for the others forever.
        module.__dict__.pop("forward", None)
    return skeleton


def part_here(parameter: torch.Tensor) -> torch.Tensor:
    """What this process has of a parameter: its shard, or all of it."""
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)  # of DeepSpeed, whose parameters are placeholders


def whole_weights(model: nn.Module, *, wanted: bool) -> dict[str, torch.Tensor]:
    """The state dict of a sharded model with whole tensors; called in every process, but only useful where `wanted`."""
    return gathered(model.state_dict(keep_vars=True), wanted=wanted)


def weights_from_deepspeed(model: nn.Module) -> dict[str, torch.Tensor]:
    """The same for a model sharded by DeepSpeed's ZeRO 3, in every process."""
    zero = require("deepspeed", extra="deepspeed", purpose="the accelerate file asks for DeepSpeed").zero
    with zero.GatheredParameters(list(model.parameters())):
        return tree_map_only(torch.Tensor, torch.clone, gathered(model.state_dict(keep_vars=True), wanted=True))


@torch.no_grad()
def gathered(state: Any, *, wanted: bool) -> Any:
    """A sharded state with whole tensors on the CPU; shared tensors stay shared. Called in every process."""
    known: dict[int, torch.Tensor] = {}

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in known:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            known[id(tensor)] = full.detach().cpu() if wanted else torch.empty(0)
        return known[id(tensor)]

    return tree_map_only(torch.Tensor, whole, state)


def shard_state(optimizer: torch.optim.Optimizer) -> None:
    """Reduce a state that was loaded whole to this process's shard: the part of each tensor that matches its parameter shard."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # From this process's own copy; otherwise the first process would send it to each.
                values[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
