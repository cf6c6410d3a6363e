"""A model of any kind out of a folder or the Hub, ready to be measured: with its adapter, its tokenizer and its context."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.tokenization_utils_base import LARGE_INTEGER
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from hfgpt.conversion.adapters import check_adapter_base
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.errors import MissingFileError, UserError
from hfgpt.folders import base_beside, check_model_folder, run_folders, why_no_model

NO_LIMIT = int(1e30)  # what transformers writes where a tokenizer knows of none


@dataclass
class Loaded:
    """A model in evaluation mode, on the GPU where there is one.

    Attributes:
        task: what it is for, in the Hub's words.
        context_length: most tokens that it reads at once; None where its positions have no end.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Literal["text-generation", "text-classification"]
    context_length: int | None

    def context(self, wanted: int | None) -> int:
        """The context to use. Raises: ValueError for one that the model does not have."""
        if self.context_length is None:
            return wanted or 1024
        if wanted is not None and wanted > self.context_length:
            raise UserError(
                f"context_length is {wanted:,}, the model reads at most {self.context_length:,} tokens at once "
                "(max_position_embeddings); ask for that or less."
            )
        return wanted or self.context_length

    def longest_text(self, wanted: int | None) -> int:
        """Most tokens of a text to classify: what its tokenizer says, which is what training cut texts to, or less.

        Raises: ValueError for more than the classifier reads.
        """
        kept = self.tokenizer.model_max_length
        if kept >= LARGE_INTEGER:  # a tokenizer that knows of none
            return self.context(wanted)
        if wanted is not None and wanted > kept:
            raise UserError(
                f"max_length is {wanted:,}, the classifier reads at most {kept:,} tokens of a text, as in its training "
                "(model_max_length of its tokenizer); ask for that or less."
            )
        return min(wanted or kept, self.context_length or kept)


def load(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str = "float32",
    task: Literal["text-generation", "text-classification"] | None = None,
) -> Loaded:
    """The model of a folder or Hub id with its tokenizer: ours, a native twin, any other; an adapter on its base.

    The base of an adapter lies in base/ in its folder, where our recipes put it, else where it says. Every recipe that reads a
    trained model comes through here.

    Args:
        dtype: what the weights are held in; "auto" as they are stored.
        task: what is needed; None takes both.
    Raises: FileNotFoundError for a model that is not there; ValueError for one of another kind, and for an adapter that does not
        fit its base or was trained on other weights.
    """
    check_model_folder(name)
    options = {"trust_remote_code": trust_remote_code}
    try:
        adapter = find_adapter_config_file(name, revision=revision)
    except OSError:  # nothing of this name: AutoConfig says so below
        adapter = None
    source, settings = name, {}
    if adapter is not None:
        settings = json.loads(Path(adapter).read_text(encoding="utf-8"))
        beside = base_beside(name)
        source = str(beside or settings.get("base_model_name_or_path") or "")
        options["revision"] = None if beside else settings.get("revision")
        if beside is None and (problem := why_no_model(source)) is not None:
            raise MissingFileError(f"{name} is an adapter without its base: {problem} Or put the base into {Path(name) / 'base'}.")
    else:
        options["revision"] = revision
    try:
        config = AutoConfig.from_pretrained(source, **options)
        from_adapter = adapter is not None and (Path(name) / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(name if from_adapter else source, **options)
    except (OSError, ValueError, HfHubHTTPError) as error:
        what = f"{name} is an adapter of {source!r}, which" if adapter is not None else f"model {name!r}"
        raise MissingFileError(
            f"{what} does not load with its tokenizer ({(str(error).strip() or type(error).__name__).splitlines()[0]}); looked "
            f"from {Path.cwd()}."
        ) from None
    classifies = settings.get("task_type") == "SEQ_CLS" or any(
        architecture.endswith("ForSequenceClassification") for architecture in config.architectures or []
    )
    found = "text-classification" if classifies else "text-generation"
    _check_task(name, config, found, task, is_adapter=adapter is not None)
    auto_class = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # that the head comes with the adapter and not with the base is no news
    try:
        model = auto_class.from_pretrained(source, dtype=dtype if adapter is None else "auto", **options)
        if adapter is not None:
            # Compared as they are stored: rounded to fewer bits, the right weights have another hash.
            check_adapter_base(_folder_of_passport(name, Path(adapter), revision), model)
            if dtype not in ("auto", str(model.dtype).removeprefix("torch.")):
                model = auto_class.from_pretrained(source, dtype=dtype, **options)
            _load_adapter(model, name, source, revision)
    finally:
        transformers.logging.set_verbosity(level)
    context_length = getattr(config.get_text_config(), "max_position_embeddings", None)  # Bloom's positions have no end
    if not classifies:
        tokenizer.model_max_length = NO_LIMIT  # texts are cut into windows here; a warning that they are long would mislead
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return Loaded(name, model, tokenizer, found, context_length)


def _check_task(name: str, config: PreTrainedConfig, found: str, task: str | None, *, is_adapter: bool) -> None:
    """Raises: ValueError for a classifier where text is needed, and for a model with a head that nobody here reads."""
    what = "classifier's adapter" if is_adapter and found == "text-classification" else ", ".join(config.architectures or [])
    if any(one.endswith(("TokenClassification", "QuestionAnswering")) for one in config.architectures or []):
        raise UserError(f"{name} is a {what}, which gives no text; a causal language model is needed.")
    if task == "text-generation" and found != task:
        raise UserError(f"{name} is a {what}, which gives no text but labels: pipeline({found!r}, {name!r}) tells them.")


def _folder_of_passport(name: str, adapter_config: Path, revision: str | None) -> Path:
    """The folder whose passport.json says which weights an adapter was trained on; a repository's is fetched."""
    if Path(name).is_dir():
        return next((place for place in run_folders(name) if (place / PASSPORT_NAME).is_file()), Path(name))
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    found = cached_file(name, PASSPORT_NAME, revision=revision, **quiet)
    return Path(found).parent if found else adapter_config.parent


def _load_adapter(model: PreTrainedModel, name: str, source: str, revision: str | None) -> None:
    found = model.load_adapter(name, adapter_kwargs={"revision": revision})
    # A token_adapter of a head that is the embedding lies in the file once, and is reported as missing.
    missing = sorted(key for key in found.missing_keys if ".token_adapter." not in key)
    if missing or found.unexpected_keys:
        problem = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(sorted(found.unexpected_keys))} too many"
        raise UserError(f"the adapter in {name} does not fit {source}: it {problem}. Its own base belongs into {name}/base.")
