"""Publish a folder on the Hugging Face Hub: checked, clean, private first.

    python recipes/publish.py runs/quickstart/base --repo USER/NAME                              # a dry run: nothing is uploaded
    python recipes/publish.py runs/quickstart/base --repo USER/NAME --push true                  # uploaded, private, tagged
    python recipes/publish.py runs/quickstart/base --repo USER/NAME --push true --public true --tag v1.0
    python recipes/publish.py runs/quickstart/assistant --repo USER/NAME --push true             # base, adapter and merged model
    python recipes/publish.py runs/mine/lora --repo USER/NAME --push true --base_repo USER/BASE  # the base is already on the Hub

Models, adapters, native twins, GGUF files, tokenizers and prepared data. The gate of recipes/check.py must pass. The token comes
from `hf auth login` or HF_TOKEN. After an interrupted upload, the same command uploads the rest.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.publishing:PublishArguments")

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi

from hfgpt.arguments.commands import command_line
from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.publishing import PublishArguments
from hfgpt.arguments.terminal import RESULT
from hfgpt.artifacts import identify
from hfgpt.counting import counted
from hfgpt.errors import UserError
from hfgpt.hub.card.rendering import CARD_NAME, is_somebodys, renew_card
from hfgpt.hub.gate.check import check_exports
from hfgpt.hub.publish import Part, Prepared, check_base, check_tag, parts_of, prepare, publish
from hfgpt.hub.upload import Repository, look_at, progress_bars_only_in_a_terminal, sign_in


def main(args: PublishArguments) -> dict[str, float]:
    # 1. Everything that can be wrong before any work
    parts = parts_of(args.folder, args.repo, names=args.parts, base_repo_id=args.base_repo or None)
    tag = check_tag(args.tag) if args.tag else None
    progress_bars_only_in_a_terminal()
    api = HfApi()
    base = None
    if args.push:
        user = sign_in(api, sorted({part.repo_id.split("/")[0] for part in parts}))
        logger.info(f"publish: signed in at {api.endpoint} as {user}")
        base = base_on_the_hub(api, args, parts)

    # 2. Clean folders with the cards of their repositories, which are checked and uploaded
    for card in renew_card(args.folder):
        logger.info(f"card: {card} rewritten")
    with export_folder(Path(args.folder)) as workspace:
        base_repo_id = args.base_repo or next((part.repo_id for part in parts if part.name == "base"), None)
        place = {"base_repo_id": base_repo_id, "base_revision": base.commit if base else None}
        exports = [prepare(part, workspace, tag=tag, beside=parts, **place) for part in parts]
        say_edited(exports)

        # 3. The gate, for each part
        gate(Path(args.folder), exports, workspace)
        for prepared in exports:
            show(prepared)
        files = [file for prepared in exports for file in prepared.exported.files]
        figures: dict[str, float] = {"files": len(files), "bytes": sum(file.size for file in files)}
        if not args.push:
            logger.log(
                RESULT,
                f"dry run: nothing was uploaded. To upload {figures['bytes']:,} bytes in {counted(figures['files'], 'files')}:",
            )
            logger.log(RESULT, f"next: {send_command(args)}")
            return figures | {"sent": 0}

        # 4. The Hub: the base first, because the adapter's config contains its commit
        done = publish(exports, api=api, tag=tag, public=args.public, delete_others=args.delete_others)

    # 5. Report
    for published in done:
        kind = "" if published.part.repo_type == "model" else f"{published.part.repo_type}s/"
        seen = "private" if published.repository.private else "public"
        logger.log(RESULT, f"published: {api.endpoint}/{kind}{published.part.repo_id} ({seen}), tag {published.tag}")
    if not args.public and any(published.repository.private for published in done):
        logger.log(RESULT, "Nobody else can see it yet; check it there first. To make it public:")
        logger.log(RESULT, f"next: {send_command(args, public=True)}")
    return figures | {"sent": sum(len(published.sent) for published in done)}


def base_on_the_hub(api: HfApi, args: PublishArguments, parts: list[Part]) -> Repository | None:
    """The base that is already on the Hub, compared with the one the adapter was trained on."""
    if not args.base_repo:
        return None
    base = look_at(api, args.base_repo, "model", revision=args.base_revision or None)
    if base is None:
        raise UserError(
            f"base_repo {args.base_repo} at {args.base_revision or 'main'} is not on {api.endpoint}, or this token cannot see it; "
            f"check the spelling, or leave it out to publish base/."
        )
    for part in parts:
        if part.name == "adapter":
            logger.info(f"base: {base.repo_id} at {base.commit[:8]}: {check_base(api, part.artifact, base)}")
    return base


def say_edited(exports: list[Prepared]) -> None:
    """Name the cards that a person wrote or edited, because hfgpt does not bring them up to date."""
    for part in (prepared.part for prepared in exports):
        if is_somebodys(path := part.artifact.folder / CARD_NAME):
            logger.log(RESULT, f"card: {path} was edited by hand, so it is published as it is, with {part.repo_id} as its name")


def gate(folder: Path, exports: list[Prepared], workspace: Path) -> None:
    """Print the results for each part; publishing only continues if nothing failed."""
    checked = {prepared.part.name: prepared.exported for prepared in exports}
    reports = list(check_exports(identify(folder), checked, workspace))
    for report in reports:
        logger.log(RESULT, f"check of {report.folder}: {report.summary()}" if report.passed else report.table())
    failed = [report.folder for report in reports if not report.passed]
    if failed:
        raise UserError(
            f"{', '.join(failed)} did not pass the check above, so nothing was uploaded; fix what failed, and run the same command "
            f"again. `python recipes/check.py {shlex.quote(failed[0])}` runs only the check."
        )


@contextmanager
def export_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder for the exports, beside `folder` if possible, where weights are links and take no space."""
    try:
        temporary = tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".hfgpt-publish-")
    except OSError:
        temporary = tempfile.TemporaryDirectory(prefix="hfgpt-publish-")
    with temporary as path:
        yield Path(path)


def show(prepared: Prepared) -> None:
    """Every file with its size."""
    part = prepared.part
    logger.info(f"{part.repo_id} ({part.name}, a {part.repo_type} repository), tag {prepared.tag}")
    for file in prepared.exported.files:
        logger.info(f"{file.size:>16,}  {file.name}")
    logger.info(f"{prepared.exported.size:>16,}  bytes in {counted(len(prepared.exported.files), 'files')}")


def send_command(args: PublishArguments, **changes: bool) -> str:
    """The command line that uploads what `args` describes."""
    return command_line("publish", *args.as_command(push=True, **changes))


if __name__ == "__main__":
    launch(main, PublishArguments)
