import random

import numpy as np
import pytest
from datasets import Dataset
from planted_copies import WORDS, planted_copies

from hfgpt.data.document_copies import drop_document_copies, exact_digest, find_document_copies
from hfgpt.data.minhash import PIECE_CHARACTERS, Bands, document_signatures
from hfgpt.data.passport import Passport
from hfgpt.data.shingles import character_shingles, word_shingles
from hfgpt.data.splitting import Split


def shingle_sets(texts, shingles=word_shingles):
    hashes, offsets = shingles(texts)
    return [set(hashes[start:end].tolist()) for start, end in zip(offsets[:-1].astype(int), offsets[1:].astype(int))]


def test_shingles_are_runs_of_five_words_and_a_text_does_not_know_its_neighbours():
    texts = ["one two three four five six", "ONE, two\nthree  four five!", "six", "one two three four five six"]
    first, second, third, fourth = shingle_sets(texts)
    assert (len(first), len(second), len(third)) == (2, 1, 1)
    assert second < first == fourth
    assert [shingle_sets([text])[0] for text in texts] == [first, second, third, fourth]


def test_every_script_has_shingles_and_a_text_without_words_has_its_marks():
    chinese, japanese, thai, hindi = shingle_sets(
        ["人人生而自由在尊严上", "すべての人間は生れ", "มนุษย์ทั้งหลาย", "सभी मनुष्यों को गौरव और अधिकारों"]
    )
    assert (len(chinese), len(japanese), len(hindi)) == (6, 5, 2)
    assert len(thai) > 5
    marks = shingle_sets(["!!!", "! ! !", "???", "", " \n", "☺"])
    assert marks[0] == marks[1] != marks[2]
    assert all(marks)
    assert marks[3] == marks[4] != marks[5]


def test_unicode_form_case_and_invisible_characters_do_not_count_and_digits_do():
    one, other, seven, eight = shingle_sets(["cafe\u0301 ﬁne so\u00adft a b c", "CAFÉ fine soft a b c", "route 7", "route 8"])
    assert one == other
    assert len(one) == 2
    assert seven != eight


def test_characters_are_those_of_the_text_and_a_short_one_is_its_own_only_shingle():
    sizes = [len(one) for one in shingle_sets(["abcdefg", "abcde", "ab", "", "aaaaaaaa"], character_shingles)]
    assert sizes == [3, 1, 1, 1, 1]


def test_a_text_that_is_taken_apart_has_the_signature_of_the_whole(monkeypatch):
    texts = ["", " ".join(random.Random(0).choices(WORDS, k=900)), "a b"]
    whole = document_signatures(texts)
    # Only the shingles across the cuts are lost: four per piece, of about 900.
    monkeypatch.setattr("hfgpt.data.minhash.PIECE_CHARACTERS", 2000)
    assert len(texts[1]) > 4000
    apart = document_signatures(texts)
    assert (apart[[0, 2]] == whole[[0, 2]]).all()
    assert 0.9 < (apart[1] == whole[1]).mean() < 1
    assert PIECE_CHARACTERS > 10**6


def test_bands_follow_from_the_threshold():
    assert Bands.for_threshold(0.8) == Bands(21, 6)
    assert Bands.for_threshold(0.8).recall(0.9) > 0.99999
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        assert Bands.for_threshold(threshold).recall(threshold) >= 0.99
    for wrong, sentence in (
        (0.01, "it must be at least 0.04"),
        (0, "it must be above 0 and at most 1"),
        (1.1, "it must be above 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=f"near_copy_similarity is {wrong}; {sentence}"):
            Bands.for_threshold(wrong)


def test_exact_copies_differ_in_white_space_and_unicode_form_only():
    assert exact_digest("a  b\n c\t") == exact_digest(" a b c") == exact_digest("a\u00a0b\u2028c")
    assert exact_digest("caf\u00e9") == exact_digest("cafe\u0301")
    assert len({exact_digest(text) for text in ("a b", "ab", "A b", "a, b", "a 1", "a 2")}) == 6


def test_planted_copies_are_found_and_distinct_documents_stay():
    rows = list(planted_copies(WORDS * 20, 2000))
    texts, kinds, originals = zip(*rows)
    sets = shingle_sets(texts)
    similarities = [len(sets[i] & sets[o]) / len(sets[i] | sets[o]) for i, (_, kind, o) in enumerate(rows) if kind == "near"]
    assert 0.9 <= min(similarities) <= max(similarities) < 0.91
    copies = find_document_copies([list(texts[:1000]), list(texts[1000:])], len(texts))
    found = {kind: [index for index, one in enumerate(kinds) if one == kind] for kind in ("distinct", "exact", "near")}
    assert all(copies.exact[index] == copies.near[index] == originals[index] for index in found["exact"])
    assert (copies.exact[found["near"]] == found["near"]).all()
    assert np.mean([copies.near[index] == originals[index] for index in found["near"]]) >= 0.99
    assert np.mean([copies.near[index] != index for index in found["distinct"]]) <= 0.001


@pytest.mark.slow
def test_any_number_of_processes_finds_the_same(monkeypatch):
    monkeypatch.setattr("hfgpt.data.document_copies.WORTH_PROCESSES", 0)
    texts = [text for text, _, _ in planted_copies(WORDS * 20, 400)]
    batches = [texts[start : start + 100] for start in range(0, len(texts), 100)]
    one, two = (find_document_copies(batches, len(texts), num_proc=number) for number in (1, 2))
    assert (one.near != np.arange(len(texts))).sum() >= 79
    assert (one.near == two.near).all()
    assert (one.exact == two.exact).all()


def documents_of(texts, sources, split):
    columns = {"text": texts, "source": sources, "row_id": [str(row) for row in range(len(texts))]}
    return Dataset.from_dict(columns | {"draw": [split.draw(text) for text in texts]})


TEXT = " ".join(WORDS[:100])
NEAR = " ".join([*WORDS[:50], "another", *WORDS[51:100]])
OTHER = " ".join(WORDS[40:])


def test_the_first_copy_stays_and_both_kinds_are_counted_by_source():
    passport = Passport()
    texts, sources = [OTHER, TEXT, TEXT + "\n", NEAR, TEXT.replace(" ", "  "), NEAR.upper()], ["a", "b", "b", "c", "c", "a"]
    documents = documents_of(texts, sources, Split())
    kept = drop_document_copies(documents, passport)
    assert kept["text"][:] == [OTHER, TEXT]
    assert kept["draw"][:] == documents["draw"][:2]
    exact, near = passport.steps
    assert (exact["step"], exact["documents_in"], exact["documents_out"]) == ("drop exact copies", 6, 4)
    assert (near["step"], near["documents_in"], near["documents_out"]) == ("drop near copies", 4, 2)
    assert (exact["by_source"], near["by_source"]) == ({"b": 1, "c": 1}, {"a": 1, "c": 1})
    assert near["settings"] == {"similarity": 0.8, "shingles": "5 words", "places": 128, "bands": 21, "rows": 6}
    assert drop_document_copies(documents, Passport(), similarity=1.0)["text"][:] == [OTHER, TEXT, NEAR]


@pytest.mark.parametrize(("mode", "left"), [("exact", [0, 1, 3, 5]), ("none", [0, 1, 2, 3, 4, 5])])
def test_near_copies_that_stay_share_the_draw_of_the_first(mode, left, caplog):
    caplog.set_level("INFO")
    passport = Passport()
    texts = [OTHER, TEXT, TEXT + "\n", NEAR, TEXT.replace(" ", "  "), NEAR.upper()]
    documents = documents_of(texts, ["a"] * 6, Split())
    assert len(set(documents["draw"])) == 6
    kept = drop_document_copies(documents, passport, mode=mode)
    assert kept["row_id"][:] == [str(row) for row in left]
    assert kept["text"][:] == [texts[row] for row in left]
    assert kept["draw"][:] == [documents["draw"][0]] + [documents["draw"][1]] * (len(left) - 1)
    step = passport.steps[-1]
    assert step["step"] == "give near copies one draw"
    assert step["near_copies"] == {"documents": len(left) - 1, "groups": 1}
    assert f"near copies: {len(left) - 1} documents are kept in 1 groups; " in caplog.text
    assert "a split by position does not" in caplog.text


def test_groups_that_share_a_near_copy_are_joined_and_no_group_is_torn():
    generator = random.Random(0)
    other = [" ".join(generator.choices(WORDS, k=60)) for _ in range(6)]
    preface = " ".join(WORDS[:200])
    texts = [other[0], preface, other[1], preface.replace(WORDS[100], "boat", 1), other[2], other[3]]
    groups = ["a", "a", "b", "b", "c", "c"]
    draws = [Split().draw(group) for group in groups]
    columns = dict(text=texts, source=["x"] * 6, row_id=list("123456"), draw=draws)
    for mode in ("exact", "none"):
        kept = drop_document_copies(Dataset.from_dict(columns), Passport(), mode=mode)
        assert kept["draw"][:] == [draws[0]] * 4 + [draws[4]] * 2


def test_nothing_changes_where_nothing_is_alike_and_another_mode_is_refused():
    documents = documents_of([OTHER, TEXT], ["a", "a"], Split())
    for mode in ("none", "exact", "near"):
        kept = drop_document_copies(documents, Passport(), mode=mode)
        assert kept[:] == documents[:]
    with pytest.raises(ValueError, match="deduplicate is 'fuzzy'; allowed: none, exact, near"):
        drop_document_copies(documents, Passport(), mode="fuzzy")
    assert len(drop_document_copies(documents.select([]), Passport())) == 0


def test_near_copies_that_stay_show_no_progress_of_work_within_the_step(capfd):
    text = " ".join(WORDS[:200])
    texts = [text, text, text.replace(WORDS[100], "boat", 1)]
    columns = dict(text=texts, source=["a.txt"] * 3, row_id=["1", "2", "3"], draw=[0.1, 0.1, 0.7])
    kept = drop_document_copies(Dataset.from_dict(columns), Passport(), mode="exact")
    assert kept["draw"][:] == [0.1, 0.1]
    assert "Flattening" not in "".join(capfd.readouterr())
