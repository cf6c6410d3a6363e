import pytest

from hfgpt.arguments.documents import PrepareArguments, TokenizerArguments
from hfgpt.arguments.finetuning import ClassificationArguments
from hfgpt.arguments.generation import GenerateArguments
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.errors import UserError
from hfgpt.files import claim_output, replaced_folder, work_folder


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_the_command_line_beats_the_yaml_and_the_yaml_the_default(yaml_file):
    path = yaml_file("dataset: rows\noutput_dir: out\nlearning_rate: 2e-4\nmax_steps: 7\n")
    arguments = parse_arguments(PretrainArguments, [path, "--max_steps", "9", "--seed=5"])
    assert arguments.learning_rate == 2e-4  # the YAML parser alone gives a string
    assert (arguments.max_steps, arguments.seed, arguments.depth) == (9, 5, 12)
    assert arguments.resolved == dict(dataset="rows", output_dir="out", learning_rate=2e-4, max_steps=9, seed=5)


def test_lists_mappings_and_nulls_come_through(yaml_file):
    path = yaml_file(
        "dataset: d\noutput_dir: o\nsample_prompts: ['a b', '', \"c\\n\", '--x']\n"
        "config_overrides: {head_dim: 32}\nwarmup_steps: null\n"
    )
    arguments = parse_arguments(PretrainArguments, [path])
    assert arguments.sample_prompts == ["a b", "", "c\n", "--x"]
    assert arguments.config_overrides == {"head_dim": 32}


def test_what_is_written_in_yaml_is_what_a_key_gets(yaml_file):
    path = yaml_file(
        "model: m\nsources: [s.csv]\noutput_dir: 1.10\nlabels: [no, yes, on, 1.10, 007, 1:30, 2024-01-02, null_]\n"
        "label_column: yes\neval_strategy: no\nsave_strategy: no\ntfidf_baseline: off\ndecontaminate: no\ncanaries: on\n"
        "learning_rate: 1e-3\nactivation_checkpointing_kwargs: {use_reentrant: no, early: 2}\n"
    )
    arguments = parse_arguments(ClassificationArguments, [path])
    assert arguments.labels == ["no", "yes", "on", "1.10", "007", "1:30", "2024-01-02", "null_"]
    assert (arguments.label_column, arguments.output_dir, arguments.eval_strategy) == ("yes", "1.10", "no")
    assert (arguments.tfidf_baseline, arguments.decontaminate, arguments.canaries) == (False, False, True)
    assert arguments.learning_rate == 1e-3
    # We have no types for what is in a mapping.
    assert arguments.activation_checkpointing_kwargs == {"use_reentrant": False, "early": 2}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("learning_rat", "learning_rate"), ("warmup_ratio", "warmup_steps"), ("dept", "depth"), ("sample_prompt", "sample_prompts"),
     ("epochs", "num_train_epochs")],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest_name(yaml_file, key, nearest):
    path = yaml_file(f"dataset: d\noutput_dir: o\n{key}: 1\n")
    with pytest.raises(ValueError, match=f"unknown key '{key}' in .*run.yaml; did you mean '{nearest}'"):
        parse_arguments(PretrainArguments, [path])
    with pytest.raises(ValueError, match=f"unknown key '{key}' in the command line; did you mean '{nearest}'"):
        parse_arguments(PretrainArguments, ["--dataset", "d", "--output_dir", "o", f"--{key}", "1"])


@pytest.mark.parametrize("key", ["question_column", "xyz"])
def test_a_key_that_resembles_none_gets_no_guess(key):
    with pytest.raises(ValueError, match=f"unknown key '{key}' in the command line\\.$"):
        parse_arguments(PretrainArguments, ["--dataset", "d", "--output_dir", "o", f"--{key}", "1"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--max_steps", "many"], r"^max_steps is 'many'; it must be a whole number\.$"),
        (["--time_budget", "one"], r"^time_budget is 'one'; it must be a number\.$"),
        (["--overwrite", "maybe"], r"^overwrite is 'maybe'; it must be true or false\.$"),
        (["--keep", "bset"], r"^keep is 'bset'; allowed: best, last\. Did you mean 'best'\?$"),
        (["--family", "llama"], r"^family is 'llama'; allowed: modern, gpt2\.$"),
        (["--depth"], r"^depth has no value; write --depth INTEGER\.$"),
        (["--dataset", "d", "--output_dir", "o", "--lr_scheduler_kwargs", "0.1"], "lr_scheduler_kwargs is not a mapping: '0.1'"),
        (["nonsense"], "got 'nonsense'; the first argument must be a YAML file"),
        (["missing.yaml"], "missing.yaml does not exist"),
        (["--dataset", "d"], "output_dir is missing"),
        (["--output_dir", "o"], "dataset is missing"),
        (["--dataset", "d", "--output_dir", "o", "--bf16", "true"], "bf16 and fp16 are set through precision"),
        (
            ["--dataset", "d", "--output_dir", "o", "--config_overrides", "{x"],
            "config_overrides is not a mapping.*--config_overrides '{num_hidden_layers: 2}'",
        ),
    ],
)
def test_values_of_the_wrong_kind_are_refused(words, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        parse_arguments(PretrainArguments, words)


def test_numbers_in_mappings_are_numbers_however_they_are_given(yaml_file):
    path = yaml_file("dataset: d\noutput_dir: o\nconfig_overrides: {norm_eps: 1e-6, a: -2E3, b: 1.e4, c: 1e-}\n")
    words = ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", "{min_lr: 1e-5}"]
    arguments = parse_arguments(PretrainArguments, [path, *words])
    assert arguments.config_overrides == {"norm_eps": 1e-6, "a": -2000.0, "b": 1e4, "c": "1e-"}
    assert arguments.lr_scheduler_kwargs == {"min_lr": 1e-5}


def test_broken_yaml_is_named(yaml_file):
    with pytest.raises(ValueError, match="run.yaml is not valid YAML.*line 1"):
        parse_arguments(PretrainArguments, [yaml_file("a: [1\n")])
    with pytest.raises(ValueError, match="run.yaml holds a list"):
        parse_arguments(PretrainArguments, [yaml_file("- a\n")])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sources: [a.txt]\nsources: [b.txt]\n", "YAML: sources is given twice, the second time in line 2; leave one out"),
        ("card: {license: mit, license: apache-2.0}\n", "license is given twice"),
        ("canary_counts: [1, two]\n", "canary_counts is 'two'; it must be a whole number"),
        ("sources: [[a.txt]]\n", r"sources has the item \['a.txt'\]; every item must be a single value"),
        ("sources: [~]\n", "sources has the item None"),
        ("~: x\n", "has the key None; every line must begin with the name of a key"),
    ],
)
def test_entries_of_a_yaml_that_would_be_dropped_or_fail_later_are_refused(yaml_file, text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_arguments(PrepareArguments, [yaml_file(text)])


def test_a_list_given_twice_on_the_command_line_is_refused_and_of_other_values_the_last_wins():
    with pytest.raises(UserError, match="sources is given twice on the command line; write all its values after one --sources"):
        parse_arguments(TokenizerArguments, ["--sources", "a.txt", "--sources", "b.txt"])
    words = ["--sources", "a.txt", "--output_dir", "o", "--vocab_size=300", "--vocab_size", "400"]
    assert parse_arguments(TokenizerArguments, words).vocab_size == 400


def test_the_model_may_stand_first_without_dashes():
    arguments = parse_arguments(GenerateArguments, ["somebody/base", "--prompt", "a", "b"])
    assert (arguments.model, arguments.prompt) == ("somebody/base", ["a", "b"])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(window=4, stride=5), "stride is 5 and window is 4"),
        (dict(window=4, stride=0), "stride is 0 and window is 4"),
        (dict(window=8, context_length=16), "context_length is 16, but window is 8"),
        (dict(window=1), "window is 1"),
        (dict(context_length=2), "context_length is 2"),
        (dict(tokenizer=""), "tokenizer is missing"),
    ],
)
def test_rows_that_cannot_be_cut_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        PrepareArguments(**dict(sources=["python-docs"], tokenizer="t", output_dir="o") | fields)


def test_an_output_folder_is_replaced_only_when_asked_and_only_when_ours(tmp_path):
    folder = tmp_path / "deep" / "out"
    assert claim_output(str(folder), overwrite=False, marker="passport.json") == folder
    folder.mkdir()
    (folder / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains files that this recipe did not write"):
        claim_output(str(folder), overwrite=True, marker="passport.json")
    (folder / "passport.json").write_text("{}")
    with pytest.raises(ValueError, match="is not empty; give another one, or --overwrite true"):
        claim_output(str(folder), overwrite=False, marker="passport.json")
    claim_output(str(folder), overwrite=True, marker="passport.json")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        claim_output(str(folder / "precious.txt"), overwrite=True, marker="passport.json")


def test_a_folder_that_cannot_be_renamed_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "in" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in" / "here")
    for folder in (".", "..", str(tmp_path / "in")):
        with pytest.raises(UserError, match=f"output_dir {folder} is the current folder or contains it"):
            claim_output(folder, overwrite=True, marker="passport.json", whole=True)
    with pytest.raises(UserError, match="output_dir /proc is a mount point"):
        claim_output("/proc", overwrite=True, marker="passport.json", whole=True)
    claim_output(".", overwrite=False, marker="run.yaml")  # a run writes into it
    assert list((tmp_path / "in").iterdir()) == [tmp_path / "in" / "here"]


def test_through_a_link_the_folder_that_it_points_to_is_replaced(tmp_path):
    link, folder = tmp_path / "link", tmp_path / "disk" / "out"
    folder.mkdir(parents=True)
    (folder / "passport.json").write_text("old")
    link.symlink_to("disk/out")
    with replaced_folder(claim_output(str(link), overwrite=True, marker="passport.json", whole=True)) as staged:
        assert staged.name == "out"
        (staged / "passport.json").write_text("new")
    assert link.is_symlink()
    assert (folder / "passport.json").read_text() == "new"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]
    # killed between the two renames
    put_aside = tmp_path / "disk" / ".hfgpt-out" / "replaced"
    put_aside.parent.mkdir()
    folder.rename(put_aside)
    with work_folder(claim_output(str(link), overwrite=True, marker="passport.json", whole=True)):
        assert (folder / "passport.json").read_text() == "new"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("1")

    def write_and_fail():
        with replaced_folder(folder) as staged:
            (staged / "new").write_text("2")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        write_and_fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
    with replaced_folder(folder) as staged:
        (staged / "new").write_text("2")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_tokenizer_without_an_output_folder_is_refused():
    with pytest.raises(ValueError, match="output_dir is missing"):
        TokenizerArguments(sources=["python-docs"])


def test_what_is_not_given_is_taken_from_the_tokenizers_passport():
    earlier = dict(
        sources=["a/*.txt"], text_documents="line", split_by="position", validation_share=0.1, test_share=0.0, split_seed=3
    )
    common = dict(tokenizer="t", output_dir="o")
    filled = PrepareArguments(**common).filled(earlier)
    taken = {name: getattr(filled, name) for name in earlier}
    assert taken == earlier
    told = PrepareArguments(sources=["a/*.txt"], split_by="document", test_share=0.2, **common).filled(earlier)
    assert (told.split_by, told.test_share, told.validation_share, told.text_documents) == ("document", 0.2, 0.1, "line")
    # other texts may be read and divided differently, but the held-out shares still apply
    other = PrepareArguments(sources=["b/*.txt"], **common).filled(earlier)
    assert (other.split_by, other.test_share, other.validation_share, other.text_documents) == ("auto", 0.0, 0.1, None)
    nothing = PrepareArguments(sources=["b/*.txt"], **common).filled({})
    assert (nothing.split_by, nothing.test_share, nothing.validation_share, nothing.split_seed) == ("auto", 0.05, 0.05, 0)


def test_a_split_by_group_needs_to_know_the_groups_and_groups_that_split():
    common = dict(sources=["a/*.jsonl"], output_dir="o")
    by_author = TokenizerArguments(group_field="author", **common).filled({})
    assert by_author.split()["by"] == "group"
    assert by_author.reading_options()["group_field"] == "author"
    with pytest.raises(ValueError, match="split_by is 'group', but group_field is missing; name the column"):
        TokenizerArguments(split_by="group", **common).filled({})
    with pytest.raises(ValueError, match="group_field is 'author', but split_by is 'position'; group_field needs --split_by group"):
        TokenizerArguments(split_by="position", group_field="author", **common).filled({})


def test_rows_are_grouped_as_their_tokenizer_was_unless_another_split_is_given():
    earlier = dict(sources=["a/*.jsonl"], split_by="group", group_field="author", repeated_passage_bytes=400)
    common = dict(tokenizer="t", output_dir="o")
    filled = PrepareArguments(**common).filled(earlier)
    assert (filled.split()["by"], filled.group_field, filled.repeated_passage_bytes) == ("group", "author", 400)
    told = PrepareArguments(split_by="document", **common).filled(earlier)
    assert (told.split()["by"], told.group_field) == ("document", None)
    other = PrepareArguments(sources=["b/*.jsonl"], **common).filled(earlier)  # with unknown columns
    assert (other.split()["by"], other.group_field, other.repeated_passage_bytes) == ("auto", None, 400)


@pytest.mark.parametrize(("key", "least"), [("repeated_passage_bytes", 200), ("leak_tokens", 20)])
def test_passages_so_short_that_texts_share_them_by_chance_are_refused(key, least):
    with pytest.raises(ValueError, match=f"{key} is 10; it must be at least {least}"):
        PrepareArguments(tokenizer="t", output_dir="o", **{key: 10})
