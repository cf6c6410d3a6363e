"""Does the card agree with the files? Checks the front matter, the licence, the data and the figures in README.md."""

import math
import shlex
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from huggingface_hub import DatasetCard, ModelCard

from hfgpt.artifacts import METRICS_FILE, Artifact, adapter_around
from hfgpt.counting import listed
from hfgpt.files import read_json
from hfgpt.hub.card.placeholder import placeholders_in, with_repo_id
from hfgpt.hub.card.rendering import CARD_NAME, is_somebodys
from hfgpt.hub.card.settings import settings_place
from hfgpt.hub.file_names import is_file
from hfgpt.hub.gate.consistency import judged
from hfgpt.hub.gate.report import CheckResult, Disagreement
from hfgpt.hub.kinds import HUB_KINDS


def check_card(artifact: Artifact, published: Path, card: str | None) -> Iterator[CheckResult]:
    """Compare the text of the card with the files in `published`, the export of `artifact`; None if it has no card."""
    yield judged("card", lambda: _card(artifact, card))
    if card is not None:
        checks = (("licence", _license), ("data named", _data_named), ("card's figures", _figures), ("card's examples", _examples))
        for name, check in checks:
            yield judged(name, lambda check=check: check(artifact, published, card))


def _card(artifact: Artifact, card: str | None) -> str:
    if card is None:
        raise Disagreement(f"there is no {CARD_NAME}", _again(artifact))
    data, allowed = _loaded(artifact, card).data, HUB_KINDS.find(artifact.kind).libraries
    if not allowed:
        return "its front matter is valid for a data set on the Hub"
    cure = _again(artifact)
    if data.get("library_name") not in allowed:
        raise Disagreement(f"{CARD_NAME}: library_name is {data.get('library_name')}, but must be {' or '.join(allowed)}", cure)
    if artifact.task and data.get("pipeline_tag") != artifact.task:
        raise Disagreement(f"{CARD_NAME}: pipeline_tag is {data.get('pipeline_tag')}, but the files say {artifact.task}", cure)
    # An adapter's card does not need the tag: the code comes with its base.
    if artifact.custom_code and artifact.whole == artifact.folder and "custom_code" not in (data.get("tags") or []):
        raise Disagreement(f"{CARD_NAME}: the tag custom_code is missing, but the model comes with code", cure)
    return f"its front matter is valid for the Hub; {data.get('library_name')}, {data.get('pipeline_tag') or artifact.kind}"


def _again(artifact: Artifact, *, first: str = "") -> str:
    """How to correct a card: an edited one by hand, any other with recipes/check.py, which rewrites it before checking."""
    path = artifact.folder / CARD_NAME
    command = f"python recipes/check.py {shlex.quote(str(artifact.folder))}"
    if is_somebodys(path):
        return f"{path} was edited by hand, so hfgpt does not change it: correct it there, or {first}delete it and run {command}"
    return f"{first}run {command}, which rewrites the card"


def _loaded(artifact: Artifact, card: str) -> ModelCard | DatasetCard:
    cure = _again(artifact)
    try:
        loaded = (DatasetCard if HUB_KINDS.find(artifact.kind).repo_type == "dataset" else ModelCard)(card)
    except Exception as error:  # YAML errors, and errors of huggingface_hub for an unusual model-index
        raise Disagreement(f"the front matter of {CARD_NAME} cannot be read ({' '.join(str(error).split())[:200]})", cure) from None
    if not loaded.data.to_dict():
        raise Disagreement(f"{CARD_NAME} has no front matter between two lines ---", cure)
    return loaded


def _license(artifact: Artifact, published: Path, card: str) -> str:
    data = _loaded(artifact, card).data
    place = settings_place(artifact.folder)
    cure = _again(artifact, first=f"put a line such as license: apache-2.0 into {place} and ")
    license = data.get("license")
    if not license or not isinstance(license, (str, list)):
        raise Disagreement(f"{CARD_NAME} has no license; without one, nobody may use what you publish", cure)
    if license == "other" and not (data.get("license_name") and data.get("license_link")):
        raise Disagreement(f"{CARD_NAME}: the license is 'other', which requires license_name and license_link", cure)
    return str(data.get("license_name") or license)


def _data_named(artifact: Artifact, published: Path, card: str) -> str:
    if not (published / "passport.json").is_file():
        return "skip: there is no passport.json about the data"
    entries = read_json(published / "passport.json").get("inputs") or []
    if not entries:
        return "skip: passport.json names no data"
    inputs = [PureWindowsPath(str(entry.get("name"))).name for entry in entries if not is_file(entry)]
    if not inputs:
        return "only the owner's files, which need not be named in the card"
    # A card escapes Markdown characters.
    plain = card.replace("\\", "")
    missing = [name for name in inputs if name not in plain]
    if missing:
        said = f"{CARD_NAME} does not name the data {listed(missing, most=5)}, but passport.json does"
        raise Disagreement(said, _again(artifact))
    return listed(inputs, most=5)


def _figures(artifact: Artifact, published: Path, card: str) -> str:
    results = _loaded(artifact, card).data.get("eval_results") or []
    if not results:
        return "skip: the card's front matter has no model-index"
    known: list[float] = []
    # The merged model in an adapter's folder has the adapter's figures.
    around = adapter_around(artifact.folder)
    for place in (published, *([around] if around else [])):
        for name in ("evaluation.json", METRICS_FILE):
            known += _numbers(read_json(place / name)) if (place / name).is_file() else []
    for result in results:
        if not any(math.isclose(result.metric_value, number, rel_tol=1e-6, abs_tol=1e-9) for number in known):
            raise Disagreement(
                f"{CARD_NAME} says {result.metric_type} {result.metric_value} on {result.dataset_name}, which is neither in "
                f"evaluation.json nor in metrics.json",
                _again(artifact),
            )
    return f"{len(results)} figures of the model-index are in evaluation.json or metrics.json"


def _examples(artifact: Artifact, published: Path, card: str) -> str:
    path = artifact.folder / CARD_NAME
    if not is_somebodys(path):
        return "they name the repository, once it is published"
    # Publishing fills in the placeholders that hfgpt wrote; here, any name stands for the repository's.
    left = placeholders_in(with_repo_id(card, artifact.folder, "user/name"), artifact.folder)
    if left:
        line, placeholder = left[0]
        cure = f"write the id of the repository there, or delete {path} to have it written again"
        raise Disagreement(f"{CARD_NAME}, line {line}, names {placeholder}, which is only a placeholder", cure)
    return "edited by hand; they name the repository, once it is published"


def _numbers(content: object) -> list[float]:
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for part in content for number in _numbers(part)]
    return [content] if isinstance(content, (int, float)) and not isinstance(content, bool) else []
