"""From a folder of ours to repositories on the Hub: what goes where, under which tag, and in which order.

model, native twin, GGUF, tokenizer   user/name
prepared data                         user/name, a dataset
adapter                               user/name-base, whose commit goes into the adapter's config; user/name; user/name-merged
"""

import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError

from hfgpt.artifacts import Artifact, identify
from hfgpt.errors import UserError
from hfgpt.files import read_json
from hfgpt.hub.card.card import CARD_NAME, published_card
from hfgpt.hub.export import export, refuse_tokens
from hfgpt.hub.gate.scan import scan
from hfgpt.hub.upload import (
    ExportedFile,
    Repository,
    create_private,
    describe,
    differing,
    look_at,
    make_public,
    one_sentence,
    others_in,
    send,
)

logger = logging.getLogger(__name__)

ADAPTER_PARTS = ("base", "adapter", "merged")  # in this order: the adapter names its base's commit
_MAIN = {"dataset": ("data", ".arrow"), "tokenizer": ("tokenizer", "tokenizer.json")}
_WEIGHTS = ("weights", (".safetensors", ".gguf"))


@dataclass(frozen=True)
class Part:
    """One repository that is to be.

    Args:
        name: what it is of the folder: "base", "adapter", "merged", or the kind of the artifact.
        artifact: what goes there.
        repo_id, repo_type: where.
    """

    name: str
    artifact: Artifact
    repo_id: str
    repo_type: str = "model"


@dataclass(frozen=True)
class Prepared:
    """A part, exported into a folder of its own."""

    part: Part
    folder: Path
    files: list[ExportedFile]
    tag: str

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Published:
    """A part as it lies on the Hub, and how much of it was new there."""

    part: Part
    repository: Repository
    tag: str
    sent: list[ExportedFile]


def check_repo_id(repo_id: str) -> str:
    """Raises: ValueError for what the Hub takes for no name of a repository, and for one without its owner."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"repo {repo_id!r} is no name on the Hub: {str(error).rstrip('.')}. Give USER/NAME.") from None
    if repo_id.count("/") != 1:
        raise UserError(f"repo {repo_id!r} lacks its owner; give USER/NAME, because a token may write for several.")
    return repo_id


def check_tag(tag: str) -> str:
    """Raises: ValueError for what git takes for no tag, and for names that mean something else on the Hub."""
    is_commit = re.fullmatch(r"[0-9a-f]{7,40}", tag)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise UserError(f"tag {tag!r} is no name of a tag; letters, digits and .-_+ are allowed, as in v1.0.")
    if tag in ("main", "HEAD") or is_commit:
        raise UserError(f"tag {tag!r} reads as a branch or a commit; give another name, as v1.0.")
    return tag


def parts_of(folder: str | Path, repo_id: str, *, names: Iterable[str] = (), base_repo_id: str | None = None) -> list[Part]:
    """What of `folder` is published, and where, in the order of publishing.

    Args:
        names: of an adapter, which of its parts; all that are there without it.
        base_repo_id: where the adapter's base lies already; then `base` is not among the parts.
    Raises: ValueError for names that are not there, and for ids that the Hub does not take; FileNotFoundError for the folder.
    """
    artifact, names = identify(folder), list(names)
    check_repo_id(repo_id)
    if artifact.kind != "adapter":
        if names or base_repo_id:
            given = f"parts {', '.join(names)}" if names else f"base_repo {base_repo_id}"
            raise UserError(f"got {given}, but {folder} is a {artifact.kind}; only adapters have parts and a base. Leave it out.")
        return [Part(artifact.kind, artifact, repo_id, "dataset" if artifact.kind == "dataset" else "model")]
    there = {"base": artifact.base, "adapter": artifact.folder, "merged": artifact.merged}
    if base_repo_id:
        check_repo_id(base_repo_id)
        there["base"] = None
    for name in names:
        if name not in ADAPTER_PARTS:
            raise UserError(f"parts holds {name!r}; allowed are {', '.join(ADAPTER_PARTS)}.")
        if there[name] is None:
            where = f"base_repo says that it is {base_repo_id}" if base_repo_id else f"{folder} holds no {name}/ with a config.json"
            raise UserError(f"parts names {name!r}, but {where}; leave it out, or write the folder again with its recipe.")
    chosen = [name for name in ADAPTER_PARTS if there[name] is not None and (not names or name in names)]
    if "adapter" in chosen and "base" not in chosen and not base_repo_id:
        raise UserError(
            "an adapter is published without its base; strangers load both, so add base to --parts, or name with --base_repo "
            "where on the Hub the base lies."
        )
    suffixes = {"base": "-base", "adapter": "", "merged": "-merged"}
    return [Part(name, identify(there[name]), check_repo_id(repo_id + suffixes[name])) for name in chosen]


def prepare(
    part: Part, workspace: Path, *, tag: str | None = None, base_repo_id: str | None = None, base_revision: str | None = None
) -> Prepared:
    """Export a part with its card, and hash it.

    Args:
        workspace: a folder for exports.
        tag: the tag; without it one that says the weights (the text, the data) by their SHA-256.
        base_repo_id, base_revision: of an adapter and its merged twin, where the base lies; the adapter's config names both.
    Raises: ValueError as `export` and `published_card` do.
    """
    folder = workspace / part.repo_id.replace("/", "--")
    base = {"base_repo_id": base_repo_id, "base_revision": base_revision} if part.artifact.kind == "adapter" else {}
    names = export(part.artifact, folder, repo_id=part.repo_id, **base)
    base_model = base_repo_id if part.name in ("adapter", "merged") else None
    text = published_card(part.artifact, repo_id=part.repo_id, base_model=base_model)
    (folder / CARD_NAME).write_text(text, encoding="utf-8", newline="\n")
    names = sorted({*names, Path(CARD_NAME)})
    refuse_tokens([folder / CARD_NAME], where=f"the files for {part.repo_id}")
    # The gate looked at the folder's own card and adapter config; these are the ones that leave.
    for result in scan(part.artifact, folder, names):
        if result.status == "fail":
            raise UserError(f"the files for {part.repo_id} fail '{result.name}': {result.detail}; {result.cure}.")
    files = describe(folder, names)
    return Prepared(part, folder, files, tag or default_tag(part.artifact, files))


def default_tag(artifact: Artifact, files: Iterable[ExportedFile]) -> str:
    """`weights-1a2b3c4d`: how the SHA-256 of the weights begins, as sha256sum says it; of several files, that of the list."""
    word, ending = _MAIN.get(artifact.kind, _WEIGHTS)
    main = [file for file in files if file.name.endswith(ending)]
    if not main:
        raise UserError(f"{artifact.folder} holds no file that ends in {ending}, so there is nothing to publish in it.")
    if len(main) == 1:
        return f"{word}-{main[0].sha256[:8]}"
    listed = "".join(f"{file.sha256}  {file.name}\n" for file in main)
    return f"{word}-{hashlib.sha256(listed.encode()).hexdigest()[:8]}"


def check_base(api: HfApi, artifact: Artifact, base: Repository) -> str:
    """Compare the base on the Hub with the one that the adapter was trained on.

    Returns: how it was told that they are the same.
    Raises: ValueError where they differ, or where nothing tells.
    """
    local = (
        describe(artifact.base, sorted(Path(path.name) for path in artifact.base.glob("*.safetensors"))) if artifact.base else []
    )
    if local and not differing(base, local):
        return "the files of its weights have the SHA-256 of those in base/"
    passport = artifact.folder / "passport.json"
    trained_on = read_json(passport).get("base", {}).get("sha256") if passport.is_file() else None
    if trained_on is None:
        raise UserError(
            f"{base.repo_id} holds other files than {artifact.folder / 'base'}, and no passport.json says which weights the "
            "adapter was trained on; publish its own base: leave out --base_repo."
        )
    found = _weights_on_the_hub(api, base)
    if found != trained_on:
        raise UserError(
            f"{base.repo_id} at {base.commit[:8]} has weights with the SHA-256 {found}, the adapter was trained on {trained_on}: "
            "with another base it answers otherwise. Give the right --base_repo or --base_revision, or publish base/ without them."
        )
    return "its weights have the SHA-256 that the adapter's passport.json names"


def _weights_on_the_hub(api: HfApi, base: Repository) -> str:
    # The passport's hash is that of the tensors in float32, whatever the files: the model has to be read for it. None of the code
    # that a repository brings is fetched.
    from transformers import AutoModel

    from hfgpt.fingerprint import weights_sha256

    with one_sentence(f"reading the base {base.repo_id}"):
        files = ["*.json", "*.safetensors"]
        folder = api.snapshot_download(base.repo_id, revision=base.commit, allow_patterns=files)
    try:
        return weights_sha256(AutoModel.from_pretrained(folder, dtype="float32", use_safetensors=True))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].replace(str(folder), base.repo_id)
        raise UserError(f"{base.repo_id} is no model that loads as a base ({reason}); check --base_repo.") from None


def publish_part(api: HfApi, prepared: Prepared, *, explicit_tag: bool, delete_others: bool) -> Published:
    """Send one part, compare what arrived, and tag it.

    Args:
        explicit_tag: the tag was asked for by name, so it has to mean all the files; a tag of ours says only the weights.
        delete_others: delete on the Hub what the export does not hold.
    Raises: ValueError where the tag has other content, before anything is sent; what `send` raises.
    """
    part, tag = prepared.part, prepared.tag
    repository = create_private(api, part.repo_id, part.repo_type)
    if not repository.private:
        logger.info(f"{part.repo_id}: is public already, and stays so")
    if tag in repository.tags:
        _check_tagged(api, prepared, explicit_tag=explicit_tag)
    others = others_in(repository, prepared.files)
    if others:
        what = "are deleted" if delete_others else "stay there; --delete_others true deletes them"
        logger.info(f"{part.repo_id}: {len(others)} files that are not in the export {what}: {', '.join(others)}")
    message = f"Publish with hfgpt {version('hfgpt')}"
    now, sent = send(api, repository, prepared.folder, prepared.files, message=message, delete_others=delete_others)
    logger.info(
        f"{part.repo_id}: {len(sent)} of {len(prepared.files)} files sent, the others were there; all {prepared.size:,} bytes have "
        f"the SHA-256 of the export; commit {now.commit[:8]}"
    )
    if tag not in now.tags:
        with one_sentence(f"tagging {part.repo_id}", cure="All files are there; run the same command again."):
            api.create_tag(part.repo_id, tag=tag, revision=now.commit, repo_type=part.repo_type)
        logger.info(f"{part.repo_id}: tagged {tag}")
    return Published(part, now, tag, sent)


def _check_tagged(api: HfApi, prepared: Prepared, *, explicit_tag: bool) -> None:
    part, tag = prepared.part, prepared.tag
    tagged = look_at(api, part.repo_id, part.repo_type, revision=tag)
    differ = [file.name for file in differing(tagged, prepared.files)]
    if explicit_tag:
        differ += others_in(tagged, prepared.files)
    else:  # a card may get better; the weights are what this tag names
        _, ending = _MAIN.get(part.artifact.kind, _WEIGHTS)
        differ = [name for name in differ if name.endswith(ending)]
    if differ:
        raise UserError(
            f"tag {tag} of {part.repo_id} has other content ({', '.join(differ)}) at commit {tagged.commit[:8]}, and a tag stays "
            "what it is, because others rely on it: give a new one with --tag. Nothing was sent to this repository."
        )


def publish(
    exports: list[Prepared],
    workspace: Path,
    *,
    api: HfApi,
    tag: str | None = None,
    base: Repository | None = None,
    public: bool = False,
    delete_others: bool = False,
) -> list[Published]:
    """Send all parts, one after the other; public only when all of them have arrived.

    Args:
        exports: the parts in the order of `parts_of`; the adapter is exported again into `workspace` once its base has a commit.
        tag: the tag of every part; without it each gets its own.
        base: of an adapter, the base that lies on the Hub already; else the part "base" is the base.
    Raises: what `prepare`, `publish_part` and `make_public` raise; the parts before it are complete then.
    """
    done: list[Published] = []
    for prepared in exports:
        if prepared.part.name == "adapter" and base is not None:
            final = workspace / "final"
            prepared = prepare(prepared.part, final, tag=tag, base_repo_id=base.repo_id, base_revision=base.commit)
        done.append(publish_part(api, prepared, explicit_tag=tag is not None, delete_others=delete_others))
        if prepared.part.name == "base":
            base = done[-1].repository
    if public:
        for place, published in enumerate(done):
            if published.repository.private:
                make_public(api, published.repository)
                done[place] = replace(published, repository=replace(published.repository, private=False))
                logger.info(f"{published.part.repo_id}: public now")
    return done
