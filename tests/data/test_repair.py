# ruff: noqa: RUF001 (marks and letters of many scripts are what this is about)
import random

import pytest
from hard_texts import HARD_TEXTS

from hfgpt.data.repair import REPAIRED, RepairText

repair = RepairText()


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("schÃ¶n und traurig â€” beides", "schön und traurig — beides"),
        ("a\x00b\x1b[31mred\x1b[0m\ufeff\x7f", "abred"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("blank   \n\t\nMarkdown's break  \nend \t", "blank\n\nMarkdown's break  \nend"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
    ],
)
def test_what_is_broken_is_repaired_and_counted(text, repaired):
    outcome = repair(text)
    assert (outcome.text, outcome.counts) == (repaired, {REPAIRED: 1})


@pytest.mark.parametrize(
    "text",
    [
        "“Curly” ‘quotes’ … and — dashes",
        "ﬁle, ﬂow, Ǆ",
        "全角，句号。！ＡＢＣ ｶﾅ",
        "&lt;b&gt; &amp; &eacute;",
        "10³ µm, ½",
        "def f(x):\n\treturn {'a': x}\n\n\nclass A:\n    pass\n",
        "می\u200cخواهم 👩\u200d👩\u200d👧 \u00adsoft",
        "form\ffeed",
    ],
)
def test_what_its_author_may_mean_stays(text):
    outcome = repair(text)
    assert (outcome.text, outcome.counts) == (text, {})


def test_a_repaired_text_is_not_changed_by_another_repair():
    pieces = [
        *"aé漢 \t\r\nÂâ€ÐÑ，ﬁ",
        "Ã©",
        "â€™",
        "\x85",
        "\u2028",
        "e\u0301",
        "\x1b[0m",
        "\ufeff",
        "ï¿½",
        "\u00a0",
        "\x9d",
        "\u0301",
    ]
    generator = random.Random(0)
    made = ["".join(generator.choices(pieces, k=generator.randint(1, 12))) for _ in range(4_000)]
    changed = 0
    for text in [*HARD_TEXTS, *made, "Ã©Ñ "]:
        once = repair(text).text
        assert repair(once).text == once, repr(text)
        changed += once != text
    assert changed > 2_000
