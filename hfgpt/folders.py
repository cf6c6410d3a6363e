"""What a model's folder holds, read off its files: an adapter's base, a run that has no model yet. Nothing here imports torch."""

import json
import re
from pathlib import Path

from wrapt import wrap_function_wrapper

from hfgpt.errors import MissingFileError
from hfgpt.files import write_whole

ADAPTER_CONFIG = "adapter_config.json"
BASE_FOLDER = "base"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_RUN_FILE = "run.yaml"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
# What else a folder may hold that is given for a model, and who takes it.
_OTHERS = {
    "dataset_dict.json": "prepared data, which recipes/pretrain.py trains a model on",
    "tokenizer.json": "a tokenizer, which recipes/prepare_data.py prepares data with",
}


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


def stale_base(folder: str | Path) -> str | None:
    """The place that adapter_config.json names where the base lies elsewhere, beside the adapter; None where both agree."""
    settings, base = _adapter_settings(folder), base_beside(folder)
    named = settings.get("base_model_name_or_path") or ""
    if base is None or (HUB_ID.fullmatch(named) and not Path(named).exists()):
        return None
    return None if Path(named).is_absolute() and Path(named).resolve() == base.resolve() else named


def name_base_beside(folder: str | Path) -> str | None:
    """Write into adapter_config.json where the base lies now, for programs that ask PEFT without hfgpt.

    PEFT takes a Hub id or a path, and reads a relative path from wherever the process runs: only an absolute one is found from
    everywhere, and it ends with the first move.

    Returns: the place that stood there, or None where nothing had to be changed. Raises: OSError where it cannot be written.
    """
    stale = stale_base(folder)
    if stale is not None:
        path = Path(folder) / ADAPTER_CONFIG
        settings = _adapter_settings(folder) | {"base_model_name_or_path": str(base_beside(folder).resolve())}
        write_whole(path, json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False))  # as PEFT writes it
    return stale


def _adapter_settings(folder: str | Path) -> dict:
    path = Path(folder) / ADAPTER_CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # whoever loads it says so
        return {}
    return settings if isinstance(settings, dict) else {}


def let_peft_find_bases(config_module) -> None:
    """Have PEFT load the base that lies with an adapter, wherever its folder was moved to; `import hfgpt` does this.

    Args: `config_module` is the module peft.config.
    """

    def from_pretrained(original, config_class, args, kwargs):
        config = original(*args, **kwargs)
        folder = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        if folder is not None and not kwargs.get("subfolder") and stale_base(folder) is not None:
            config.base_model_name_or_path = str(base_beside(folder).resolve())
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
    if (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file():
        return None
    if is_unfinished(folder):
        return _unfinished(folder)
    what = next((what for file, what in _OTHERS.items() if (folder / file).is_file()), "no model: there is no config.json")
    return f"{name} holds {what}; give the folder of a model."


def is_unfinished(folder: Path) -> bool:
    """Whether a run has begun in the folder and left no model yet."""
    has_model = (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file()
    return not has_model and ((folder / _RUN_FILE).is_file() or bool(_checkpoints(folder)))


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
        steps = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8")).get("max_steps")
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
