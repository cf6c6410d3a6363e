"""The one loading door: a model of any kind out of a folder or the Hub, with its adapter, its tokenizer and its context.

`open_folder` finds out what there is and reads no weights; `load` gives a model that is ready to be measured.
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
from transformers.tokenization_utils_base import LARGE_INTEGER
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from hfgpt.artifacts import Task, base_beside, check_model_folder, merged_beside, why_no_model
from hfgpt.conversion.adapters import check_adapter_base
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.errors import MissingFileError, UserError
from hfgpt.evaluation.bounds import check_kernel, check_memory, check_template, check_tokenizer_size
from hfgpt.files import read_json

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
    tokenizer: PreTrainedTokenizerFast
    task: Task
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


@dataclass(frozen=True)
class Opened:
    """A model of a folder or of the Hub before its weights are read: what it is, and where its parts lie.

    Attributes:
        name: as the user wrote it.
        revision: of `name` on the Hub, as the user wrote it.
        source: the folder or Hub id of the whole weights, of an adapter that of its base.
        options: what `from_pretrained(source)` is given: revision and trust_remote_code.
        adapter: of an adapter its adapter_config.json, here or in the cache; None where the weights are whole.
        config: of the whole weights.
        task: what it is for, in the Hub's words.
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
        """The Auto class of its task."""
        return AutoModelForSequenceClassification if self.task == "text-classification" else AutoModelForCausalLM

    @property
    def commit(self) -> str | None:
        """Of a Hub id, the commit that was read."""
        return getattr(self.config, "_commit_hash", None)

    @property
    def context_length(self) -> int | None:
        """Most tokens that it reads at once; None where its positions have no end, as Bloom's."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        """The adapter's own tokenizer where it has one, else that of the whole weights. Raises: FileNotFoundError without one."""
        from_adapter = self.adapter is not None and (Path(self.name) / "tokenizer_config.json").is_file()
        place = self.name if from_adapter else self.source
        check_tokenizer_size(Path(place))
        with _named_where_it_fails(self.name, self.source, is_adapter=self.adapter is not None):
            tokenizer = AutoTokenizer.from_pretrained(place, **self.options)
        check_template(tokenizer, place)
        return tokenizer

    def load_whole(self, dtype: str = "float32") -> PreTrainedModel:
        """The whole weights, of an adapter its base alone. "auto" is the dtype that they are stored in.

        Raises: ValueError for the base of an adapter that was trained on other weights.
        """
        if self.adapter is None:
            return self.auto_class.from_pretrained(self.source, dtype=dtype, **self.options)
        # Compared in float32 or as they are stored: rounded to fewer bits, the right weights have another hash.
        model = self.auto_class.from_pretrained(self.source, dtype=dtype if dtype == "float32" else "auto", **self.options)
        check_adapter_base(self._folder_of_passport(self.adapter), model)
        if dtype not in ("auto", str(model.dtype).removeprefix("torch.")):
            model = self.auto_class.from_pretrained(self.source, dtype=dtype, **self.options)
        return model

    def load_model(self, dtype: str = "float32") -> PreTrainedModel:
        """The whole weights with the adapter beside them. Raises: ValueError for an adapter that does not fit its base, too."""
        with quiet_loading():  # that the head comes with the adapter and not with the base is no news
            model = self.load_whole(dtype)
            if self.adapter is not None:
                self._add_adapter(model)
        return model

    def _folder_of_passport(self, adapter_config: Path) -> Path:
        """The folder whose passport.json says which weights the adapter was trained on; a repository's is fetched."""
        if Path(self.name).is_dir():
            return Path(self.name)
        quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
        found = cached_file(self.name, PASSPORT_NAME, revision=self.revision, **quiet)
        return Path(found).parent if found else adapter_config.parent

    def _add_adapter(self, model: PreTrainedModel) -> None:
        found = model.load_adapter(self.name, adapter_kwargs={"revision": self.revision})
        # A token_adapter of a head that is the embedding lies in the file once, and is reported as missing.
        missing = sorted(key for key in found.missing_keys if ".token_adapter." not in key)
        if missing or found.unexpected_keys:
            problem = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(sorted(found.unexpected_keys))} too many"
            raise UserError(
                f"the adapter in {self.name} does not fit {self.source}: it {problem}. Its own base belongs into {self.name}/base."
            )


def open_folder(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, merged: bool = False) -> Opened:
    """Find out what a folder or Hub id holds: ours, a native twin, any other model, an adapter with its base. No weights are read.

    The base of an adapter lies in base/ in its folder, where our recipes put it, else where it says.

    Args: `merged` asks for whole weights that training can go on from: of an adapter its merged twin.
    Raises: FileNotFoundError for a model, or a base, that is not there; ValueError where the merged twin is asked for and missing.
    """
    name = str(name)
    check_model_folder(name)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        found = find_adapter_config_file(name, revision=revision)
    except OSError:  # nothing of this name: AutoConfig says so below
        found = None
    adapter, source, settings = Path(found) if found else None, name, {}
    if adapter is not None and merged:
        if (twin := merged_beside(name)) is None:
            raise UserError(
                f"model {name} is an adapter; fine-tuning goes on from whole weights: merge it with recipes/convert.py BASE "
                f"--adapter {name}, and give the result."
            )
        adapter, source = None, str(twin)
    elif adapter is not None:
        settings, beside = read_json(adapter), base_beside(name)
        source = str(beside or settings.get("base_model_name_or_path") or "")
        options["revision"] = None if beside else settings.get("revision")
        if beside is None and (problem := why_no_model(source)) is not None:
            raise MissingFileError(f"{name} is an adapter without its base: {problem} Or put the base into {Path(name) / 'base'}.")
    with _named_where_it_fails(name, source, is_adapter=adapter is not None):
        config = AutoConfig.from_pretrained(source, **options)
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
    """The model of a folder or Hub id with its tokenizer, in evaluation mode, on the GPU where there is one.

    Args:
        dtype: what the weights are held in; "auto" as they are stored.
        task: what is needed; None takes both.
    Raises: FileNotFoundError for a model that is not there; ValueError for one of another kind, and for an adapter that does not
        fit its base or was trained on other weights.
    """
    opened = open_folder(name, revision=revision, trust_remote_code=trust_remote_code)
    tokenizer = opened.load_tokenizer()
    check_task(opened, task)
    model = opened.load_model(dtype)
    if opened.task == "text-generation":
        tokenizer.model_max_length = NO_LIMIT  # texts are cut into windows here; a warning that they are long would mislead
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)  # pyright: ignore[reportArgumentType]  # the stubs lose self behind a decorator
    return Loaded(name, model.eval(), tokenizer, opened.task, opened.context_length)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the report of transformers on tensors that a checkpoint lacks."""
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
            f"{what} does not load with its tokenizer ({(str(error).strip() or type(error).__name__).splitlines()[0]}); give a "
            f"folder of a model (looked from {Path.cwd()}) or the id of one on the Hub."
        ) from None


def check_task(opened: Opened, task: Task | None) -> None:
    """Raises: ValueError for a classifier where text is needed, and for a model with a head that nobody here reads."""
    architectures = opened.config.architectures or []
    classifies = opened.task == "text-classification"
    what = "classifier's adapter" if opened.adapter is not None and classifies else ", ".join(architectures)
    if any(one.endswith(("TokenClassification", "QuestionAnswering")) for one in architectures):
        raise UserError(f"{opened.name} is a {what}, which gives no text; a causal language model is needed.")
    if task == "text-generation" and classifies:
        call = f"pipeline({opened.task!r}, {opened.name!r})"
        raise UserError(f"{opened.name} is a {what}, which gives no text but labels: {call} tells them.")
