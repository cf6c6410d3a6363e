"""The gate: what would be published of a folder, as a stranger gets it.

    python recipes/check.py runs/quickstart/base
    python recipes/check.py runs/quickstart/assistant                     # an adapter, its base and its merged twin
    python recipes/check.py runs/quickstart/base --json check.json        # for machines
    python recipes/check.py runs/older/base --record true                 # a folder from before fingerprints

A table of what passes, and the cure of what does not; the exit code is 1 where something failed. The doors are opened in a
process of their own, offline, without hfgpt and without a token, and see nothing but the files that would be published. Before
that, what no person wrote is brought up to date: the card README.md with what card.yaml and the other files say, and the place of
the base in the folder of an adapter that was moved.
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
from hfgpt.errors import UserError
from hfgpt.hub.card.rendering import renew_card
from hfgpt.hub.gate.check import CheckReport, check_parts


def main(args: CheckArguments) -> dict[str, float]:
    # 1. What it is, and its parts
    say = say_beside_json if args.json == "-" else partial(logger.log, RESULT)
    artifact = identify(args.folder)
    parts = [place for place in artifact.parts.values() if args.parts or place == artifact.folder]

    # 2. A fingerprint, on demand; then what says where the folder lies and what its files hold, brought up to date
    if args.record:
        from hfgpt.hub.gate.recording import record_from_folder

        for folder in parts:
            say(f"recorded: {record_from_folder(folder)}")
    bring_up_to_date(artifact.folder, say)

    # 3. Check, and say at once what came of it
    reports = []
    checked = check_parts(args.folder, seconds=args.seconds)
    for report in checked if args.parts else [next(checked)]:
        reports.append(report)
        say(report.table())

    # 4. For machines
    write_json(reports, args.json)
    failed = [f"{result.name} ({report.folder})" for report in reports for result in report.failures]
    if failed or not all(report.passed for report in reports):
        raise UserError(f"{len(failed)} checks failed: {', '.join(failed)}; the table says what to do about each.")
    return {status: sum(r.status == status for report in reports for r in report.results) for status in ("pass", "warn", "skip")}


def say_beside_json(text: str) -> None:
    """Where the JSON goes to stdout, nothing else does."""
    print(text, file=sys.stderr)


def bring_up_to_date(folder: Path, say: Callable[[str], None]) -> None:
    """Name the base of a moved adapter where it lies now, and write the cards anew; whatever a person wrote stays."""
    try:
        if (stale := name_base_beside(folder)) is not None:
            say(f"base: {folder / ADAPTER_CONFIG} named it at {stale}; it lies beside the adapter, and is named there now")
    except OSError as error:
        say(f"base: {folder / ADAPTER_CONFIG} cannot be written ({error.strerror})")  # the table says what is wrong
    for card in renew_card(folder):
        say(f"card: {card} written anew")


def write_json(reports: list[CheckReport], place: str) -> None:
    content = {"passed": all(report.passed for report in reports), "folders": [report.to_json() for report in reports]}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if place == "-":
        sys.stdout.write(text)
    elif place:
        Path(place).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    launch(main, CheckArguments)
