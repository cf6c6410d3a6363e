"""The page of a run, `report.html`: its curves, samples, data, figures, plan and outcome in one self-contained file.

It is made from the files of the folder (history.json, samples.jsonl, metrics.json, passport.json, run.yaml) and shows only the last
part of paths of the machine and of source files. It is not published, because samples can quote the texts.
"""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hfgpt import __version__
from hfgpt.arguments.commands import command_of
from hfgpt.artifacts import METRICS_FILE, Artifact
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.evaluation.pages import page_environment
from hfgpt.files import read_json, write_whole
from hfgpt.hub.card.data_facts import data_facts
from hfgpt.hub.card.facts import held_out_figures, label_figures, training_facts
from hfgpt.hub.card.markdown import duration, energy, size
from hfgpt.hub.file_names import published_passport
from hfgpt.training.callbacks import HISTORY_FILE, SAMPLES_FILE
from hfgpt.training.curves import drawn_charts, figure

PAGE_FILE = "report.html"
# With more files than this, the page summarizes them by kind and number, as the card does.
MOST_FILES_NAMED = 20
_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers")


@dataclass(frozen=True)
class Foreseen:
    """One line of plan against outcome, as text; `difference` is relative, if both are known."""

    what: str
    planned: str
    came: str
    difference: str

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The cells of the line in a table."""
        return self.what, self.planned, self.came, self.difference


# What a plan may predict, and the corresponding figure in metrics.json.
_FORESEEN: tuple[tuple[str, str, str, Callable[[Any], str]], ...] = (
    ("seconds", "seconds", "time of the whole command", duration),
    ("training_seconds", "training_seconds", "time of training", duration),
    ("loss", "test_loss", "loss of the test, nats per token", figure),
    ("bits_per_byte", "bits_per_byte", "bits per byte of the test", figure),
    ("parameters", "parameters", "parameters", figure),
    ("steps", "steps", "steps", figure),
    ("epochs", "epochs", "passes over the text", figure),
    ("tokens_per_second", "tokens_per_second", "tokens per second", figure),
    ("memory_bytes", "peak_memory_bytes", "memory", size),
)


def plan_and_outcome(planned: Mapping[str, object], came: Mapping[str, object]) -> list[Foreseen]:
    """The plan beside the outcome, for the keys of both that are known here.

    Args:
        planned: `seconds`, `training_seconds`, `loss`, `bits_per_byte`, `parameters`, `steps`, `epochs`, `tokens_per_second`,
            `memory_bytes`; those the plan contains.
        came: the same for the run, by the names in metrics.json.
    """
    lines = []
    for key, name, what, shown in _FORESEEN:
        expected, actual = planned.get(key), came.get(name)
        if not isinstance(expected, (int, float)) or isinstance(expected, bool):
            continue
        if isinstance(actual, (int, float)):
            difference = f"{100 * (actual / expected - 1):+.1f} %" if expected else ""
            lines.append(Foreseen(what, shown(expected), shown(actual), difference))
        else:
            lines.append(Foreseen(what, shown(expected), "not measured", ""))
    return lines


def _plan(metrics: Mapping[str, Any]) -> list[Foreseen]:
    """For a run with a plan, which is in metrics.json with its outcome, the lines of `plan_and_outcome`."""
    plan = metrics.get("plan") or {}
    expected = dict(plan.get("expected") or {}) if isinstance(plan, Mapping) else {}
    if "training" in (parts := expected.get("seconds_by_part") or {}):
        expected.setdefault("training_seconds", parts["training"])
    came = {key: value for key, value in (plan.get("came") or {}).items() if value is not None} if expected else {}
    return plan_and_outcome(expected, {**metrics, **came})


def write_report_page(folder: Path, *, recipe: str, lines: list[str], end: str | None) -> None:
    """Write `report.html` for a finished run.

    Args:
        recipe: file name of the recipe.
        lines, end: those of the report.
    """
    metrics = _read(folder / METRICS_FILE)
    seed = metrics.get("kept_seed")
    # With several seeds, the one that was kept.
    place = folder / f"seed-{seed}" if seed is not None and (folder / f"seed-{seed}").is_dir() else folder
    history = _read(place / HISTORY_FILE)
    passport = _read(folder / PASSPORT_NAME)
    files_named = len(passport.get("inputs") or []) <= MOST_FILES_NAMED
    artifact = Artifact(folder)
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"figure": _shown, "size": lambda value: "" if value is None else size(value)}
    page = environment.get_template("report_page.html.j2").render(
        name=folder.resolve().name,
        seed=seed if place != folder else None,
        facts=_facts(metrics, training := training_facts(artifact, metrics), recipe),
        lines=[*lines, *([end] if end else [])],
        figures=held_out_figures(metrics),
        labels=label_figures(metrics),
        charts=drawn_charts(history.get("log") or [], unit=history.get("unit") or ""),
        kept_step=history.get("kept_step"),
        between="\n" if recipe != "pretrain.py" else "",  # an answer is not a continuation of its question
        samples=_samples(place / SAMPLES_FILE),
        data=data_facts(published_passport(passport, file_names=True), file_names=files_named) if passport else None,
        plan=_plan(metrics),
        settings=training["settings"],
        command=f"hfgpt {command_of(recipe)} run.yaml --output_dir ANOTHER",
        versions={"python": platform.python_version(), "hfgpt": __version__, **{name: version(name) for name in _PACKAGES}},
        device=training["device"],
    )
    write_whole(folder / PAGE_FILE, page.encode("utf-8", errors="replace"))


def _facts(metrics: Mapping[str, Any], training: Mapping[str, Any], recipe: str) -> dict[str, str]:
    """The facts under the title."""
    seconds, joules = training["seconds"], training["joules"]
    parameters, trained = training["parameters"], training["trained_parameters"]
    facts = {
        "recipe": recipe,
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        "parameters": f"{parameters:,}" if parameters else "",
        "of which trained": f"{trained:,}" if trained and trained != parameters else "",
        "steps": f"{training['steps']:,}" if training["steps"] else "",
        "training": duration(seconds) if seconds else "",
        "machine": training["device"] or "",
        "processes": f"{training['num_devices']:,}" if (training["num_devices"] or 1) > 1 else "",
        "peak memory": size(metrics["peak_memory_bytes"]) if "peak_memory_bytes" in metrics else "",
        "energy": energy(joules) if joules else "",
    }
    return {name: str(value) for name, value in facts.items() if value}


def _shown(value: Any, is_share: bool = False) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return figure(value, is_share=is_share) if isinstance(value, float) else str("" if value is None else value)


def _samples(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
