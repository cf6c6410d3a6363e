"""What is at this path? The kinds of folder that hfgpt writes and reads, each told by its files. Nothing here imports torch.

`KINDS` is the table: a class per kind, with everything that only the files are needed for. What the Hub has to know of a kind
stands beside it, in `hfgpt.hub.kinds`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar, Literal

from wrapt import wrap_function_wrapper

from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import read_json, write_whole
from hfgpt.tables import Table

Task = Literal["text-generation", "text-classification"]

ADAPTER_CONFIG = "adapter_config.json"
BASE_FOLDER, MERGED_FOLDER = "base", "merged"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_RUN_FILE = "run.yaml"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# What may be published with every kind. Everything else stays: checkpoints, optimizer states, run.yaml and logs with paths of this
# machine, samples, answers, the page of the run that shows them, and memorization.json, which quotes the training text (the card
# has its figures).
ABOUT = ("README.md", "LICENSE", "LICENSE.txt", "passport.json", "evaluation.json", ".eval_results/*.yaml",
         "memorization.png", "metrics.json", "loss.png", "curves.png", "confusion.png", "fingerprint.json",
         "conversion.json")  # fmt: skip


# The kinds


@dataclass(frozen=True)
class Artifact:
    """A folder of one of the kinds in `KINDS`, as `identify` finds it.

    Args:
        folder: where it lies.
        task: what a model or adapter is for, in the Hub's words; None for the others.
        custom_code: True where its class is ours and travels beside the weights.
        base, merged: of an adapter, the folders that hold its base and its merged twin, where they are there.
    """

    folder: Path
    task: Task | None = None
    custom_code: bool = False
    base: Path | None = None
    merged: Path | None = None

    kind: ClassVar[str]  # its name in KINDS
    described: ClassVar[str]  # in a list of what a folder can hold
    mark: ClassVar[str]  # the file, or the pattern of files, by which a folder is known for one of this kind
    allowed: ClassVar[tuple[str, ...]]  # patterns of the files that may be published
    use: ClassVar[str] = ""  # where a model was asked for: what this is, and who takes it; empty for models and adapters
    needs_base: ClassVar[bool] = False  # whether it loads only beside the whole weights of another folder

    @classmethod
    def lies_in(cls, folder: Path) -> bool:
        """Whether `folder` is one of this kind."""
        return any(path.is_file() for path in folder.glob(cls.mark))

    @classmethod
    def read(cls, folder: Path) -> "Artifact":
        """The artifact in a folder of this kind. Raises: ValueError for a file of it that holds no JSON."""
        return cls(folder)

    @property
    def whole(self) -> Path | None:
        """The folder with the weights of a whole model, of an adapter its base; None where there are none."""
        return None

    @property
    def parts(self) -> dict[str, Path]:
        """What of the folder has a repository of its own, in the order of publishing: its folder by its name."""
        return {self.kind: self.folder}

    def allows(self, name: Path) -> bool:
        """Whether a file, relative to the folder, may be published; a pattern without a slash means the folder itself."""
        # fnmatch's star also matches slashes; a file of a folder below is meant only where the pattern names one.
        return any(len(name.parts) == one.count("/") + 1 and fnmatch(name.as_posix(), one) for one in self.allowed)

    def files(self) -> list[Path]:
        """The files that may be published, relative to the folder, sorted; links that lead out of the folder are not among them."""
        inside = self.folder.resolve()
        names = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*"))]
        return [
            name
            for name in names
            if self.allows(name) and (self.folder / name).is_file() and (self.folder / name).resolve().is_relative_to(inside)
        ]


class ModelFolder(Artifact):
    """What `save_pretrained` of a model writes: ours with its code, a native twin, any other."""

    kind, described, mark = "model", "model (config.json)", "config.json"
    allowed = ("config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
               "model.safetensors.index.json", "configuration_hfgpt.py", "modeling_hfgpt.py", "layers_hfgpt.py", "loss_hfgpt.py",
               "norms_hfgpt.py", *_TOKENIZER, *ABOUT)  # fmt: skip

    @classmethod
    def lies_in(cls, folder: Path) -> bool:
        # An adapter's folder has the files of its base as well, for programs that load both as one.
        return super().lies_in(folder) and not AdapterFolder.lies_in(folder)

    @classmethod
    def read(cls, folder: Path) -> Artifact:
        config = read_json(folder / "config.json")
        (architecture, *_) = config.get("architectures") or [""]
        task = "text-classification" if architecture.endswith("ForSequenceClassification") else "text-generation"
        return cls(folder, task=task, custom_code="auto_map" in config)

    @property
    def whole(self) -> Path | None:
        return self.folder


class AdapterFolder(Artifact):
    """A PEFT adapter, with base/ and merged/ in its folder where one of our recipes wrote it."""

    kind, described, mark = "adapter", "adapter (adapter_config.json)", ADAPTER_CONFIG
    allowed = (ADAPTER_CONFIG, "adapter_model.safetensors", *_TOKENIZER, *ABOUT)
    needs_base = True

    @classmethod
    def read(cls, folder: Path) -> Artifact:
        task = "text-classification" if read_json(folder / ADAPTER_CONFIG).get("task_type") == "SEQ_CLS" else "text-generation"
        base, merged = base_beside(folder), merged_beside(folder)
        custom_code = base is not None and "auto_map" in read_json(base / "config.json")
        return cls(folder, task=task, custom_code=custom_code, base=base, merged=merged)

    @property
    def whole(self) -> Path | None:
        return self.base

    @property
    def parts(self) -> dict[str, Path]:
        # The base first: what is published of the adapter names its commit.
        places = {"base": self.base, "adapter": self.folder, "merged": self.merged}
        return {name: place for name, place in places.items() if place is not None}


class GgufFolder(Artifact):
    """A model for llama.cpp and what is built on it, with Ollama's Modelfile."""

    kind, described, mark = "gguf", "GGUF file", "*.gguf"
    allowed = ("*.gguf", "Modelfile", *ABOUT)
    use = "a GGUF file, which llama.cpp and Ollama run"

    @classmethod
    def read(cls, folder: Path) -> Artifact:
        return cls(folder, task="text-generation")


class DatasetFolder(Artifact):
    """Prepared data: packed rows of token ids by split, with their tokenizer in tokenizer/."""

    kind, described, mark = "dataset", "prepared data (dataset_dict.json)", "dataset_dict.json"
    allowed = (
        "dataset_dict.json",
        "*/data-*-of-*.arrow",
        "*/dataset_info.json",
        "*/state.json",
        "tokenizer/*.json",
        "overview.png",
        *ABOUT,
    )
    use = "prepared data, which recipes/pretrain.py trains a model on"


class TokenizerFolder(Artifact):
    """A tokenizer alone."""

    kind, described, mark = "tokenizer", "tokenizer (tokenizer.json)", "tokenizer.json"
    allowed = (*_TOKENIZER, "tokenizer_report.md", "tokenizer_report.png", *ABOUT)
    use = "a tokenizer, which recipes/prepare_data.py prepares data with"


# The last entry is asked first: a kind that is added may look like one of these with something more.
KINDS: Table[type[Artifact]] = Table(
    "kind", {one.kind: one for one in (TokenizerFolder, DatasetFolder, GgufFolder, AdapterFolder, ModelFolder)}
)


def _kinds_in_order() -> list[type[Artifact]]:
    return list(reversed(KINDS.values()))


def identify(folder: str | Path) -> Artifact:
    """What `folder` holds.

    Raises: FileNotFoundError where there is no such folder; ValueError where nothing in it can be published.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "does not exist"
        raise MissingFileError(f"{folder} {problem} (looked from {Path.cwd()}); give a folder that a recipe wrote.")
    for kind in _kinds_in_order():
        if kind.lies_in(folder):
            return kind.read(folder)
    if is_unfinished(folder):
        raise UserError(_unfinished(folder))
    *first, last = [kind.described for kind in _kinds_in_order()]
    raise UserError(f"{folder} holds no {', '.join(first)} or {last}; give a folder that a recipe wrote.")


# An adapter and its base


def run_folders(folder: str | Path) -> list[Path]:
    """The folder, and of a checkpoint the folders of its run above it, which hold what is kept once a run: base/, passport.json."""
    places = [Path(folder)]
    if _CHECKPOINT.fullmatch(places[0].resolve().name):
        run = places[0].resolve().parent
        places += [run, run.parent] if re.fullmatch(r"seed-\d+", run.name) else [run]
    return places


def base_beside(folder: str | Path) -> Path | None:
    """The base that lies with an adapter, base/ in its folder or in that of its run; None where there is none.

    It is what the adapter was trained on wherever the folder lies now, whatever place adapter_config.json names.
    """
    bases = (place / BASE_FOLDER for place in run_folders(folder))
    return next((base for base in bases if (base / "config.json").is_file()), None)


def merged_beside(folder: str | Path) -> Path | None:
    """The merged twin in an adapter's folder: the same function as a whole model. None where there is none."""
    merged = Path(folder) / MERGED_FOLDER
    return merged if (merged / "config.json").is_file() else None


def adapter_around(folder: str | Path) -> Path | None:
    """Of a base/ or merged/ within an adapter's folder that folder, whose card.yaml and figures are theirs; else None."""
    folder = Path(folder) if Path(folder).name else Path(folder).resolve()
    is_part = folder.name in (BASE_FOLDER, MERGED_FOLDER) and (folder.parent / ADAPTER_CONFIG).is_file()
    return folder.parent if is_part else None


def base_on_the_hub(adapter_settings: Mapping[str, Any]) -> str | None:
    """The Hub id that an adapter_config.json names as the base; None where it names a folder."""
    named = str(adapter_settings.get("base_model_name_or_path") or "")
    return named if HUB_ID.fullmatch(named) and not Path(named).exists() else None


def stale_base(folder: str | Path) -> str | None:
    """The place that adapter_config.json names where the base lies elsewhere, beside the adapter; None where both agree."""
    settings, base = adapter_settings(folder), base_beside(folder)
    if base is None or base_on_the_hub(settings):
        return None
    named = settings.get("base_model_name_or_path") or ""
    return None if Path(named).is_absolute() and Path(named).resolve() == base.resolve() else named


def name_base_beside(folder: str | Path) -> str | None:
    """Write into adapter_config.json where the base lies now, for programs that ask PEFT without hfgpt.

    PEFT takes a Hub id or a path, and reads a relative path from wherever the process runs: only an absolute one is found from
    everywhere, and it ends with the first move.

    Returns: the place that stood there, or None where nothing had to be changed. Raises: OSError where it cannot be written.
    """
    stale, base = stale_base(folder), base_beside(folder)
    if stale is not None and base is not None:
        settings = adapter_settings(folder) | {"base_model_name_or_path": str(base.resolve())}
        write_whole(Path(folder) / ADAPTER_CONFIG, json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False))
    return stale


def adapter_settings(folder: str | Path) -> dict[str, Any]:
    """What adapter_config.json says; empty where there is none or it is no JSON object, which whoever loads it says."""
    try:
        return read_json(Path(folder) / ADAPTER_CONFIG)
    except (OSError, ValueError):
        return {}


def let_peft_find_bases(config_module: Any) -> None:
    """Have PEFT load the base that lies with an adapter, wherever its folder was moved to; `import hfgpt` does this.

    Args: `config_module` is the module peft.config.
    """

    def from_pretrained(original, config_class, args, kwargs):
        config = original(*args, **kwargs)
        folder = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        if folder is not None and not kwargs.get("subfolder") and stale_base(folder) is not None:
            config.base_model_name_or_path = str(Path(base_beside(folder) or folder).resolve())
        return config

    wrap_function_wrapper(config_module, "PeftConfigMixin.from_pretrained", from_pretrained)


# A folder without a model


def why_no_model(name: str | Path) -> str | None:
    """Why there is no model in the folder `name`, in a sentence; None where there may be one, and for what may be a Hub id.

    Nothing is loaded: a folder that has the files of a model is taken for one.
    """
    folder = Path(name)
    if folder.is_file():
        return f"{name} is a file; give the folder of a model."
    if not folder.is_dir():
        return f"{name} does not exist (looked from {Path.cwd()}); check the spelling." if _is_place(str(name)) else None
    if _holds_model(folder):
        return None
    if is_unfinished(folder):
        return _unfinished(folder)
    what = next((kind.use for kind in _kinds_in_order() if kind.lies_in(folder)), "no model: there is no config.json")
    return f"{name} holds {what}; give the folder of a model."


def _holds_model(folder: Path) -> bool:
    return any(kind.lies_in(folder) for kind in KINDS.values() if not kind.use)


def is_unfinished(folder: Path) -> bool:
    """Whether a run has begun in the folder and left no model yet."""
    return not _holds_model(folder) and ((folder / _RUN_FILE).is_file() or bool(_checkpoints(folder)))


def _is_place(name: str) -> bool:
    """Whether a name that is not here can only mean a folder; user/model may be on the Hub, unless a folder `user` is here."""
    return not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith(".") or ("/" in name and Path(name).parent.is_dir())


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run that hold a model, with their steps, the newest last; of several seeds those of the last."""
    runs = [folder, *sorted(folder.glob("seed-*"), key=lambda path: (len(path.name), path.name))]
    found = []
    for run in runs:
        steps = [(int(step[1]), path) for path in run.glob("checkpoint-*") if (step := _CHECKPOINT.fullmatch(path.name))]
        # trainer_state.json is written last.
        found += [
            (step, path)
            for step, path in sorted(steps)
            if (path / "trainer_state.json").is_file() and any((path / file).is_file() for file in _WEIGHTS)
        ]
    return found


def _unfinished(folder: Path) -> str:
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return (
            f"{folder} holds a run that is still training, or was stopped before its first checkpoint, so there is no model in it "
            "yet: wait for its end, or start the same command again."
        )
    step, newest = checkpoints[-1]
    try:
        steps = read_json(newest / "trainer_state.json").get("max_steps")
    except (OSError, ValueError):
        steps = None
    of = f" of {steps:,}" if steps else ""
    return (
        f"{folder} holds a run that is still training or was stopped (step {step:,}{of}): use {newest}, or start the same command "
        "again, which goes on from there."
    )


def check_folder_is_there(name: str | Path) -> None:
    """Raises: FileNotFoundError for a folder that does not exist; what may be a Hub id is let through."""
    if not Path(name).exists() and _is_place(str(name)):
        raise MissingFileError(f"{name} does not exist (looked from {Path.cwd()}); check the spelling.")


def check_model_folder(name: str | Path) -> None:
    """Raises: FileNotFoundError, before anything is loaded, for a folder that is not there or holds no model."""
    if (problem := why_no_model(name)) is not None:
        raise MissingFileError(problem)
