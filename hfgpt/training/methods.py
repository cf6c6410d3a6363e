"""Which part of a model is trained: LoRA matrices, its last block, its head, or everything.

The parameters are found by the model's structure, not by our own names, so any transformers model with one stack of decoder layers
works.
"""

import warnings
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hfgpt.arguments.methods import METHODS, Method
from hfgpt.counting import listed
from hfgpt.errors import UserError
from hfgpt.fingerprint import tensor_sha256
from hfgpt.tables import resolve


def apply_method(model: PreTrainedModel, method: Method) -> PreTrainedModel | PeftModel:
    """Freeze what the method does not train; for an adapter method, the returned model contains the adapter.

    `method.new_tokens` are trained with every method, without any other row of the embedding (unless everything is trained).

    Raises: ValueError for LoRA targets that match nothing (the candidates are named) and for models without one stack of layers.
    """
    return resolve(METHODS.find(method.name).prepare)(model, method)


def train_everything(model: PreTrainedModel, method: Method) -> PreTrainedModel:
    """Every parameter."""
    return model.requires_grad_(True)


def train_head(model: PreTrainedModel, method: Method) -> PreTrainedModel:
    """Only the head. Raises: ValueError if the head is the embedding."""
    heads = _head_parameters(model)
    if not heads:
        raise UserError(
            f"method head trains nothing: the head of {type(model).__name__} is its embedding; use last_block, lora or full."
        )
    return _train_only(model, heads, new_tokens=method.new_tokens)


def train_last_block(model: PreTrainedModel, method: Method) -> PreTrainedModel:
    """The last decoder layer, the final norm and the head, as in the book."""
    stack, layers = decoder_layers(model)
    trained = (f"{stack}.{len(layers) - 1}.", *_final_norms(model, stack))
    names = {name for name, _ in model.named_parameters() if name.startswith(trained)}
    return _train_only(model, _head_parameters(model) | names, new_tokens=method.new_tokens)


def _train_only(model: PreTrainedModel, names: set[str], *, new_tokens: list[int]) -> PreTrainedModel:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    if new_tokens:
        _train_rows(cast(nn.Embedding, model.get_input_embeddings()).weight, new_tokens)
    return model


def add_lora(model: PreTrainedModel, method: Method) -> PeftModel:
    """LoRA for matrices of the decoder layers; the head of a classifier and the rows of new tokens are also trained."""
    candidates = linear_names(model)
    targets = candidates if method.targets is None else list(method.targets)
    unknown = [name for name in targets if name not in candidates]
    outside = [name for name in unknown if name in _outside_the_layers(model)]
    if outside:
        raise UserError(
            f"lora_targets {', '.join(outside)}: here, LoRA only applies to the matrices of the decoder layers, because head and "
            f"embedding can be one matrix, which an adapter on one of them would separate; choose among {', '.join(candidates)}, "
            f"or train everything with --method full."
        )
    if unknown or not targets:
        raise UserError(
            f"lora_targets {', '.join(unknown) or 'is empty'} matches no linear layer of {type(model).__name__}; its decoder "
            f"layers have {', '.join(candidates)}."
        )
    heads = _head_names(model)
    is_classifier = model.get_output_embeddings() is None
    # A new token has a row in the embedding and one in the head, which are the same row if both are one matrix.
    tables = [model.get_input_embeddings()]
    if (head := model.get_output_embeddings()) is not None and head.weight is not tables[0].weight:
        tables.append(head)
    rows = {_name_of(model, table).rpartition(".")[2]: sorted(method.new_tokens) for table in tables}
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if is_classifier else TaskType.CAUSAL_LM,
        r=method.rank,
        lora_alpha=cast(int, method.alpha),  # any number works
        lora_dropout=method.dropout,
        target_modules=targets,
        use_dora=method.dora,
        use_rslora=method.rslora,
        # GPT-2's Conv1D keeps its weights transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        # A classifier's head is new and small: fully trained and saved with the adapter (TaskType.SEQ_CLS only knows "score").
        modules_to_save=heads if is_classifier else None,
        trainable_token_indices=rows if method.new_tokens else None,
    )
    with warnings.catch_warnings():  # PEFT uses a deprecated name in transformers
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return get_peft_model(model, config)


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The stack of decoder layers, and its name in the model. Raises: ValueError if there is not exactly one."""
    count = model.config.get_text_config().num_hidden_layers
    stacks = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not stacks:
        raise UserError(f"{type(model).__name__} has no list of {count} layers; method full trains it whole.")
    return stacks[0]


def linear_names(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of the linear layers in the decoder layers, in order: the possible LoRA targets."""
    _, layers = decoder_layers(model)
    names = [name.rpartition(".")[2] for name, module in layers.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    return list(dict.fromkeys(names))


def _outside_the_layers(model: PreTrainedModel) -> set[str]:
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name.rpartition(".")[2] for name, module in model.named_modules() if any(module is one for one in modules)}


def _final_norms(model: PreTrainedModel, stack: str) -> tuple[str, ...]:
    # What follows the stack in the same module: a norm, if it has parameters (rotary embeddings and dropouts have none).
    parent = model.get_submodule(stack.rpartition(".")[0])
    children = list(parent.named_children())
    after = children[[name for name, _ in children].index(stack.rpartition(".")[2]) + 1 :]
    prefix = stack.rpartition(".")[0] + "." if "." in stack else ""
    return tuple(f"{prefix}{name}." for name, module in after if any(True for _ in module.parameters()))


def _head_names(model: PreTrainedModel) -> list[str]:
    """Children of the model outside its body with their own parameters; a head tied to the embedding has none."""
    body = model.base_model
    if body is model:
        raise UserError(f"{type(model).__name__} has no head; load a class with one.")
    in_body = {id(parameter) for parameter in body.parameters()}
    return [
        name
        for name, module in model.named_children()
        if module is not body and any(id(parameter) not in in_body for parameter in module.parameters())
    ]


def _head_parameters(model: PreTrainedModel) -> set[str]:
    heads = tuple(f"{head}." for head in _head_names(model))
    return {name for name, _ in model.named_parameters() if name.startswith(heads)}


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _train_rows(weight: torch.Tensor, rows: list[int]) -> None:
    """Train only these rows of a matrix: the gradient of every other row is zero, and the trainer exempts the matrix from weight
    decay, so AdamW does not change them."""
    kept = torch.zeros(weight.shape[0], 1, dtype=weight.dtype)
    kept[rows] = 1
    weight.requires_grad_(True)
    weight.register_hook(lambda gradient: gradient * kept.to(gradient.device))
    cast(Any, weight).only_some_rows = True


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """The number of trained parameters and of all parameters."""
    return (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        sum(parameter.numel() for parameter in model.parameters()),
    )


def describe_trainable(model: nn.Module) -> str:
    """One line for the user: how much is trained, and what."""
    trained, total = trainable_parameters(model)
    groups: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # layers.0 .. layers.11 are one group, and so are the two LoRA matrices
            parts = [part for part in name.split(".") if part not in ("base_model", "model", "transformer", "default", "weight")]
            key = ".".join("*" if part.isdigit() else part for part in parts)
            groups[key] = groups.get(key, 0) + parameter.numel()
    largest = sorted(groups.items(), key=lambda item: -item[1])[:6]
    shown = ", ".join(f"{name} {count:,}" for name, count in largest) + (", ..." if len(groups) > 6 else "")
    return f"trained: {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %): {shown}"


class FrozenWeights:
    """Remembers every parameter that is not trained, and checks after training whether one of them changed.

    Cost: one SHA-256 over the frozen weights, about a second per 500 million parameters of a float16 model.
    """

    def __init__(self, model: nn.Module):
        self._before = self._digests(model)

    @staticmethod
    def _digests(model: nn.Module) -> dict[str, str]:
        return {
            name: tensor_sha256(parameter.detach()) for name, parameter in model.named_parameters() if not parameter.requires_grad
        }

    def check(self, model: nn.Module) -> int:
        """The number of frozen tensors, all unchanged. Raises: RuntimeError that names changed ones."""
        after = self._digests(model)
        changed = sorted(name for name, digest in self._before.items() if after.get(name) != digest)
        if changed:
            raise RuntimeError(f"training changed {len(changed)} frozen parameters: {listed(changed, most=5)}.")
        return len(after)
