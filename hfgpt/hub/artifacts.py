"""What a folder holds, and which of its files may leave this machine."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from hfgpt.errors import MissingFileError, UserError
from hfgpt.files import read_json
from hfgpt.folders import ADAPTER_CONFIG, is_unfinished, why_no_model

Kind = Literal["model", "adapter", "gguf", "tokenizer", "dataset"]

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_ABOUT = ("README.md", "LICENSE", "LICENSE.txt", "passport.json", "evaluation.json", ".eval_results/*.yaml",
          "memorization.png", "metrics.json", "loss.png", "confusion.png", "fingerprint.json", "conversion.json")  # fmt: skip
_MODEL = ("config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json",
          "configuration_hfgpt.py", "modeling_hfgpt.py", "layers_hfgpt.py", "loss_hfgpt.py", "norms_hfgpt.py")  # fmt: skip
# Everything else stays: checkpoints, optimizer states, run.yaml and logs with paths of this machine, samples, answers, and
# memorization.json, which quotes the training text (the card has its figures).
ALLOWED: dict[str, tuple[str, ...]] = {
    "model": (*_MODEL, *_TOKENIZER, *_ABOUT),
    "adapter": (ADAPTER_CONFIG, "adapter_model.safetensors", *_TOKENIZER, *_ABOUT),
    "gguf": ("*.gguf", "Modelfile", *_ABOUT),
    "tokenizer": (*_TOKENIZER, *_ABOUT),
    "dataset": ("dataset_dict.json", "*/data-*-of-*.arrow", "*/dataset_info.json", "*/state.json", "tokenizer/*.json", *_ABOUT),
}


@dataclass(frozen=True)
class Artifact:
    """A folder that can be published.

    Args:
        folder: where it lies.
        kind: what it is.
        task: what a model or adapter is for, in the Hub's words; None for the others.
        custom_code: True where its class is ours and travels beside the weights.
        base, merged: of an adapter, the folders beside it that hold its base and its merged twin, where they are there.
    """

    folder: Path
    kind: Kind
    task: Literal["text-generation", "text-classification"] | None = None
    custom_code: bool = False
    base: Path | None = None
    merged: Path | None = None

    def files(self) -> list[Path]:
        """The files that may be published, relative to the folder, sorted; links that lead out of the folder are not among them."""
        inside = self.folder.resolve()
        names = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*"))]
        return [
            name
            for name in names
            if is_allowed(name, ALLOWED[self.kind])
            and (self.folder / name).is_file()
            and (self.folder / name).resolve().is_relative_to(inside)
        ]


def is_allowed(name: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a file, relative to its folder, is among `patterns`; a pattern without a slash means the folder itself."""
    # fnmatch's star also matches slashes; a file of a folder below is meant only where the pattern names one.
    return any(len(name.parts) == pattern.count("/") + 1 and fnmatch(name.as_posix(), pattern) for pattern in patterns)


def identify(folder: str | Path) -> Artifact:
    """What `folder` holds.

    Raises: FileNotFoundError where there is no such folder; ValueError where nothing in it can be published.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "does not exist"
        raise MissingFileError(f"{folder} {problem} (looked from {Path.cwd()}); give a folder that a recipe wrote.")
    if (folder / ADAPTER_CONFIG).is_file():
        settings = read_json(folder / ADAPTER_CONFIG)
        task = "text-classification" if settings.get("task_type") == "SEQ_CLS" else "text-generation"
        base, merged = (folder / name if (folder / name / "config.json").is_file() else None for name in ("base", "merged"))
        config = read_json(base / "config.json") if base else {}
        return Artifact(folder, "adapter", task=task, custom_code="auto_map" in config, base=base, merged=merged)
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        (architecture, *_) = config.get("architectures") or [""]
        task = "text-classification" if architecture.endswith("ForSequenceClassification") else "text-generation"
        return Artifact(folder, "model", task=task, custom_code="auto_map" in config)
    if any(folder.glob("*.gguf")):
        return Artifact(folder, "gguf", task="text-generation")
    if (folder / "dataset_dict.json").is_file():
        return Artifact(folder, "dataset")
    if (folder / "tokenizer.json").is_file():
        return Artifact(folder, "tokenizer")
    if is_unfinished(folder):
        raise UserError(why_no_model(folder))
    raise UserError(
        f"{folder} holds no model (config.json), adapter (adapter_config.json), GGUF file, prepared data (dataset_dict.json) or "
        "tokenizer (tokenizer.json); give a folder that a recipe wrote."
    )
