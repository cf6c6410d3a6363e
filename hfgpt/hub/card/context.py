"""What the templates of model_cards/ are given: the facts of a folder, and the usual words around them."""

import re

from huggingface_hub import EvalResult

from hfgpt.arguments.card import MARKDOWN
from hfgpt.artifacts import Artifact
from hfgpt.evaluation.results import model_index
from hfgpt.files import read_json
from hfgpt.hub.card.facts import (
    architecture,
    base_facts,
    data_facts,
    evaluation_facts,
    held_out_figures,
    index_of_metrics,
    is_adapter_base,
    label_figures,
    read_if_there,
    run_settings,
    training_facts,
)
from hfgpt.hub.card.file_names import evaluation_without_names, passport_without_names
from hfgpt.hub.card.markdown import Markdown, escaped, one_line, size

USUAL_PROMPT = "The "


def context_of(artifact: Artifact, settings: dict, *, repo_id: str | None) -> dict:
    """Everything that a card can tell, None or empty where the folder's files do not say it.

    Args:
        settings: the owner's, of card.yaml.
        repo_id: where it is published, or None.
    """
    folder = artifact.folder
    metrics, passport, conversion = (read_if_there(artifact, f"{name}.json") for name in ("metrics", "passport", "conversion"))
    evaluation, memorization = (read_if_there(artifact, f"{name}.json") for name in ("evaluation", "memorization"))
    fingerprint, run = read_if_there(artifact, "fingerprint.json"), run_settings(artifact)
    tokenizer_config = read_if_there(artifact, "tokenizer_config.json")
    has_chat_template = (folder / "chat_template.jinja").is_file() or bool(tokenizer_config.get("chat_template"))
    if not settings.get("file_names"):
        passport, evaluation = passport_without_names(passport), evaluation_without_names(evaluation) if evaluation else {}
    data, files = data_facts(passport, file_names=bool(settings.get("file_names"))), {path.as_posix() for path in artifact.files()}
    slug = re.sub(r"[^\w.-]+", "-", folder.resolve().name, flags=re.ASCII).strip("-.") or "model"
    weights = sorted(folder.glob("*.gguf"))
    context = {
        "template": _template(artifact, conversion, has_chat_template=has_chat_template),
        "task": artifact.task,
        "title": one_line(settings.get("title") or (repo_id.rpartition("/")[2] if repo_id else folder.resolve().name)),
        "name": repo_id or f"USER/{slug}",
        "name_note": Markdown("" if repo_id else "  # or the folder with these files"),
        "slug": slug,
        "custom_code": artifact.custom_code,
        "trust": Markdown(", trust_remote_code=True" if artifact.custom_code else ""),
        "prompt": next((one for one in run.get("sample_prompts") or [] if isinstance(one, str) and one.strip()), USUAL_PROMPT),
        "has_chat_template": has_chat_template,
        "prompt_style": (passport.get("tokenizer") or {}).get("prompt_style"),
        "context_length": (passport.get("settings") or {}).get("context_length"),
        "vocabulary": (passport.get("tokenizer") or {}).get("vocab_size"),
        "special_tokens": _special_tokens(tokenizer_config),
        "gguf_files": [{"name": path.name, "bytes": path.stat().st_size} for path in weights],
        "labels": _labels(artifact),
        "several_labels": _config_of_labels(artifact).get("problem_type") == "multi_label_classification",
        "shape": architecture(artifact),
        "data": data,
        "training": training_facts(artifact, metrics),
        "base": base_facts(artifact, passport, settings),
        "figures": held_out_figures(metrics),
        "label_figures": label_figures(metrics),
        "evaluations": evaluation_facts(evaluation),
        "index": _index(evaluation, metrics, data, artifact),
        "majority": metrics.get("majority"),
        "tfidf": metrics.get("tfidf"),
        "lzma": passport.get("lzma_bits_per_byte"),
        "memorization": memorization,
        "overlaps": _overlaps(memorization),
        "conversion": _conversion(conversion),
        "has_loss_picture": "loss.png" in files,
        "has_confusion_picture": "confusion.png" in files,
        "has_memorization_picture": "memorization.png" in files,
        "num_fingerprints": len(fingerprint.get("texts") or []),
        "versions": _versions(artifact, passport, fingerprint),
        "license_line": _license_line(settings),
        "author": settings.get("author"),
        **dict.fromkeys(MARKDOWN),
    }
    return context | {"lead": _lead(context)} | _usual_words(context)


def _template(artifact: Artifact, conversion: dict, *, has_chat_template: bool) -> str:
    if artifact.kind != "model":
        return artifact.kind
    if is_adapter_base(artifact):
        return "adapter_base"
    if conversion.get("target") == "native":
        return "native"
    if artifact.task == "text-classification":
        return "classifier"
    return "assistant" if has_chat_template else "base"


def _config_of_labels(artifact: Artifact) -> dict:
    folder = artifact.base if artifact.kind == "adapter" else artifact.folder
    if artifact.task != "text-classification" or folder is None:
        return {}
    return read_json(folder / "config.json")


def _labels(artifact: Artifact) -> list[str]:
    names = _config_of_labels(artifact).get("id2label") or {}
    return [names[key] for key in sorted(names, key=int)]


def _special_tokens(tokenizer_config: dict) -> list[tuple[str, str]]:
    def text(token: str | dict) -> str:
        return token if isinstance(token, str) else str(token.get("content"))

    found = {key: value for key, value in tokenizer_config.items() if key.endswith("_token") and isinstance(value, (str, dict))}
    more = tokenizer_config.get("extra_special_tokens") or []
    return [
        *((key.removesuffix("_token"), text(token)) for key, token in found.items()),
        *(("of conversations", text(token)) for token in (more.values() if isinstance(more, dict) else more)),
    ]


def _index(evaluation: dict, metrics: dict, data: dict, artifact: Artifact) -> list[EvalResult]:
    if artifact.task is None:
        return []
    results: list[EvalResult] = []
    if evaluation:
        results = model_index(evaluation)
    told = {(*result.unique_identifier, result.metric_type) for result in results}
    own = index_of_metrics(metrics, data, is_classifier=artifact.task == "text-classification")
    return results + [result for result in own if (*result.unique_identifier, result.metric_type) not in told]


def _overlaps(memorization: dict) -> list[tuple[str, dict]]:
    found = memorization.get("overlap") or {}
    names = {"samples": "texts that the model wrote", "held_out": "held-out texts, as many and as long"}
    return [(name, found[key]) for key, name in names.items() if found.get(key)]


def _conversion(conversion: dict) -> dict | None:
    if not conversion:
        return None
    words = {
        "difference_from_source": "from those of the class it came from",
        "difference_of_merging": "between the adapter beside the weights and merged into them",
        "difference_of_twin": "from those of hfgpt's class",
    }
    source = str(conversion.get("source") or "a checkpoint")
    commit = conversion.get("commit")
    return {
        "source": source if commit else re.split(r"[/\\]", source.rstrip("/\\"))[-1],
        "hub_id": source if commit else None,
        "format": conversion.get("format"),
        "differences": [(conversion[key], word) for key, word in words.items() if isinstance(conversion.get(key), (int, float))],
        "notes": [str(note) for note in conversion.get("notes") or []],
    }


def _versions(artifact: Artifact, passport: dict, fingerprint: dict) -> dict[str, str]:
    recorded = fingerprint.get("versions") or {}
    files = (("config.json", "transformers_version", "transformers"), ("adapter_config.json", "peft_version", "peft"))
    stated = {name: read_if_there(artifact, file).get(key) for file, key, name in files}
    prepared = passport.get("versions") or {}
    return {**prepared, **{name: version for name, version in stated.items() if version}, **recorded}


def _license_line(settings: dict) -> Markdown | None:
    if not settings.get("license"):
        return None
    name, link = escaped(settings.get("license_name") or settings["license"]), settings.get("license_link", "")
    # Whatever else it holds could end the link, or be one that runs a script.
    return Markdown(f"[{name}]({link})" if re.fullmatch(r"https?://[^\s<>()\[\]\\`\"'|]+", link) else name)


def _lead(context: dict) -> Markdown:
    """The first sentence: what it does, how large it is, from what it was made."""
    shape, data, training, labels = context["shape"], context["data"], context["training"], context["labels"]
    parameters = training["parameters"] or shape.get("parameters")
    gpt = f"a GPT of {parameters:,} parameters" if parameters else "a GPT"
    amount = f" on {data['examples']}" if data["examples"] else ""
    if data["training_bytes"] and not amount:
        amount = f" on {size(data['training_bytes'])} of text"
    origin = context["base"]["hub_id"]
    tuned = f"fine-tuned with hfgpt{amount}" + (f" from {escaped(origin)}" if origin else "")
    what = f"tells which of {len(labels):,} labels a text has" if labels else "answers instructions"
    trained = training["trained_parameters"]
    leads = {
        "base": f"It continues text: {gpt}, pretrained with hfgpt{amount}." if data["inputs"] else f"It continues text: {gpt}.",
        "assistant": f"It answers instructions: {gpt}, {tuned}.",
        "classifier": f"It {what}: {gpt}, {tuned}.",
        "adapter": f"A LoRA adapter{f' of {trained:,} parameters' if trained else ''} that {what}, {tuned}.",
        "adapter_base": f"The base of a LoRA adapter: {gpt}, as it was before. By itself it has not learned the adapter's task.",
        "native": f"The same function as a model of hfgpt, in the class {escaped(shape.get('class', '?'))} of transformers: {gpt}.",
        "gguf": "A model of hfgpt as a GGUF file, for llama.cpp, Ollama and what is built on them.",
        "tokenizer": f"A tokenizer{f' of {v:,} tokens' if (v := context['vocabulary']) else ''}, trained with hfgpt{amount}.",
        "dataset": f"Rows of token ids for training a language model, made with hfgpt{amount.replace(' on ', ' from ')}.",
    }
    return Markdown(leads[context["template"]])


def _usual_words(context: dict) -> dict[str, Markdown]:
    """What is said of use and limits where the owner says nothing."""
    sees = f" It sees at most {context['shape']['context']:,} tokens." if context["shape"].get("context") else ""
    if context["template"] == "tokenizer":
        use = "For models that are trained with it from the beginning: its ids mean nothing to others."
        limits = "It needs the fewest tokens for text like that which it was trained on."
    elif context["template"] == "dataset":
        use = "For training a model with the tokenizer in `tokenizer/`."
        limits = "The texts can be read back from the ids: whoever has the rows has the text."
    elif context["template"] == "adapter_base":
        use, limits = "For its adapter, and to see what that has changed.", f"It knows what it was pretrained on.{sees}"
    elif context["task"] == "text-classification":
        use = "For texts like those of its training data."
        limits = f"It knows only its {len(context['labels']):,} labels, whatever a text is about.{sees}"
    else:
        use = "For study, and as a base to fine-tune: it continues text like its training data and follows no instructions."
        if context["has_chat_template"]:
            use = "For questions like those of its training data."
        limits = f"What it says may be made up, and nothing filters it.{sees}"
    return {"usual_use": Markdown(use), "usual_limits": Markdown(limits)}
