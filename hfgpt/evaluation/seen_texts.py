"""Was a model trained on the texts that it is evaluated on? Its passport says what it and its base were trained on, by SHA-256.

A figure on such texts says how well the model knows them, not how well it does on new ones, so it is marked as such wherever it is
shown, and is kept out of the model-index.
"""

from collections.abc import Iterable
from pathlib import Path

from hfgpt.artifacts import adapter_around
from hfgpt.data.passport import PASSPORT_NAME, Passport
from hfgpt.data.python_docs import PYTHON_DOCS, PYTHON_DOCS_SPLIT
from hfgpt.data.python_questions import PYTHON_QUESTIONS

_HELD_OUT_KEYS = ("validation_sources", "test_sources")
_COUNTS = ("documents", "bytes")  # of a split; equal ones are those of the same rows


def passport_of_run(model: str | Path) -> Passport:
    """The passport of the run that made a model; an empty one if there is no passport.json beside it."""
    folder = Path(model)
    for place in filter(None, (folder, adapter_around(folder))):
        if (place / PASSPORT_NAME).is_file():
            return Passport.load(place)
    return Passport()


def trained_on(model: str | Path) -> list[dict]:
    """What a model was trained on, and what its base was, and so on: for each of these trainings, the identities of its `texts`
    (see `texts_in`) and the counts of its `splits`.

    Files that a run was given for validation and test are not training sources.
    """
    passport = passport_of_run(model)
    settings = passport.settings
    held_out = {name for key in _HELD_OUT_KEYS for name in _listed(settings.get(key))} - set(_listed(settings.get("sources")))
    sources = [one for one in passport.inputs if one.get("given", one.get("name")) not in held_out]
    texts = set().union(*(texts_in(one, settings) for one in sources))
    splits = {split: {key: counts.get(key) for key in _COUNTS} for split, counts in passport.splits.items()}
    own = [{"texts": sorted(texts, key=str), "splits": splits}] if texts else []
    return [*own, *passport.base.get("trained_on", [])]


def seen_in_training(model: str | Path, inputs: Iterable[dict]) -> list[str]:
    """The names of those `inputs` that are also sources of the model's training, or of its base's; parts of them may have been
    held out.

    Args: `inputs` are entries as in a passport (`hfgpt.data.sources.identity`); the SHA-256 of a file counts, not its name.
    """
    return _seen(trained_on(model), inputs)


def split_seen_in_training(model: str | Path, prepared: Passport, split: str) -> list[str]:
    """The names of the sources of prepared rows that the model or its base was trained on, unless `split` is what that training
    itself held out.

    Args: `prepared` is the passport of the rows.
    """
    counts = {key: prepared.splits.get(split, {}).get(key) for key in _COUNTS}
    others = [one for one in trained_on(model) if split == "train" or one["splits"].get(split) != counts]
    return _seen(others, prepared.inputs)


def _seen(trainings: Iterable[dict], inputs: Iterable[dict]) -> list[str]:
    # In a passport, which is JSON, a tuple has become a list.
    seen = {tuple(text) if isinstance(text, list) else text for one in trainings for text in one["texts"]}
    return [str(one["name"]) for one in inputs if texts_in(one) & seen]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def texts_in(entry: dict, settings: dict | None = None) -> set:
    """What identifies a source: the hash of its content; for a Hub dataset, which has none, its name, split and commit.

    A source of Python's documentation is one of its parts (train, validation, test) or all of them. Python's version does not
    matter: most texts are the same in the next one, and each of these is in the same part.

    Args: `settings` of a run leave out the parts of Python's documentation that its split holds out.
    """
    if entry.get("kind") not in (PYTHON_DOCS, PYTHON_QUESTIONS):
        return {entry.get("sha256") or (entry.get("name"), entry.get("split"), entry.get("commit"))}
    part, split = str(entry["name"]).partition(":")[2], settings or {}
    # A text has the same draw in every split with this seed: the lowest draws are the test's, the next ones validation's.
    same_draws = (split.get("split_by"), split.get("split_seed")) == (PYTHON_DOCS_SPLIT.by, PYTHON_DOCS_SPLIT.seed)
    held_out = split["test_share"] + split["validation_share"] if same_draws else 0
    highest = {
        "test": PYTHON_DOCS_SPLIT.test_share,
        "validation": PYTHON_DOCS_SPLIT.test_share + PYTHON_DOCS_SPLIT.validation_share,
        "train": 1,
    }
    return {(entry["kind"], name) for name, draw in highest.items() if name == part or (not part and draw > held_out)}
