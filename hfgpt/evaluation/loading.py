"""The single entry point for loading: any kind of model from a folder or the Hub, with its adapter, tokenizer and context.

`open_folder` finds out what is there without reading weights; `load` returns a model ready for evaluation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_base import LARGE_INTEGER, VERY_LARGE_INTEGER
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from hfgpt.artifacts import Task, base_beside, check_model_folder, merged_beside, why_no_model
from hfgpt.conversion.adapters import HEAD_FILES, check_adapter_base, head_settings
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.errors import MissingFileError, UserError
from hfgpt.evaluation.bounds import check_kernel, check_memory, check_template, check_tokenizer_size
from hfgpt.files import read_json
from hfgpt.inference import longest_input
from hfgpt.tokenization.loading import check_is_fast

UNLIMITED_CONTEXT = 1024  # tokens that a model with unlimited positions (Bloom) reads, unless others are wanted


@dataclass
class Loaded:
    """A model in evaluation mode, on the GPU if there is one.

    Attributes:
        task: its task, as the Hub names it.
        context_length: the maximum tokens it reads at once; None if its positions are unlimited.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    task: Task
    context_length: int | None

    def context(self, wanted: int | None) -> int:
        """The context to use. Raises: ValueError if it exceeds the model's."""
        if self.context_length is None:
            return wanted or UNLIMITED_CONTEXT
        if wanted is not None and wanted > self.context_length:
            raise UserError(
                f"context_length is {wanted:,}, but the model reads at most {self.context_length:,} tokens at once "
                f"(max_position_embeddings); give that or less."
            )
        return wanted or self.context_length

    def longest_text(self, wanted: int | None) -> int:
        """The maximum tokens of a text to classify: the tokenizer's limit, which is what training cut texts to, or less.

        Raises: ValueError for more than the classifier can read.
        """
        kept = self.tokenizer.model_max_length
        if kept >= LARGE_INTEGER:  # a tokenizer without a limit
            return self.context(wanted)
        if wanted is not None and wanted > kept:
            raise UserError(
                f"max_length is {wanted:,}, but the classifier reads at most {kept:,} tokens of a text, as in its training "
                f"(model_max_length of its tokenizer); give that or less."
            )
        return min(wanted or kept, self.context_length or kept)


@dataclass(frozen=True)
class Opened:
    """A model from a folder or the Hub before its weights are loaded: what it is, and where its parts are.

    Attributes:
        name: as the user wrote it.
        revision: the revision of `name` on the Hub, as the user wrote it.
        source: the folder or Hub id of the full weights; for an adapter, that of its base.
        options: arguments for `from_pretrained(source)`: revision and trust_remote_code.
        adapter: for an adapter, its adapter_config.json, here or in the cache; None for full weights.
        config: the config of the full weights; for a classifier's adapter, with its labels.
        task: its task, as the Hub names it.
    """

    name: str
    revision: str | None
    source: str
    options: dict[str, Any]
    adapter: Path | None
    config: PreTrainedConfig
    task: Task

    @property
    def auto_class(self) -> Any:
        """The Auto class for its task."""
        return AutoModelForSequenceClassification if self.task == "text-classification" else AutoModelForCausalLM

    @property
    def commit(self) -> str | None:
        """For a Hub id, the commit that was loaded."""
        return getattr(self.config, "_commit_hash", None)

    @property
    def context_length(self) -> int | None:
        """The maximum tokens it reads at once; None if its positions are unlimited, as in Bloom."""
        return longest_input(self.config)

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        """The adapter's own tokenizer if it has one, otherwise that of the full weights.

        Raises: FileNotFoundError without one; UserError for one that is not fast.
        """
        place, options = self.source, self.options
        if self.adapter is not None and _file_in(self.name, "tokenizer_config.json", self.revision) is not None:
            # Published adapters have no config.json, which AutoTokenizer would look for.
            place, options = self.name, self.options | {"revision": self.revision, "config": self.config}
        check_tokenizer_size(Path(place))
        with _named_where_it_fails(self.name, self.source, is_adapter=self.adapter is not None):
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
        check_is_fast(tokenizer, place)
        check_template(tokenizer, place)
        return tokenizer

    def load_whole(self, dtype: str = "float32") -> PreTrainedModel:
        """The full weights; for an adapter, only its base. "auto" means the stored dtype.

        Raises: ValueError if an adapter was trained on a base with different weights.
        """
        if self.adapter is None:
            return self.auto_class.from_pretrained(self.source, dtype=dtype, **self.options)
        options = self.options | {"config": self.config}
        # Compared in float32 or as stored: rounded to fewer bits, the right weights would have a different hash.
        model = self.auto_class.from_pretrained(self.source, dtype=dtype if dtype == "float32" else "auto", **options)
        check_adapter_base(self._folder_of_passport(self.adapter), model)
        if dtype not in ("auto", str(model.dtype).removeprefix("torch.")):
            model = self.auto_class.from_pretrained(self.source, dtype=dtype, **options)
        return model

    def load_model(self, dtype: str = "float32") -> PreTrainedModel:
        """The full weights with the adapter added. Raises: ValueError also for an adapter that does not fit its base."""
        with quiet_loading():  # the head is expected to come with the adapter rather than the base
            model = self.load_whole(dtype)
            if self.adapter is not None:
                self._add_adapter(model)
        return model

    def _folder_of_passport(self, adapter_config: Path) -> Path:
        """The folder whose passport.json says which weights the adapter was trained on; for a repository, it is downloaded."""
        if Path(self.name).is_dir():
            return Path(self.name)
        found = _file_in(self.name, PASSPORT_NAME, self.revision)
        return found.parent if found else adapter_config.parent

    def _add_adapter(self, model: PreTrainedModel) -> None:
        found = model.load_adapter(self.name, adapter_kwargs={"revision": self.revision})
        # A token_adapter of a head tied to the embedding is stored once, and is reported as missing.
        missing = sorted(key for key in found.missing_keys if ".token_adapter." not in key)
        if missing or found.unexpected_keys:
            problem = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(sorted(found.unexpected_keys))} unexpectedly"
            raise UserError(
                f"the adapter in {self.name} does not fit {self.source}: it {problem}. Its own base belongs in {self.name}/base."
            )


def open_folder(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, merged: bool = False) -> Opened:
    """Find out what a folder or Hub id contains: our model, a native twin, any other model, or an adapter with its base. No weights
    are loaded.

    The base of an adapter is in base/ in its folder, where our recipes put it, or else where its config says.

    Args: `merged` requests full weights that training can continue from: for an adapter, its merged model.
    Raises: FileNotFoundError for a missing model or base; ValueError if the merged model is requested but missing.
    """
    name = str(name)
    check_model_folder(name)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        found = find_adapter_config_file(name, revision=revision)
    except OSError:  # no such model: AutoConfig reports it below
        found = None
    adapter, source, settings = Path(found) if found else None, name, {}
    if adapter is not None and merged:
        if (twin := merged_beside(name)) is None:
            raise UserError(
                f"model {name} is an adapter, but fine-tuning needs full weights: merge it with recipes/convert.py BASE --adapter "
                f"{name} and give the result."
            )
        adapter, source = None, str(twin)
    elif adapter is not None:
        settings, beside = read_json(adapter), base_beside(name)
        source = str(beside or settings.get("base_model_name_or_path") or "")
        options["revision"] = None if beside else settings.get("revision")
        if beside is None and (problem := why_no_model(source)) is not None:
            raise MissingFileError(f"{name} is an adapter without its base: {problem} Or put the base in {Path(name) / 'base'}.")
    with _named_where_it_fails(name, source, is_adapter=adapter is not None):
        config = AutoConfig.from_pretrained(source, **options)
    if settings.get("task_type") == "SEQ_CLS":
        config.update(head_settings(_file_in(name, file, revision) for file in HEAD_FILES))
    classifies = settings.get("task_type") == "SEQ_CLS" or any(
        architecture.endswith("ForSequenceClassification") for architecture in config.architectures or []
    )
    task = "text-classification" if classifies else "text-generation"
    opened = Opened(name, revision, source, options, adapter, config, task)
    check_kernel(config, source)
    check_memory(config, partial(opened.auto_class.from_config, trust_remote_code=False), f"the config.json of {source}")
    return opened


def load(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str = "float32",
    task: Task | None = None,
) -> Loaded:
    """The model of a folder or Hub id with its tokenizer, in evaluation mode, on the GPU if there is one.

    Args:
        dtype: the dtype of the weights; "auto" keeps the stored one.
        task: the required task; None accepts both.
    Raises: FileNotFoundError for a missing model; ValueError for one of another kind, and for an adapter that does not fit its base
        or was trained on different weights.
    """
    opened = open_folder(name, revision=revision, trust_remote_code=trust_remote_code)
    tokenizer = opened.load_tokenizer()
    check_task(opened, task)
    model = opened.load_model(dtype)
    if opened.task == "text-generation":
        # Texts are cut into windows here, so a warning about their length would mislead.
        tokenizer.model_max_length = VERY_LARGE_INTEGER
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)  # pyright: ignore[reportArgumentType]  # the stubs lose self behind a decorator
    return Loaded(name, model.eval(), tokenizer, opened.task, opened.context_length)


def _file_in(name: str, file: str, revision: str | None) -> Path | None:
    """A file in a folder or a repository, from which it is downloaded; None if there is none."""
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    found = cached_file(name, file, revision=revision, **quiet)
    return Path(found) if found else None


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Suppress transformers' report on missing tensors."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)


@contextmanager
def _named_where_it_fails(name: str, source: str, *, is_adapter: bool) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, HfHubHTTPError) as error:
        what = f"{name} is an adapter of {source!r}, which" if is_adapter else f"model {name!r}"
        raise MissingFileError(
            f"{what} cannot be loaded with its tokenizer ({(str(error).strip() or type(error).__name__).splitlines()[0]}); give "
            f"the folder of a model (relative to {Path.cwd()}) or a Hub id."
        ) from None


def check_task(opened: Opened, task: Task | None) -> None:
    """Raises: ValueError for a classifier if text is needed, and for a model with an unsupported head."""
    architectures = opened.config.architectures or []
    classifies = opened.task == "text-classification"
    what = "classifier's adapter" if opened.adapter is not None and classifies else ", ".join(architectures)
    if any(one.endswith(("TokenClassification", "QuestionAnswering")) for one in architectures):
        raise UserError(f"{opened.name} is a {what}, which does not generate text; give a causal language model.")
    if task == "text-generation" and classifies:
        call = f"pipeline({opened.task!r}, {opened.name!r})"
        raise UserError(f"{opened.name} is a {what}, which gives labels, not text: use {call}.")
