"""What the text and the minutes determine before anything is measured, what is refused, and the last screen."""

import re

import pytest

from hfgpt.data.passport import Passport
from hfgpt.data.sources import find_sources
from hfgpt.data.text_pieces import bounds, size_of
from hfgpt.errors import OtherResultError, TooLittleTextError, TooLittleTimeError, UserError
from hfgpt.training.from_text import (
    BYTES,
    Steps,
    choose_preparation,
    describe_preparation,
    improvement,
    last_screen,
    meaning,
)
from hfgpt.training.from_text_checks import find_texts, in_its_own_words

LAPTOP, GPU = 2e11, 4e14


@pytest.mark.parametrize(
    ("num_bytes", "minutes", "speed", "vocab_size", "context_length", "held_out_share"),
    [
        (50_000, 10, LAPTOP, 1024, 64, 0.1),
        (1_000_000, 10, LAPTOP, 4096, 256, 0.05),
        (5_000_000, 10, LAPTOP, 4096, 256, 0.04),
        (20_000_000, 10, GPU, 8192, 512, 0.01),
    ],
)
def test_vocabulary_rows_and_held_out_text_follow_from_text_and_time(
    num_bytes, minutes, speed, vocab_size, context_length, held_out_share
):
    chosen = choose_preparation(num_bytes, seconds=60 * minutes, flops_per_second=speed)
    assert (chosen.vocab_size, chosen.context_length) == (vocab_size, context_length)
    assert chosen.held_out_share == pytest.approx(held_out_share, abs=0.001)
    assert chosen.read_bytes is None


def test_of_a_large_text_a_share_is_read_and_said():
    chosen = choose_preparation(300_000_000, seconds=600, flops_per_second=LAPTOP)
    assert chosen.read_bytes is not None
    assert 5e6 < chosen.read_bytes < 60e6
    shorter, longer = (choose_preparation(300_000_000, seconds=seconds, flops_per_second=LAPTOP) for seconds in (180, 3600))
    assert shorter.read_bytes < chosen.read_bytes < longer.read_bytes < 6 * chosen.read_bytes  # for a larger model reads less
    said = "\n".join(describe_preparation(300_000_000, chosen, minutes=10))
    assert f"read: {chosen.read_bytes:,} bytes, " in said
    assert "% of the text, in pieces from all over it" in said


def test_a_small_text_is_told_what_it_is_too_small_for():
    chosen = choose_preparation(50_000, seconds=600, flops_per_second=LAPTOP)
    assert any("small: 50,000 bytes only teach spelling" in line for line in describe_preparation(50_000, chosen, minutes=10))
    assert not any("small:" in line for line in describe_preparation(2_000_000, chosen, minutes=10))


def test_the_last_screen_has_eight_lines(tmp_path):
    passport = Passport()
    passport.splits = {"train": {"bytes": 900_000}}
    passport.lzma_bits_per_byte = {"alone": 2.7, "after_training": 1.9}
    metrics = {"parameters": 1_800_000, "test_bits_per_byte": 1.62, "epochs": 3.0}
    lines = last_screen(metrics, passport, folder=tmp_path, minutes=10, opening="Once upon", commands=["one", "two", "three"])
    assert len(lines) == 8
    assert "1.8 million parameters, from 900,000 bytes" in lines[0]
    assert lines[1].startswith("how good: 1.620 bits per byte on unseen text; better than lzma, which needs 1.900 after")
    assert "sentences that wander" in lines[2]
    assert "--minutes 40" in lines[3]
    arabic = last_screen(metrics, passport, folder=tmp_path, minutes=10, opening="كان يا ما كان", commands=[])
    assert arabic[2] == "it writes: see samples.md"


def test_what_would_help_follows_from_how_often_the_text_was_read():
    assert improvement(5, minutes=10).startswith("more text; this one was read 5.0 times")
    assert improvement(1, minutes=10).startswith("more time, such as --minutes 40")
    of_a_part = improvement(5, minutes=10, share=0.0137)
    assert of_a_part.startswith("more time, such as --minutes 40, which reads more of the text than these 1.4 %")
    assert "gibberish is normal" in meaning(2.6)


def test_the_same_command_goes_on_and_another_one_is_refused_once_training_has_begun(tmp_path, caplog):
    folder = tmp_path / "mine"
    caplog.set_level("INFO")
    steps = Steps.in_folder(folder, asked={"minutes": 5.0, BYTES: 3000}, overwrite=False)
    assert not steps.has("tokenizer")
    steps.write_training(seconds=123.4, card=None)
    again = Steps.in_folder(folder, asked={"minutes": 5.0, BYTES: 3000}, overwrite=False)
    again.write_training(seconds=99, card=None)
    assert again.settings("pretrain")["time_budget"] == 123.0
    (folder / "tokenizer").mkdir()  # it is kept until its own step finds that it does not fit
    assert not Steps.in_folder(folder, asked={"minutes": 6.0, BYTES: 4000}, overwrite=False).has("pretrain")
    assert "from-text: minutes was 5.0, is now 6.0; size of the texts was 3000, is now 4000: it begins anew" in caplog.text
    assert (folder / "tokenizer").is_dir()
    (folder / "base").mkdir()
    (folder / "base" / "run.yaml").touch()
    with pytest.raises(UserError, match=r"minutes was 6.0, is now the default"):
        Steps.in_folder(folder, asked={BYTES: 4000}, overwrite=False)
    steps = Steps.in_folder(folder, asked={}, overwrite=True)
    assert not steps.has("pretrain")
    assert not (folder / "tokenizer").exists()
    with pytest.raises(UserError, match="training needs at least 15"):
        steps.write_training(seconds=3, card=None)


def test_a_folder_of_version_0_2_0_which_did_not_note_the_bytes_goes_on(tmp_path):
    steps = Steps.in_folder(tmp_path / "mine", asked={"minutes": 5.0}, overwrite=False)
    steps.write_training(seconds=100, card=None)
    assert Steps.in_folder(tmp_path / "mine", asked={"minutes": 5.0, BYTES: 9}, overwrite=False).has("pretrain")


def test_a_step_made_for_other_texts_is_made_anew_until_training_has_begun(tmp_path):
    steps, runs = Steps.in_folder(tmp_path / "mine", asked={}, overwrite=False), []
    steps.write("tokenizer", sources=["a.txt"])

    def run(recipe, settings, *, where):
        runs.append((recipe, settings.get("overwrite"), where))
        if not settings.get("overwrite"):
            raise OtherResultError("other", changed=["the texts of the sources are different"])

    steps.make("tokenizer", run)
    assert runs == [("train_tokenizer", None, "tokenizer.yaml"), ("train_tokenizer", True, "tokenizer.yaml")]
    (tmp_path / "mine" / "base").mkdir()
    (tmp_path / "mine" / "base" / "run.yaml").touch()
    with pytest.raises(OtherResultError):
        steps.make("tokenizer", run)


def test_a_folder_that_was_moved_and_edited_is_read_like_any_yaml_and_stays_by_itself(tmp_path):
    steps = Steps.in_folder(tmp_path / "mine", asked={}, overwrite=False)
    steps.write_training(seconds=100, card=None)
    steps.write("data", tokenizer=str(tmp_path / "mine" / "tokenizer"), output_dir=str(tmp_path / "mine" / "data"))
    moved = Steps((tmp_path / "mine").rename(tmp_path / "yours"))
    file = moved.folder / "pretrain.yaml"
    file.write_text(file.read_text() + "learning_rate: 1e-3\n")
    places = dict(dataset=str(tmp_path / "yours" / "data"), output_dir=str(tmp_path / "yours" / "base"))
    assert moved.settings("pretrain") == dict(places, time_budget=100.0, learning_rate=1e-3)
    settings = dict(tokenizer=str(tmp_path / "yours" / "tokenizer"), output_dir=str(tmp_path / "yours" / "data"))
    assert moved.settings("data") == settings
    file.write_text("time_budget: [\n")
    with pytest.raises(UserError, match="yours/pretrain.yaml is not valid YAML"):
        moved.settings("pretrain")


def test_a_mistake_before_anything_is_made_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "mine"
    for made in (False, True):
        steps = Steps.in_folder(folder, asked={}, overwrite=False)
        steps.write("tokenizer", sources=["a.txt"])
        if made:
            (folder / "tokenizer").mkdir()
        with pytest.raises(UserError), steps.removed_if_nothing_was_made():
            raise UserError("a mistake")
        assert folder.exists() == made


def test_too_little_time_and_text_are_told_in_keys_that_the_command_has():
    budget = TooLittleTimeError("time_budget is 52 seconds; here the startup takes 65", cure="give 155 or more.", missing=103)
    with (
        pytest.raises(UserError, match=r"minutes is 1: .* the startup takes 65; give --minutes 3 or more.$"),
        in_its_own_words(minutes=1),
    ):
        raise budget
    text = TooLittleTextError("the training documents have 5 tokens", cure="give more text, or --context_length 5.")
    with pytest.raises(UserError, match="have 5 tokens; give more text.$"), in_its_own_words(minutes=1):
        raise text


def test_texts_are_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write = {"empty.md": b"", "image.txt": b"\x89PNG\r\n\x1a\n" + bytes(2000), "a.txt": b"one\n---\ntwo\n" * 200}
    for name, content in write.items():
        (tmp_path / name).write_bytes(content)
    for name, rule, said in (
        ("empty.md", None, "empty.md: 0 bytes of text are too few"),
        ("image.txt", None, "image.txt is a picture"),
        ("a.txt", "paragraphs", "no line of a.txt is exactly that; did you mean 'paragraph'"),
        ("a.txt", "***", "no line of a.txt is exactly that; allowed: file, paragraph, line, or"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            find_texts([name], text_documents=rule)
    assert len(find_texts(["a.txt"], text_documents="---")) == 1


def test_a_program_with_a_readme_is_refused_with_the_command_that_reads_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my repo").mkdir()
    (tmp_path / "my repo" / "README.md").write_text("# mine\n")
    (tmp_path / "my repo" / "a.py").write_text("print()\n" * 1000)
    (tmp_path / "my repo" / "a.pyc").write_bytes(bytes(100_000))
    with pytest.raises(UserError) as refused:
        find_texts(["my repo"], text_documents=None, words=("--output_dir", "o"))
    assert "has 8,000 bytes of text in files that are not read (1 .py), but only 7 in its .md files" in str(refused.value)
    assert str(refused.value).endswith(" 'my repo/**/*.py' --output_dir o")
    (tmp_path / "my repo" / "notes.md").write_text("text\n" * 1000)
    assert len(find_texts(["my repo"], text_documents=None)) == 2


def test_a_data_set_of_the_hub_counts_as_more_than_can_be_read(tmp_path):
    sources = find_sources(["somebody/texts"])
    chosen = choose_preparation(size_of(sources), seconds=600, flops_per_second=LAPTOP)
    reading = bounds(sources, most=chosen.read_bytes or 0)
    assert reading["streaming"] is True
    assert reading["max_documents"] == (chosen.read_bytes or 0) // 2000
    said = describe_preparation(size_of(sources), chosen, minutes=10)
    assert said[0] == "from-text: an unknown number of bytes of text, 10 minutes"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="contains files that this recipe did not write"):
        Steps.in_folder(tmp_path, asked={}, overwrite=True)
