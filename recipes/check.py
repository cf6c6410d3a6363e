"""The gate: check what would be published from a folder, as a stranger would receive it.

    python recipes/check.py runs/quickstart/base
    python recipes/check.py runs/quickstart/assistant                     # an adapter, its base and its merged model
    python recipes/check.py runs/quickstart/base --details true           # what each check found
    python recipes/check.py runs/quickstart/base --json check.json        # for machines
    python recipes/check.py runs/older/base --record true                 # a folder from before fingerprints

Prints what passes, and how to fix what does not; the exit code is 1 if anything failed. The model is loaded in a
separate process, offline, without hfgpt or a token, that sees only the files that would be published. Before that, generated files
are updated: the card README.md from card.yaml and the other files, and the path of the base in the folder of an adapter that was
moved.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.publishing:CheckArguments")

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.publishing import CheckArguments
from hfgpt.arguments.terminal import RESULT
from hfgpt.artifacts import ADAPTER_CONFIG, identify, name_base_beside
from hfgpt.counting import counted
from hfgpt.errors import UserError
from hfgpt.hub.card.rendering import edited_cards, renew_card
from hfgpt.hub.gate.check import CheckReport, check_parts


def main(args: CheckArguments) -> dict[str, float]:
    # 1. What it is, and its parts
    say = say_beside_json if args.json == "-" else partial(logger.log, RESULT)
    artifact = identify(args.folder)
    parts = [place for place in artifact.parts.values() if args.parts or place == artifact.folder]

    # 2. A fingerprint, on demand; then update what depends on the folder's location and contents
    if args.record:
        from hfgpt.hub.gate.recording import record_from_folder

        for folder in parts:
            say(f"recorded: {record_from_folder(folder)}")
    bring_up_to_date(artifact.folder, say)

    # 3. Check, and print each result at once
    reports = []
    checked = check_parts(args.folder, seconds=args.seconds)
    for report in checked if args.parts else [next(checked)]:
        reports.append(report)
        say(report.table(details=args.details))

    # 4. For machines
    write_json(reports, args.json)
    failed = [f"{result.name} ({report.folder})" for report in reports for result in report.failures]
    if failed or not all(report.passed for report in reports):
        raise UserError(f"{counted(len(failed), 'checks')} failed: {', '.join(failed)}; the table says what to do about each one.")
    return {status: sum(r.status == status for report in reports for r in report.results) for status in ("pass", "warn", "skip")}


def say_beside_json(text: str) -> None:
    """If the JSON goes to stdout, nothing else does."""
    print(text, file=sys.stderr)


def bring_up_to_date(folder: Path, say: Callable[[str], None]) -> None:
    """Update the path of a moved adapter's base, and rewrite the cards; hand-written text is kept."""
    try:
        if (stale := name_base_beside(folder)) is not None:
            say(f"base: {folder / ADAPTER_CONFIG} said {stale}; the base is beside the adapter, so the path has been updated")
    except OSError as error:
        say(f"base: {folder / ADAPTER_CONFIG} cannot be written ({error.strerror})")  # the table says what is wrong
    for card in renew_card(folder):
        say(f"card: {card} rewritten")
    for card in edited_cards(folder):
        say(f"card: {card} was edited by hand, so it would be published as it is")


def write_json(reports: list[CheckReport], place: str) -> None:
    content = {"passed": all(report.passed for report in reports), "folders": [report.to_json() for report in reports]}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if place == "-":
        sys.stdout.write(text)
    elif place:
        Path(place).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    launch(main, CheckArguments)
