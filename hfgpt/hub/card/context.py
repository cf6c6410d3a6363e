"""The context of the templates in model_cards/: the facts about a folder, and the standard phrases around them."""

from collections.abc import Mapping

from huggingface_hub import EvalResult

from hfgpt.arguments.card import MARKDOWN
from hfgpt.artifacts import FINGERPRINT_FILE, Artifact
from hfgpt.data.overview import OVERVIEW_NAME
from hfgpt.evaluation.results import model_index
from hfgpt.files import public_name, read_json
from hfgpt.hub.card.data_facts import data_facts
from hfgpt.hub.card.facts import (
    architecture,
    base_facts,
    evaluation_facts,
    held_out_figures,
    index_of_metrics,
    kind_figures,
    label_figures,
    read_if_there,
    run_settings,
    training_facts,
)
from hfgpt.hub.card.markdown import Markdown, escaped, figure, link, one_line, rough, share, size
from hfgpt.hub.card.placeholder import NOTE, placeholder_of, slug_of
from hfgpt.hub.card.repeating import command_of_data, command_of_training
from hfgpt.hub.file_names import evaluation_without_names, published_passport

USUAL_PROMPT = "The "


def context_of(
    artifact: Artifact, settings: dict, *, repo_id: str | None, tag: str | None = None, beside: Mapping[str, str] | None = None
) -> dict:
    """Everything that a card can show; None or empty if the folder's files do not contain it.

    Args:
        settings: the owner's settings from card.yaml.
        repo_id, tag: where it is published, and under which tag, or None.
        beside: the repositories of the parts that are published with it, by their names: base, adapter, merged.
    """
    folder = artifact.folder
    metrics, passport, conversion = (read_if_there(artifact, f"{name}.json") for name in ("metrics", "passport", "conversion"))
    evaluation, memorization = (read_if_there(artifact, f"{name}.json") for name in ("evaluation", "memorization"))
    fingerprint, run = read_if_there(artifact, FINGERPRINT_FILE), run_settings(artifact)
    tokenizer_config = read_if_there(artifact, "tokenizer_config.json")
    has_chat_template = (folder / "chat_template.jinja").is_file() or bool(tokenizer_config.get("chat_template"))
    file_names = bool(settings.get("file_names"))
    measured_again = _measured_again(evaluation, passport)
    passport = published_passport(passport, file_names=file_names)
    if evaluation and not file_names:
        evaluation = evaluation_without_names(evaluation)
    license = settings.get("license_name") or settings.get("license")
    # A model's license says nothing about its training data.
    of_texts = str(license) if license and artifact.kind == "dataset" else None
    data = data_facts(passport, file_names=file_names, license=of_texts)
    files = {path.as_posix() for path in artifact.files()}
    weights = sorted(folder.glob("*.gguf"))
    base = base_facts(artifact, passport, settings)
    is_prepared = artifact.kind == "tokenizer" or OVERVIEW_NAME in files or run.get("dataset")
    preparing = command_of_data(passport) if is_prepared else None
    repeating = command_of_training(artifact, base_hub_id=base["hub_id"])
    context = {
        "task": artifact.task,
        "title": one_line(settings.get("title") or (repo_id.rpartition("/")[2] if repo_id else folder.resolve().name)),
        "name": repo_id or placeholder_of(folder),
        "name_note": Markdown("" if repo_id else NOTE),
        "slug": repo_id.rpartition("/")[2] if repo_id else slug_of(folder),
        "tag": tag,
        "beside": {name: (beside or {}).get(name) for name in ("base", "adapter", "merged")},
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
        "base": base,
        "figures": held_out_figures(metrics),
        "label_figures": label_figures(metrics),
        "kind_figures": kind_figures(metrics),
        "evaluations": evaluation_facts(evaluation),
        "index": _index(evaluation, metrics, data, artifact, measured_again=measured_again),
        "majority": metrics.get("majority"),
        "tfidf": metrics.get("tfidf"),
        "lzma": passport.get("lzma_bits_per_byte"),
        "memorization": memorization,
        "overlaps": _overlaps(memorization),
        "conversion": _conversion(conversion, settings),
        "has_overview": OVERVIEW_NAME in files,
        "command": Markdown(preparing) if preparing else None,
        "repeating": Markdown(repeating) if repeating else None,
        "has_loss_picture": "loss.png" in files,
        "has_curves_picture": "curves.png" in files,
        "has_confusion_picture": "confusion.png" in files,
        "has_memorization_picture": "memorization.png" in files,
        "has_tokenizer_report": {"tokenizer_report.md", "tokenizer_report.png"} <= files,
        "num_fingerprints": len(fingerprint.get("texts") or []),
        "versions": _versions(artifact, passport, fingerprint),
        "license_line": _license_line(settings),
        "author": settings.get("author"),
        **dict.fromkeys(MARKDOWN),
    }
    return context | _phrases(context)


def _config_of_labels(artifact: Artifact) -> dict:
    if artifact.task != "text-classification" or artifact.whole is None:
        return {}
    return read_json(artifact.whole / "config.json")


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
        *(("chat", text(token)) for token in (more.values() if isinstance(more, dict) else more)),
    ]


def _measured_again(evaluation: dict, passport: dict) -> set[tuple[str | None, str]]:
    """Split and metric of each figure that `hfgpt evaluate --dataset` measured on the rows of this model's own training."""
    rows = ", ".join(public_name(str(entry.get("name"))) for entry in passport.get("inputs") or [])
    same = (one for one in evaluation.get("results") or [] if one.get("task") == "language-modeling" and one.get("dataset") == rows)
    return {(entry.get("split"), metric) for entry in same for metric in entry.get("metrics") or {}}


def _index(
    evaluation: dict, metrics: dict, data: dict, artifact: Artifact, *, measured_again: set[tuple[str | None, str]]
) -> list[EvalResult]:
    if artifact.task is None:
        return []
    results: list[EvalResult] = []
    if evaluation:
        results = model_index(evaluation)
    told = {(*result.unique_identifier, result.metric_type) for result in results}
    own = index_of_metrics(metrics, data, is_classifier=artifact.task == "text-classification")
    return results + [
        result
        for result in own
        if (*result.unique_identifier, result.metric_type) not in told
        and (result.dataset_split, result.metric_type) not in measured_again
    ]


def _overlaps(memorization: dict) -> list[tuple[str, dict]]:
    found = memorization.get("overlap") or {}
    names = {"samples": "texts written by the model", "held_out": "held-out texts, equally many and long"}
    return [(name, found[key]) for key, name in names.items() if found.get(key)]


def _conversion(conversion: dict, settings: dict) -> dict | None:
    if not conversion:
        return None
    words = {
        "difference_from_source": "from those of the original",
        "difference_of_merging": "when the adapter is merged",
        "difference_of_twin": "from those of the hfgpt model",
    }
    hub_id = str(conversion["source"]) if conversion.get("commit") else None
    return {
        "target": conversion.get("target"),
        "hub_id": hub_id,
        "source": settings.get("base_model") or hub_id,  # the name of a folder means nothing to others
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
    return link(settings.get("license_name") or settings["license"], settings.get("license_link", ""))


def _phrases(context: dict) -> dict[str, Markdown]:
    """Phrases that the first sentences of several cards share: its size and its origin."""
    shape, data, labels = context["shape"], context["data"], context["labels"]
    parameters = context["training"]["parameters"] or shape.get("parameters")
    amount = data["examples"] or (f"{size(data['training_bytes'])} of text" if data["training_bytes"] else "")
    origin = context["base"]["hub_id"]
    which = f"assigns any of {len(labels):,} labels" if context["several_labels"] else f"assigns one of {len(labels):,} labels"
    gpt = f"a GPT with {rough(parameters)} parameters" if parameters else "a GPT"
    phrases = {
        "gpt": gpt,
        "A_gpt": f"A{gpt[1:]}",
        "amount": amount,
        "tuned": f"fine-tuned with hfgpt{f' on {amount}' if amount else ''}{f' from {escaped(origin)}' if origin else ''}",
        "what": f"{which} to a text" if labels else "follows instructions",
        "sees": f" It sees at most {shape['context']:,} tokens at once." if shape.get("context") else "",
        "headline": " ".join(filter(None, (_headline(context), _extremes(context)))),
    }
    return {name: Markdown(text) for name, text in phrases.items()}


def _headline(context: dict) -> str:
    """The run's most telling figure in a sentence, beside what it has to beat."""
    figures: dict[str, dict] = {}
    for row in context["figures"]:
        figures.setdefault(row["key"], row)
    if not figures:
        return ""
    split, values = context["figures"][0]["split"], {key: row["value"] for key, row in figures.items()}
    if "accuracy" in values:
        others = [f"TF-IDF with logistic regression {share(context['tfidf']['accuracy'])}"] if context["tfidf"] else []
        others += [f"always naming the most frequent label {share(context['majority'])}"] if context["majority"] is not None else []
        beside = f"; {' and '.join(others)}" if others else ""
        return f"It labels {share(values['accuracy'])} of the {split} texts correctly{beside}."
    if "right" in values:
        beside = f"; always giving the most frequent answer {share(values['most_frequent'])}" if "most_frequent" in values else ""
        return f"It answers {share(values['right'])} of the {split} questions that have one correct answer correctly{beside}."
    if "likelihood_accuracy" in values:
        before = figures["likelihood_accuracy"]["before"]
        beside = f"; before training {share(before)}" if before is not None else ""
        return f"In {share(values['likelihood_accuracy'])} of the {split} pairs it finds the chosen answer more likely{beside}."
    if "bits_per_byte" in values:
        beside = ""
        if lzma := context["lzma"]:
            after, alone = figure(lzma["after_training"]), figure(lzma["alone"])
            beside = f"; lzma needs {after} after reading the training text, {alone} without"
        return f"It needs {figure(values['bits_per_byte'])} bits per byte for the {split} text{beside}."
    return ""


def _extremes(context: dict) -> str:
    """What it does best and worst, where there are at least three labels or kinds of question to tell apart."""
    scores = [
        (row["f1"], f"{escaped(row['label'])} (F1 {figure(row['f1'])})") for row in context["label_figures"] if row["support"]
    ]
    kinds = [row for row in context["kind_figures"] if "right" in row]
    scores = scores or [(row["right"], f"{escaped(row['kind'])} ({share(row['right'])})") for row in kinds]
    if len(scores) < 3 or min(scores)[0] == max(scores)[0]:
        return ""
    return f"It is best at {max(scores)[1]} and worst at {min(scores)[1]}."
