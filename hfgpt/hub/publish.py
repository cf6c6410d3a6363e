"""From a folder to repositories on the Hub: what goes where, under which tag, and in which order.

model, native twin, GGUF, tokenizer   user/name
prepared data                         user/name, a dataset
adapter                               user/name-base, whose commit goes into the adapter's config; user/name; user/name-merged
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError

from hfgpt import __version__
from hfgpt.artifacts import ADAPTER_CONFIG, Artifact, identify
from hfgpt.counting import counted
from hfgpt.errors import UserError
from hfgpt.files import read_json
from hfgpt.hub.card.rendering import published_card
from hfgpt.hub.export import Exported, ExportedFile, export, with_card
from hfgpt.hub.kinds import HUB_KINDS, HubKind
from hfgpt.hub.upload import Repository, create_private, differing, look_at, make_public, one_sentence, others_in, send

logger = logging.getLogger(__name__)

ADAPTER_PARTS = ("base", "adapter", "merged")  # in this order: the adapter names its base's commit
_SUFFIXES = {"base": "-base", "merged": "-merged"}  # suffixes of the repositories beside the adapter's


@dataclass(frozen=True)
class Part:
    """One repository to publish.

    Args:
        name: which part of the folder it is: "base", "adapter", "merged", or the kind of the artifact.
        artifact: its contents.
        repo_id: its Hub id.
    """

    name: str
    artifact: Artifact
    repo_id: str

    @property
    def kind(self) -> HubKind:
        """The Hub's entry for its kind."""
        return HUB_KINDS.find(self.artifact.kind)

    @property
    def repo_type(self) -> str:
        return self.kind.repo_type


@dataclass(frozen=True)
class Prepared:
    """A part, exported to a separate folder with the card of its repository: this is what is checked and uploaded."""

    part: Part
    exported: Exported
    tag: str


@dataclass(frozen=True)
class Published:
    """A part as stored on the Hub, and how much of it was new."""

    part: Part
    repository: Repository
    tag: str
    sent: list[ExportedFile]


def check_repo_id(repo_id: str) -> str:
    """Raises: ValueError for an invalid repository name, and for one without an owner."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"repo {repo_id!r} is not a valid name on the Hub: {str(error).rstrip('.')}. Give USER/NAME.") from None
    if repo_id.count("/") != 1:
        raise UserError(f"repo {repo_id!r} has no owner; give USER/NAME, because a token may have access to several.")
    return repo_id


def check_tag(tag: str) -> str:
    """Raises: ValueError for an invalid git tag, and for names that mean something else on the Hub."""
    is_commit = re.fullmatch(r"[0-9a-f]{7,40}", tag)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise UserError(f"tag {tag!r} is not a valid tag; letters, digits and .-_+ are allowed, as in v1.0.")
    if tag in ("main", "HEAD") or is_commit:
        raise UserError(f"tag {tag!r} looks like a branch or a commit; give another name, such as v1.0.")
    return tag


def parts_of(folder: str | Path, repo_id: str, *, names: Iterable[str] = (), base_repo_id: str | None = None) -> list[Part]:
    """Which parts of `folder` are published, and where, in order of publishing.

    Args:
        names: for an adapter, which of its parts (default: all existing ones).
        base_repo_id: where the adapter's base already is; then `base` is not among the parts.
    Raises: ValueError for missing parts, and for ids that the Hub does not accept; FileNotFoundError for the folder.
    """
    artifact, names = identify(folder), list(names)
    check_repo_id(repo_id)
    there = artifact.parts
    if not artifact.needs_base and (names or base_repo_id):
        given = f"parts {', '.join(names)}" if names else f"base_repo {base_repo_id}"
        raise UserError(f"got {given}, but {folder} is a {artifact.kind}; only adapters have parts and a base. Leave it out.")
    if base_repo_id:
        check_repo_id(base_repo_id)
        there = {name: place for name, place in there.items() if name != "base"}
    for name in names:
        if name not in ADAPTER_PARTS:
            raise UserError(f"parts has {name!r}; allowed: {', '.join(ADAPTER_PARTS)}.")
        if name not in there:
            where = (
                f"base_repo says it is already at {base_repo_id}" if base_repo_id else f"{folder} has no {name}/ with a config.json"
            )
            raise UserError(f"parts has {name!r}, but {where}; leave it out, or write the folder again with its recipe.")
    chosen = [name for name in there if not names or name in names]
    if "adapter" in chosen and "base" not in chosen and not base_repo_id:
        raise UserError(
            "the adapter would be published without its base, but both are needed to load it; add base to --parts, or give the "
            "base's Hub id with --base_repo."
        )
    return [Part(name, identify(there[name]), check_repo_id(repo_id + _SUFFIXES.get(name, ""))) for name in chosen]


def prepare(
    part: Part,
    workspace: Path,
    *,
    tag: str | None = None,
    base_repo_id: str | None = None,
    base_revision: str | None = None,
    beside: Iterable[Part] = (),
) -> Prepared:
    """Export a part with its card and hash it; the export is then checked and uploaded.

    Args:
        workspace: a folder for exports.
        tag: the tag (default: one derived from the SHA-256 of the weights, the text or the data).
        base_repo_id, base_revision: for an adapter and its merged model, the location of the base; the adapter's config contains
            both.
        beside: the parts that are published together, which the card names.
    Raises: ValueError, see `export` and `published_card`.
    """
    base = {"base_repo_id": base_repo_id, "base_revision": base_revision} if part.artifact.needs_base else {}
    base_model = base_repo_id if part.name in ("adapter", "merged") else None
    folder = workspace / part.repo_id.replace("/", "--")
    exported = export(part.artifact, folder, repo_id=part.repo_id, **base)
    tag = tag or default_tag(part, exported.files)
    places = {one.name: one.repo_id for one in beside}
    card = published_card(part.artifact, repo_id=part.repo_id, base_model=base_model, tag=tag, beside=places)
    exported = with_card(exported, card)  # last, because it names the tag, which the other files determine
    for file in exported.files:
        file.take_hashes()
    return Prepared(part, exported, tag)


def with_base_commit(prepared: Prepared, commit: str) -> Prepared:
    """An adapter's export with the commit of its base, the only value that is known only after the base is uploaded."""
    path = prepared.exported.folder / ADAPTER_CONFIG
    settings = read_json(path) | {"revision": commit}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files = [ExportedFile(file.path, file.name) if file.path == path else file for file in prepared.exported.files]
    return replace(prepared, exported=replace(prepared.exported, files=files))


def default_tag(part: Part, files: Iterable[ExportedFile]) -> str:
    """`weights-1a2b3c4d`: the beginning of the SHA-256 of the weights, as given by sha256sum; for several files, that of the
    list."""
    main = [file for file in files if file.name.endswith(part.kind.main_files)]
    if not main:
        endings = " or ".join(part.kind.main_files)
        raise UserError(f"{part.artifact.folder} has no file that ends in {endings}, so there is nothing to publish.")
    if len(main) == 1:
        return f"{part.kind.tag}-{main[0].sha256[:8]}"
    listed = "".join(f"{file.sha256}  {file.name}\n" for file in main)
    return f"{part.kind.tag}-{hashlib.sha256(listed.encode()).hexdigest()[:8]}"


def check_base(api: HfApi, artifact: Artifact, base: Repository) -> str:
    """Compare the base on the Hub with the one that the adapter was trained on.

    Returns: how the match was established.
    Raises: ValueError if they differ, or if it cannot be determined.
    """
    local = [ExportedFile(path, path.name) for path in sorted(artifact.base.glob("*.safetensors"))] if artifact.base else []
    if local and not differing(base, local):
        return "its weight files have the same SHA-256 as those in base/"
    passport = artifact.folder / "passport.json"
    trained_on = read_json(passport).get("base", {}).get("sha256") if passport.is_file() else None
    if trained_on is None:
        raise UserError(
            f"{base.repo_id} has different files than {artifact.folder / 'base'}, and no passport.json says which weights the "
            f"adapter was trained on; publish the adapter's own base by leaving out --base_repo."
        )
    found = _weights_on_the_hub(api, base)
    if found != trained_on:
        raise UserError(
            f"{base.repo_id} at {base.commit[:8]} has weights with the SHA-256 {found}, but the adapter was trained on "
            f"{trained_on}; with a different base, it gives different answers. Give the right --base_repo or --base_revision, or "
            f"leave both out to publish base/."
        )
    return "its weights have the SHA-256 recorded in the adapter's passport.json"


def _weights_on_the_hub(api: HfApi, base: Repository) -> str:
    # The passport's hash covers the tensors in float32, whatever the files, so the model has to be loaded. No code from the
    # repository is downloaded.
    from transformers import AutoModel

    from hfgpt.fingerprint import weights_sha256

    with one_sentence(f"reading the base {base.repo_id}"):
        files = ["*.json", "*.safetensors"]
        folder = api.snapshot_download(base.repo_id, revision=base.commit, allow_patterns=files)
    try:
        return weights_sha256(AutoModel.from_pretrained(folder, dtype="float32", use_safetensors=True))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].replace(str(folder), base.repo_id)
        raise UserError(f"{base.repo_id} is not a model that loads as a base ({reason}); check --base_repo.") from None


def publish_part(api: HfApi, prepared: Prepared, *, explicit_tag: bool, delete_others: bool) -> Published:
    """Upload one part, verify it, and tag it.

    Args:
        explicit_tag: the tag was given by the user, so it must cover all files; our default tag only covers the weights.
        delete_others: delete files on the Hub that the export does not contain.
    Raises: ValueError if the tag has different content, before anything is uploaded; errors of `send`.
    """
    part, tag, exported = prepared.part, prepared.tag, prepared.exported
    repository = create_private(api, part.repo_id, part.repo_type)
    if not repository.private:
        logger.info(f"{part.repo_id}: is already public and stays public")
    if tag in repository.tags:
        _check_tagged(api, prepared, explicit_tag=explicit_tag)
    if others := others_in(repository, exported.files):
        what = "deleted" if delete_others else "kept (--delete_others true deletes such files)"
        logger.info(f"{part.repo_id}: {counted(len(others), 'files')} not in the export, {what}: {', '.join(others)}")
    message = f"Publish with hfgpt {__version__}"
    now, sent = send(api, repository, exported.files, message=message, delete_others=delete_others)
    there = len(exported.files) - len(sent)
    already = f" ({there:,} already there)" if there else ""
    logger.info(
        f"{part.repo_id}: {counted(len(sent), 'files')} uploaded{already}; all {exported.size:,} bytes match the SHA-256 of the "
        f"export; commit {now.commit[:8]}"
    )
    if tag not in now.tags:
        with one_sentence(f"tagging {part.repo_id}", cure="All files are uploaded; run the same command again."):
            api.create_tag(part.repo_id, tag=tag, revision=now.commit, repo_type=part.repo_type)
        logger.info(f"{part.repo_id}: tagged {tag}")
    return Published(part, now, tag, sent)


def _check_tagged(api: HfApi, prepared: Prepared, *, explicit_tag: bool) -> None:
    part, tag, files = prepared.part, prepared.tag, prepared.exported.files
    if (tagged := look_at(api, part.repo_id, part.repo_type, revision=tag)) is None:
        return  # deleted in the meantime
    differ = [file.name for file in differing(tagged, files)]
    if explicit_tag:
        differ += others_in(tagged, files)
    else:  # a card may be improved; this tag only stands for the weights
        differ = [name for name in differ if name.endswith(part.kind.main_files)]
    if differ:
        raise UserError(
            f"tag {tag} of {part.repo_id} has different content ({', '.join(differ)}) at commit {tagged.commit[:8]}. Tags are "
            f"never moved, because others rely on them; give a new one with --tag. Nothing was uploaded to this repository."
        )


def publish(
    exports: list[Prepared],
    *,
    api: HfApi,
    tag: str | None = None,
    public: bool = False,
    delete_others: bool = False,
) -> list[Published]:
    """Upload all parts, one after the other; they become public only after all of them are complete.

    Args:
        exports: the parts in the order of `parts_of`; the adapter's config gets the commit of its base after the base is uploaded.
        tag: the tag of every part; by default, each gets its own.
    Raises: errors of `publish_part` and `make_public`; earlier parts are then complete.
    """
    done: list[Published] = []
    for prepared in exports:
        base = next((published.repository for published in done if published.part.name == "base"), None)
        if prepared.part.name == "adapter" and base is not None:
            prepared = with_base_commit(prepared, base.commit)
        done.append(publish_part(api, prepared, explicit_tag=tag is not None, delete_others=delete_others))
    if public:
        for place, published in enumerate(done):
            if published.repository.private:
                make_public(api, published.repository)
                done[place] = replace(published, repository=replace(published.repository, private=False))
                logger.info(f"{published.part.repo_id}: now public")
    return done
