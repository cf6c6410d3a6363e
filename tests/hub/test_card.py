"""Cards written by the recipes: they can be read back, they agree with the files, and their commands run verbatim."""

import json
import re
import shlex
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, run_python
from hub_server import HubServer
from huggingface_hub import DatasetCard, ModelCard
from recipes_in_process import load, recipe
from safetensors.torch import load_file

from hfgpt.arguments.card import checked_settings
from hfgpt.arguments.commands import COMMANDS
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.artifacts import identify
from hfgpt.hub.card.facts import held_out_figures
from hfgpt.hub.card.rendering import published_card, render_card, write_card
from hfgpt.hub.card.seal import is_ours
from hfgpt.hub.export import export

CARD = {"license": "other", "license_name": "psf-2.0", "license_link": "https://docs.python.org/3/license.html", "language": "en"}
SMALL = (
    *("--method", "lora", "--lora_rank", "2", "--max_steps", "4", "--per_device_train_batch_size", "4", "--max_length", "48"),
    *("--precision", "fp32", "--cpu_threads", "1", "--canaries", "false", "--poison_report", "false", "--decontaminate", "false"),
    *("--card", json.dumps(CARD | {"description": "Made for a test.\n\n* {{ 7 * 7 }}"})),
)


def run_main(name: str, *words: object) -> Path:
    """Run a recipe's main in this process, with command-line arguments, and return the output folder."""
    module = load(name)
    args = parse_arguments(module.main.__annotations__["args"], [str(word) for word in words])
    module.main(args)
    return Path(args.output_dir)


@pytest.fixture(scope="module")
def folders(small_tokenizer, small_rows, small_run, tmp_path_factory) -> dict[str, Path]:
    """One folder of each kind, as the recipes leave them."""
    place = tmp_path_factory.mktemp("folders")
    texts = [
        (label, f"{label} {word} again")
        for word in ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
        for label in ("good", "bad")
    ]
    labelled, asked = place / "labelled.csv", place / "asked.jsonl"
    labelled.write_text("text,label\n" + "".join(f"{text} {n},{label}\n" for label, text in texts for n in range(4)))
    asked.write_text("".join(json.dumps({"instruction": text, "output": label}) + "\n" for label, text in texts))
    common = (*SMALL, "--model", small_run)
    classifier = run_main("finetune_classification", *common, "--sources", labelled, "--output_dir", place / "classifier")
    assistant = run_main(
        "finetune_instructions", *common, "--sources", asked, "--output_dir", place / "assistant", "--max_new_tokens", "4",
        "--max_answers", "2", "--answers_before", "false",
    )  # fmt: skip
    for target in ("native", "gguf"):
        recipe("convert", source=str(small_run), target=target, output_dir=str(place / target), card=CARD)
    made = {
        "tokenizer": small_tokenizer,
        "dataset": small_rows,
        "base": small_run,
        "classifier": classifier,
        "assistant": assistant,
    }
    return made | {"native": place / "native", "gguf": place / "gguf"}


def front_matter(folder: Path) -> dict:
    kind = DatasetCard if identify(folder).kind == "dataset" else ModelCard
    return kind((folder / "README.md").read_text(encoding="utf-8")).data.to_dict()


@pytest.mark.slow
def test_every_recipe_leaves_a_card_that_the_hub_reads(folders):
    told = {name: front_matter(folder) for name, folder in folders.items()}
    assert {name: data.get("library_name") for name, data in told.items()} == {
        "tokenizer": "transformers", "dataset": None, "base": "transformers", "classifier": "peft", "assistant": "peft",
        "native": "transformers", "gguf": "gguf",
    }  # fmt: skip
    assert {name: data.get("pipeline_tag") for name, data in told.items() if data.get("pipeline_tag")} == {
        "base": "text-generation", "classifier": "text-classification", "assistant": "text-generation",
        "native": "text-generation", "gguf": "text-generation",
    }  # fmt: skip
    assert "custom_code" in told["base"]["tags"]
    assert "custom_code" not in told["native"]["tags"]
    for name in ("classifier", "assistant", "native", "gguf"):
        assert {key: told[name][key] for key in CARD} == CARD
    assert "license" not in told["base"]  # none was named, and none is made up
    assert "No licence is named yet" in (folders["base"] / "README.md").read_text(encoding="utf-8")
    for name in ("classifier", "assistant"):
        for twin in ("base", "merged"):
            assert front_matter(folders[name] / twin)["license_name"] == "psf-2.0"


@pytest.mark.slow
def test_cards_tell_the_files_figures_and_no_place_of_this_machine(folders):
    for name, folder in folders.items():
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert is_ours(text)
        places = (str(folder.parent), str(ROOT), str(Path.home()) + "/", "/tmp", socket.gethostname())
        assert [place for place in places if len(place) > 3 and place in text] == []
        assert not re.search(r"\n\n\n|\bNone\b|nan\b|\{\{|\{%", text.replace("{{ 7 * 7 }}", "")), name
        assert not re.search(r"^## .*\n+(?=## )", text, re.MULTILINE), f"{name} has an empty section"
    metrics = json.loads((folders["base"] / "metrics.json").read_text())
    (entry,) = front_matter(folders["base"])["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in entry["metrics"]} == {
        "bits_per_byte": metrics["test_bits_per_byte"], "perplexity": metrics["test_perplexity"],
    }  # fmt: skip
    text = (folders["base"] / "README.md").read_text(encoding="utf-8")
    assert f"| bits per byte | {metrics['test_bits_per_byte']:#.4g} |" in text
    assert f"| Parameters | {metrics['parameters']:,} |" in text
    passport = json.loads((folders["base"] / "passport.json").read_text())
    assert f"| 1 file (.jsonl) | json | {passport['inputs'][0]['bytes'] / 1000:.1f} kB |" in text
    assert f"| train | {passport['splits']['train']['documents']} |" in text
    assert metrics["device"] in text
    assert "| Labels | bad, good |" in (folders["classifier"] / "README.md").read_text(encoding="utf-8")
    # The owner's text is not read as a template.
    assert "* {{ 7 * 7 }}\n" in (folders["assistant"] / "README.md").read_text(encoding="utf-8")


STRANGER = """
import json, re, sys
from pathlib import Path

cards = json.loads(Path(sys.argv[1]).read_text())
for name, card in cards.items():
    blocks = re.findall(r"^```python\\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    assert blocks, name
    for block in blocks:
        print(f"== {name}", flush=True)
        exec(compile(block, name, "exec"), {})
assert "hfgpt" not in sys.modules
print("== end")
"""


@pytest.mark.slow
def test_the_commands_of_the_cards_run_word_for_word_for_a_stranger(folders, stranger, tmp_path):
    hub, cards = tmp_path / "hub", {}
    for name, folder in folders.items():
        if name == "gguf":
            continue  # llama.cpp takes minutes to build
        artifact = identify(folder)
        parts = {"": artifact} | ({"-base": identify(artifact.base)} if artifact.kind == "adapter" else {})
        for suffix, part in parts.items():
            repo_id = f"somebody/{name}{suffix}"
            base = {"base_repo_id": f"somebody/{name}-base"} if part.kind == "adapter" else {}
            target = hub / ("datasets" if part.kind == "dataset" else "models") / repo_id
            export(part, target, repo_id=repo_id, **base)
            card = published_card(part, repo_id=repo_id, base_model=base.get("base_repo_id"))
            (target / "README.md").write_text(card, encoding="utf-8")
            if not suffix:
                cards[name] = card
    assert ModelCard(cards["assistant"]).data.base_model == "somebody/assistant-base"
    assert ModelCard(cards["assistant"]).data.base_model_relation == "adapter"
    (tmp_path / "cards.json").write_text(json.dumps(cards))
    with HubServer(hub) as server:
        environment = server.environment(home=tmp_path / "home") | stranger | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"}
        done = run_python("-S", "-c", STRANGER, tmp_path / "cards.json", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(part.split("\n", 1) for part in done.stdout.split("== ")[1:])
    assert set(said) == {*cards, "end"}
    assert said["classifier"].strip() in ("good", "bad")
    assert len(json.loads(said["dataset"])) == 10


@pytest.mark.slow
def test_a_card_begins_with_what_it_is_and_ends_with_how_to_repeat_it(folders):
    for name in ("base", "classifier", "assistant"):
        text = (folders[name] / "README.md").read_text(encoding="utf-8")
        sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        assert sections == ["Try it", "Strengths and limits", "Data", "Training", "Model", "How to repeat it", "Licence"]
        assert "](loss.png)" in text.partition("## Strengths and limits")[2].partition("## Data")[0]
    text = (folders["base"] / "README.md").read_text(encoding="utf-8")
    bits = json.loads((folders["base"] / "metrics.json").read_text())["test_bits_per_byte"]
    assert "\nA GPT with 525,184 parameters that continues text, pretrained with hfgpt on " in text
    assert f"\nIt needs {bits:#.4g} bits per byte for the test text.\n" in text


def commands_of(card: str) -> list[list[str]]:
    """The commands under "How to repeat it", as words."""
    (block,) = re.findall(r"^```bash\n(.*?)^```", card.partition("## How to repeat it")[2], re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def continued(small_run, small_rows, tmp_path_factory) -> Path:
    words = ("--model", small_run, "--dataset", small_rows, "--max_steps", "2", "--per_device_train_batch_size", "4")
    folder = tmp_path_factory.mktemp("continued") / "base"
    return run_main("pretrain", *words, "--rewarm_to", "0.5", "--cpu_threads", "1", "--precision", "fp32", "--output_dir", folder)


@pytest.fixture(scope="module")
def with_a_budget(small_rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("budget") / "base"
    words = ("--dataset", small_rows, "--token_budget", "20000", "--depth", "2", "--cpu_threads", "1", "--precision", "fp32")
    return run_main("pretrain", *words, "--output_dir", folder)


@pytest.fixture(scope="module")
def preferring(small_assistants, tmp_path_factory) -> Path:
    pytest.importorskip("trl", reason="needs the extra preferences")
    place = tmp_path_factory.mktemp("preferring")
    things = ["list", "file", "path", "name", "key", "tuple", "set", "module", "function", "line", "string", "number", "class"]
    pairs = [{"instruction": f"Say {one}.", "chosen": f"{one} it is", "rejected": f"not {one}"} for one in things]
    (place / "pairs.json").write_text(json.dumps(pairs))
    model = next(iter(small_assistants.values()))
    words = ("--model", model, "--sources", place / "pairs.json", "--max_answers", "1", "--max_new_tokens", "4")
    return run_main("align_preferences", *SMALL, *words, "--output_dir", place / "aligned")


@pytest.mark.slow
def test_the_commands_of_a_card_can_be_given_as_they_stand(folders, continued, with_a_budget, preferring, tmp_path):
    """For each kind of card; the words in capitals stand for folders and files, and what one command writes the next one reads."""
    made = {**folders, "continued": continued, "budget": with_a_budget, "preferring": preferring}
    first = {"tokenizer": "tokenizer", "dataset": "data", "classifier": "classify", "assistant": "instruct", "preferring": "align"}
    (tmp_path / "FILE.jsonl").touch()
    places = {
        "TOKENIZER": folders["tokenizer"],
        "DATA": folders["dataset"],
        "BASE": folders["base"],
        "FILES": tmp_path / "FILE.jsonl",
        "FILE.jsonl": tmp_path / "FILE.jsonl",
    }
    for name, folder in made.items():
        if name in ("native", "gguf"):
            continue  # their cards say what they were converted from
        commands = commands_of((folder / "README.md").read_text(encoding="utf-8"))
        assert commands[0][:2] == ["hfgpt", first.get(name, "data")]
        written: set[str] = set()
        for program, command, *words in commands:
            assert program == "hfgpt"
            in_capitals = {word for word in words if word == word.upper() and word.isupper()}
            *_, key, output = words
            assert key == "--output_dir"
            assert in_capitals <= {*places, "OUTPUT"} | written
            words = [str(places.get(word, word)) for word in words[:-1]]
            arguments_class = load(Path(COMMANDS[command].recipe).stem).main.__annotations__["args"]
            parse_arguments(arguments_class, [*words, str(tmp_path / f"{name}-{command}")])
            written.add(output)
    assert "--text_column" not in (folders["classifier"] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "budget"])
def test_the_command_that_a_card_names_trains_the_same_weights(name, folders, with_a_budget, small_rows, tmp_path):
    folder = with_a_budget if name == "budget" else folders[name]
    of_data, of_model = commands_of((folder / "README.md").read_text(encoding="utf-8"))
    assert of_data[:4] == ["hfgpt", "data", "--tokenizer", "TOKENIZER"] or of_data[:4] == [
        "hfgpt",
        "data",
        "--sources",
        "FILE.jsonl",
    ]
    assert of_data[-2:] == ["--output_dir", "DATA"]
    program, command, *words = of_model
    assert (program, command) == ("hfgpt", "pretrain")
    assert not {"--time_budget", "--token_budget", "--flop_budget"} & {*words}
    places = {"DATA": str(small_rows), "OUTPUT": str(tmp_path / "again")}
    assert set(places) <= set(words)
    run_main("pretrain", *(places.get(word, word) for word in words), "--cpu_threads", "1")
    first, second = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (
            {"test_bits_per_byte": 1.5, "test_perplexity": 41.3},
            "It needs 1.500 bits per byte for the test text; lzma needs 1.794 after reading the training text, 2.673 without.",
        ),
        (
            {"test_right": 0.75, "test_most_frequent": 0.25, "test_kinds": {
                kind: {"num_examples": 4, "right": right, "most_frequent": 0.25}
                for kind, right in (("a", 1.0), ("b", 0.5), ("c", 0.75))
            }},
            "It answers 75.00 % of the test questions that have one correct answer correctly; always giving the most frequent "
            "answer 25.00 %. It is best at a (100.00 %) and worst at b (50.00 %).",
        ),
        (
            {"test_likelihood_accuracy": 0.75, "test_likelihood_accuracy_before": 0.5, "test_reward_margin": 1.0},
            "In 75.00 % of the test pairs it finds the chosen answer more likely; before training 50.00 %.",
        ),
        ({"validation_bits_per_byte": 2.0}, "It needs 2.000 bits per byte for the validation text; lzma needs 1.794 after"),
    ],
)  # fmt: skip
def test_the_most_telling_figure_stands_in_a_sentence_beside_what_it_has_to_beat(metrics, sentence, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "passport.json").write_text(json.dumps({"lzma_bits_per_byte": {"alone": 2.673, "after_training": 1.794}}))
    assert sentence in render_card(identify(tmp_path))


@pytest.mark.slow
def test_a_card_that_somebody_edited_is_kept(folders, tmp_path, caplog):
    folder = tmp_path / "tokenizer"
    shutil.copytree(folders["tokenizer"], folder)
    card, generated = folder / "README.md", folder / "README.generated.md"
    before = card.read_text(encoding="utf-8")
    card.write_bytes(before.replace("\n", "\r\n").encode())  # as git may check it out; this is not an edit
    write_card(folder)
    assert card.read_text(encoding="utf-8") == before
    assert not generated.exists()

    card.write_text(before.replace("512 tokens", "many tokens"), encoding="utf-8")
    write_card(folder)
    assert "many tokens" in card.read_text(encoding="utf-8")
    assert "edited by hand, so it is kept" in caplog.text
    assert generated.read_text(encoding="utf-8") == before
    as_edited = card.read_text(encoding="utf-8").replace('"USER/tokenizer"  # or the folder with these files', '"user/name"')
    assert published_card(identify(folder), repo_id="user/name") == as_edited
    assert Path("README.generated.md") not in identify(folder).files()

    card.unlink()
    write_card(folder)
    assert card.read_text(encoding="utf-8") == before
    assert not generated.exists()


@pytest.mark.slow
def test_evaluation_and_memorisation_get_into_the_card(small_run, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(small_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    entry = {
        "task": "language-modeling", "dataset": "other.txt", "split": "test", "metrics": {"bits_per_byte": 1.25, "loss": 3.5},
        "settings": {}, "num_tokens": 12345, "command": "python recipes/evaluate.py base",
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps({"format": 1, "model": "base", "results": [entry]}))
    canaries = {
        "by_count": [{"count": count, "exposure_mean": 1.5 + count, "exposure_max": 9.0, "extraction_rate": 0.25, "num": 4}
                     for count in (0, 16)],
        "references": 1000, "maximum_exposure": 9.97, "chance_exposure": 1.44,
    }  # fmt: skip
    tokens = {"mean": 3.0, "median": 3.0, "p90": 6.0, "maximum": 17}
    overlap = {"samples": {"num": 64, "tokens": tokens}, "held_out": None}
    (folder / "memorization.json").write_text(json.dumps({"format": 1, "canaries": canaries, "overlap": overlap}))
    own = {"task": "language-modeling", "dataset": "documents.jsonl", "split": "test", "metrics": {"bits_per_byte": 2.0}}
    (folder / "evaluation.json").write_text(json.dumps({"format": 1, "model": "base", "results": [entry, own]}))
    of_the_test = [
        result for result in ModelCard(render_card(identify(folder))).data.eval_results if result.dataset_split == "test"
    ]
    # evaluate --dataset has measured the run's own test again: once in the list, beside what it has not measured.
    assert sorted((result.metric_type, result.metric_value) for result in of_the_test if result.metric_type == "bits_per_byte") == [
        ("bits_per_byte", 1.25), ("bits_per_byte", 2.0),
    ]  # fmt: skip
    assert [result.metric_type for result in of_the_test].count("perplexity") == 1
    (folder / "evaluation.json").write_text(json.dumps({"format": 1, "model": "base", "results": [entry]}))
    text = render_card(identify(folder))
    results = ModelCard(text).data.eval_results
    assert ("1 file (.txt)", "bits_per_byte", 1.25) in {(r.dataset_name, r.metric_type, r.metric_value) for r in results}
    assert "| 1 file (.txt) | test | 12,345 tokens | bits per byte 1.250, nats per token 3.500 |" in text
    assert "| never | 4 | 1.500 | 9.000 | 25.00 % |" in text
    assert "| 16 times | 4 | 17.50 | 9.000 | 25.00 % |" in text
    assert "| texts written by the model | 64 | 3 tokens | 6 tokens | 17 tokens |" in text


@pytest.mark.slow
def test_the_card_of_a_finished_run_follows_its_owners_words(folders, tmp_path, small_run):
    folder = tmp_path / "assistant"
    shutil.copytree(folders["assistant"], folder)
    resolved = yaml.safe_load((folder / "run.yaml").read_text())
    resolved |= {"output_dir": str(folder), "card": {"license": "mit", "title": "My own"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(resolved))
    weights = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    run_main("finetune_instructions", tmp_path / "run.yaml")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert ModelCard(text).data.license == "mit"
    assert "\n# My own\n" in text
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == weights  # nothing was trained again


def test_what_came_from_the_hub_is_named_as_the_hub_wants_it(tmp_path):
    """The front matter for a fine-tuned, a converted and a quantized model, and none for a model from a local folder."""
    base = {"name": "openai-community/gpt2", "commit": "0" * 40, "sha256": "1" * 64}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))

    def told() -> tuple:
        data = ModelCard(render_card(identify(tmp_path))).data
        return data.base_model, data.get("base_model_relation"), data.datasets

    inputs = [{"name": "user/texts:en", "kind": "hub", "commit": "2" * 40}, {"name": "/home/ann/mine.txt", "kind": "text"}]
    (tmp_path / "passport.json").write_text(json.dumps({"inputs": inputs, "base": base}))
    assert told() == ("openai-community/gpt2", "finetune", ["user/texts"])
    (tmp_path / "passport.json").write_text(json.dumps({"base": base | {"name": "runs/base", "commit": None}}))
    assert told() == (None, None, None)
    (tmp_path / "card.yaml").write_text("base_model: user/base\ndatasets: user/rows\n")
    assert told() == ("user/base", "finetune", ["user/rows"])
    (tmp_path / "card.yaml").unlink()
    (tmp_path / "passport.json").write_text(json.dumps({"base": base}))
    (tmp_path / "run.yaml").write_text(
        "# python recipes/finetune_classification.py run.yaml ...\nmodel: /home/ann/gpt2\nsources: [a.csv]\n"
    )
    assert "hfgpt classify --model openai-community/gpt2 --sources FILES --output_dir OUTPUT\n" in render_card(identify(tmp_path))
    (tmp_path / "run.yaml").unlink()
    conversion = {"source": "openai-community/gpt2", "commit": "0" * 40, "target": "hfgpt", "notes": ["read from /home/ann/x/y."]}
    (tmp_path / "passport.json").unlink()
    (tmp_path / "conversion.json").write_text(json.dumps(conversion))
    assert told() == ("openai-community/gpt2", None, None)
    assert "/home/ann" not in render_card(identify(tmp_path))
    (tmp_path / "conversion.json").write_text(json.dumps(conversion | {"source": "runs/gpt2", "commit": None}))
    assert told() == (None, None, None)
    (tmp_path / "config.json").unlink()
    (tmp_path / "model-f16.gguf").write_bytes(b"GGUF")
    (tmp_path / "conversion.json").write_text(json.dumps(conversion))
    assert told() == ("openai-community/gpt2", "quantized", None)


def test_figures_of_several_seeds_are_those_of_the_weights_that_are_there():
    def seed(accuracy: float) -> dict:
        return {"test": {"accuracy": accuracy, "num_examples": 8, "log_loss": float("nan")}}

    mean = {"mean": 0.7, "standard_deviation": 0.1, "runs": 2}
    metrics = {"seeds": {"0": seed(0.6), "1": seed(0.8)}, "kept_seed": 1, "test": {"accuracy": mean}}
    (row,) = held_out_figures(metrics)
    assert (row["name"], row["value"], row["over_seeds"]) == ("accuracy", 0.8, mean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"licence": "mit"}, "unknown key 'licence' in card; did you mean 'license'"),
        ({"language": False}, "language in card is False, a bool; it must be text (YAML reads no, yes, on and off"),
        ({"language": ["en", 1]}, "language in card is 1, a int"),
        ({"license": "other"}, "takes only with license_name and license_link"),
        ({"title": ["a"]}, "title in card is ['a'], a list"),
        ("{license", "card is not a mapping"),
        (["mit"], "card is not a mapping: ['mit']; write it like this: --card '{license: "),
    ],
)
def test_what_the_owner_says_is_checked(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_settings(settings)


def test_a_folder_without_anything_to_publish_has_no_card(tmp_path):
    with pytest.raises(ValueError, match="has no model"):
        write_card(tmp_path)
    assert not any(tmp_path.iterdir())
