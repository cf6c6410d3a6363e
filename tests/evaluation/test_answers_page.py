import html
import json
import re
import shutil
import subprocess

import pytest

from hfgpt.evaluation.answer_rows import SEEN, AnswerRow, read_answers, write_answers
from hfgpt.evaluation.answers_page import word_differences, write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def needs_browser(test):
    absent = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH")
    return pytest.mark.slow(absent(test))


HOSTILE = [
    "</script><script>document.title = 'RAN'</script>",
    "<img src=x onerror=\"document.title = 'RAN'\">",
    "</style></title><svg onload=\"document.title = 'RAN'\">",
    '" onmouseover="document.title = 1" x="{{ 7 * 7 }}{% endraw %}',
    "<!-- <iframe srcdoc=\"<script>parent.document.title = 'RAN'</script>\">",
    "&lt;b&gt; &amp;amp; \x00\x1b[31m half a pair \ud83d",
    "<base href='http://192.0.2.1/'><link rel=stylesheet href='http://192.0.2.1/x.css'>",
]


def row(prompt: str, reference: str | None, before: str, after: str, **others) -> AnswerRow:
    return AnswerRow([{"role": "user", "content": prompt}], reference, {"before": before, "after": after}, **others)


def scored(before: float, after: float) -> dict:
    return {"before": {"exact_match": 0.0, "token_f1": before}, "after": {"exact_match": float(after == 1), "token_f1": after}}


ROWS = [
    row("What does os.getcwd do?", "It returns the folder.", "zebra", "It returns the folder.", scores=scored(0.0, 1.0)),
    row("What does shutil.copy do?", "It copies a file.", "It copies a file.", "It removes a file.", scores=scored(1.0, 0.75)),
    row("Name a colour.", "Red.", "Blue!", "Blue!", scores=scored(0.0, 0.0), notes=["the answer is no colour of the list"]),
]


def opened(page, address: str = "", *, expect_title: str | None = None) -> str:
    """The page's document in a real browser after its scripts have run, opened at `page#address`."""
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--allow-file-access-from-files",  # a frame's document is open to the page around it
         f"--user-data-dir={page.parent / 'profile'}",
         "--virtual-time-budget=300", "--dump-dom", f"{page.as_uri()}{address and '#' + address}"],
        capture_output=True, text=True, timeout=60, encoding="utf-8",
    )  # fmt: skip
    assert "</html>" in done.stdout, done.stderr[-2000:]
    return done.stdout


def opened_at(page, *addresses: str) -> list[str]:
    """The page's documents at these addresses, from one start of the browser: a page beside it has a frame for each."""
    frames = "".join(f'<iframe src="{page.name}#{html.escape(address)}"></iframe>' for address in addresses)
    gather = "JSON.stringify(Array.from(document.querySelectorAll('iframe'), f => f.contentDocument.documentElement.outerHTML))"
    every = page.with_name("every.html")
    every.write_text(f'<!doctype html><body onload="document.body.dataset.gathered = {gather}">{frames}', encoding="utf-8")
    documents = json.loads(html.unescape(re.search(r'data-gathered="([^"]*)"', opened(every))[1]))
    assert len(documents) == len(addresses)
    return documents


def rows_at(page, *addresses: str) -> list[list[int]]:
    return [shown_rows(document) for document in opened_at(page, *addresses)]


def shown_rows(document: str) -> list[int]:
    articles = re.findall(r'<article id="row-(\d+)"[^>]*?>', document)
    hidden = re.findall(r'<article id="row-(\d+)"[^>]*? hidden(?:=""|>| )', document)
    return [int(number) for number in articles if number not in hidden]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "answers.html"
    write_page(path, ROWS, title="Answers & more", facts={"model": "runs/a", "rows": 3})
    return path


def test_rows_come_back_from_the_file_as_they_went_in(tmp_path):
    rows = [*ROWS, *(row(text, None, text, "") for text in HOSTILE)]
    write_answers(tmp_path / "deep" / "answers.json", rows)
    assert read_answers(tmp_path / "deep" / "answers.json") == rows
    assert (
        json.loads((tmp_path / "deep" / "answers.json").read_text(encoding="utf-8"))[1]["answers"]["after"] == "It removes a file."
    )
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["answers.json"]
    (tmp_path / "other.json").write_text('[{"text": "a"}]')
    with pytest.raises(ValueError, match=r"other\.json does not contain answers in the format of write_answers"):
        read_answers(tmp_path / "other.json")


def test_differences_are_marked_word_by_word():
    assert word_differences("It copies a file.", "It removes a file.") == [
        ("same", "It"),
        ("missing", " copies"),
        ("added", " removes"),
        ("same", " a file."),
    ]
    assert word_differences("one two three", "one  two\nthree") == [("same", "one  two\nthree")]
    assert word_differences("one two three", "one two three four\n") == [("same", "one two three"), ("added", " four\n")]
    assert word_differences("Red.", "something else entirely, with no word of it") == [
        ("same", "something else entirely, with no word of it")
    ]
    assert word_differences("Red.", "") == []


@pytest.mark.parametrize("answer", ["", " \n", "a", " a b\n\n", "1. x\n2. y  ", "naïve — “quoted”, 日本語のテキスト", *HOSTILE])
def test_no_character_of_an_answer_is_lost_in_its_differences(answer):
    segments = word_differences("a b 1. x quoted", answer)
    assert "".join(text for kind, text in segments if kind != "missing") == answer


def test_a_very_long_answer_is_shown_unmarked_rather_than_compared():
    long = "word other " * 1500
    assert word_differences("word", long) == [("same", long)]


def test_the_page_is_one_file_that_asks_for_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href|action)\s*=\s*(?:["'](?!#)|[^"'\s#])|@import|url\(|https?://|fetch\(|XMLHttp""", text)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_the_means_of_the_rows_stand_above_unless_others_are_given(tmp_path, page):
    def table(path) -> str:
        found = re.search(r"<table>.*?</table>", path.read_text(encoding="utf-8"), re.DOTALL)
        return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())

    assert table(page) == "answers exact match token f1 before 0.000 0.333 after 0.333 0.583"
    write_page(tmp_path / "page.html", ROWS, title="a", summary={"after": {"judge": 71.25, "answers": 1234}})
    assert table(tmp_path / "page.html") == "answers judge answers after 71.2 1,234"


KINDS = [
    row("1 + 2?", "3", "4", "3", kind="sums", scores=scored(0, 1)),
    row("2 + 2?", "4", "4", "3", kind="sums", scores=scored(1, 0)),
    row("Sing.", "La la la la la la.", "la", "La la.", kind="<b>songs", scores=scored(0.2, 0.5)),
    row("3 + 2?", "5", "5", "5", kind="sums", scores=scored(1, 1), notes=[SEEN]),
]


def test_a_table_has_a_line_for_each_kind_and_free_text_is_neither_right_nor_wrong(tmp_path):
    write_page(tmp_path / "page.html", KINDS, title="a")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    table = html.unescape(re.sub(r"<[^>]+>", " ", re.search(r"<table>.*?</table>", text, re.DOTALL)[0]))
    assert " ".join(table.split()) == (
        "kind of question questions before after most frequent answer (baseline) sums 2 0.0 % right 50.0 % right 50.0 % "
        "<b>songs 1 token F1 0.200 token F1 0.500 free text"
    )
    assert text.count("<table>") == 1
    articles = re.findall(r"<article.*?</article>", text, re.DOTALL)
    assert [re.findall(r"verdict (right|wrong)", article) for article in articles] == [
        ["wrong", "right"],
        ["wrong", "wrong"],
        [],
        ["wrong", "right"],
    ]
    assert '<option value="&lt;b&gt;songs">&lt;b&gt;songs</option><option value="sums">sums</option>' in text


@needs_browser
def test_a_browser_shows_the_rows_of_one_kind(tmp_path):
    write_page(tmp_path / "page.html", KINDS, title="a")
    rows = rows_at(tmp_path / "page.html", "kind=sums", "kind=sums&show=wrong", "kind=no-such-kind")
    assert rows == [[1, 2, 4], [2], [1, 2, 3, 4]]


def test_a_page_of_no_rows_and_of_rows_without_references_can_be_written(tmp_path):
    write_page(tmp_path / "none.html", [], title="Nothing")
    assert "No matching rows." in (tmp_path / "none.html").read_text(encoding="utf-8")
    write_page(tmp_path / "base.html", [row("cf", None, "It copies a file.", "It removes a file.")], title="Canaries")
    text = (tmp_path / "base.html").read_text(encoding="utf-8")
    assert "<ins>removes</ins>" in text
    assert "not in the first answer" in text
    assert 'data-state="changed"' in text
    assert ">wrong<" not in text


def test_what_the_eye_does_not_see_is_named(tmp_path):
    write_page(tmp_path / "page.html", [row("a\u200bb\u202ec\U000e0041", None, "न\u200dक 👩\u200d💻", "")], title="a")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'a<span class="invisible" title="ZERO WIDTH SPACE">U+200B</span>b' in text
    assert 'title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>c' in text
    assert 'title="TAG LATIN CAPITAL LETTER A">U+E0041</span>' in text
    assert "न\u200dक 👩\u200d💻" in text


@needs_browser
def test_a_browser_shows_all_rows_and_what_the_address_asks_for(page):
    document = opened(page)
    assert shown_rows(document) == [1, 2, 3]
    assert re.search(r'<output id="count"[^>]*>3 of 3</output>', document)
    # A word of a label that is in every row, such as "reference", is not part of the texts.
    assert rows_at(page, "q=shutil", "q=FILE%20copy", "q=reference", "q=zebra") == [[2], [2], [], [1]]


@needs_browser
def test_a_browser_filters_and_sorts_by_the_last_column(page):
    shown = {"show=wrong": [2, 3], "show=right": [1], "show=changed": [1, 2], "show=noted": [3], "show=wrong&q=colour": [3],
             "sort=score": [3, 2, 1], "sort=descending&marks=off": [1, 2, 3]}  # fmt: skip
    documents = opened_at(page, *shown)
    assert dict(zip(shown, map(shown_rows, documents))) == shown
    assert re.search(r'<div id="rows" class="plain">', documents[-1])


@needs_browser
def test_hostile_texts_are_shown_and_do_not_run(tmp_path):
    rows = [
        AnswerRow([{"role": text, "content": text}], text, {text: text, "last" + text: text[::-1]}, {}, [text]) for text in HOSTILE
    ]
    write_page(
        tmp_path / "hostile.html",
        rows,
        title=HOSTILE[0],
        facts={HOSTILE[1]: HOSTILE[2]},
        summary={HOSTILE[0]: {HOSTILE[1]: 1}},
        alarms=HOSTILE,
    )
    document = opened(tmp_path / "hostile.html")
    assert html.unescape(re.search(r"<title>(.*?)</title>", document, re.DOTALL)[1]) == HOSTILE[0]
    assert shown_rows(document) == list(range(1, len(HOSTILE) + 1))  # our own script did run
    assert len(re.findall(r"<script", document)) == 2
    assert not re.search(r"<(?:img|svg|iframe|base|link|b)\b", document)
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r'="[^"]*"', '=""', document))
    body = html.unescape(re.sub(r"<[^>]+>", "", document.partition("<main")[2].rpartition("<script")[0]))
    for text in HOSTILE[:5]:
        assert body.count(text) >= 4
    assert "{{ 7 * 7 }}" in body
    # Searching finds them, too.
    assert shown_rows(opened(tmp_path / "hostile.html", "q=%3Csvg%20onload")) == [3]


@needs_browser
def test_even_an_injected_script_would_not_run(page, tmp_path):
    """The policy is the second line of defence: a page with a hole in its escaping, with and without the policy."""
    text = page.read_text(encoding="utf-8").replace("Name a colour.", "<script>document.title = 'RAN'</script>")
    (tmp_path / "hole.html").write_text(text, encoding="utf-8")
    (tmp_path / "open.html").write_text(re.sub(r"<meta http-equiv[^>]*>", "", text), encoding="utf-8")
    assert "<title>Answers &amp; more</title>" in opened(tmp_path / "hole.html")
    assert "<title>RAN</title>" in opened(tmp_path / "open.html")
