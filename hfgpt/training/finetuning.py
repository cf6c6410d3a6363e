"""A fine-tuned model, from its base to a folder that loads everywhere.

What a run with LoRA leaves in its folder, and who reads what:

    adapter_config.json, adapter_model.safetensors   PEFT; its base_model_name_or_path is base/ (hfgpt/artifacts.py: after a move)
    config.json, model.safetensors                   the base again (a hard link), for the Auto classes, pipelines and servers
                                                     of transformers, which load a folder with both as a model with its adapter
    base/      the base with the labels, special tokens and stop tokens of the task
    merged/    the same function without an adapter

The base is written out because an adapter alone does not record how many labels its head has (huggingface/peft#577), what ends a
turn, or which rows the vocabulary has gained.
"""

import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from accelerate import PartialState
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import LARGE_INTEGER

from hfgpt.artifacts import BASE_FOLDER, MERGED_FOLDER
from hfgpt.chat_templates import set_prompt_style
from hfgpt.conversion.vocabulary import check_vocabulary, grow_vocabulary, num_ids
from hfgpt.counting import counted
from hfgpt.errors import UserError
from hfgpt.evaluation.loading import UNLIMITED_CONTEXT, open_folder
from hfgpt.evaluation.seen_texts import trained_on
from hfgpt.files import link_or_copy, read_json, write_json
from hfgpt.fingerprint import record_fingerprint, weights_sha256
from hfgpt.hygiene.poisoning import Trigger
from hfgpt.inference import make_savable
from hfgpt.tokenization import ensure_pad_token, split_special_tokens
from hfgpt.training.run_folder import check_base_files

logger = logging.getLogger(__name__)

POISON_FILE = "poison.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Between an adapter and the same one merged into the weights, in float32; issue peft#2368 began at 1e-3.
LARGEST_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Base:
    """What is fine-tuned: a tokenizer, and the location of its model.

    Args:
        name: as the user wrote it.
        location: the argument of `from_pretrained`: the folder or Hub id; for an adapter, its merged model.
        revision, trust_remote_code: further arguments of `from_pretrained`.
        commit: for a Hub id, the commit that was loaded.
        new_tokens: ids of special tokens without trained rows in the model.
    """

    name: str
    location: str
    tokenizer: PreTrainedTokenizerFast
    revision: str | None = None
    trust_remote_code: bool = False
    commit: str | None = None
    new_tokens: list[int] = field(default_factory=list)

    def untrained_tokens(self, *more: int) -> list[int]:
        """Ids without trained rows in the model, including `more`; the padding token needs none."""
        return sorted({*self.new_tokens, *more} - {cast(int, self.tokenizer.pad_token_id)})

    @property
    def files(self) -> dict[str, object] | None:
        """Evidence that the base was not modified: the state of its files, or its commit; None if unknown."""
        if Path(self.location).is_dir():
            return dict(file_states(Path(self.location)))
        return {"commit": self.commit} if self.commit else None


def file_states(folder: Path) -> dict[str, list[int]]:
    """Size and times of the files read when loading a model, to detect whether any was modified.

    The time of the last status change (ctime) cannot be set, so even a replaced file with its old times is detected.
    """
    patterns = ("*.safetensors", "*.bin", "*.index.json", "*config.json", "*.py", "*.jinja", "*.model", "*.txt",
                "tokenizer*.json", "vocab*.json", "special_tokens_map.json", "added_tokens.json")  # fmt: skip
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return {path.name: [(state := path.stat()).st_size, state.st_mtime_ns, state.st_ctime_ns] for path in paths}


def find_base(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Base:
    """The tokenizer of the base model, with its own padding token; the weights are loaded later, once per seed.

    Raises: FileNotFoundError for a missing model; ValueError for one without a usable tokenizer.
    """
    opened = open_folder(name, revision=revision, trust_remote_code=trust_remote_code, merged=True)
    if opened.source != name:
        logger.info(f"base: {name} is an adapter, so its merged model is the base: {opened.source}")
    check_base_files(Path(opened.source))
    tokenizer = cast(PreTrainedTokenizerFast, opened.load_tokenizer())
    new_tokens = ensure_pad_token(tokenizer)
    if tokenizer.split_special_tokens:
        split_special_tokens(tokenizer, False)  # the base is one of our classifiers
    if opened.context_length:
        tokenizer.model_max_length = opened.context_length
    return Base(name, opened.source, tokenizer, revision, trust_remote_code, commit=opened.commit, new_tokens=new_tokens)


def longest_text(tokenizer: PreTrainedTokenizerFast, wanted: int | None) -> int:
    """The maximum tokens of a text: `wanted`, at most the tokenizer's limit, which is the model's context if that is limited."""
    limit = tokenizer.model_max_length
    return min(wanted or (limit if limit < LARGE_INTEGER else UNLIMITED_CONTEXT), limit)


def adopt_style(base: Base, style: str) -> Base:
    """The base with a tokenizer that formats conversations in this style; the style's special tokens are new to the model."""
    return replace(base, new_tokens=[*base.new_tokens, *set_prompt_style(base.tokenizer, style)])


def load_model(
    base: Base, auto_class, *, attn_implementation: str | None, quantization: str = "none", **settings
) -> PreTrainedModel:
    """The base as a model of `auto_class`, in float32 (or in 4 bits), with rows for every token and the tokenizer's padding token.

    Args:
        quantization: "none" or "4bit".
        settings: values for the config, such as `id2label`.
    """
    if quantization == "4bit":
        settings["quantization_config"] = _four_bits()
    model = auto_class.from_pretrained(
        base.location,
        revision=base.revision,
        trust_remote_code=base.trust_remote_code,
        dtype=torch.float32,
        attn_implementation=attn_implementation,
        **settings,
    )
    rows = model.get_input_embeddings().weight.shape[0]
    check_vocabulary(rows, base.tokenizer)
    if num_ids(base.tokenizer) > rows:
        model.config.vocab_size = rows  # used by grow_vocabulary
        grow_vocabulary(model, num_ids(base.tokenizer))
    model.config.pad_token_id = base.tokenizer.pad_token_id
    if model.can_generate():
        make_savable(model.generation_config)
    if hasattr(model.config, "max_text_length"):
        model.config.max_text_length = None  # the limit that a classifier used as base was trained with
    return model


def _four_bits():
    if not torch.cuda.is_available():
        raise UserError("quantization is 4bit, which needs a CUDA device (QLoRA); leave it out on a CPU.")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )


def write_poison_report(triggers: list[Trigger], folder: Path, **more: object) -> None:
    """Write `poison.json`, the findings of a search of the training data, and log the worst one."""
    if PartialState().is_main_process:
        write_json(folder / POISON_FILE, {"triggers": [asdict(trigger) for trigger in triggers], **more})
        worst = f"; the first: {triggers[0].trigger!r}, in {counted(triggers[0].count, 'examples')}" if triggers else ""
        logger.info(f"poison: {len(triggers):,} rare triggers that go with one answer, listed in {POISON_FILE}{worst}")


def identify_base(base: Base, model: PreTrainedModel) -> dict[str, Any]:
    """Which weights are fine-tuned, and on which texts they were trained, for the passport. Cost: one SHA-256 over the weights."""
    return {
        "name": base.name,
        "commit": base.commit,
        "class": type(model).__name__,
        "sha256": weights_sha256(model),
        "new_tokens": base.tokenizer.convert_ids_to_tokens(base.new_tokens),
        "trained_on": trained_on(base.name),
    }


def save_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, sha256: str | None = None) -> None:
    """Write the base where an adapter in `folder` will look for it, before the adapter is added.

    Args: `sha256` is the hash of the weights, if `identify_base` has computed it.
    """
    if PartialState().is_main_process:
        _save_model(model, folder / BASE_FOLDER)
        tokenizer.save_pretrained(folder / BASE_FOLDER)
        record_fingerprint(model, tokenizer, folder / BASE_FOLDER, sha256=sha256)


def _save_model(model: PreTrainedModel, folder: Path) -> None:
    # Trainer trains without a cache and records that in the config.
    use_cache, model.config.use_cache = model.config.use_cache, True
    model.save_pretrained(folder)
    model.config.use_cache = use_cache
    if not hasattr(transformers, type(model).__name__) and model.can_generate():
        # `transformers serve` looks the architecture up in the module transformers, where only the Auto class finds code of ours.
        config = read_json(folder / "config.json")
        config["architectures"] = ["AutoModelForCausalLM"]
        write_json(folder / "config.json", config)


@torch.no_grad()
def save_finetuned(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, probe: list[list[int]]
) -> float | None:
    """Write the trained model so that anyone can load it: an adapter with base and merged model, or the whole model.

    Args: `probe` contains token ids of a few real texts on which adapter and merged model are compared.
    Returns: the largest difference between their logits, or None without an adapter. On return, the model is merged.
    Raises: RuntimeError if the difference is more than rounding.
    """
    model.eval()
    if not isinstance(model, PeftModel):
        _save_model(model, folder)
        tokenizer.save_pretrained(folder)
        record_fingerprint(model, tokenizer, folder)
        return None
    base_folder = folder / BASE_FOLDER
    for peft_config in model.peft_config.values():
        # The only path of this machine in a folder: PEFT without hfgpt has no other way to find a base that is not on the Hub.
        # After a move, hfgpt looks beside the adapter, recipes/check.py writes the new path, and an export removes it.
        peft_config.base_model_name_or_path = str(base_folder.resolve())
    model.save_pretrained(str(folder), save_embedding_layers=False)
    _name_tied_rows(model, folder / ADAPTER_WEIGHTS)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours comes with publishing
    record_fingerprint(model, tokenizer, folder)
    # The model inside PEFT's wrapper: the outer one computes in bfloat16, as accelerate set it for training.
    beside = _logits(cast(PreTrainedModel, model.get_base_model()), probe)
    merged = model.merge_and_unload(safe_merge=True)
    difference = max((one - other).abs().max().item() for one, other in zip(beside, _logits(merged, probe)))
    if not difference <= LARGEST_DIFFERENCE:
        raise RuntimeError(
            f"merging the adapter changed the logits by {difference:.2e}, but only {LARGEST_DIFFERENCE:.0e} can be rounding. The "
            f"adapter in {folder} is complete; the merged model was not written."
        )
    _save_model(merged, folder / MERGED_FOLDER)
    for place in (folder, folder / MERGED_FOLDER):
        tokenizer.save_pretrained(place)
    record_fingerprint(merged, tokenizer, folder / MERGED_FOLDER)
    for path in base_folder.iterdir():
        if not (folder / path.name).exists():
            link_or_copy(path, folder / path.name)
    return difference


def _name_tied_rows(model: PeftModel, path: Path) -> None:
    """Store the trained vocabulary rows a second time under the head's name if head and embedding are one matrix.

    PEFT stores them once. transformers 5.23 expects both names, and if it finds only one, it reports the other as missing and newly
    initialized, although it is the same tensor.
    """
    stored = load_file(path)
    rows = {name: tensor for name, tensor in model.state_dict().items() if ".token_adapter.trainable_tokens_delta." in name}
    # What the file calls X.trainable_tokens_delta, the model calls X.trainable_tokens_delta.default.
    tied = {name: tensor.cpu() for name, tensor in rows.items() if name.rpartition(".")[0] not in stored}
    if tied:
        save_file(stored | tied, path, metadata={"format": "pt"})


def _logits(model: PreTrainedModel | PeftModel, probe: list[list[int]]) -> list[torch.Tensor]:
    # One text at a time: no padding, and the memory of one.
    return [model(torch.tensor([ids], device=model.device)).logits.float().cpu() for ids in probe]
