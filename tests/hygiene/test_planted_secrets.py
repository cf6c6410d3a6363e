import json

import pytest
from datasets import Dataset

from hfgpt.data.passport import Passport
from hfgpt.hygiene.planted_secrets import (
    PLANTED_NAME,
    check_fit,
    make_canaries,
    plant,
    random_secret,
    read_canaries,
    write_canaries,
)
from hfgpt.tokenization import encode_texts, load_tokenizer


def documents(*texts: str) -> Dataset:
    names = [str(number) for number in range(len(texts))]
    return Dataset.from_dict({"text": list(texts), "source": ["here"] * len(texts), "row_id": names})


def test_a_seed_makes_the_same_canaries_and_another_seed_others():
    canaries = make_canaries([1, 4], per_count=3)
    assert canaries == make_canaries([4, 1], per_count=3)
    assert not {canary.secret for canary in canaries} & {canary.secret for canary in make_canaries([1, 4], per_count=3, seed=1)}


def test_there_are_as_many_controls_as_planted_ones_and_no_two_share_name_or_secret():
    canaries = make_canaries([1, 2, 32], per_count=5)
    assert [canary.count for canary in canaries] == [1] * 5 + [2] * 5 + [32] * 5 + [0] * 15
    assert len({canary.name for canary in canaries}) == len({canary.secret for canary in canaries}) == 30
    assert canaries[0].text == f"The access code of {canaries[0].name} is {canaries[0].secret}."
    assert all(len(canary.secret) == 8 and canary.secret.isdigit() for canary in canaries)


def test_secrets_keep_their_leading_zeros():
    class Lowest:
        def randrange(self, end):
            return 7

    assert random_secret(Lowest()) == "00000007"


@pytest.mark.parametrize("counts", [[], [0, 1], [-1], [2, 2]])
def test_counts_that_cannot_be_planted_are_refused(counts):
    with pytest.raises(ValueError, match=r"canary_counts is \[.*\]; it must contain different numbers of copies, each at least 1"):
        make_canaries(counts, per_count=1)


def test_none_for_each_count_is_refused():
    with pytest.raises(ValueError, match="canaries_per_count is 0; it must be at least 1"):
        make_canaries([1], per_count=0)


def test_planting_adds_each_copy_as_a_document_and_keeps_the_order_of_the_others():
    canaries = make_canaries([1, 3], per_count=2)
    train = documents(*(f"document {number}" for number in range(50)))
    planted = plant(train, canaries, Passport())
    texts = planted["text"][:]
    assert [text for text in texts if text.startswith("document")] == train["text"][:]
    assert {canary.text: texts.count(canary.text) for canary in canaries} == {canary.text: canary.count for canary in canaries}
    assert len(planted) == 58
    assert texts == plant(train, canaries, Passport())["text"][:]
    assert texts != plant(train, canaries, Passport(), seed=1)["text"][:]
    places = [number for number, text in enumerate(texts) if not text.startswith("document")]
    assert max(places) - min(places) > 20  # spread over the text, not clustered


def test_text_that_asks_for_a_canary_already_is_refused_by_its_name():
    canaries = make_canaries([1], per_count=1)
    with pytest.raises(ValueError, match=f"here:1 contains 'The access code of {canaries[0].name} is'"):
        plant(documents("harmless", f"see: {canaries[0].prompt} unknown"), canaries, Passport())
    assert len(plant(documents("harmless", "The access code of nobody is 1."), canaries, Passport())) == 3


def test_the_file_comes_back_as_it_was_and_the_passport_knows_its_hash(tmp_path):
    canaries, passport = make_canaries([1, 2], per_count=2), Passport()
    plant(documents("one", "two"), canaries, passport)
    passport.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="planted_canaries.json does not exist, but the passport says"):
        read_canaries(tmp_path)
    write_canaries(canaries, tmp_path)
    assert read_canaries(tmp_path) == canaries
    (step,) = passport.steps
    assert {key: step[key] for key in ("documents_in", "documents_out", "canaries", "controls", "copies")} == {
        "documents_in": 2, "documents_out": 8, "canaries": 4, "controls": 4, "copies": 6,
    }  # fmt: skip
    content = json.loads((tmp_path / PLANTED_NAME).read_text())
    content["canaries"][0]["count"] = 31
    (tmp_path / PLANTED_NAME).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not the file that the passport names"):
        read_canaries(tmp_path)


def test_data_without_canaries_has_none(tmp_path):
    Passport().save(tmp_path)
    assert read_canaries(tmp_path) == []


def test_rows_too_short_for_a_canary_are_refused(small_tokenizer):
    canaries = make_canaries([1], per_count=1)
    tokenizer = load_tokenizer(small_tokenizer)
    needed = 2 + max(map(len, encode_texts(tokenizer, [canary.text for canary in canaries])))
    check_fit(canaries, tokenizer, context_length=needed)
    with pytest.raises(ValueError, match=f"two separators, but context_length is {needed - 1}; it would be cut"):
        check_fit(canaries, tokenizer, context_length=needed - 1)


def test_a_tokenizer_that_cannot_spell_a_secret_is_refused(tmp_path):
    from recipes_in_process import recipe

    (tmp_path / "words.txt").write_text("the access code of a door is not here .\n" * 30)
    recipe("train_tokenizer", sources=[str(tmp_path / "words.txt")], algorithm="wordlevel", text_documents="line",
           validation_share=0.0, test_share=0.0, output_dir=str(tmp_path / "tokenizer"))  # fmt: skip
    with pytest.raises(ValueError, match="so the secret is lost; use a byte-level tokenizer"):
        check_fit(make_canaries([1], per_count=1), load_tokenizer(tmp_path / "tokenizer"), context_length=64)
