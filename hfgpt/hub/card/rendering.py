"""The card of a folder: README.md with front matter for the Hub, made only from the folder's own files.

    python -m hfgpt.hub.card runs/quickstart/base                          # rewrites its README.md
    python -m hfgpt.hub.card runs/quickstart/base --output_file card.md    # writes it elsewhere

A card that a person has edited is never overwritten: its last line contains a SHA-256 of the generated text.
"""

import argparse
import logging
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

import jinja2
from huggingface_hub import CardData, DatasetCard, DatasetCardData, ModelCard, ModelCardData

from hfgpt.arguments.card import MARKDOWN
from hfgpt.artifacts import Artifact, identify
from hfgpt.data.passport import SPLITS
from hfgpt.errors import MissingFileError, UserError, sentence_of
from hfgpt.files import write_whole
from hfgpt.hub.card.context import context_of
from hfgpt.hub.card.markdown import FILTERS, Markdown, escaped
from hfgpt.hub.card.placeholder import with_repo_id
from hfgpt.hub.card.seal import is_ours, sealed
from hfgpt.hub.card.settings import load_settings
from hfgpt.hub.kinds import HUB_KINDS, HubKind

logger = logging.getLogger(__name__)

CARD_NAME, GENERATED_NAME = "README.md", "README.generated.md"
# At the top level of the repository; in an installed wheel, beside this package.
TEMPLATE_FOLDERS = (Path(__file__).parents[3] / "model_cards", Path(__file__).parents[1] / "model_cards")


def render_card(
    artifact: Artifact,
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    tag: str | None = None,
    beside: Mapping[str, str] | None = None,
) -> str:
    """The text of the card, front matter first.

    Args:
        repo_id: where it is or will be published, for the commands that load it; without it, a placeholder.
        base_model: Hub id of the model that an adapter, a fine-tuned or a converted model is based on, if the files do not say.
        tag: the tag of this version in the repository.
        beside: the repositories of the parts that are published with it, by their names: base, adapter, merged.
    Raises: ValueError for a file of the folder that is not JSON, and for an invalid card.yaml.
    """
    settings = load_settings(artifact.folder)
    if base_model:
        settings["base_model"] = base_model
    kind, context = HUB_KINDS.find(artifact.kind), context_of(artifact, settings, repo_id=repo_id, tag=tag, beside=beside)
    texts = {key: str(settings[key]) for key in MARKDOWN if settings.get(key)}
    # The owner's Markdown is inserted last, so neither Jinja nor the removal of blank lines affects it.
    marks = {key: f"owner{secrets.token_hex(16)}" for key in texts}
    template = _environment(kind.template_folder).get_template(f"{kind.template(artifact, context)}.md")
    body = template.render(context | {key: Markdown(mark) for key, mark in marks.items()})
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in body.splitlines())).strip()
    for key, mark in marks.items():
        body = body.replace(mark, texts[key])
    data = _front_matter(artifact, kind, settings, context)
    text = f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{body}\n"
    if (DatasetCard if kind.repo_type == "dataset" else ModelCard)(text).data.to_dict() != data.to_dict():
        raise UserError(f"the front matter for {artifact.folder} cannot be read back as written; check its card.yaml and labels.")
    return text


def write_card(folder: str | Path, *, repo_id: str | None = None, base_model: str | None = None) -> Path:
    """Write README.md; for an adapter, also those in its base/ and merged/.

    A card that a person has written or edited is not changed; the new one is written beside it as README.generated.md.

    Returns: the path of the folder's card.
    Raises: see `identify` and `render_card`.
    """
    for place, artifact in enumerate(_with_cards(folder)):
        told = (None, None) if place else (repo_id, base_model)  # only the folder itself has these
        path, text = artifact.folder / CARD_NAME, sealed(render_card(artifact, repo_id=told[0], base_model=told[1]))
        if is_somebodys(path):
            generated = artifact.folder / GENERATED_NAME
            write_whole(generated, text)
            logger.warning(
                f"{path} was written or edited by hand, so it is kept; the card that hfgpt would write is {generated}. Put text "
                f"for every card of this folder into its card.yaml; to have README.md written again, delete it."
            )
        else:
            write_whole(path, text)
            (artifact.folder / GENERATED_NAME).unlink(missing_ok=True)
    return Path(folder) / CARD_NAME


def renew_card(folder: str | Path) -> list[Path]:
    """Rewrite the cards of a folder (for an adapter, also of its base/ and merged/) if its files or card.yaml have changed.

    A card that a person has written or edited is kept, and so is one in a read-only place.

    Returns: the cards that were written. Raises: see `identify` and `render_card`.
    """
    written = []
    for artifact in _with_cards(folder):
        path, text = artifact.folder / CARD_NAME, sealed(render_card(artifact))
        if is_somebodys(path) or (path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text):
            continue
        try:
            write_whole(path, text)
        except OSError as error:
            logger.warning(f"{path} is not updated, because it cannot be written ({error.strerror})")
            continue
        written.append(path)
    return written


def published_card(
    artifact: Artifact,
    *,
    repo_id: str,
    base_model: str | None = None,
    tag: str | None = None,
    beside: Mapping[str, str] | None = None,
) -> str:
    """The text of README.md in the repository `repo_id`: a new card for it, or the one that a person wrote or edited, in which
    only the placeholder of that name is filled in.

    Args: as for `render_card`.
    """
    path = artifact.folder / CARD_NAME
    if is_somebodys(path):
        return with_repo_id(path.read_text(encoding="utf-8", errors="replace"), artifact.folder, repo_id)
    return sealed(render_card(artifact, repo_id=repo_id, base_model=base_model, tag=tag, beside=beside))


def edited_cards(folder: str | Path) -> list[Path]:
    """The cards of a folder, as in `renew_card`, that a person wrote or edited."""
    cards = [artifact.folder / CARD_NAME for artifact in _with_cards(folder)]
    return [card for card in cards if is_somebodys(card)]


def _with_cards(folder: str | Path) -> list[Artifact]:
    """The folder and, for an adapter, its base and merged model; the folder itself first."""
    artifact = identify(folder)
    twins = [place for place in (artifact.base, artifact.merged) if place is not None and place.parent == artifact.folder]
    return [artifact, *map(identify, twins)]


def is_somebodys(path: Path) -> bool:
    """Whether a person wrote or edited this card."""
    return path.is_file() and not is_ours(path.read_text(encoding="utf-8", errors="replace"))


def _environment(template_folder: Path | None) -> jinja2.Environment:
    folder = next((folder for folder in TEMPLATE_FOLDERS if (folder / "_card.md").is_file()), None)
    if folder is None:
        raise MissingFileError(f"the card templates are missing (searched {' and '.join(map(str, TEMPLATE_FOLDERS))}).")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, *([template_folder] if template_folder else [])]),
        finalize=escaped, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= FILTERS
    return environment


def _front_matter(artifact: Artifact, kind: HubKind, settings: dict, context: dict) -> CardData:
    data, base = context["data"], context["base"]
    common = {key: settings[key] for key in ("language", "license", "license_name", "license_link") if settings.get(key)}
    if kind.repo_type == "dataset":
        rows = sum(counts.get("rows", 0) for counts in data["splits"].values())
        splits = [name for name in SPLITS if any((artifact.folder / name).glob("data-*.arrow"))]
        files = [{"split": name, "path": f"{name}/data-*.arrow"} for name in splits]
        return DatasetCardData(
            **common, pretty_name=context["title"], task_categories=["text-generation"], size_categories=[_size_category(rows)],
            source_datasets=data["hub_ids"] or None, tags=["hfgpt"], configs=[{"config_name": "default", "data_files": files}],
        )  # fmt: skip
    common["library_name"] = kind.libraries[0]
    common["tags"] = ["hfgpt", *(["custom_code"] if artifact.custom_code else []), *kind.tags]
    if artifact.task is None:  # not weights imported from elsewhere and measured
        return ModelCardData(**common)
    conversion = context["conversion"]
    origin = base["hub_id"] or (conversion["hub_id"] if conversion else None)
    relation = kind.relation or (None if conversion else "finetune")
    datasets = settings.get("datasets") or data["hub_ids"] or None
    return ModelCardData(
        **common,
        base_model=origin,
        base_model_relation=relation if origin else None,
        datasets=[datasets] if isinstance(datasets, str) else datasets,
        pipeline_tag=artifact.task,
        model_name=context["title"] if context["index"] else None,
        eval_results=context["index"] or None,
    )


def _size_category(rows: int) -> str:
    """The Hub's size category for a number of rows."""
    bounds = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
    return next((name for bound, name in bounds if rows < bound), "n>10M")


def main(words: list[str]) -> None:
    """Write the card of a folder, or elsewhere with `--output_file`."""
    parser = argparse.ArgumentParser(prog="python -m hfgpt.hub.card", description="Write the card of a folder.")
    parser.add_argument("folder", help="folder written by a recipe: a model, adapter, GGUF, tokenizer or prepared data")
    parser.add_argument("--repo_id", help="user/name on the Hub, for the commands that load it")
    parser.add_argument("--base_model", help="Hub id of its base model")
    parser.add_argument("--output_file", type=Path, help="write the card to this file instead of the folder's README.md")
    args = parser.parse_args(words)
    logging.basicConfig(format="%(message)s", level=os.environ.get("LOGLEVEL", "WARNING"))
    try:
        if args.output_file is None:
            path = write_card(args.folder, repo_id=args.repo_id, base_model=args.base_model)
        else:
            path = args.output_file
            text = render_card(identify(args.folder), repo_id=args.repo_id, base_model=args.base_model)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
    except (UserError, OSError) as error:
        if (sentence := sentence_of(error)) is None:
            raise
        sys.exit(f"error: {sentence}")
    print(f"card: {path}")
