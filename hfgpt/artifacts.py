"""What is at this path? The kinds of folder that hfgpt writes and reads, identified by their files. Nothing here imports torch.

`KINDS` is the table: a class per kind, with everything that depends only on the files. What the Hub needs for a kind is in
`hfgpt.hub.kinds`.
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
# What runs and conversions write, beside a model.
RUN_FILE = "run.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.txt"
CONVERSION_FILE = "conversion.json"
FINGERPRINT_FILE = "fingerprint.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)", re.ASCII)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# Files that may be published with every kind. Everything else is never published: checkpoints, optimizer states, run.yaml and logs
# with paths of this machine, samples, answers, the run's page that shows them, and memorization.json, which quotes the training
# text (the card has its figures).
ABOUT = ("README.md", "LICENSE", "LICENSE.txt", "passport.json", "evaluation.json", ".eval_results/*.yaml",
         "memorization.png", METRICS_FILE, "loss.png", "curves.png", "confusion.png", FINGERPRINT_FILE,
         CONVERSION_FILE)  # fmt: skip


# The kinds


@dataclass(frozen=True)
class Artifact:
    """A folder of one of the kinds in `KINDS`, as `identify` finds it.

    Args:
        folder: its location.
        task: the task of a model or adapter, as the Hub names it; None for the others.
        custom_code: True if its class is ours and its code is published with the weights.
        base, merged: for an adapter, the folders of its base and its merged model, if they exist.
    """

    folder: Path
    task: Task | None = None
    custom_code: bool = False
    base: Path | None = None
    merged: Path | None = None

    kind: ClassVar[str]  # its name in KINDS
    described: ClassVar[str]  # for a list of what a folder can contain
    mark: ClassVar[str]  # the file, or pattern of files, that identifies a folder of this kind
    allowed: ClassVar[tuple[str, ...]]  # patterns of the files that may be published
    use: ClassVar[str] = ""  # for messages when a model is needed: what this is, and what uses it; empty for models and adapters
    needs_base: ClassVar[bool] = False  # whether it only loads together with the full weights of another folder

    @classmethod
    def lies_in(cls, folder: Path) -> bool:
        """Whether `folder` is one of this kind."""
        return any(path.is_file() for path in folder.glob(cls.mark))

    @classmethod
    def read(cls, folder: Path) -> "Artifact":
        """The artifact in a folder of this kind. Raises: ValueError for a file that is not JSON."""
        return cls(folder)

    @property
    def whole(self) -> Path | None:
        """The folder with the weights of a whole model; for an adapter, its base; None if there are none."""
        return None

    @property
    def parts(self) -> dict[str, Path]:
        """The parts of the folder with their own repositories, in order of publishing: folders by name."""
        return {self.kind: self.folder}

    def allows(self, name: Path) -> bool:
        """Whether a file, relative to the folder, may be published; a pattern without a slash means the folder itself."""
        # fnmatch's star also matches slashes; a file in a subfolder is only meant if the pattern contains a slash.
        return any(len(name.parts) == one.count("/") + 1 and fnmatch(name.as_posix(), one) for one in self.allowed)

    def files(self) -> list[Path]:
        """The files that may be published, relative to the folder, sorted, without links that lead outside the folder."""
        inside = self.folder.resolve()
        names = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*"))]
        return [
            name
            for name in names
            if self.allows(name) and (self.folder / name).is_file() and (self.folder / name).resolve().is_relative_to(inside)
        ]


class ModelFolder(Artifact):
    """A model's `save_pretrained` folder: ours with its code, a native twin, or any other."""

    kind, described, mark = "model", "model (config.json)", "config.json"
    allowed = ("config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
               "model.safetensors.index.json", "configuration_hfgpt.py", "modeling_hfgpt.py", "layers_hfgpt.py", "loss_hfgpt.py",
               "norms_hfgpt.py", *_TOKENIZER, *ABOUT)  # fmt: skip

    @classmethod
    def lies_in(cls, folder: Path) -> bool:
        # An adapter's folder also has the files of its base, for programs that load both as one.
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
    """A PEFT adapter, with base/ and merged/ in its folder if one of our recipes wrote it."""

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
        # The base first: the adapter's published config contains its commit.
        places = {"base": self.base, "adapter": self.folder, "merged": self.merged}
        return {name: place for name, place in places.items() if place is not None}


class GgufFolder(Artifact):
    """A model for llama.cpp and programs built on it, with Ollama's Modelfile."""

    kind, described, mark = "gguf", "GGUF file", "*.gguf"
    allowed = ("*.gguf", "Modelfile", *ABOUT)
    use = "a GGUF file for llama.cpp and Ollama"

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
    use = "prepared data for recipes/pretrain.py"


class TokenizerFolder(Artifact):
    """A tokenizer alone."""

    kind, described, mark = "tokenizer", "tokenizer (tokenizer.json)", "tokenizer.json"
    allowed = (*_TOKENIZER, "tokenizer_report.md", "tokenizer_report.png", *ABOUT)
    use = "a tokenizer for recipes/prepare_data.py"


# The last entry is tried first: an added kind may look like one of these plus something more.
KINDS: Table[type[Artifact]] = Table(
    "kind", {one.kind: one for one in (TokenizerFolder, DatasetFolder, GgufFolder, AdapterFolder, ModelFolder)}
)


def _kinds_in_order() -> list[type[Artifact]]:
    return list(reversed(KINDS.values()))


def identify(folder: str | Path) -> Artifact:
    """Identify what `folder` contains.

    Raises: FileNotFoundError if there is no such folder; ValueError if it contains nothing publishable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "does not exist"
        raise MissingFileError(f"{folder} {problem} (looked from {Path.cwd()}); give a folder written by a recipe.")
    for kind in _kinds_in_order():
        if kind.lies_in(folder):
            return kind.read(folder)
    if is_unfinished(folder):
        raise UserError(_unfinished(folder))
    *first, last = [kind.described for kind in _kinds_in_order()]
    raise UserError(f"{folder} has no {', '.join(first)} or {last}; give a folder written by a recipe.")


# An adapter and its base


def run_folders(folder: str | Path) -> list[Path]:
    """The folder and, for a checkpoint, the folders of its run above it, which contain what is stored once per run: base/,
    passport.json."""
    places = [Path(folder)]
    if _CHECKPOINT.fullmatch(places[0].resolve().name):
        run = places[0].resolve().parent
        places += [run, run.parent] if re.fullmatch(r"seed-\d+", run.name) else [run]
    return places


def base_beside(folder: str | Path) -> Path | None:
    """The base stored with an adapter, base/ in its folder or in that of its run; None if there is none.

    The adapter was trained on it, wherever the folder is now and whatever path adapter_config.json contains.
    """
    bases = (place / BASE_FOLDER for place in run_folders(folder))
    return next((base for base in bases if (base / "config.json").is_file()), None)


def merged_beside(folder: str | Path) -> Path | None:
    """The merged model in an adapter's folder: the same function without an adapter. None if there is none."""
    merged = Path(folder) / MERGED_FOLDER
    return merged if (merged / "config.json").is_file() else None


def adapter_around(folder: str | Path) -> Path | None:
    """The adapter's folder around a base/ or merged/, which shares its card.yaml and figures; otherwise None."""
    folder = Path(folder) if Path(folder).name else Path(folder).resolve()
    is_part = folder.name in (BASE_FOLDER, MERGED_FOLDER) and (folder.parent / ADAPTER_CONFIG).is_file()
    return folder.parent if is_part else None


def run_around(folder: str | Path) -> Path | None:
    """The folder of the run that made a model, which for an adapter's merged/ is the adapter's; None if it is not known."""
    folder = Path(folder) if Path(folder).name else Path(folder).resolve()
    places = [folder, *([folder.parent] if folder.name == MERGED_FOLDER else [])]
    return next((place for place in places if all((place / name).is_file() for name in (RUN_FILE, "passport.json"))), None)


def base_on_the_hub(adapter_settings: Mapping[str, Any]) -> str | None:
    """The Hub id of the base in an adapter_config.json; None if it is a folder."""
    named = str(adapter_settings.get("base_model_name_or_path") or "")
    return named if HUB_ID.fullmatch(named) and not Path(named).exists() else None


def stale_base(folder: str | Path) -> str | None:
    """The outdated path in adapter_config.json if the base is actually beside the adapter; None if both agree."""
    settings, base = adapter_settings(folder), base_beside(folder)
    if base is None or base_on_the_hub(settings):
        return None
    named = settings.get("base_model_name_or_path") or ""
    return None if Path(named).is_absolute() and Path(named).resolve() == base.resolve() else named


def name_base_beside(folder: str | Path) -> str | None:
    """Write the base's current path into adapter_config.json, for programs that use PEFT without hfgpt.

    PEFT accepts a Hub id or a path, and resolves a relative path from the process's working folder: only an absolute path works
    everywhere, until the folder is moved.

    Returns: the previous path, or None if nothing had to be changed. Raises: OSError if it cannot be written.
    """
    stale, base = stale_base(folder), base_beside(folder)
    if stale is not None and base is not None:
        settings = adapter_settings(folder) | {"base_model_name_or_path": str(base.resolve())}
        write_whole(Path(folder) / ADAPTER_CONFIG, json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False))
    return stale


def adapter_settings(folder: str | Path) -> dict[str, Any]:
    """The contents of adapter_config.json; empty if there is none or it is not a JSON object, which loading will report."""
    try:
        return read_json(Path(folder) / ADAPTER_CONFIG)
    except (OSError, ValueError):
        return {}


def let_peft_find_bases(config_module: Any) -> None:
    """Make PEFT load the base stored with an adapter, even after its folder was moved; `import hfgpt` does this.

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
    """Why there is no model in the folder `name`, in a sentence; None if there may be one, or if it may be a Hub id.

    Nothing is loaded: a folder with the files of a model counts as one.
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
    inside = [str(Path(name) / one.name) for one in sorted(folder.iterdir()) if one.is_dir() and _holds_model(one)]
    cure = f"did you mean {' or '.join(inside[:3])}?" if inside else "give the folder of a model."
    return f"{name} contains {what}; {cure}"


def _holds_model(folder: Path) -> bool:
    return any(kind.lies_in(folder) for kind in KINDS.values() if not kind.use)


def is_unfinished(folder: Path) -> bool:
    """Whether a run has begun in the folder but has not produced a model yet."""
    return not _holds_model(folder) and ((folder / RUN_FILE).is_file() or bool(_checkpoints(folder)))


def _is_place(name: str) -> bool:
    """Whether a name that does not exist here can only be a folder; user/model may be on the Hub, unless there is a folder
    `user`."""
    return not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith(".") or ("/" in name and Path(name).parent.is_dir())


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint; -1 for a name without one."""
    name = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(name[1]) if name else -1


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run that contain a model, with their steps, the newest last; with several seeds, those of the last
    one."""
    runs = [folder, *sorted(folder.glob("seed-*"), key=lambda path: (len(path.name), path.name))]
    found = []
    for run in runs:
        steps = [(step, path) for path in run.glob("checkpoint-*") if (step := step_of(path)) >= 0]
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
            f"{folder} contains a run that is still training or was stopped before its first checkpoint, so it has no model yet: "
            f"wait until it has finished, or start the same command again."
        )
    step, newest = checkpoints[-1]
    try:
        steps = read_json(newest / "trainer_state.json").get("max_steps")
    except (OSError, ValueError):
        steps = None
    of = f" of {steps:,}" if steps else ""
    return (
        f"{folder} contains a run that is still training or was stopped (step {step:,}{of}): use {newest}, or start the same "
        f"command again to resume it."
    )


def check_folder_is_there(name: str | Path) -> None:
    """Raises: FileNotFoundError for a folder that does not exist; a possible Hub id is accepted."""
    if not Path(name).exists() and _is_place(str(name)):
        raise MissingFileError(f"{name} does not exist (looked from {Path.cwd()}); check the spelling.")


def check_model_folder(name: str | Path) -> None:
    """Raises: FileNotFoundError, before anything is loaded, for a folder that does not exist or contains no model."""
    if (problem := why_no_model(name)) is not None:
        raise MissingFileError(problem)
