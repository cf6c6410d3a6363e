"""Nothing that the recipes write or print contains personal data or secrets of the sources."""

import json

import pytest
from datasets import load_from_disk
from recipes_in_process import recipe

pytest.importorskip("phonenumbers", reason="pip install 'hfgpt[data]'")
pytest.importorskip("detect_secrets", reason="pip install 'hfgpt[data]'")

from hfgpt.data.steps import Outcome
from hfgpt.hygiene.privacy import concealing, privacy_steps
from hfgpt.tokenization import load_tokenizer

VALUES = {
    "email": "ann.berg@mail.example.org",
    "phone": "(212) 555-0142",
    "ip_address": "8.8.4.4",
    "card_number": "4242 4242 4242 4242",
    "iban": "DE89 3704 0044 0532 0130 00",
    "a Hugging Face token": "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
}


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Sixty documents; every third one contains values of all types."""
    path = tmp_path_factory.mktemp("letters") / "letters.jsonl"
    lines = []
    for number in range(60):
        text = f"Letter {number}: the ship left the harbour, and nobody had expected the rain to last until the evening.\n" * 3
        text += f"Reach me at {', or '.join(VALUES.values())}.\n" if number % 3 == 0 else ""
        lines.append(json.dumps({"text": text}) + "\n")
    path.write_text("".join(lines))
    return path


def everything_in(folder, *, tokenizer=None) -> bytes:
    """All bytes of all files of a folder, and the decoded texts of its rows."""
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    if tokenizer is not None:
        content += b"".join(tokenizer.decode(row["input_ids"]).encode() for part in load_from_disk(folder).values() for row in part)
    return content


@pytest.fixture(scope="module")
def made(letters, tmp_path_factory):
    """For each action, the folder with a tokenizer and rows."""
    folders = {}
    for action in ("keep", "mask", "drop"):
        folder = tmp_path_factory.mktemp(action)
        asked = {} if action == "keep" else dict(personal_data=action, secrets=action)
        asked["deduplicate"] = "none"  # the letters are near copies of each other
        sides = dict(split_by="document", validation_share=0.1, test_share=0.1)
        recipe("train_tokenizer", sources=[str(letters)], vocab_size=400, output_dir=str(folder / "tokenizer"), **sides, **asked)
        recipe("prepare_data", tokenizer=str(folder / "tokenizer"), context_length=256, leaks="ignore",
               output_dir=str(folder / "rows"), keep_dropped=True)  # fmt: skip
        folders[action] = folder
    return folders


@pytest.mark.parametrize("action", ["mask", "drop"])
def test_nothing_that_is_written_holds_a_value(made, action):
    tokenizer = load_tokenizer(made[action] / "tokenizer")
    content = everything_in(made[action] / "tokenizer") + everything_in(made[action] / "rows", tokenizer=tokenizer)
    kept = everything_in(made["keep"] / "rows", tokenizer=load_tokenizer(made["keep"] / "tokenizer"))
    for value in VALUES.values():
        assert value.encode() in kept  # the search finds what is there
        assert value.encode() not in content
    assert b"<EMAIL>" in content  # in the rows, or in dropped.jsonl


def test_documents_that_are_dropped_and_kept_to_be_read_hold_no_value_either(made, letters, tmp_path):
    dropped = (made["drop"] / "rows" / "dropped.jsonl").read_text()
    assert dropped.count("<EMAIL>") == dropped.count("\n") == 20
    recipe("prepare_data", tokenizer=str(made["mask"] / "tokenizer"), context_length=256, leaks="ignore", keep_dropped=True,
           filters="light", filter_settings={"max_characters": 400}, output_dir=str(tmp_path / "rows"))  # fmt: skip
    by_length = (tmp_path / "rows" / "dropped.jsonl").read_text()  # dropped before the masking step saw them
    assert by_length.count("filter: length") == by_length.count("<EMAIL>") == 20
    assert not [value for value in VALUES.values() if value in dropped + by_length]


def test_the_log_holds_no_value(letters, tmp_path, caplog):
    caplog.set_level("DEBUG")
    recipe("train_tokenizer", sources=[str(letters)], vocab_size=300, personal_data="mask", secrets="drop", deduplicate="none",
           output_dir=str(tmp_path / "tokenizer"))  # fmt: skip
    assert "secrets: 60 -> 40 documents" in caplog.text
    assert not [value for value in VALUES.values() if value in caplog.text]


def test_the_passports_of_tokenizer_and_rows_count_the_same_by_type(made):
    for action, kept in (("mask", 60), ("drop", 40)):
        steps = {}
        for part in ("tokenizer", "rows"):
            passport = json.loads((made[action] / part / "passport.json").read_text())
            steps[part] = {step["step"]: step for step in passport["steps"]}
            assert passport["settings"]["personal_data"] == passport["settings"]["secrets"] == action
            secrets, personal = steps[part]["secrets"], steps[part]["personal data"]
            assert secrets["reasons"] == {"a Hugging Face token": 20}
            assert (secrets["documents_in"], secrets["documents_out"]) == (60, kept)
            assert personal["documents_out"] == kept
            if action == "mask":
                assert personal["reasons"] == dict.fromkeys(["card_number", "email", "iban", "ip_address", "phone"], 20)
        for name in ("secrets", "personal data"):
            first, second = ({**steps[part][name], "seconds": 0} for part in steps)
            assert first == second


def test_one_type_alone_is_looked_for(letters, tmp_path):
    recipe("train_tokenizer", sources=[str(letters)], vocab_size=300, personal_data="mask", personal_data_types=["iban"],
           output_dir=str(tmp_path / "tokenizer"))  # fmt: skip
    passport = json.loads((tmp_path / "tokenizer" / "passport.json").read_text())
    (step,) = [step for step in passport["steps"] if step["step"] == "personal data"]
    assert (step["reasons"], step["settings"]) == ({"iban": 20}, {"action": "mask", "types": ["iban"]})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ({"personal_data_types": ["emails"]}, "personal_data_types has 'emails'; allowed: email, phone"),
        ({"phone_regions": ["Germany"]}, "phone_regions has 'Germany'"),
    ],
)
def test_a_wrong_key_is_named_before_anything_is_read(letters, tmp_path, key, message):
    with pytest.raises(ValueError, match=message):
        recipe("train_tokenizer", sources=[str(letters)], personal_data="mask", output_dir=str(tmp_path / "x"), **key)


def test_a_dropped_document_that_is_kept_to_be_read_is_masked():
    given = dict(
        personal_data="drop", personal_data_types=["email", "iban"], phone_regions=["US"], secrets="drop", privacy_model=None
    )
    text = f"{VALUES['email']} {VALUES['a Hugging Face token']} {VALUES['iban']} {VALUES['ip_address']}"
    steps = privacy_steps(**given)
    assert [step(text).text for step in steps] == [None, None]
    assert concealing(steps)(text) == f"<EMAIL> <SECRET> <IBAN> {VALUES['ip_address']}"
    assert privacy_steps(**{**given, "personal_data": "keep", "secrets": "keep"}) == []
    assert isinstance(steps[0](text), Outcome)
