import json
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from hfgpt.data.mixture import (
    Mixture,
    SourceTokens,
    draw_documents,
    mix,
    names_as_given,
    shuffle_documents,
    table_of_sources,
    tokens_by_source,
    training_sources,
    warnings_of_epochs,
)
from hfgpt.data.passport import Passport
from hfgpt.data.sources import ReadingOptions, documents_of, find_sources
from hfgpt.errors import UserError
from hfgpt.tokenization import encode_texts, load_tokenizer

NAMES = {"a1.txt": "a*.txt", "a2.txt": "a*.txt", "b.txt": "b.txt"}


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return load_tokenizer(small_tokenizer)


def documents(a, b):
    """Documents of two sources, the first of which has two files."""
    rows = [{"text": f"{n} of the first source " * (1 + n % 5), "source": f"a{1 + n % 2}.txt"} for n in range(a)]
    rows += [{"text": f"the second has {n} " * (1 + n % 3), "source": "b.txt"} for n in range(b)]
    return Dataset.from_list([{**row, "row_id": str(number)} for number, row in enumerate(rows)])


def tokens_of(texts, tokenizer):
    return sum(map(len, encode_texts(tokenizer, list(texts))))


def mixed(tokenizer, mixture, *, a=300, b=100):
    passport = Passport()
    result = mix(documents(a, b), mixture, tokenizer, passport, names=NAMES)
    return result, passport.steps[0]["sources"]


def test_shares_of_the_notes_formula():
    shares = Mixture(alpha=0.7).shares({"large": 1_000_000, "small": 10_000})
    assert shares["large"] / shares["small"] == pytest.approx(100**0.7)  # 25.1, not 100
    assert sum(shares.values()) == pytest.approx(1)
    assert Mixture(alpha=1).shares({"large": 3, "small": 1}) == {"large": 0.75, "small": 0.25}
    assert Mixture(alpha=0).shares({"large": 3, "small": 1}) == {"large": 0.5, "small": 0.5}
    assert Mixture(weights={"large": 1, "small": 3}).shares({"large": 3, "small": 1}) == {"large": 0.25, "small": 0.75}


def test_shares_are_counted_in_tokens_of_what_the_user_named(tokenizer):
    result, sources = mixed(tokenizer, Mixture(weights={"a*.txt": 1, "b.txt": 3}))
    counted = dict.fromkeys(("a*.txt", "b.txt"), 0)
    for row in result:
        counted[NAMES[row["source"]]] += tokens_of([row["text"]], tokenizer)
    total = sum(counted.values())
    assert total == pytest.approx(tokens_of(documents(300, 100)["text"], tokenizer), rel=0.01)  # as many as before
    assert counted["b.txt"] / total == pytest.approx(0.75, abs=0.005)
    assert {name: one["tokens_out"] for name, one in sources.items()} == counted
    of_documents = Counter(NAMES[source] for source in result["source"])
    assert of_documents["b.txt"] / len(result) != pytest.approx(0.75, abs=0.03)  # otherwise documents would be counted


def test_all_documents_of_a_source_are_there_once_before_any_is_there_twice(tokenizer):
    result, sources = mixed(tokenizer, Mixture(weights={"a*.txt": 1, "b.txt": 3}))
    copies = Counter(result["row_id"])
    of_b = [copies[str(number)] for number in range(300, 400)]
    passes = int(sources["b.txt"]["epochs"])
    assert set(of_b) == {passes, passes + 1}
    assert passes >= 2
    of_a = [copies[str(number)] for number in range(300)]
    assert set(of_a) == {0, 1}
    assert sources["a*.txt"]["epochs"] < 1


def test_the_same_seed_draws_the_same_and_another_one_others(tokenizer):
    first, again, other = (mixed(tokenizer, Mixture(alpha=0.5, seed=seed))[0]["row_id"][:] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert Counter(first) != Counter(other)
    assert first != sorted(first, key=int)  # the order is random, too


def test_the_mixture_may_be_larger_or_smaller_than_the_text(tokenizer):
    for total in (4_000, 50_000):
        _, sources = mixed(tokenizer, Mixture(alpha=1.0, tokens=total))
        assert sum(one["tokens_out"] for one in sources.values()) == pytest.approx(total, rel=0.03)
        assert sources["a*.txt"]["epochs"] == pytest.approx(sources["b.txt"]["epochs"], rel=0.1)


def test_a_source_without_training_text_cannot_have_a_share(tokenizer):
    with pytest.raises(UserError, match="the source b.txt has no training document"):
        mixed(tokenizer, Mixture(weights={"a*.txt": 1, "b.txt": 1}), b=0)


def test_few_long_documents_that_miss_their_share_are_said(tokenizer, caplog):
    long = Dataset.from_list([{"text": "word " * 4000, "source": "b.txt", "row_id": "0"}])
    from datasets import concatenate_datasets

    rows = concatenate_datasets([documents(50, 0), long])
    mix(rows, Mixture(weights={"a*.txt": 9, "b.txt": 1}, tokens=2000), tokenizer, Passport(), names=NAMES)
    assert "b.txt should have 10.0 % of the tokens but has " in caplog.text


@pytest.mark.parametrize("wanted", [1, 99, 1000, 12_345])
def test_whole_documents_come_as_near_as_one_of_them_allows(wanted):
    tokens = np.array([3, 50, 7, 20, 11, 90] * 5)
    drawn = draw_documents(tokens, wanted=wanted, generator=np.random.default_rng(0))
    assert abs(tokens[drawn].sum() - wanted) <= 90
    counts = np.bincount(drawn, minlength=len(tokens))
    assert counts.max() - counts.min() <= 1
    assert counts.sum() >= 1


def test_shuffling_keeps_every_document_and_reads_them_where_they_lie():
    rows = documents(200, 100)
    shuffled = shuffle_documents(rows, seed=1)
    assert shuffled["row_id"][:] != rows["row_id"][:]
    assert sorted(shuffled["text"]) == sorted(rows["text"])
    assert shuffled.data.nbytes == rows.data.nbytes  # no copy of the texts
    assert shuffle_documents(rows, seed=1)["row_id"][:] == shuffled["row_id"][:] != shuffle_documents(rows, seed=2)["row_id"][:]


def test_a_pattern_and_a_folder_are_one_source_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("books/one.txt", "books/two.txt", "notes/a.md", "letter.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    names = names_as_given(find_sources(["books/*.txt", "notes", "letter.txt", "python-docs"]))
    assert names == {"books/one.txt": "books/*.txt", "books/two.txt": "books/*.txt", "notes/a.md": "notes",
                     "letter.txt": "letter.txt", "python-docs": "python-docs"}  # fmt: skip


def test_documents_name_their_source_as_it_was_found():
    """Otherwise a mixture could not tell where they come from."""
    (source,) = find_sources(["python-docs:train"])
    assert next(documents_of(source, ReadingOptions()))["source"] == source.name == "python-docs:train"


SOURCES = [SourceTokens("novels/*.txt", 750_000, 1.5), SourceTokens("messages.jsonl", 250_000, 4.0)]


def test_the_table_says_tokens_share_and_epochs():
    assert table_of_sources(SOURCES, epochs=2).splitlines() == [
        "         tokens    share   epochs  source",
        "        750,000   75.0 %     3.00  novels/*.txt",
        "        250,000   25.0 %     8.00  messages.jsonl",
    ]


def test_epochs_past_4_are_warned_about_and_past_16_loudly():
    assert warnings_of_epochs(SOURCES) == []
    (mild,) = warnings_of_epochs(SOURCES, epochs=2)
    assert mild.startswith("warning: messages.jsonl is read 8.0 times;")
    assert "2305.16264" in mild
    mild, loud = warnings_of_epochs(SOURCES, epochs=5)
    assert mild.startswith("warning: novels/*.txt is read 7.5 times")
    assert loud.startswith("WARNING: messages.jsonl is read 20.0 TIMES.")
    assert "2305.16264" in loud


def test_the_recipe_mixes_training_text_alone_and_says_it(small_tokenizer, tmp_path, caplog, monkeypatch):
    from recipes_in_process import recipe

    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", logger="hfgpt")
    for name, count in (("one", 40), ("two", 40), ("few", 12)):
        lines = [json.dumps({"text": f"{name} {number}: " + f"words of {name} " * 6}) for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    # The texts are so alike that they would be taken for copies of each other.
    settings = dict(
        sources=["[ot]*.jsonl", "few.jsonl"], tokenizer=str(small_tokenizer), context_length=32, validation_share=0.2,
        test_share=0.2, leaks="ignore",
    )  # fmt: skip
    recipe("prepare_data", **settings, output_dir="plain")
    recipe("prepare_data", **settings, source_weights=[1.0, 3.0], output_dir="mixed")
    plain, mixed = (Passport.load(tmp_path / name) for name in ("plain", "mixed"))
    for side in ("validation", "test"):
        assert tokens_by_source(mixed, side) == tokens_by_source(plain, side)
    assert all(tokens_by_source(mixed, "test").values())
    for passport in (plain, mixed):
        for side, counts in passport.splits.items():
            assert list(tokens_by_source(passport, side)) == ["[ot]*.jsonl", "few.jsonl"]
            assert sum(tokens_by_source(passport, side).values()) == counts["tokens"]
    (step,) = (one for one in mixed.steps if one["step"] == "mixture")
    assert step["bytes_in"] == plain.splits["train"]["bytes"]
    assert step["bytes_out"] == mixed.splits["train"]["bytes"]
    shares = [one.tokens / mixed.splits["train"]["tokens"] for one in training_sources(mixed)]
    assert shares == pytest.approx([0.25, 0.75], abs=0.03)
    few = training_sources(mixed)[1]
    assert few.epochs > 4
    assert training_sources(plain)[1].epochs == 1
    assert f"{few.epochs:>8.2f}  few.jsonl" in caplog.text
    assert f"warning: few.jsonl is read {few.epochs:.1f} times" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"source_weights": [1.0]},
            r"source_weights has 1 entries \(1\), but sources has 2 \(a.txt b.txt\); give one weight per source",
        ),
        ({"source_weights": [1.0, 0.0]}, "source_weights has 0.0; each weight must be above 0"),
        ({"source_weights": [1.0, 2.0], "mixture_alpha": 0.7}, "give only one"),
        ({"mixture_alpha": 1.5}, r"between 0 \(equal shares\) and 1"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(given, message):
    from hfgpt.arguments.documents import PrepareArguments

    def check():
        PrepareArguments(tokenizer="t", output_dir="o", **given).mixture(["a.txt", "b.txt"])

    with pytest.raises(UserError, match=message):
        check()


def test_a_mixture_of_one_source_without_a_number_of_tokens_is_refused():
    from hfgpt.arguments.documents import PrepareArguments

    with pytest.raises(UserError, match=r"mixture_alpha is given, but there is only one source \(a.txt\)"):
        PrepareArguments(tokenizer="t", output_dir="o", mixture_alpha=0.7).mixture(["a.txt"])
    assert PrepareArguments(tokenizer="t", output_dir="o", mixture_alpha=1.0, mixture_tokens=9).mixture(["a.txt"]) is not None


def test_of_many_sources_the_table_shows_the_largest_and_the_rest_together():
    sources = [SourceTokens(f"{number}.py", 100 + number, 1.0) for number in range(102)]
    lines = table_of_sources(sources).splitlines()
    assert len(lines) == 12
    assert lines[1].split()[-1] == "101.py"
    assert lines[-1].endswith("and 92 more")
    assert lines[-1].split()[0] == f"{sum(100 + number for number in range(92)):,}"
    assert len(table_of_sources(sources[:10]).splitlines()) == 11
