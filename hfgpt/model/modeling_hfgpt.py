"""The hfgpt model: GPT-2's architecture and the modern one in a single class, in the shape of transformers 5.

Shapes below: B batch, T tokens of this call, E hidden width, V vocabulary.

Every tensor has the name that Llama and Qwen3 give it, so that PEFT, quantizers and tensor parallel plans find it. A book-family
model computes exactly what `GPT2LMHeadModel` computes, a modern one what `Qwen3ForCausalLM` (or, without QK-norm,
`LlamaForCausalLM`) computes; tests/model checks this.
"""

import math
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.dynamic_module_utils import custom_object_save
from transformers.generation.utils import GenerationMixin
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, SequenceClassifierOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.processing_utils import Unpack  # pyright: ignore[reportAttributeAccessIssue]  # as transformers' own models do
from transformers.utils.generic import TransformersKwargs, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_hfgpt import AUTO_MAP, HfGptConfig, as_published, published_class
from .layers_hfgpt import HfGptAttention, HfGptDecoderLayer, HfGptRotaryEmbedding, build_norm, check_flex_attention, look_up
from .loss_hfgpt import can_fuse, head_and_loss


def is_adapted_alone(name: str, module: Any) -> bool:
    """Whether a PEFT module that replaces the head or the embedding adapts only that one of the two."""
    adapter = getattr(module, "token_adapter", module)
    if hasattr(adapter, "trainable_tokens_delta"):  # single rows; PEFT itself trains the embedding's rows in the head as well
        return name == "lm_head" and not adapter.tied_adapter
    return hasattr(adapter, "base_layer") and type(adapter.base_layer.weight) is nn.Parameter


class HfGptPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about every hfgpt model: its config, its parts, how weights are initialised and saved."""

    config_class = HfGptConfig
    config: HfGptConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HfGptDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": HfGptDecoderLayer, "attentions": HfGptAttention}

    def __init__(self, config: HfGptConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        # transformers chooses the loss by the name of the class; a subclass may have any name.
        loss_type = published_class(type(self)).__name__.removeprefix("HfGpt")
        if loss_type in LOSS_MAPPING:
            self.loss_type = loss_type
        # The heads get their backbone from AutoModel, by the class of the config. This need not be the class imported above: it
        # may be a subclass, and remote code from a local folder is loaded twice (for the config alone and for this file).
        modeling_auto.MODEL_MAPPING.register(type(config), cast(Any, HfGptModel), exist_ok=True)

    def __setattr__(self, name: str, value: Any):
        """Untie head and embedding when an adapter is added to only one of them.

        Merging the adapter would otherwise change both, and the merged model would give other results (huggingface/peft#2777).
        """
        super().__setattr__(name, value)
        if name in ("lm_head", "embed_tokens") and self.config.tie_word_embeddings and is_adapted_alone(name, value):
            layer = getattr(value, "token_adapter", value).base_layer
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=layer.weight.requires_grad)
            self.config.tie_word_embeddings = False

    @torch.no_grad()
    def _init_weights(self, module: Any):
        """Normal with `initializer_range`; the two projections that write into the residual stream are scaled down.

        Their 2 x layers contributions then add up to the variance of one. Source: Radford et al. (2019), section 2.3.
        """
        super()._init_weights(module)
        # The layer carries the mark itself: for custom code, transformers skips modules without parameters of their own, so a
        # rule for the attention or the MLP that contains it would never run.
        if getattr(module, "writes_residual", False):
            scaled = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            init.normal_(module.weight, mean=0.0, std=scaled)

    def save_pretrained(self, save_directory, is_main_process=True, **kwargs):
        """Save as transformers does; the folder also contains this code and names it for every Auto class.

        It is saved as a class that others can load, even if FSDP2 or the user gave this model another one.
        """
        self.config.auto_map = dict(AUTO_MAP)
        with as_published(self):
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process and (Path(save_directory) / "config.json").is_file():
            # Needed beside the file of a saved subclass, and for a custom head whose own code is not saved.
            custom_object_save(HfGptModel, save_directory)


class HfGptModel(HfGptPreTrainedModel):
    """The blocks between the embedding and the head."""

    _auto_class = "AutoModel"

    def __init__(self, config: HfGptConfig):
        super().__init__(config)
        # No padding_idx: it would zero the padding row, and a model without biases maps a zero row to zeros.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position_embedding_type == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
            self.rotary_emb = None
        else:
            self.embed_positions = None
            self.rotary_emb = HfGptRotaryEmbedding(config)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList([HfGptDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = build_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Hidden states (B, T, E) of `input_ids` (B, T).

        Packed documents are kept apart by `position_ids` that restart at 0, but only without an `attention_mask` and without
        a cache.

        Raises: ValueError for both or neither of `input_ids` and `inputs_embeds`, for an id outside the vocabulary, for a
            position past the learned ones (on a GPU these two fail with a device-side assert), and for training or
            generating with flex_attention on a CPU.
        """
        if self.config._attn_implementation == "flex_attention" and self.device.type == "cpu":
            check_flex_attention(self, past_key_values)
        if input_ids is not None and inputs_embeds is None:
            inputs_embeds = look_up(self.embed_tokens, input_ids, "token id", "vocab_size")
        elif input_ids is not None or inputs_embeds is None:
            raise ValueError("give exactly one of input_ids and inputs_embeds.")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device).unsqueeze(0) + seen
            if self.embed_positions is not None and attention_mask is not None and attention_mask.dim() == 2:
                # A text begins at position 0 on whichever side the padding is. Rotary positions are relative and do not need this.
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, position_ids[0]]
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if self.embed_positions is not None:
            inputs_embeds = inputs_embeds + look_up(self.embed_positions, position_ids, "position", "max_position_embeddings")
        position_embeddings = None
        if self.rotary_emb is not None:
            cos, sin = self.rotary_emb(inputs_embeds, position_ids)
            position_embeddings = cos.unsqueeze(2), sin.unsqueeze(2)  # (B, T, 1, D)
        hidden_states = self.dropout(inputs_embeds)
        # islice, because slicing a ModuleList builds a module; the number is the config's, because early exit lowers it.
        for layer in islice(self.layers, self.config.num_hidden_layers):
            hidden_states = layer(
                hidden_states,
                attention_mask=causal_mask,
                past_key_values=past_key_values,
                position_embeddings=position_embeddings,
                position_ids=position_ids,  # flash attention detects packed documents by them
                use_cache=use_cache,  # gradient checkpointing turns it off
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states),
            past_key_values=past_key_values if use_cache else None,
        )


def register_causal_lm(cls: type) -> None:
    """Register the name of the class as a language model's, because transformers recognises them in some places only by name.

    Trainer shifts the labels of a smoothed loss (`label_smoothing_factor`) only for these; it would train any other model to
    repeat its input. Pipelines and `transformers serve` use the list too. FSDP2's class for a sharded model is registered as well.
    """
    own = cls.__module__ == __name__
    name = HfGptConfig.model_type if own else f"{HfGptConfig.model_type}:{cls.__module__}.{cls.__qualname__}"
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name] = cls.__name__


class HfGptForCausalLM(HfGptPreTrainedModel, GenerationMixin):
    """The language model: `HfGptModel` and a head over the vocabulary."""

    _auto_class = "AutoModelForCausalLM"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan: Any = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        register_causal_lm(cls)

    def __init__(self, config: HfGptConfig):
        super().__init__(config)
        self.model = HfGptModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V), and with `labels` (B, T) the loss in nats per token.

        The caller does not shift the labels; -100 is ignored. With the keyword argument `num_items_in_batch` the loss is the
        sum divided by it, so that every token counts the same under gradient accumulation; without it, the mean of this batch.
        `logits_to_keep` is the number of last positions to compute logits for (0 means all).
        """
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # -0 keeps all
        hidden_states = cast(torch.Tensor, outputs.last_hidden_state)[:, kept]
        loss = None
        # A loss function that the user has set is called in the usual way.
        if labels is not None and self.loss_function is ForCausalLMLoss and can_fuse(self.lm_head) and "ignore_index" not in kwargs:
            loss, logits = head_and_loss(
                self.lm_head,
                hidden_states,
                labels,
                shift_labels=kwargs.get("shift_labels"),
                num_items_in_batch=kwargs.get("num_items_in_batch"),
            )
        else:
            logits = self.lm_head(hidden_states)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def first_columns(attention_mask: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns (B, count) of the first `count` tokens of each text, after any padding on the left, and their mask."""
    columns = attention_mask.long().argmax(-1, keepdim=True) + torch.arange(count, device=attention_mask.device)  # (B, count)
    last = attention_mask.shape[1] - 1
    mask = attention_mask.gather(1, columns.clamp(max=last))
    return columns.clamp(max=last), mask * (columns <= last)


class HfGptForSequenceClassification(GenericForSequenceClassification, HfGptPreTrainedModel):
    """One label (or several) for a whole text, computed from its last token that is not padding."""

    _auto_class = "AutoModelForSequenceClassification"

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Logits (B, num_labels), and with `labels` the loss.

        The `attention_mask` shows where a text ends; without one, whatever is not `pad_token_id` is text. So a text has the
        same logits alone and in a batch, padded left or right. At most the config's `max_text_length` tokens of a text are read.

        Raises: ValueError for several texts with neither a mask nor a `pad_token_id` to show where they end.
        """
        pad = self.config.pad_token_id
        if attention_mask is None and input_ids is not None and pad is not None and past_key_values is None:
            attention_mask = (input_ids != pad).long()
        longest = self.config.max_text_length
        given = inputs_embeds if input_ids is None else input_ids  # (B, T) or (B, T, E)
        if longest is not None and past_key_values is None and given is not None and given.shape[1] > longest:
            if attention_mask is None:
                attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
            if attention_mask.dim() == 2:
                columns, attention_mask = first_columns(attention_mask, longest)
                if input_ids is not None:
                    input_ids = input_ids.gather(1, columns)
                if inputs_embeds is not None:
                    inputs_embeds = inputs_embeds.gather(1, columns[..., None].expand(-1, -1, inputs_embeds.shape[-1]))
                if position_ids is not None:
                    position_ids = position_ids.expand(given.shape[:2]).gather(1, columns)
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = cast(torch.Tensor, outputs.last_hidden_state)
        batch, tokens = hidden_states.shape[:2]
        if attention_mask is not None and attention_mask.dim() == 2:
            steps = torch.arange(tokens, device=hidden_states.device)
            # The last 1 of each row: the largest step under the mask.
            last = (attention_mask[:, -tokens:].to(hidden_states.device) * steps).argmax(-1)
        elif batch == 1 or pad is not None:
            last = torch.full((batch,), tokens - 1, device=hidden_states.device)
        else:
            raise ValueError(f"got {batch} texts, but there is neither a padding token (pad_token_id) nor an attention_mask.")
        logits = self.score(hidden_states[torch.arange(batch, device=hidden_states.device), last])  # (B, num_labels)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class HfGptForTokenClassification(GenericForTokenClassification, HfGptPreTrainedModel):
    """One label for every token."""

    _auto_class = "AutoModelForTokenClassification"


class HfGptForQuestionAnswering(GenericForQuestionAnswering, HfGptPreTrainedModel):
    """Start and end of the answer within the text."""

    _auto_class = "AutoModelForQuestionAnswering"


register_causal_lm(HfGptForCausalLM)
# After `import hfgpt` every Auto class knows its model.
for _auto_class, _target in AUTO_MAP.items():
    if _auto_class != "AutoConfig":
        getattr(modeling_auto, _auto_class).register(HfGptConfig, globals()[_target.rpartition(".")[2]], exist_ok=True)

__all__ = [
    "HfGptForCausalLM",
    "HfGptForQuestionAnswering",
    "HfGptForSequenceClassification",
    "HfGptForTokenClassification",
    "HfGptModel",
    "HfGptPreTrainedModel",
]
