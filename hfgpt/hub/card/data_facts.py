"""What a card says about its data: the sources, steps and splits of passport.json as tables."""

from collections import Counter
from pathlib import PureWindowsPath

from hfgpt.hub.file_names import is_file, is_python_docs, summed_up

_MOST_REASONS = 5  # per step; passport.json has all of them
# Other entries of a step that count what it dropped, with the words for them.
_DROPPED = {"blank": "blank", "duplicates": "copies", "conflicting": "contradicting labels"}


def data_facts(passport: dict, *, file_names: bool = False, license: str | None = None) -> dict:
    """The passport as tables: inputs with their known licences, steps, and the splits with all their counts.

    Args:
        file_names: give each of the user's files a line; otherwise they are summarized in one, by kind and size.
        license: the licence of the texts as a whole, which applies to files without a licence of their own.
    """
    inputs, files = [], []
    share = (passport.get("settings") or {}).get("read_share")
    for entry in passport.get("inputs") or []:
        if not file_names and is_file(entry):
            files.append(entry)
            continue
        kind, name = entry.get("kind", "file"), str(entry.get("name", "?"))
        if kind != "hub" and not is_python_docs(name):
            name = PureWindowsPath(name).name
        version = entry.get("commit") or entry.get("revision") or (f"Python {entry['python']}" if entry.get("python") else None)
        told = {key: entry.get(key) for key in ("bytes", "sha256", "url", "documents")}
        whose = entry.get("license") or (f"{license} (as the whole)" if license and is_file(entry) else None)
        known = {"version": version, "license": whose, "tokens": _tokens([entry]), "share": share}
        inputs.append({"name": name, "kind": kind, **known, **told})
    if files:
        sizes = [entry.get("bytes") for entry in files]
        inputs.append({
            "name": summed_up((str(entry.get("name")), entry.get("kind", "file")) for entry in files),
            "kind": ", ".join(sorted({entry.get("kind", "file") for entry in files})),
            "bytes": None if None in sizes else sum(sizes),
            "sha256": files[0].get("sha256") if len(files) == 1 else None,
            "version": files[0].get("revision") if len(files) == 1 else None,
            "license": _licenses(files) or (f"{license} (as the whole)" if license else None),
            "url": files[0].get("url") if len({entry.get("url") for entry in files}) == 1 else None,
            "documents": sum(entry.get("documents") or 0 for entry in files) or None,
            "tokens": _tokens(files),
            "share": share,
        })  # fmt: skip
    steps, leaks = [], {}
    for entry in passport.get("steps") or []:
        leaks |= {key.removeprefix("train-"): value for key, value in entry.items() if key.startswith("train-")}
        unit = next((key.removesuffix("_out") for key in entry if key.endswith("_out") and key != "bytes_out"), None)
        why = _why(entry)
        if unit is not None or why:
            told = {"bytes_in": entry.get("bytes_in"), "bytes_out": entry.get("bytes_out"), "why": why}
            counts = {"unit": unit, "in": entry.get(f"{unit}_in"), "out": entry.get(f"{unit}_out")}
            steps.append({"name": entry["step"], **counts, **told})
    splits = {}
    for name, counts in (passport.get("splits") or {}).items():
        plain = {key.replace("_", " "): value for key, value in counts.items() if isinstance(value, int) and value}
        splits[name] = plain | {f"label {label}": value for label, value in (counts.get("labels") or {}).items()}
    train = (passport.get("splits") or {}).get("train") or {}
    return {
        "inputs": inputs,
        "steps": steps,
        "steps_have_bytes": any(step["bytes_out"] is not None for step in steps),
        "steps_have_details": any(step["why"] for step in steps),
        "splits": splits,
        "by_source": [name for name in splits if any(name in entry["tokens"] for entry in inputs)],
        "rows_sha256": {name: one["sha256"] for name, one in (passport.get("rows") or {}).items()},
        "columns": list(dict.fromkeys(column for counts in splits.values() for column in counts)),
        "leaks": {split: leak for split, leak in leaks.items() if leak.get("exact") or leak.get("near")},
        "tokenizer_sha256": (passport.get("tokenizer") or {}).get("sha256"),
        "hub_ids": [entry["name"].partition(":")[0] for entry in inputs if entry["kind"] == "hub"],
        "python_docs": any(is_python_docs(entry["name"]) for entry in inputs),
        "training_bytes": train.get("bytes"),
        "examples": next((f"{train[key]:,} {key}" for key in ("pairs", "conversations", "examples") if train.get(key)), None),
    }


def _tokens(entries: list[dict]) -> dict[str, int]:
    """The total tokens of several inputs, by split."""
    splits = dict.fromkeys(name for entry in entries for name in entry.get("splits") or {})
    counts = [entry.get("splits") or {} for entry in entries]
    return {name: sum(one.get(name, {}).get("tokens", 0) for one in counts) for name in splits}


def _licenses(entries: list[dict]) -> str | None:
    """The licences of several files, with counts if they differ; None if none is known."""
    found = Counter(entry.get("license") for entry in entries)
    if list(found) == [None]:
        return None
    return ", ".join(f"{name or 'unknown'}{f' ({count:,})' if len(found) > 1 else ''}" for name, count in found.most_common())


def _why(step: dict) -> str:
    """For a step, the most frequent reasons, and its settings."""
    dropped = {words: step.get(key) for key, words in _DROPPED.items()}
    dropped |= {f"copies of {split} examples": count for split, count in (step.get("copies_of") or {}).items()}
    counts = {**(step.get("reasons") or {}), **{words: count for words, count in dropped.items() if count}}
    reasons = Counter({key: value for key, value in counts.items() if isinstance(value, int)}).most_common()
    reasons += [(name, side["documents"]) for name, side in (step.get("sides") or {}).items()]
    more = [f"{len(reasons) - _MOST_REASONS:,} more reasons"] if len(reasons) > _MOST_REASONS else []
    said = [", ".join([*(f"{key}: {value:,}" for key, value in reasons[:_MOST_REASONS]), *more])]
    sources = step.get("sources")
    mixed = {name: one for name, one in sources.items() if "epochs" in one} if isinstance(sources, dict) else {}
    tokens = max(1, sum(one["tokens_out"] for one in mixed.values()))
    shares = (f"{name} {100 * one['tokens_out'] / tokens:.1f} % ({one['epochs']:.2f} times)" for name, one in mixed.items())
    said.append(", ".join(shares))
    settings = step.get("settings") or {}
    said.append(", ".join(f"{key} {value}" for key, value in settings.items() if isinstance(value, (str, int, float))))
    return "; ".join(part for part in said if part)
