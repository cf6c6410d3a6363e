"""The facts for a card, read from the files of a folder, without paths of the machine."""

import math
import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResult
from safetensors import SafetensorError, safe_open

from hfgpt.artifacts import MERGED_FOLDER, METRICS_FILE, RUN_FILE, Artifact, adapter_around, adapter_settings, base_on_the_hub
from hfgpt.counting import counted
from hfgpt.data.passport import HELD_OUT
from hfgpt.evaluation.results import answered_of
from hfgpt.files import read_json

# Only these keys of run.yaml are shown: all others concern the machine, or name files.
TOLD_SETTINGS = (
    *("text_column", "label_column", "label_delimiter", "labels", "min_label_count", "max_labels", "conversation_format"),
    *("header", "columns", "separator", "max_records", "on_error", "blank_texts", "deduplicate", "too_long"),
    *("hub_split", "hub_validation_split", "hub_test_split", "data_revision"),
    *("validation_share", "test_share", "split_method", "split_seed", "balance_before_split"),
    *("decontaminate", "near_copy_similarity"),
    *("family", "depth", "size", "method", "loss", "beta", "optimizer", "learning_rate", "muon_learning_rate"),
    *("label_smoothing_factor", "length_normalised", "num_shots", "calibrate", "best_by"),
    *("embedding_learning_rate", "rewarm_to", "adam_beta2", "skip_loss_spikes", "train_sampling_strategy"),
    *("weight_decay", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "dora", "rslora"),
    *("quantization", "precision", "repack", "max_masked_tokens"),
    *("max_length", "packing", "prompt_style", "loss_on", "keep", "balance", "early_stopping_patience", "seed", "seeds"),
    *("time_budget", "token_budget", "flop_budget"),
)
SETTING_NAMES = {
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "time_budget": "time budget in seconds",
    "token_budget": "token budget",
    "flop_budget": "FLOP budget",
    "per_device_train_batch_size": "batch size per device",
    "gradient_accumulation_steps": "gradient accumulation steps",
    "lr_scheduler_type": "learning rate schedule",
    "muon_learning_rate": "learning rate of Muon",
    "embedding_learning_rate": "learning rate of the embedding",
    "rewarm_to": "share of each learning rate that the warmup returns to",
    "loss_on": "loss on the tokens of",
}
# These entries of metrics.json are shown unchanged.
_TOLD_OF_A_RUN = (
    *("steps", "kept_step", "steps_timed", "tokens_per_second", "mfu", "parameters", "trained_parameters", "energy_source"),
    *("device", "num_devices", "difference_of_merging"),
)
# The display name of each figure in metrics.json and evaluation.json, and whether it is a share of 1, in the card's order.
FIGURES = {
    "bits_per_byte": ("bits per byte", False),
    "perplexity": ("perplexity", False),
    "loss": ("nats per token", False),
    "accuracy": ("accuracy", True),
    "acc": ("accuracy", True),
    "acc_norm": ("accuracy, normalized by length", True),
    "subset_accuracy": ("all labels of a text correct", True),
    "macro_f1": ("macro F1", False),
    "micro_f1": ("micro F1", False),
    "macro_precision": ("macro precision", False),
    "macro_recall": ("macro recall", False),
    "roc_auc": ("ROC-AUC", False),
    "log_loss": ("log loss", False),
    "calibration_error": ("calibration error", False),
    "right": ("correct answers, where only one is correct", True),
    "most_frequent": ("the same, always giving the most frequent answer", True),
    "exact_match": ("exact match with the reference", True),
    "token_f1": ("token F1 with the reference", False),
    "rougeL": ("ROUGE-L", False),
    "mean_tokens": ("tokens per answer", False),
    "stopped": ("answers that end on their own", True),
    "reward_margin": ("reward margin", False),
    "reward_accuracy": ("reward margin above 0", True),
    "likelihood_accuracy": ("chosen answer more likely", True),
    "likelihood_accuracy_per_token": ("chosen answer more likely, per token", True),
}


def read_if_there(artifact: Artifact, name: str) -> dict:
    """A JSON file of the folder, or an empty dict. An adapter's merged model uses the adapter's file if it has none."""
    path = artifact.folder / name
    if not path.is_file() and name in (METRICS_FILE, "passport.json", "memorization.json"):
        path = of_the_adapter(artifact, name)
    return read_json(path) if path.is_file() else {}


def of_the_adapter(artifact: Artifact, name: str) -> Path:
    """The path, in the adapter's folder, of a file that describes the adapter of a merged model."""
    around = adapter_around(artifact.folder)
    return (around if around and artifact.folder.name == MERGED_FOLDER else artifact.folder) / name


def architecture(artifact: Artifact) -> dict:
    """Shape and size of a model, from config.json and the headers of its weights; for an adapter, those of its base.

    The context is what the model sees: its tokenizer may cut texts to fewer tokens than the config allows.
    """
    if (folder := artifact.whole) is None:
        return {}
    config = read_json(folder / "config.json")
    names = {
        "layers": ("num_hidden_layers", "n_layer"), "width": ("hidden_size", "n_embd"), "heads": ("num_attention_heads", "n_head"),
        "context": ("max_position_embeddings", "n_positions"), "vocabulary": ("vocab_size",), "dtype": ("dtype",),
    }  # fmt: skip
    shape = {name: next((config[key] for key in keys if config.get(key)), None) for name, keys in names.items()}
    longest = read_if_there(artifact, "tokenizer_config.json").get("model_max_length")
    if shape["context"] and isinstance(longest, int):
        shape["context"] = min(shape["context"], longest)
    groups = config.get("num_key_value_heads")
    shape["key_value_heads"] = groups if groups and groups != shape["heads"] else None
    is_ours = config.get("model_type") == "hfgpt"
    shape["family"] = ("modern" if config.get("position_embedding_type") == "rotary" else "GPT-2") if is_ours else None
    head = "SequenceClassification" if artifact.task == "text-classification" else "CausalLM"
    shape["class"] = f"HfGptFor{head}" if is_ours else (config.get("architectures") or ["a model"])[0]
    return shape | {"parameters": count_parameters(folder)}


def count_parameters(folder: Path) -> int | None:
    """The number of parameters in the safetensors files of a folder, from their headers; None if there are none or one is
    unreadable."""
    total = 0
    for path in [*folder.glob("model.safetensors"), *folder.glob("model-*-of-*.safetensors")]:
        try:
            with safe_open(path, framework="np") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
    return total or None


def base_facts(artifact: Artifact, passport: dict, settings: dict) -> dict:
    """The weights this started from: a Hub id if they are on the Hub, otherwise the name of their folder."""
    base = passport.get("base") or {}
    hub_id = settings.get("base_model") or base_on_the_hub(adapter_settings(artifact.folder))
    if not hub_id and base.get("commit"):
        hub_id = base["name"]
    name = hub_id or base.get("name")
    return {"name": name, "hub_id": hub_id, "commit": base.get("commit"), "sha256": base.get("sha256")}


def run_settings(artifact: Artifact) -> dict:
    """The settings in run.yaml that differ from the defaults, including those that a budget chose."""
    path = of_the_adapter(artifact, RUN_FILE)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = content if isinstance(content, dict) else {}
    return settings | (settings.get("plan") or {}).get("chosen", {})


def training_facts(artifact: Artifact, metrics: dict) -> dict:
    """How it was trained: settings, steps, time, energy and machine."""
    runs = list((metrics.get("seeds") or {}).values()) or ([metrics] if metrics else [])
    kept = (metrics.get("seeds") or {}).get(str(metrics.get("kept_seed")), metrics)
    settings = run_settings(artifact)
    seconds = [run["training_seconds"] for run in runs if run.get("training_seconds") is not None]
    joules = [run.get("energy_joules") for run in runs]
    return {
        "settings": [
            (SETTING_NAMES.get(key, key.replace("_", " ")), ", ".join(map(str, value)) if isinstance(value, list) else value)
            for key in TOLD_SETTINGS
            if (value := settings.get(key)) is not None
        ],
        **{key: kept.get(key) for key in _TOLD_OF_A_RUN},
        "seconds": sum(seconds) if seconds else None,
        "num_runs": len(runs),
        "kept_seed": metrics.get("kept_seed"),
        "joules": sum(joules) if joules and None not in joules else None,
        "has_meter": "energy_joules" in kept,
        "canary_alarms": metrics.get("canary_alarms"),
    }


def named_figure(key: str, value: object) -> dict | None:
    """A figure with its name, and whether it is a share of 1; None if it is not a number or is a count."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or key.startswith("num_"):
        return None
    name, is_share = FIGURES.get(key, (key.replace("_", " "), False))
    return {"key": key, "name": name, "value": value, "is_share": is_share}


def held_out_figures(metrics: dict, *, old_text: bool = True) -> list[dict]:
    """Table rows with the run's own held-out figures, from the test split if there is one, before and after training.

    Args: `old_text` adds those for the text that the base of continued pretraining was trained on.
    """
    seeds = metrics.get("seeds")
    for split in reversed(HELD_OUT):
        spread = metrics.get(split) or {} if seeds else {}
        if seeds:
            measured = seeds[str(metrics["kept_seed"])].get(split) or {}
        else:
            measured = {key.removeprefix(f"{split}_"): value for key, value in metrics.items() if key.startswith(f"{split}_")}
            if "reward_margin" in measured:  # the answers are compared with the chosen ones
                answers = {key.removeprefix("answers_"): value for key, value in metrics.items() if key.startswith("answers_")}
                measured |= {key.replace("_with_chosen", ""): value for key, value in answers.items()}
            if "perplexity" in measured and "loss_before" in measured:
                measured["perplexity_before"] = math.exp(measured["loss_before"])
        names = {"loss": "loss of the training on pairs"} if "reward_margin" in measured else {}
        rows = []
        for key in FIGURES:
            if found := named_figure(key, measured.get(key)):
                over_seeds = spread.get(key) if isinstance(spread.get(key), dict) and spread[key].get("runs", 0) > 1 else None
                more = {"split": split, "before": measured.get(f"{key}_before"), "over_seeds": over_seeds}
                rows.append(found | more | {"name": names.get(key, found["name"])})
        if rows:
            return rows + (_old_text_figures(metrics, split) if old_text else [])
    return []


def _old_text_figures(metrics: dict, split: str) -> list[dict]:
    found = [named_figure(key, metrics.get(f"old_{key}")) for key in ("bits_per_byte", "loss")]
    more = {"split": split, "over_seeds": None}
    return [
        row | more | {"name": f"{row['name']}, old text", "before": metrics.get(f"old_{row['key']}_before")} for row in found if row
    ]


def label_figures(metrics: dict) -> list[dict]:
    """Precision, recall and F1 of each label on the test split, for the kept weights."""
    kept = (metrics.get("seeds") or {}).get(str(metrics.get("kept_seed"))) or {}
    return [{"label": label, **figures} for label, figures in ((kept.get("test") or {}).get("per_class") or {}).items()]


def kind_figures(metrics: dict) -> list[dict]:
    """The scores of an assistant's answers to the test set, by kind of question."""
    return [{"kind": kind, **scores} for kind, scores in (metrics.get("test_kinds") or {}).items()]


def evaluation_facts(evaluation: dict) -> list[dict]:
    """The entries of evaluation.json with named figures and without counts."""
    order = list(FIGURES)
    entries = []
    for entry in evaluation.get("results") or []:
        figures = [found for key, value in (entry.get("metrics") or {}).items() if (found := named_figure(key, value))]
        figures.sort(key=lambda one: order.index(one["key"]) if one["key"] in order else len(order))
        counts = {key.removeprefix("num_"): entry.get(key) for key in ("num_examples", "num_documents", "num_tokens", "num_bytes")}
        amount = next((counted(count, what) for what, count in counts.items() if isinstance(count, int)), None)
        amount = answered_of(entry) or amount
        told = {key: entry.get(key) for key in ("task", "dataset", "split", "seen_in_training")}
        entries.append({**told, "figures": figures, "amount": amount})
    return entries


def index_of_metrics(metrics: dict, data: dict, *, is_classifier: bool) -> list[EvalResult]:
    """The run's own figures on its held-out text in the format of the Hub's model-index; the test split's if there is one."""
    rows = held_out_figures(metrics, old_text=False)
    split = rows[0]["split"] if rows else None
    name = ", ".join(entry["name"] for entry in data["inputs"]) or "held-out text"
    # For summarized files: "269-text-files".
    types = data["hub_ids"] if len(data["hub_ids"]) == 1 else [re.sub(r"[^\w.-]+", "-", name.partition(" (")[0])]
    task = ("text-classification", "Text Classification") if is_classifier else ("text-generation", "Text Generation")
    wanted = {"accuracy": "accuracy", "macro_f1": "f1", "bits_per_byte": "bits_per_byte", "perplexity": "perplexity"}
    return [
        EvalResult(
            task_type=task[0], task_name=task[1], dataset_type=types[0], dataset_name=name, dataset_split=split,
            metric_type=wanted[row["key"]], metric_name=row["name"], metric_value=row["value"],
        )
        for row in rows
        if row["split"] == split and row["key"] in wanted
    ]  # fmt: skip
