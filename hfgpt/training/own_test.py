"""The test split that a model's own run held out, cut again from the run's data to measure the model: the figures of its report."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import yaml

from hfgpt.arguments.commands import COMMANDS
from hfgpt.arguments.finetuning import ClassificationArguments, FinetuneArguments, InstructionArguments
from hfgpt.artifacts import RUN_FILE, run_around
from hfgpt.data.classification import LabelledOptions
from hfgpt.data.passport import Passport, contents_of
from hfgpt.data.records import RecordOptions
from hfgpt.errors import UserError
from hfgpt.evaluation.held_out import described, evaluate_rows, label_names, measure_conversations, measure_labels
from hfgpt.evaluation.loading import Loaded
from hfgpt.evaluation.results import Result
from hfgpt.files import with_home
from hfgpt.training import assistants, classifiers
from hfgpt.training.examples import Examples, HeldOutShares

TEST = "test"
# The keys on which the split and its figures depend, besides those of these groups.
_GROUPS = ("Data", "Clean data and hidden triggers")
_KEYS = ("loss_on", "max_new_tokens", "max_answers")
Arguments = TypeVar("Arguments", bound=FinetuneArguments)


def measure_own_test(loaded: Loaded, *, batch_size: int) -> Result:
    """Measure a model on what its own run held out, as that run did at its end.

    Raises: UserError if the run had no such split, and if its data are not here, or are no longer the same.
    """
    run = cast(Path, run_around(loaded.name))
    settings, passport = yaml.safe_load((run / RUN_FILE).read_text(encoding="utf-8")) or {}, Passport.load(run)
    command = _command_of(run / RUN_FILE)
    if TEST not in passport.splits or command not in _MEASURES:
        reason = f"it is of {command!r}" if command not in _MEASURES else f"its splits are {', '.join(passport.splits)}"
        raise UserError(f"{run} has no test split that can be measured again ({reason}); {_OTHER_DATA}")
    try:
        return _MEASURES[command](loaded, run, settings, passport, batch_size)
    except UserError as error:
        raise UserError(f"the test split of the run in {run} cannot be measured again: {error}") from None


_OTHER_DATA = "give other data with --text, --dataset, --test_sources or --tasks."


def _command_of(run_file: Path) -> str | None:
    """The command that made the run, from the first line of its run.yaml."""
    head = run_file.read_text(encoding="utf-8").partition("\n")[0]
    named = (command for command, entry in COMMANDS.items() if re.search(rf"hfgpt {command}\b|\b{re.escape(entry.recipe)}\b", head))
    return next(named, None)


def _rows(loaded: Loaded, run: Path, settings: Mapping, passport: Passport, batch_size: int) -> Result:
    folder = Path(with_home(settings["dataset"]))
    if not folder.is_dir():
        raise UserError(f"its rows were in {folder}, which is not a folder here (looked from {Path.cwd()}); {_OTHER_DATA}")
    if Passport.load(folder).rows.get(TEST) != passport.rows.get(TEST):
        raise UserError(f"{folder} now holds other rows than in that run; {_OTHER_DATA}")
    return evaluate_rows(loaded, folder, split=TEST, batch_size=batch_size)


def _labels(loaded: Loaded, run: Path, settings: Mapping, passport: Passport, batch_size: int) -> Result:
    args = _arguments(ClassificationArguments, settings, run)
    examples, again = _examples(args, passport), Passport()
    how: dict[str, Any] = args.values_of("deduplicate", "balance", "balance_before_split")
    splits, task = classifiers.load_splits(examples, again, options=LabelledOptions(**args.labelled_options()), **how)
    _check_same(again, passport, key="labels")
    if task.names != label_names(loaded.model):
        raise UserError(f"the model has the labels {', '.join(label_names(loaded.model))}, the data {', '.join(task.names)}.")
    about: dict[str, Any] = dict(
        described=_described(loaded, examples), settings={"deduplicate": args.deduplicate}, batch_size=batch_size
    )
    return measure_labels(loaded, splits[TEST]["text"][:], np.array(splits[TEST]["label"][:]), **about)


def _conversations(loaded: Loaded, run: Path, settings: Mapping, passport: Passport, batch_size: int) -> Result:
    args = _arguments(InstructionArguments, settings, run)
    examples, again = _examples(args, passport), Passport()
    format = None if args.conversation_format == "auto" else args.conversation_format
    splits = assistants.load_splits(examples, again, style=args.prompt_style, format=format, weights=args.source_weights)
    conversations = assistants.conversations_of(splits[TEST])
    again.splits = {TEST: {"conversations": len(conversations)}}
    _check_same(again, passport, key="conversations")
    how: dict[str, Any] = args.values_of("max_length", "too_long", "loss_on", "max_new_tokens", "max_answers")
    return measure_conversations(loaded, conversations, described=_described(loaded, examples), batch_size=batch_size, **how)


_MEASURES = {"pretrain": _rows, "classify": _labels, "instruct": _conversations}


def _arguments(kind: type[Arguments], settings: Mapping, run: Path) -> Arguments:
    """Those settings of a run that its split depends on, as arguments; its base need not be here any more."""
    wanted = {one.name for one in fields(cast(Any, kind)) if one.metadata.get("group") in _GROUPS or one.name in _KEYS}
    chosen = {name: value for name, value in settings.items() if name in wanted}
    return kind(**chosen, model=str(run), output_dir=str(run), use_cpu=True)


def _examples(args: FinetuneArguments, passport: Passport) -> Examples:
    """The run's examples. Raises: UserError if a source is missing, or is not the one of the run any more."""
    shares = HeldOutShares(args.validation_share, args.test_share, cast(Any, args).split_method, args.split_seed)
    examples = Examples(**args.example_files(), shares=shares)
    now = contents_of(json.loads(json.dumps(examples.inputs())))
    if now != contents_of(passport.inputs):
        raise UserError(f"{', '.join(args.sources)} changed since then, so that another split would be drawn; {_OTHER_DATA}")
    return examples


def _check_same(again: Passport, passport: Passport, *, key: str) -> None:
    """Refuse a split that was drawn differently, by other versions of the code."""
    if again.splits[TEST].get(key) != passport.splits[TEST].get(key):
        raise UserError(
            f"the split drawn now has {again.splits[TEST].get(key)} {key}, that of the run {passport.splits[TEST].get(key)}, so "
            f"they differ, perhaps because another version of hfgpt drew it; {_OTHER_DATA}"
        )


def _described(loaded: Loaded, examples: Examples) -> dict:
    """What the result says about its data: a file of its own, or the test split of the run's sources."""
    split = TEST if examples.names[TEST] else "train"
    said = described(loaded, examples.names[split], RecordOptions(**examples.options[split]))
    return said if examples.names[TEST] else said | {"split": TEST, "seen_in_training": False}
