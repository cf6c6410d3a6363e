"""Filters: drop documents because of their content, each judged individually, with a reason.

The rules of Gopher, C4 and FineWeb are datatrove's own blocks, called one document at a time; datatrove is only imported if they
are used. Thresholds and presets: `hfgpt.arguments.filter_settings`.
"""

import functools
import logging
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfgpt.arguments.filter_settings import SETTINGS, settings_of
from hfgpt.counting import counted
from hfgpt.data.repair import RepairText
from hfgpt.data.steps import Outcome, TextStep
from hfgpt.data.word_splitting import word_splitter
from hfgpt.errors import UserError, require
from hfgpt.tables import nearest

logger = logging.getLogger(__name__)

LANGUAGE_CHARACTERS = 2_000  # at the beginning of a document, used to detect its language
COMPRESSED_AT_ONCE = 1 << 20
NEARLY_ALL = 0.9
# Reasons without a threshold, from datatrove's filters, with their prefix; the first drops a document, the second changes it.
NO_WORDS, LINES_CUT = "no words", "lines cut"

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Filter:
    """One filter with its thresholds, as pairs, so that a process creates the underlying block once; None means off."""

    filter: str
    thresholds: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        return f"filter: {self.filter}"

    @property
    def settings(self) -> dict[str, object]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.thresholds}

    def __call__(self, text: str) -> Outcome:
        return _ready(self.filter, self.thresholds)(text)


def cleaning_steps(
    *,
    filters: str = "none",
    filter_settings: Mapping[str, object] | None = None,
    repair_text: bool | None = None,
    languages: Sequence[str] | None = None,
) -> list[TextStep]:
    """The steps for each document: repair, then the filters of a preset.

    Args:
        filters: "none", "light" or "web".
        filter_settings: thresholds that replace the preset's; a filter without any is left out.
        repair_text: None repairs if there are filters.
        languages: ISO 639 codes of the languages to keep; None means English in `web`, any language in `light`.
    Raises: UserError for unknown settings and languages, and for a missing package.
    """
    steps: list[TextStep] = []
    if repair_text if repair_text is not None else filters != "none":
        require("ftfy", extra="data", purpose="repair_text uses ftfy")
        steps.append(RepairText())
    if filters == "none":
        return steps
    languages = list(languages or (["en"] if filters == "web" else []))
    values, off = settings_of(filters, filter_settings, languages)
    for because, names in off.items():
        logger.info(f"filters: {', '.join(names)} off for languages {' '.join(languages) or '(any)'}: {because}")
    for filter in BUILDERS:
        of_filter = {name: value for name, value in values.items() if SETTINGS[name].filter == filter}
        if filter == "language":
            if not languages:
                continue
            of_filter |= {"languages": languages}
        elif not any(of_filter[name] not in (None, False) for name in of_filter if not SETTINGS[name].part_of):
            continue
        step = Filter(
            filter, tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in of_filter.items())
        )
        _ready(step.filter, step.thresholds)  # missing packages are reported before anything is read
        steps.append(step)
    return steps


@functools.lru_cache(maxsize=32)
def _ready(filter: str, thresholds: tuple[tuple[str, Any], ...]) -> Callable[[str], Outcome]:
    return BUILDERS[filter](dict(thresholds))


def dropped(reason: str) -> Outcome:
    """The outcome for a dropped document."""
    return Outcome(None, {reason: 1})


def _by(setting: str) -> Outcome:
    return dropped(SETTINGS[setting].reason)


def _length(values: Values) -> Callable[[str], Outcome]:
    least, most, ratio = (values[name] for name in ("min_characters", "max_characters", "max_compression"))

    def check(text: str) -> Outcome:
        if least is not None and len(text.strip()) < least:
            return _by("min_characters")
        if most is not None and len(text) > most:
            return _by("max_characters")
        if ratio is not None and compression(text) > ratio:
            return _by("max_compression")
        return Outcome(text)

    return check


def compression(text: str) -> float:
    """How many times smaller zlib (level 1) makes the UTF-8 of a text; constant memory. Cost: 1 s per 100 MB."""
    packer = zlib.compressobj(1)
    size = packed = 0
    for start in range(0, len(text), COMPRESSED_AT_ONCE):
        piece = text[start : start + COMPRESSED_AT_ONCE].encode(errors="surrogatepass")
        size += len(piece)
        packed += len(packer.compress(piece))
    return size / (packed + len(packer.flush()))


def _language(values: Values) -> Callable[[str], Outcome]:
    languages, least = set(values["languages"]), values["min_language_score"] or 0
    identifier = _language_identifier()
    for language in sorted(languages - set(identifier.labels)):
        near = nearest(language, identifier.labels)
        meant = f"did you mean {near!r}?" if near else "give ISO 639 codes such as en, de, zh."
        raise UserError(f"languages has {language!r}, which py3langid does not know; {meant}")

    def check(text: str) -> Outcome:
        language, score = identifier.classify(text[:LANGUAGE_CHARACTERS])
        if score < least:
            return _by("min_language_score")
        return Outcome(text) if language in languages else dropped(f"language: {language}")

    return check


@functools.cache
def _language_identifier() -> Any:
    """py3langid: naive Bayes over bytes, 140 languages, 4.6 MB in the package, the same answer everywhere."""
    langid = require("py3langid.langid", extra="data", purpose="detecting languages needs py3langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def _block(prefix: str, block: Any, reasons: Mapping[str, str]) -> Callable[[str], Outcome]:
    """A datatrove block as a step. Args: `reasons` maps its reasons to the setting that each one concerns."""
    from datatrove.data import Document

    def check(text: str) -> Outcome:
        if not any(map(str.isalnum, text)):  # the block would divide by zero words
            return dropped(f"{prefix}: {NO_WORDS}")
        document = Document(text=text, id="")
        verdict = block.filter(document)
        keep, reason = verdict if isinstance(verdict, tuple) else (verdict, "")
        if not keep:
            return _by(reasons[reason])
        cut = text.count("\n") - document.text.count("\n")
        return Outcome(document.text, {f"{prefix}: {LINES_CUT}": cut} if cut else {})

    return check


def _most(value: float | None) -> float | None:
    """A limit for datatrove, where 0 means no limit."""
    return sys.float_info.min if value == 0 else value


def _gopher_quality(values: Values) -> Callable[[str], Outcome]:
    block = _datatrove("GopherQualityFilter")(
        min_doc_words=values["min_words"],
        max_doc_words=values["max_words"],
        min_avg_word_length=values["min_mean_word_length"],
        max_avg_word_length=values["max_mean_word_length"],
        max_symbol_word_ratio=_most(values["max_symbols_per_word"]),
        max_bullet_lines_ratio=_most(values["max_bullet_lines"]),
        max_ellipsis_lines_ratio=_most(values["max_ellipsis_lines"]),
        max_non_alpha_words_ratio=values["min_alphabetic_words"],  # despite its name, it is also a minimum in datatrove
        min_stop_words=values["min_stop_words"],
        stop_words=values["stop_words"],
        language=word_splitter(),
    )
    reasons = {
        "gopher_short_doc": "min_words",
        "gopher_long_doc": "max_words",
        "gopher_below_avg_threshold": "min_mean_word_length",
        "gopher_above_avg_threshold": "max_mean_word_length",
        "gopher_too_many_hashes": "max_symbols_per_word",
        "gopher_too_many_ellipsis": "max_symbols_per_word",
        "gopher_too_many_bullets": "max_bullet_lines",
        "gopher_too_many_end_ellipsis": "max_ellipsis_lines",
        "gopher_below_alpha_threshold": "min_alphabetic_words",
        "gopher_enough_stop_words": "min_stop_words",
    }
    return _block("gopher", block, reasons)


def _gopher_repetition(values: Values) -> Callable[[str], Outcome]:
    top = {n: values[f"max_top_{n}_gram"] for n in range(2, 5)}
    duplicate = {n: values[f"max_duplicate_{n}_grams"] for n in range(5, 11)}
    block = _datatrove("GopherRepetitionFilter")(
        dup_line_frac=_most(values["max_duplicate_lines"]),
        dup_para_frac=_most(values["max_duplicate_paragraphs"]),
        dup_line_char_frac=_most(values["max_duplicate_line_characters"]),
        dup_para_char_frac=_most(values["max_duplicate_paragraph_characters"]),
        top_n_grams=tuple((n, share) for n, share in top.items() if share is not None),
        dup_n_grams=tuple((n, share) for n, share in duplicate.items() if share is not None),
        language=word_splitter(),
    )
    reasons = {
        "dup_line_frac": "max_duplicate_lines",
        "dup_para_frac": "max_duplicate_paragraphs",
        "dup_line_char_frac": "max_duplicate_line_characters",
        "dup_para_char_frac": "max_duplicate_paragraph_characters",
        **{f"top_{n}_gram": f"max_top_{n}_gram" for n in top},
        **{f"duplicated_{n}_n_grams": f"max_duplicate_{n}_grams" for n in duplicate},
    }
    return _block("gopher", block, reasons)


def _c4(values: Values) -> Callable[[str], Outcome]:
    numbers = {name: -1 if values[name] is None else values[name] for name in ("min_sentences", "min_words_per_line",
                                                                               "max_word_length")}  # fmt: skip
    block = _datatrove("C4QualityFilter")(
        remove_citations=bool(values["remove_citations"]),
        filter_no_terminal_punct=bool(values["require_end_punctuation"]),
        min_num_sentences=numbers["min_sentences"],
        min_words_per_line=numbers["min_words_per_line"],
        max_word_length=numbers["max_word_length"],
        filter_lorem_ipsum=bool(values["drop_lorem_ipsum"]),
        filter_javascript=bool(values["cut_javascript_lines"]),
        filter_curly_bracket=bool(values["drop_curly_brackets"]),
        filter_policy=bool(values["cut_policy_lines"]),
        language=word_splitter(),
    )
    reasons = {
        "lorem_ipsum": "drop_lorem_ipsum",
        "curly_bracket": "drop_curly_brackets",
        "too_few_sentences": "min_sentences",
    }
    return _block("c4", block, reasons)


def _fineweb(values: Values) -> Callable[[str], Outcome]:
    most = {name: float("inf") if values[name] is None else values[name] for name in values}
    block = _datatrove("FineWebQualityFilter")(
        line_punct_thr=values["min_punctuated_lines"] or 0,
        short_line_thr=most["max_short_lines"],
        short_line_length=values["short_line_characters"] or 0,
        char_duplicates_ratio=most["max_repeated_line_characters"],
        new_line_ratio=most["max_line_breaks_per_word"],
        language=word_splitter(),
    )
    reasons = {
        "line_punct_ratio": "min_punctuated_lines",
        "short_line_ratio": "max_short_lines",
        "char_dup_ratio": "max_repeated_line_characters",
        "list_ratio": "max_line_breaks_per_word",
    }
    return _block("fineweb", block, reasons)


def _datatrove(name: str) -> Any:
    require("datatrove", extra="data", purpose="the rules of Gopher, C4 and FineWeb need datatrove")
    import datatrove.pipeline.filters

    return getattr(datatrove.pipeline.filters, name)


# In the order in which they run: FineWeb's, except for Gopher's two, which keep the same documents either way. Quality is cheaper,
# and reports a short document as short, while repetition would find that its only pair of words makes up a fifth of it.
BUILDERS: dict[str, Callable[[Values], Callable[[str], Outcome]]] = {
    "length": _length,
    "language": _language,
    "gopher quality": _gopher_quality,
    "gopher repetition": _gopher_repetition,
    "c4": _c4,
    "fineweb": _fineweb,
}


def key_of(reason: str) -> str | None:
    """The key or the name in filter_settings that a reason concerns; None if it does not come from filters."""
    for name, setting in SETTINGS.items():
        if reason == setting.reason:
            return name
    return "languages" if reason.startswith("language: ") else None


# The key behind each step that drops documents for their contents, if set to drop rather than mask.
DROPPING_KEYS = {"secrets": "secrets", "personal data": "personal_data", "personal data by a model": "personal_data"}


def report_losses(steps: Sequence[Mapping[str, Any]], *, kept: int) -> None:
    """Warn if the steps dropped nearly all of a corpus, naming the step that dropped most and its key.

    Args:
        steps: entries of a passport.
        kept: documents left after all of them.
    Raises: UserError if steps dropped documents and none is left.
    """
    loaded = sum(entry["documents_out"] for entry in steps if entry["step"] == "load")
    reasons = {
        (reason, key): (count, entry["settings"].get(key))
        for entry in steps
        for reason, count in entry.get("reasons", {}).items()
        if (key := key_of(reason)) is not None
    }
    filtered = sum(count for count, _ in reasons.values())
    others = {entry["step"]: entry["documents_in"] - entry["documents_out"] for entry in steps if entry["step"] in DROPPING_KEYS}
    lost = filtered + sum(others.values())
    if not lost or (kept and lost < NEARLY_ALL * loaded):
        return
    found = []
    if reasons:
        (reason, key), (count, value) = max(reasons.items(), key=lambda item: item[1][0])
        change = f"languages ({' '.join(value)})" if key == "languages" else f"{key} ({value}) in filter_settings"
        lost_of = f"{filtered:,} of {counted(loaded, 'documents')}"
        said = f"filters dropped {lost_of}, {count:,} of them for {reason!r}; change {change} or filters"
        found.append((count, said))
    for step, count in others.items():
        key = DROPPING_KEYS[step]
        cure = f"--{key} mask would keep the documents and replace the findings"
        found.append(
            (count, f"the step {step!r} dropped {count:,} of {counted(loaded, 'documents')}, because {key} is drop; {cure}")
        )
    _, said = max(found)
    if not kept:
        raise UserError(f"no document is left: {said}.")
    logger.warning(f"warning: {said}, unless this is intended.")
