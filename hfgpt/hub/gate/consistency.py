"""Do the files of a folder agree with each other? The files are only read as data: nothing in the folder is run or loaded.

config.json with the weights, the auto_map with the code, the generation config with the tokenizer; and where the chat templates
are.
"""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hfgpt.artifacts import ADAPTER_CONFIG, Artifact
from hfgpt.counting import counted
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.data.verification import check_rows
from hfgpt.errors import UserError
from hfgpt.files import read_json
from hfgpt.hub.gate.report import AGAIN, CheckResult, Disagreement
from hfgpt.hub.remote_code import check_code

# A check takes the artifact and the folder with its export. It returns its findings or "skip: why", or raises Disagreement.
Check = Callable[[Artifact, Path], str]

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_EMBEDDINGS = (
    "model.embed_tokens.weight", "transformer.wte.weight", "wte.weight", "embed_tokens.weight", "model.decoder.embed_tokens.weight",
    "transformer.word_embeddings.weight", "gpt_neox.embed_in.weight",
)  # fmt: skip
_HEADS = ("lm_head.weight", "embed_out.weight")


def judged(name: str, check: Callable[[], str]) -> CheckResult:
    """The result of `check`: its text for a pass, "skip: " and the reason if there was nothing to check, a Disagreement for a
    failure."""
    try:
        detail = check()
    except Disagreement as error:
        return CheckResult(name, "fail", str(error), error.cure)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        # Whatever a foreign file contains, reading it ends in a line of the table.
        return CheckResult(name, "fail", f"{type(error).__name__}: {error}", AGAIN)
    return (
        CheckResult(name, "skip", detail.removeprefix("skip: "))
        if detail.startswith("skip: ")
        else CheckResult(name, "pass", detail)
    )


def json_files(artifact: Artifact, published: Path) -> str:
    """Every JSON file contains an object."""
    paths = [path for path in sorted(published.rglob("*.json")) if path.is_file()]
    for path in paths:
        read_json(path)
    return f"{counted(len(paths), 'files')}, each a JSON object"


def rows_of_passport(artifact: Artifact, published: Path) -> str:
    """The rows of prepared data match the SHA-256 in the passport."""
    if not (published / PASSPORT_NAME).is_file():
        return f"skip: there is no {PASSPORT_NAME}"
    passport = Passport.load(published)
    try:
        check_rows(published, passport)
    except UserError as error:
        raise Disagreement(str(error), "python recipes/prepare_data.py, with the arguments that it was prepared with") from None
    return ", ".join(f"{name} {one['sha256'][:16]}..." for name, one in passport.rows.items())


def stored_tensors(published: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor in the safetensors files of a folder, from their headers."""
    found = {}
    for path in sorted(published.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                part = tensors.get_slice(name)
                found[name] = (part.get_dtype(), tuple(part.get_shape()))
    return found


def _config(artifact: Artifact, published: Path) -> str:
    config, tensors = read_json(published / "config.json"), stored_tensors(published)
    if not config.get("architectures") or not config.get("model_type"):
        raise Disagreement("config.json lacks architectures or model_type, which the Auto classes need")
    if not tensors:
        raise Disagreement("no weights are published with it", "save them as safetensors: model.save_pretrained(folder)")
    if (published / "model.safetensors.index.json").is_file():
        named = set(read_json(published / "model.safetensors.index.json").get("weight_map") or {})
        if named != set(tensors):
            raise Disagreement(
                f"model.safetensors.index.json names {len(named):,} tensors, but the shards contain {len(tensors):,}"
            )
    dtypes = sorted({_DTYPES.get(dtype, dtype) for dtype, _ in tensors.values()})
    declared = config.get("dtype", config.get("torch_dtype"))
    if declared not in dtypes:
        raise Disagreement(f"config.json says dtype {declared}, but the weights are {', '.join(dtypes)}")
    rows = next((tensors[name][1][0] for name in _EMBEDDINGS if name in tensors), None)
    if rows not in (None, config.get("vocab_size")):
        raise Disagreement(f"config.json says vocab_size {config.get('vocab_size')}, but the embedding has {rows} rows")
    if artifact.task == "text-classification":
        labels = config.get("id2label") or {}
        (outputs,) = [shape[0] for name, (_, shape) in tensors.items() if name.endswith("score.weight")]
        if len(labels) != outputs or all(re.fullmatch(r"LABEL_\d+", str(label)) for label in labels.values()):
            raise Disagreement(
                f"config.json names the labels {', '.join(map(str, labels.values()))}; the model needs {outputs} real names"
            )
    return f"{config['architectures'][0]}, {declared}, {len(tensors):,} tensors"


def _auto_map(artifact: Artifact, published: Path) -> str:
    from hfgpt.model.configuration_hfgpt import AUTO_MAP  # imports torch, which mistakes on the command line should not wait for

    config = read_json(published / "config.json")
    auto_map = config.get("auto_map") or {}
    if config.get("model_type") != "hfgpt" and not auto_map:
        return "skip: a class in transformers, which needs no code"
    missing = sorted(set(AUTO_MAP if config["model_type"] == "hfgpt" else ("AutoConfig",)) - set(auto_map))
    if missing:
        raise Disagreement(f"config.json's auto_map lacks {', '.join(missing)}")
    check_code(published)
    return f"{len(auto_map)} Auto classes, each with its file and class"


def _tied(artifact: Artifact, published: Path) -> str:
    if artifact.task != "text-generation":
        return "skip: a classifier has no head that could be tied"
    config, tensors = read_json(published / "config.json"), stored_tensors(published)
    tied, head = bool(config.get("tie_word_embeddings", True)), next((name for name in _HEADS if name in tensors), None)
    embedding = next((name for name in _EMBEDDINGS if name in tensors), None)
    if tied and head and embedding:
        if not _equal(published, embedding, head):
            raise Disagreement(f"tie_word_embeddings is true, but {head} and {embedding} are both stored and differ")
        return "tied, and stored twice with the same values"
    if not tied and not head:
        raise Disagreement("tie_word_embeddings is false, but no lm_head.weight is stored, so the head would be random")
    return "the head is the embedding and stored once" if tied else "the head has its own weights"


def _equal(published: Path, first: str, second: str) -> bool:
    import torch

    found = {}
    for path in published.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in (first, second) if name in tensors.keys()}  # noqa: SIM118
    return torch.equal(found[first], found[second])


def _ids(published: Path) -> dict[str, int | None]:
    """The ids of the tokenizer's special tokens, by "bos_token" and so on, read from its two files."""
    settings, definition = read_json(published / "tokenizer_config.json"), read_json(published / "tokenizer.json")
    ids = {entry["content"]: entry["id"] for entry in definition.get("added_tokens") or []}
    ids = {**definition["model"]["vocab"], **ids} if isinstance(definition["model"].get("vocab"), dict) else ids
    return {name: ids.get(text) for name, text in special_tokens(settings).items()}


def special_tokens(settings: dict) -> dict[str, str]:
    """What a tokenizer_config.json calls bos_token, eos_token, pad_token and unk_token."""
    names = [name for name in ("bos_token", "eos_token", "pad_token", "unk_token") if settings.get(name)]
    return {name: settings[name]["content"] if isinstance(settings[name], dict) else settings[name] for name in names}


def _special_tokens(artifact: Artifact, published: Path) -> str:
    if not (published / "tokenizer.json").is_file() or not (published / "tokenizer_config.json").is_file():
        raise Disagreement(
            "there is no tokenizer.json and tokenizer_config.json beside the weights; nobody can use the model without its "
            "tokenizer",
            "give convert.py --tokenizer, or save it: tokenizer.save_pretrained(folder)",
        )
    config, ids = read_json(published / "config.json"), _ids(published)
    for name, id in ids.items():
        declared = config.get(f"{name}_id", id)
        if id is None:
            raise Disagreement(f"tokenizer_config.json names a {name} that tokenizer.json does not have")
        if declared is not None and id not in (declared if isinstance(declared, list) else [declared]):
            raise Disagreement(f"{name} has the id {id} in the tokenizer and {declared} in config.json")
    if ids.get("pad_token") is None or ids.get("pad_token") == ids.get("eos_token"):
        raise Disagreement(
            "the tokenizer has no pad_token other than its eos_token; a model fine-tuned with it never learns to stop",
            "convert.py and the recipes add one; write the folder with them",
        )
    return ", ".join(f"{name.removesuffix('_token')} {id}" for name, id in ids.items())


def _generation(artifact: Artifact, published: Path) -> str:
    if artifact.task != "text-generation":
        return "skip: a classifier generates nothing"
    path, config = published / "generation_config.json", read_json(published / "config.json")
    if not path.is_file():
        raise Disagreement("there is no generation_config.json, so generate does not know when to stop")
    settings = read_json(path)
    stops = settings.get("eos_token_id")
    stops = stops if isinstance(stops, list) else [stops]
    if not stops or not all(isinstance(stop, int) and 0 <= stop < config["vocab_size"] for stop in stops):
        raise Disagreement(f"generation_config.json: eos_token_id is {settings.get('eos_token_id')}; generation would never end")
    if not isinstance(settings.get("pad_token_id"), int) or not 0 <= settings["pad_token_id"] < config["vocab_size"]:
        raise Disagreement(f"generation_config.json: pad_token_id is {settings.get('pad_token_id')}; batches could not be padded")
    if (published / "tokenizer.json").is_file() and (eos := _ids(published).get("eos_token")) not in (None, *stops):
        raise Disagreement(
            f"generation_config.json: eos_token_id is {stops}; but the tokenizer's eos_token {eos} is not among them"
        )
    return f"stops at {', '.join(map(str, stops))}"


def _adapter_config(artifact: Artifact, published: Path) -> str:
    settings = read_json(published / ADAPTER_CONFIG)
    if not (published / "adapter_model.safetensors").is_file():
        raise Disagreement("there is no adapter_model.safetensors", "save it with PEFT: model.save_pretrained(folder)")
    if not settings.get("base_model_name_or_path"):
        raise Disagreement(f"{ADAPTER_CONFIG} does not name its base model")
    if settings.get("task_type") not in ("CAUSAL_LM", "SEQ_CLS"):
        raise Disagreement(f"{ADAPTER_CONFIG}: task_type is {settings.get('task_type')}, but must be CAUSAL_LM or SEQ_CLS")
    return f"{settings.get('peft_type')} of rank {settings.get('r')} on {settings['base_model_name_or_path']}"


MODEL_CHECKS: tuple[tuple[str, Check], ...] = (
    ("config", _config), ("auto_map", _auto_map), ("tied weights", _tied),
    ("special tokens", _special_tokens), ("generation config", _generation),
)  # fmt: skip
ADAPTER_CHECKS: tuple[tuple[str, Check], ...] = (("adapter config", _adapter_config),)


# Chat templates, wherever a kind of folder stores them


def templates_of_tokenizer(published: Path, *, subfolder: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """The chat templates beside a tokenizer (the one that transformers uses first), and its special tokens by role."""
    folder, templates = published / subfolder, {}
    if (folder / "chat_template.jinja").is_file():
        templates["chat_template.jinja"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    inside = settings.get("chat_template") or []
    for entry in [{"name": "default", "template": inside}] if isinstance(inside, str) else inside:
        templates[f"tokenizer_config.json ({entry['name']})"] = entry["template"]
    return templates, special_tokens(settings)


def templates_of_gguf(published: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The chat templates in the headers of GGUF files, and the special tokens; none if the package that reads them is not
    installed."""
    if importlib.util.find_spec("gguf") is None:
        return {}, {}
    from gguf import GGUFReader

    templates, tokens = {}, {}
    for path in sorted(published.glob("*.gguf")):
        fields = GGUFReader(path).fields
        templates |= {f"{path.name}: {name}": field.contents() for name, field in fields.items()
                      if name.startswith("tokenizer.chat_template")}  # fmt: skip
        for name in ("bos", "eos"):
            if f"tokenizer.ggml.{name}_token_id" in fields:
                id = fields[f"tokenizer.ggml.{name}_token_id"].contents()
                tokens[f"{name}_token"] = fields["tokenizer.ggml.tokens"].contents(id)
    return templates, tokens
