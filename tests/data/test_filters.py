# ruff: noqa: RUF001 (marks and letters of many scripts are what this is about)
import json
import logging
import math
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

from hfgpt.arguments.filter_settings import SETTINGS
from hfgpt.data.filters import LINES_CUT, Filter, cleaning_steps, compression, key_of, report_losses
from hfgpt.data.repair import RepairText
from hfgpt.data.steps import StepCounts, apply_steps
from hfgpt.hygiene import perplexity

# English without quality problems: whole sentences, a few per line.
GOOD = """\
When we came back that summer, the door of the old house stood open. Nobody had told us to expect it.
My brother went in first, because he was the elder and had the lamp, and I heard him laugh in the kitchen.
Somebody had eaten there not long ago. A plate and two cups were left on the table, with bread that was still soft.
"They have better manners than you," he said, and put the cups into the sink.
In the garden, weeds had grown as high as my shoulders; only the path to the well was clear."""
PARTS = ("stop_words", "short_line_characters")
NAMES = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st"]


def around(run: str, length: int) -> str:
    """A text of `length` characters that begins and ends with `run`, with one word between."""
    return f"{run} {'x' * (length - 2 * len(run) - 2)} {run}"


def n_gram_case(n: int, share: float, counted: int) -> tuple[str, str]:
    """Two texts that repeat a run of n words: `counted` characters are just above `share` of the first, at most of the second."""
    run, length = " ".join(NAMES[:n]), math.ceil(round(counted / share, 6))
    return around(run, length - 1), around(run, length)


def lines(number: int, of: int, text: str, other: str) -> str:
    return "\n".join(text if index < number else f"{other} {index}" for index in range(of))


# For every threshold, a document that it drops and one that just passes.
CASES = {
    "min_characters": ("  a\n", "ab"),
    "max_characters": ("a" * 2_000_001, "a" * 2_000_000),
    "max_compression": ("buy now " * 100, "buy now " * 60),
    "min_words": ("word " * 49, "word " * 50),
    "max_words": ("a " * 100_001, "a " * 100_000),
    "min_mean_word_length": ("abc abc ab", "abc abc abc"),
    "max_mean_word_length": ("a" * 10 + " " + "b" * 11, "a" * 10 + " " + "b" * 10),
    "max_symbols_per_word": ("a " * 8 + "#", "a " * 9 + "#"),
    "max_bullet_lines": (lines(10, 10, "- item", "no"), lines(9, 10, "- item", "no")),
    "max_ellipsis_lines": (lines(4, 10, "and so...", "no"), lines(3, 10, "and so...", "no")),
    "min_alphabetic_words": ("a b c 1 2", "a b c d 2"),
    "min_stop_words": ("the cat sat", "the cat and"),
    "max_duplicate_lines": (lines(5, 10, "again", "no"), lines(4, 10, "again", "no")),
    "max_duplicate_paragraphs": (lines(5, 10, "again\n", "\nno"), lines(4, 10, "again\n", "\nno")),
    "max_duplicate_line_characters": (f"{'x' * 57}\n{'y' * 20}\n{'y' * 20}", f"{'x' * 58}\n{'y' * 20}\n{'y' * 20}"),
    "max_duplicate_paragraph_characters": (f"{'x' * 55}\n\n{'y' * 20}\n\n{'y' * 20}", f"{'x' * 56}\n\n{'y' * 20}\n\n{'y' * 20}"),
    **{f"max_top_{n}_gram": n_gram_case(n, share, 2 * (3 * n - 1)) for n, share in ((2, 0.2), (3, 0.18), (4, 0.16))},
    **{f"max_duplicate_{n}_grams": n_gram_case(n, 0.20 - 0.01 * n, 2 * n) for n in range(5, 11)},
    "drop_lorem_ipsum": ("Here: Lorem ipsum dolor.", "Here: Lorem ipse dolor."),
    "drop_curly_brackets": ("if (x) { y }", "if (x) ( y )"),
    "min_sentences": ("One is here. Two is, too. Three! Four?", "One is here. Two is, too. Three! Four? Five."),
    "min_punctuated_lines": (lines(2, 25, "Yes.", "no"), lines(3, 25, "Yes.", "no")),
    "max_short_lines": (lines(68, 100, "short", "x" * 40), lines(67, 100, "short", "x" * 40)),
    "max_repeated_line_characters": (f"{'x' * 979}\n{'y' * 10}\n{'y' * 10}", f"{'x' * 980}\n{'y' * 10}\n{'y' * 10}"),
    "max_line_breaks_per_word": ("a b\n" * 3 + "c\nd e f", "a b\n" * 3 + "c d e f"),
}  # fmt: skip


def alone(setting: str) -> Filter:
    """The filter with this threshold only, as in `web`, or as in `light` if `web` has none."""
    filter = SETTINGS[setting].filter
    others = {name: None for name, entry in SETTINGS.items() if entry.filter == filter and name not in PARTS}
    values = others | {setting: SETTINGS[setting].light if SETTINGS[setting].web is None else SETTINGS[setting].web}
    (step,) = (one for one in cleaning_steps(filters="web", filter_settings=values) if one.name == f"filter: {filter}")
    return step


@pytest.mark.parametrize("setting", CASES)
def test_one_document_falls_to_a_threshold_and_one_just_passes(setting):
    falls, passes = CASES[setting]
    step = alone(setting)
    assert step(falls).counts == {SETTINGS[setting].reason: 1}
    assert step(falls).text is None
    assert step(passes).text == passes
    assert key_of(SETTINGS[setting].reason) == setting


def test_every_threshold_that_drops_documents_is_tried():
    assert {*CASES, "min_language_score"} == {name for name, setting in SETTINGS.items() if setting.reason}
    assert len({setting.reason for setting in SETTINGS.values() if setting.reason}) == len(CASES) + 1  # each has its own


def test_the_page_names_every_reason_that_there_is():
    page = (Path(__file__).resolve().parents[2] / "docs" / "data" / "filters.md").read_text(encoding="utf-8")
    known = {setting.reason for setting in SETTINGS.values() if setting.reason} | {perplexity.REASON}
    steps = [step for step in cleaning_steps(filters="web", languages=["en"]) if isinstance(step, Filter)]
    found = Counter(reason for step in steps for text in ("?!", "Es war einmal ein König. " * 9) for reason in step(text).counts)
    assert {"gopher: no words", "c4: no words", "fineweb: no words", "language: de"} <= {*found}
    prefixes = {reason.partition(":")[0] for reason in known}
    named = {reason for reason in re.findall(r"`([^`\n]+: [^`\n]+)`", page) if reason.partition(":")[0] in prefixes}
    assert named == known | {*found} | {f"c4: {LINES_CUT}"}


def test_lines_that_c4_cuts_out_are_counted_and_the_rest_stays():
    (step,) = (step for step in cleaning_steps(filters="web") if step.name == "filter: c4")
    junk = ["Please enable JavaScript to go on.", "This site uses cookies to count you.", "Home", "x" * 1_001 + " y z."]
    outcome = step("\n".join([GOOD, *junk, "  A last line with a citation[12]."]))
    assert outcome.text == GOOD + "\nA last line with a citation."
    assert outcome.counts == {"c4: lines cut": 4}


def test_languages_are_told_and_kept():
    texts = {
        "en": GOOD,
        "de": "Die Tür des alten Hauses stand offen, als wir in jenem Sommer zurückkamen, und niemand hatte es uns gesagt.",
        "fr": "La porte de la vieille maison était ouverte quand nous sommes revenus, et personne ne nous avait prévenus.",
        "zh": "那年夏天我们回来的时候，老房子的门开着，没有人告诉过我们会是这样。花园里长满了野草，厨房很冷。",
    }
    (step,) = (step for step in cleaning_steps(filters="light", languages=["de", "zh"]) if step.name == "filter: language")
    outcomes = {language: step(text) for language, text in texts.items()}
    assert {language: dict(outcome.counts) for language, outcome in outcomes.items()} == {
        "en": {"language: en": 1}, "de": {}, "fr": {"language: fr": 1}, "zh": {},
    }  # fmt: skip
    assert step("ok 12").counts == {"language: not sure enough": 1}
    with pytest.raises(ValueError, match="languages has 'deu', which py3langid does not know; did you mean 'eu'"):
        cleaning_steps(filters="web", languages=["deu"])  # ISO 639-3


def test_presets_have_their_steps_in_order_and_good_text_passes_them():
    names = {preset: [step.name for step in cleaning_steps(filters=preset)] for preset in ("none", "light", "web")}
    assert names == {
        "none": [],
        "light": ["repair text", "filter: length"],
        "web": ["repair text", "filter: length", "filter: language", "filter: gopher quality", "filter: gopher repetition",
                "filter: c4", "filter: fineweb"],
    }  # fmt: skip
    for step in [*cleaning_steps(filters="light"), *cleaning_steps(filters="web")]:
        assert step(GOOD).text == GOOD, step.name
        assert pickle.loads(pickle.dumps(step)) == step
        assert json.loads(json.dumps(step.settings)) == step.settings
    assert [step.name for step in cleaning_steps(repair_text=True)] == ["repair text"]
    assert [step.name for step in cleaning_steps(filters="light", repair_text=False)] == ["filter: length"]


def test_a_threshold_switches_its_filter_on_in_light_and_none_switches_it_off_in_web():
    names = [step.name for step in cleaning_steps(filters="light", filter_settings={"min_words": 5})]
    assert names == ["repair text", "filter: length", "filter: gopher quality"]
    (*_, step) = cleaning_steps(filters="light", filter_settings={"max_short_lines": 0.5})  # what counts as short is known
    assert (step(lines(6, 10, "short", "x" * 40)).text, step(GOOD).text) == (None, GOOD)
    fineweb = {name: None for name, setting in SETTINGS.items() if setting.filter == "fineweb"}
    assert "filter: fineweb" not in [step.name for step in cleaning_steps(filters="web", filter_settings=fineweb)]


@pytest.mark.parametrize("preset", ["light", "web"])
def test_code_and_other_scripts_pass_what_is_light_only(preset):
    texts = ["def f(x):\n    return {'a': x}\n" * 3, "汉字" * 20, "ok", "SELECT * FROM t;", "Ja, klar."]
    kept = list(
        apply_steps([{"text": text} for text in texts], steps := cleaning_steps(filters=preset), [StepCounts() for _ in steps])
    )
    assert [document["text"].strip() for document in kept] == ([text.strip() for text in texts] if preset == "light" else [])


def test_other_languages_switch_off_what_does_not_fit_them_and_say_why(caplog):
    with caplog.at_level(logging.INFO):
        steps = {step.name: step.settings for step in cleaning_steps(filters="web", languages=["zh"])}
    assert steps["filter: gopher quality"]["min_stop_words"] is None
    assert steps["filter: gopher quality"]["min_mean_word_length"] is None
    assert steps["filter: c4"]["min_words_per_line"] is None
    assert steps["filter: gopher quality"]["min_words"] == 50
    assert "min_stop_words off for languages zh: the words are English" in caplog.text
    german = dict(languages=["de"], filter_settings={"stop_words": ["der", "die", "und"]})
    steps = {step.name: step.settings for step in cleaning_steps(filters="web", **german)}
    assert steps["filter: gopher quality"]["min_stop_words"] == 2
    chinese = (
        "那年夏天我们回来的时候，老房子的门开着。没有人告诉过我们会是这样。花园里长满了野草，厨房很冷。"
        "井很深，地窖却是干的。屋顶已经不见了，我们都很惊讶。"
    )
    for step in cleaning_steps(filters="web", languages=["zh"]):
        assert step(chinese).text == chinese, step.name


def test_decisions_and_texts_are_those_of_datatroves_own_pipeline(shared_data, tmp_path):
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    from hfgpt.data.word_splitting import word_splitter

    records = json.loads((shared_data / "instruct_dolly" / "dolly_3k.json").read_text())[:300]
    novels = (shared_data / "english_novels" / "valid.txt").read_text(encoding="utf-8")
    texts = [f"{one['instruction']}\n{one['input']}\n{one['output']}" for one in records]
    texts += [novels[start : start + 3_000] for start in range(0, 180_000, 3_000)]

    language = dict(language=word_splitter())
    blocks = [GopherQualityFilter(**language), GopherRepetitionFilter(**language),
              C4QualityFilter(filter_no_terminal_punct=False, **language), FineWebQualityFilter(**language)]  # fmt: skip
    theirs: dict[str, str] = {}

    def collect(data, rank: int = 0, world_size: int = 1):
        theirs.update((document.id, document.text) for document in data)
        return iter(())

    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    stats = LocalPipelineExecutor([documents, *blocks, collect], logging_dir=str(tmp_path)).run()
    reasons = Counter()
    for entry in json.loads(stats.to_json()):
        for key, value in entry["stats"].items():
            if key.startswith("dropped_"):
                reasons[key] += value if isinstance(value, int) else value["total"]

    steps = cleaning_steps(filters="web", repair_text=False, filter_settings={"max_characters": None})
    steps = [step for step in steps if step.name != "filter: language"]
    counts = [StepCounts() for _ in steps]
    ours = {document["row_id"]: document["text"] for document in apply_steps(
        ({"text": text, "source": "s", "row_id": str(number)} for number, text in enumerate(texts)), steps, counts)}  # fmt: skip
    assert ours == theirs
    assert 100 < len(ours) < len(texts) - 50
    dropped = sum((count.reasons for count in counts), Counter())
    del dropped["c4: lines cut"]
    assert sorted(dropped.values()) == sorted(reasons.values())
    assert len(dropped) > 8


def test_compression_is_the_same_however_long_the_text(monkeypatch):
    text = GOOD * 50
    whole = compression(text)
    monkeypatch.setattr("hfgpt.data.filters.COMPRESSED_AT_ONCE", 1_000)
    assert compression(text) == pytest.approx(whole, rel=0.05)
    assert whole > 25


def test_what_drops_nearly_everything_is_warned_about_with_its_key(caplog):
    steps = cleaning_steps(filters="web", filter_settings={"max_top_2_gram": None, "max_top_3_gram": None, "max_top_4_gram": None})
    entries = [{"step": "load", "documents_out": 20}]
    counts = [StepCounts() for _ in steps]
    documents = (
        [{"text": "This is all that there is to say of it."}] * 18 + [{"text": GOOD}] + [{"text": "Wer weiß das schon so genau?"}]
    )
    kept = list(apply_steps(documents, steps, counts))
    for step, count in zip(steps, counts, strict=True):
        entries.append({"step": step.name, "reasons": dict(count.reasons), "settings": step.settings})
    report_losses(entries, kept=len(kept))
    assert len(kept) == 1
    said = "filters dropped 19 of 20 documents, 18 of them for 'gopher: too few words'; change min_words (50) in filter_settings"
    assert f"warning: {said}" in caplog.text
    with pytest.raises(ValueError, match="no document is left: filters dropped 19 of 20 documents"):
        report_losses(entries, kept=0)
    private = {"step": "personal data", "documents_in": 20, "documents_out": 1, "reasons": {"email": 40}, "settings": {}}
    with pytest.raises(
        ValueError, match="left: the step 'personal data' dropped 19 of 20 documents.*--personal_data mask would keep"
    ):
        report_losses([entries[0], private], kept=0)
    caplog.clear()
    report_losses(entries[:1], kept=20)
    report_losses([*entries[:1], {"step": RepairText().name, "reasons": {"repaired": 20}, "settings": {}}], kept=20)
    assert not caplog.text
