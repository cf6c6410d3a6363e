"""What the Hub needs for each kind of folder: its repository, card and tag, the gate's checks, and how a stranger opens it.

Everything that depends on the kind is in its entry of `HUB_KINDS`, which complements the class in `hfgpt.artifacts.KINDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hfgpt.artifacts import BASE_FOLDER, Artifact, adapter_around
from hfgpt.hub.gate.consistency import (
    ADAPTER_CHECKS,
    MODEL_CHECKS,
    Check,
    json_files,
    rows_of_passport,
    templates_of_gguf,
    templates_of_tokenizer,
)
from hfgpt.tables import Table

_GATE = Path(__file__).parent / "gate"


@dataclass(frozen=True)
class HubKind:
    """One kind of folder on the Hub.

    Args:
        template: returns the name of its card's template, given the facts about the folder (`context_of`).
        template_folder: the folder of the template; None means model_cards/, whose `_card.md` it always extends.
        opener: a file, and the function in it that opens the folder in a stranger's process: it gets the `Stranger` of
            gate/stranger.py, and the file imports nothing from hfgpt.
        repo_type: the type of its repository.
        libraries: allowed values of library_name in its card; hfgpt writes the first. Empty for data sets.
        tags: tags of its card, besides hfgpt and custom_code.
        relation: its relation to the base model, as the Hub names it; None means "finetune".
        tag, main_files: the prefix of its tag and the extensions of the files that the tag hashes: weights-1a2b3c4d.
        checks: the gate's comparisons within the export: a name and a function that returns its findings.
        chat_templates: reads the chat templates of an export, by name, and the special tokens for rendering them.
        fingerprint_cure: what to do if fingerprint.json is missing; None if none is expected.
    """

    template: Callable[[Artifact, dict], str]
    opener: tuple[Path, str]
    repo_type: Literal["model", "dataset"] = "model"
    libraries: tuple[str, ...] = ("transformers",)
    tags: tuple[str, ...] = ()
    relation: str | None = None
    template_folder: Path | None = None
    tag: str = "weights"
    main_files: tuple[str, ...] = (".safetensors", ".gguf")
    checks: tuple[tuple[str, Check], ...] = (("JSON files", json_files),)
    chat_templates: Callable[[Path], tuple[dict[str, str], dict[str, str]]] = templates_of_tokenizer
    fingerprint_cure: str | None = None


def always(template: str) -> Callable[[Artifact, dict], str]:
    """The same template, whatever the folder contains."""
    return lambda artifact, context: template


def _template_of_model(artifact: Artifact, context: dict) -> str:
    if artifact.folder.name == BASE_FOLDER and adapter_around(artifact.folder):
        return "adapter_base"  # not trained for the task yet
    if (context["conversion"] or {}).get("target") == "native":
        return "native"
    if artifact.task == "text-classification":
        return "classifier"
    return "assistant" if context["has_chat_template"] else "base"


_RECORD = "record it now, although that proves nothing about the original: python recipes/check.py {folder} --record true"

HUB_KINDS: Table[HubKind] = Table(
    "kind",
    {
        "model": HubKind(
            template=_template_of_model,
            opener=(_GATE / "loading.py", "open_model"),
            checks=(("JSON files", json_files), *MODEL_CHECKS),
            fingerprint_cure=_RECORD,
        ),
        "adapter": HubKind(
            template=always("adapter"),
            opener=(_GATE / "loading.py", "open_adapter"),
            libraries=("peft",),
            tags=("lora",),
            relation="adapter",
            checks=(("JSON files", json_files), *ADAPTER_CHECKS),
            fingerprint_cure=_RECORD,
        ),
        "gguf": HubKind(
            template=always("gguf"),
            opener=(_GATE / "file_formats.py", "open_gguf"),
            libraries=("gguf", "llama.cpp"),
            relation="quantized",
            chat_templates=templates_of_gguf,
            fingerprint_cure="convert again: recipes/convert.py writes it beside the GGUF file",
        ),
        "tokenizer": HubKind(
            template=always("tokenizer"),
            opener=(_GATE / "file_formats.py", "open_tokenizer"),
            tags=("tokenizer",),
            tag="tokenizer",
            main_files=("tokenizer.json",),
        ),
        "dataset": HubKind(
            template=always("dataset"),
            opener=(_GATE / "file_formats.py", "open_dataset"),
            repo_type="dataset",
            libraries=(),
            tag="data",
            checks=(("JSON files", json_files), ("rows", rows_of_passport)),
            main_files=(".arrow",),
            chat_templates=partial(templates_of_tokenizer, subfolder="tokenizer"),
        ),
    },
)
