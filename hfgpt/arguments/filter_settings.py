"""Every threshold of the filters: a table with its value in the presets `light` and `web`. Nothing here imports a filter.

Where the values of `web` come from:
    Gopher: Rae et al. (2021), Scaling Language Models, appendix A.1.1 and table A1.
    C4: Raffel et al. (2020), Exploring the Limits of Transfer Learning, section 2.2.
    FineWeb: Penedo et al. (2024), The FineWeb Datasets, sections 3.3 to 3.6; its pipeline uses C4's rules except the one on line
    endings.
"""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfgpt.errors import UserError
from hfgpt.tables import Table, nearest

PRESETS = ("none", "light", "web")
# Languages written without spaces between words: a word splitter yields single characters.
UNSPACED = frozenset({"zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "bo"})
# Languages written without punctuation at the end of sentences.
UNPUNCTUATED = frozenset({"th", "lo"})
STOP_WORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]


@dataclass(frozen=True)
class Setting:
    """A threshold.

    Args:
        filter: the step it belongs to, in `hfgpt.data.filters`.
        help: what it means.
        light, web: its value in the presets; None (or False) is off.
        type: float takes whole numbers as well; list means a list of words.
        least, most: the allowed range.
        reason: how the passport counts the documents it drops; empty if it drops none.
        part_of: the threshold or recipe key without which it has no effect.
        off_for: languages in which it would drop good text; `because` says why.
    """

    filter: str
    help: str
    light: Any = None
    web: Any = None
    type: builtins.type = float
    least: float = 0
    most: float = float("inf")
    reason: str = ""
    part_of: str = ""
    off_for: frozenset[str] = frozenset()
    because: str = ""

    def checked(self, name: str, value: object) -> Any:
        """The value as its filter takes it. Raises: UserError for a wrong type or a value out of range."""
        if value is None:
            return False if self.type is bool else None
        if self.type is bool:
            fits, needed = isinstance(value, bool), "true or false"
        elif self.type is list:
            fits, needed = isinstance(value, list) and all(isinstance(one, str) and one for one in value), "a list of words"
        else:
            numbers = (int, float) if self.type is float else (int,)
            fits = isinstance(value, numbers) and not isinstance(value, bool) and self.least <= value <= self.most
            needed = f"{'a whole number' if self.type is int else 'a number'} from {self.least:g}"
            needed += f" to {self.most:g}" if self.most < float("inf") else ""
        if not fits:
            off = "false" if self.type is bool else "null"
            raise UserError(f"{name} in filter_settings is {value!r}; it must be {needed}, or {off} to switch it off.")
        return value

    def value(self, preset: str) -> Any:
        """Its value in a preset."""
        return getattr(self, preset)


_AS_WORDS = "a character counts as a word in a language without spaces"
_NO_MARKS = "the language has no mark at the end of a sentence"


def _length(help: str, reason: str, **values: Any) -> Setting:
    return Setting("length", help, reason=f"length: {reason}", **values)


def _gopher(help: str, reason: str, web: Any, **values: Any) -> Setting:
    return Setting("gopher quality", help, web=web, reason=f"gopher: {reason}" if reason else "", **values)


def _repetition(help: str, reason: str, web: float, **values: Any) -> Setting:
    return Setting("gopher repetition", help, web=web, most=1, reason=f"gopher: {reason}", **values)


def _c4(help: str, reason: str, web: Any, **values: Any) -> Setting:
    return Setting("c4", help, web=web, reason=f"c4: {reason}" if reason else "", **values)


def _fineweb(help: str, reason: str, web: Any, **values: Any) -> Setting:
    return Setting("fineweb", help, web=web, reason=f"fineweb: {reason}" if reason else "", **values)


def _duplicate_n_gram(n: int, web: float) -> Setting:
    help = f"Maximum share of characters in repeated runs of {n} words."
    return _repetition(help, f"repeated runs of {n} words", web, off_for=UNSPACED, because=_AS_WORDS)


def _top_n_gram(n: int, web: float) -> Setting:
    return _repetition(f"Maximum share of characters in the most frequent run of {n} words.", f"one run of {n} words", web)


SETTINGS: Table[Setting] = Table(
    "a name in filter_settings",
    {
        # Our own. Nobody publishes bounds for every language and kind of text, so `light` drops only what no reader would call
        # text: a book has a few million characters, and zlib makes prose 1 to 4 times smaller, tables and generated code up to 18
        # times.
        "min_characters": _length("Minimum characters in a document; leading and trailing whitespace does not count.", "too few "
        "characters",
                                  light=2, type=int),
        "max_characters": _length("Maximum characters in a document; in web, twice what Gopher's rules can keep.",
                                  "too many characters", light=100_000_000, web=2_000_000, type=int),
        "max_compression": _length("How many times smaller zlib may make a document; catches extreme repetition.", "repeats itself",
                                   light=25.0, least=1),
        "min_language_score": Setting("language", "Minimum probability of the language (FineWeb's threshold).", light=0.65,
                                      web=0.65, most=1, reason="language: not sure enough", part_of="languages"),
        # datatrove's GopherQualityFilter
        "min_words": _gopher("Minimum words in a document.", "too few words", 50, type=int),
        "max_words": _gopher("Maximum words in a document.", "too many words", 100_000, type=int),
        "min_mean_word_length": _gopher("Minimum mean word length in characters.", "words too short", 3, off_for=UNSPACED,
                                        because=_AS_WORDS),
        "max_mean_word_length": _gopher("Maximum mean word length in characters.", "words too long", 10, off_for=UNSPACED,
                                        because=_AS_WORDS),
        "max_symbols_per_word": _gopher("Maximum hashes per word, and ellipses per word.", "too many hashes or ellipses", 0.1),
        "max_bullet_lines": _gopher("Maximum share of lines that begin with a bullet.", "too many bullets", 0.9, most=1),
        "max_ellipsis_lines": _gopher("Maximum share of lines that end with an ellipsis.", "too many lines end in an ellipsis",
                                      0.3, most=1),
        "min_alphabetic_words": _gopher("Minimum share of words that contain a letter.", "too few alphabetic words", 0.8, most=1),
        "min_stop_words": _gopher("Minimum number of different words from stop_words.", "too few stop words", 2, type=int),
        "stop_words": _gopher("The words that min_stop_words counts.", "", STOP_WORDS, light=STOP_WORDS, type=list,
                              part_of="min_stop_words"),
        # datatrove's GopherRepetitionFilter
        "max_duplicate_lines": _repetition("Maximum share of repeated lines.", "repeated lines", 0.3),
        "max_duplicate_paragraphs": _repetition("Maximum share of repeated paragraphs.", "repeated paragraphs", 0.3),
        "max_duplicate_line_characters": _repetition("Maximum share of characters in repeated lines.",
                                                     "much text in repeated lines", 0.2),
        "max_duplicate_paragraph_characters": _repetition("Maximum share of characters in repeated paragraphs.",
                                                          "much text in repeated paragraphs", 0.2),
        **{f"max_top_{n}_gram": _top_n_gram(n, web) for n, web in ((2, 0.2), (3, 0.18), (4, 0.16))},
        **{
            f"max_duplicate_{n}_grams": _duplicate_n_gram(n, web)
            for n, web in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
        },
        # datatrove's C4QualityFilter, which removes lines first
        "max_word_length": _c4("Remove lines with a longer word.", "", 1_000, type=int),
        "remove_citations": _c4("Remove citation marks such as [1] and [edit].", "", True, type=bool),
        "require_end_punctuation": _c4("Remove lines that do not end with punctuation.", "", False, light=False, type=bool),
        "min_words_per_line": _c4("Remove lines with fewer words.", "", 3, type=int, off_for=UNSPACED,
                                  because="a line without spaces is one word"),
        "drop_lorem_ipsum": _c4("Drop documents that contain 'lorem ipsum'.", "lorem ipsum", True, type=bool),
        "cut_javascript_lines": _c4("Remove lines that mention JavaScript.", "", True, type=bool),
        "drop_curly_brackets": _c4("Drop documents that contain '{'.", "curly bracket", True, type=bool),
        "cut_policy_lines": _c4("Remove lines about cookies, privacy policies and terms of use.", "", True, type=bool),
        "min_sentences": _c4("Minimum number of sentences left.", "too few sentences", 5, type=int, off_for=UNPUNCTUATED,
                             because=_NO_MARKS),
        # datatrove's FineWebQualityFilter
        "min_punctuated_lines": _fineweb("Minimum share of lines that end with punctuation.", "too few lines end a sentence",
                                         0.12, most=1, off_for=UNPUNCTUATED, because=_NO_MARKS),
        "max_short_lines": _fineweb("Maximum share of lines of at most short_line_characters.", "too many short lines", 0.67,
                                    most=1),
        "short_line_characters": _fineweb("Characters up to which max_short_lines calls a line short.", "", 30, light=30, type=int,
                                          part_of="max_short_lines"),
        "max_repeated_line_characters": _fineweb("Maximum share of characters in repeated lines.", "repeated lines",
                                                 0.01, most=1),
        "max_line_breaks_per_word": _fineweb("Maximum line breaks per word; catches lists.", "too many line breaks", 0.3),
    },
)  # fmt: skip


def settings_of(
    preset: str, given: Mapping[str, object] | None = None, languages: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The thresholds of a preset, with the given ones in their place.

    Args:
        given: values by name; None switches a threshold off, and a filter with none left is skipped.
        languages: languages of the documents to keep, as ISO 639 codes; () means all.
    Returns: every threshold by name, and the names of those that the languages switch off, by reason.
    Raises: UserError for unknown names, values of a wrong type or out of range, a minimum above its maximum, and settings without
        effect.
    """
    given = check_settings(given)
    values: dict[str, Any] = {name: setting.value(preset) for name, setting in SETTINGS.items()}
    off: dict[str, list[str]] = {}
    for name, setting in SETTINGS.items():
        if values[name] is not None and name not in given and setting.off_for & {*languages}:
            values[name] = None
            off.setdefault(setting.because, []).append(name)
    if values["min_stop_words"] is not None and set(languages) != {"en"} and not {"min_stop_words", "stop_words"} & {*given}:
        values["min_stop_words"] = None
        off["the words are English; stop_words and min_stop_words set others"] = ["min_stop_words"]
    values |= given
    for name, value in given.items():
        whole = SETTINGS[name].part_of
        if value is not None and whole and not ({**values, "languages": languages}[whole]):
            shown = " ".join(value) if isinstance(value, list) else value
            where = "" if whole == "languages" else " in filter_settings"
            raise UserError(
                f"{name} in filter_settings is {shown}, but {whole} is off with filters {preset}, so it would have no effect; set "
                f"{whole}{where}, or leave {name} out."
            )
    for unit in ("characters", "words", "mean_word_length"):
        low, high = values[f"min_{unit}"], values[f"max_{unit}"]
        if low is not None and high is not None and low > high:
            raise UserError(f"min_{unit} is {low:,} and max_{unit} {high:,} in filter_settings; no document can satisfy both.")
    return values, off


def check_settings(given: Mapping[str, object] | None) -> dict[str, Any]:
    """The `filter_settings` of a run, with each value checked. Raises: UserError."""
    if given is None:
        return {}
    for name in given:
        if name not in SETTINGS:
            near = nearest(str(name), SETTINGS)
            meant = f"did you mean {near!r}?" if near else f"the known names are {', '.join(SETTINGS)}."
            raise UserError(f"unknown name {name!r} in filter_settings; {meant}")
    return {name: SETTINGS[name].checked(name, value) for name, value in given.items()}
