"""Import weights: a third-party checkpoint -> an hfgpt model that computes the same.

`read_source` recognizes the contents of a path, reads it, and checks every tensor's name, shape and dtype before anything is built.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from transformers import GenerationConfig, PreTrainedModel, initialization
from transformers.utils import GENERATION_CONFIG_NAME

from hfgpt.arguments.conversion import SOURCES
from hfgpt.artifacts import check_model_folder, is_unfinished
from hfgpt.conversion.recognition import Contents, from_hub, recognise
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.errors import UserError
from hfgpt.files import public_name
from hfgpt.inference import make_savable
from hfgpt.model.configuration_hfgpt import HfGptConfig
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM, HfGptForSequenceClassification
from hfgpt.tables import resolve

Model = HfGptForCausalLM | HfGptForSequenceClassification
AnyModel = TypeVar("AnyModel", bound=PreTrainedModel)


@dataclass
class Converted:
    """A checkpoint, read and checked.

    Args:
        source: the folder or file it was read from.
        format: a key of `SOURCES`.
        model: in float32, in evaluation mode.
        dtype: the dtype of the weights in the file.
        notes: what a user should know, one sentence each.
        adapter_folders: for an adapter merged into the model, its folder and those of its run (`run_folders`); what is in them
            replaces what is beside the source.
    """

    source: Path
    format: str
    model: Model
    dtype: torch.dtype
    notes: list[str] = field(default_factory=list)
    adapter_folders: list[Path] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        """Where its tokenizer may be: an adapter's folders first, then that of the source, itself or the one that contains it."""
        return [*self.adapter_folders, self.source if self.source.is_dir() else self.source.parent]

    @property
    def commit(self) -> str | None:
        """For a Hub id, the commit that was read, from the name of the cache folder; None for the user's folder or file."""
        return self.source.name if self.source.parent.name == "snapshots" else None

    @property
    def passport(self) -> Path | None:
        """The passport of the weights' training data; that of a merged model is with its adapter."""
        places = [self.source, self.source.parent] if self.source.name == "merged" else [self.source]
        places = [*self.adapter_folders, *places]
        return next((place / PASSPORT_NAME for place in places if (place / PASSPORT_NAME).is_file()), None)


@dataclass(frozen=True)
class Reader:
    """One entry of `SOURCES`: how a format is recognised, read, and compared with its original class.

    Args:
        recognises: whether `Contents` have this format.
        read: `Contents` -> `Converted`, with the given options as keyword arguments. Raises: ValueError for errors in it.
        options: which of "num_attention_heads" and "hidden_act" the format itself does not contain.
        compare: `Converted` -> the largest difference between its logits and those of its original class, if there is one.
    """

    recognises: Callable[[Contents], bool]
    read: Callable[..., Converted]
    options: tuple[str, ...] = ()
    compare: Callable[[Converted], float] | None = None


def read_source(
    source: str, *, source_format: str = "auto", num_attention_heads: int | None = None, hidden_act: str | None = None
) -> Converted:
    """Read a checkpoint into an hfgpt model.

    Args:
        source: a folder, a file, or a Hub id (GPT-2 and hfgpt layouts).
        source_format: a key of `SOURCES`, or "auto" to detect it from names and shapes.
        num_attention_heads: for a bare state dict, which does not contain it; not needed for the published widths.
        hidden_act: the activation of a bare state dict or a nanoGPT checkpoint, if it differs from today's code.
    Raises: FileNotFoundError and ValueError for files that are missing, truncated, unknown or contradictory.
    """
    path = Path(source)
    if not path.exists() or (path.is_dir() and is_unfinished(path)):
        check_model_folder(source)
        path = from_hub(source)
    is_adapter = (path / "adapter_config.json").is_file()
    if is_adapter:  # the weights beside it are only those of the base
        if not (path / "merged").is_dir():
            raise UserError(
                f"{source} is an adapter, which changes the weights of a base; give the base as the source, and --adapter {source}."
            )
        path = path / "merged"
    found, contents = recognise(path)
    if source_format not in ("auto", found):
        raise UserError(f"{source} has the format {found!r}, but source_format is {source_format!r}; leave it at 'auto'.")
    reader: Reader = resolve(SOURCES[found])
    options = {"hidden_act": hidden_act, "num_attention_heads": num_attention_heads}
    given = {name: value for name, value in options.items() if value is not None}
    if stated := " and ".join(name for name in given if name not in reader.options):
        raise UserError(f"{source} already specifies {stated}; leave {stated} out.")
    converted = reader.read(contents, **given)
    if is_adapter:
        name = public_name(source)  # the note is published with the result
        converted.notes.append(f"{name} is an adapter; its merged model {name}/merged was read.")
    return converted


def difference_from_source(converted: Converted) -> dict[str, float]:
    """The largest difference between the logits and those of the original class, if there is one."""
    compare = resolve(SOURCES[converted.format]).compare
    return {"difference_from_source": compare(converted)} if compare is not None else {}


def read_generation_config(folder: Path) -> GenerationConfig | None:
    """The generation_config.json of a folder, fit to be saved after a change; None if there is none."""
    if not (folder / GENERATION_CONFIG_NAME).is_file():
        return None
    config = GenerationConfig.from_pretrained(folder)
    make_savable(config)
    return config


def empty_model(model_class: type[AnyModel], config: HfGptConfig) -> AnyModel:
    """A model in float32 with uninitialized weights."""
    with initialization.no_init_weights():  # every value comes from the checkpoint
        model = model_class._from_config(config, dtype=torch.float32).eval()
    model.tie_weights()  # no_init_weights skips this
    return model
