"""C5: whatever names and texts contain, the card stays valid, shows exactly that text, and none of it becomes active."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.artifacts import identify
from hfgpt.hub.card.markdown import escaped, literal
from hfgpt.hub.card.rendering import published_card, render_card
from hfgpt.hub.card.seal import SEAL, is_ours, sealed
from hfgpt.hub.card.settings import load_settings

HOSTILE = {
    "yaml": "a: \"b\", 'c' #d & *e !f %g @h - [i] {j: k}\n---\nlicense: mit",
    "fence": "x\n```\n# y\n~~~\n````",
    "html": "<script>alert(1)</script><!-- x --><img src=x onerror=y> &lt;b&gt; &amp; </td>",
    "jinja": "{{ 7 * 7 }}{% for x in y %}{{ ''.__class__.__mro__ }}{# z #}",
    "table": "a|b \\| c\n| d |\r\n|---|\n\n# heading",
    "link": "[x](javascript:alert(1)) ![y](https://evil.example/z.png) <https://evil.example> http://e.example www.evil.example",
    "emphasis": "_a_ *b* **c** __d__ ~~e~~ `f` $g$ $$h$$ ``i``",
    "controls": "a\x00b\x07c\u2028d\u202ee\ufefff\x85g",
    "seal": "<!-- hfgpt card, SHA-256 " + "0" * 64 + " -->",
    "blocks": "# a",
    "list": "- a",
    "umlauts": "Größe 東京 🙂 ñ",
}
# For file names and what is derived from them: a slash would end a name.
NAME = "\n".join(HOSTILE.values()).replace("/", "").replace("\\", "")
READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def shown(text: str) -> str:
    """A text in one line, as a reader sees it."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+", " ", text).split())


def body_of(card: str) -> str:
    return ModelCard(card).text


def cells(card: str) -> list[str]:
    """The text of every table cell, heading and paragraph, as a reader sees it."""
    found = []
    for token in READER.parse(body_of(card)):
        if token.type == "inline":
            found.append("".join(child.content if child.type != "softbreak" else " " for child in token.children))
    return found


def active(card: str) -> list[str]:
    """Active content in the card other than our tables, headings, code and links: HTML, images and foreign links."""
    found = []
    for token in READER.parse(body_of(card)):
        if token.type == "html_block":
            found.append(token.content.strip())
        for child in token.children or []:
            if child.type == "html_inline":
                found.append(child.content)
            if child.type == "link_open":
                found.append(child.attrs["href"])
            if child.type == "image":
                found.append(child.attrs["src"])
    return found


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_value_is_shown_as_it_is_in_a_cell_a_heading_and_a_paragraph(text):
    safe = escaped(text)
    page = f"# {safe}\n\n| a | b |\n|---|---|\n| {safe} | end |\n\nBefore {safe} after.\n\n{safe}\n"
    tokens = READER.parse(page)
    seen = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    assert seen == [shown(text), "a", "b", shown(text), "end", f"Before {shown(text)} after.", shown(text)]
    kinds = {child.type for token in tokens for child in token.children or []}
    assert kinds <= {"text", "text_special"}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_value_in_code_is_one_string_of_python(text):
    code = f"value = {literal(text)}"
    assert "\n" not in code
    assert "`" not in code
    namespace: dict = {}
    exec(code, namespace)
    assert namespace["value"] == text


@pytest.fixture(scope="module")
def plain(small_tokenizer, tmp_path_factory) -> Path:
    """A small, untrained model with its tokenizer: a card depends only on the files."""
    folder = tmp_path_factory.mktemp("plain") / "base"
    HfGptForCausalLM(HfGptConfig.modern(1, vocab_size=512, max_position_embeddings=32)).save_pretrained(folder)
    shutil.copyfile(small_tokenizer / "tokenizer.json", folder / "tokenizer.json")
    shutil.copyfile(small_tokenizer / "tokenizer_config.json", folder / "tokenizer_config.json")
    return folder


@pytest.fixture(scope="module")
def hostile(plain, tmp_path_factory) -> Path:
    """The same, with hostile texts wherever a name can occur in its files."""
    everything = NAME
    folder = tmp_path_factory.mktemp("hostile") / "my `model` {{ 7 * 7 }} <b> | [x](y)"
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["HfGptForSequenceClassification"], "id2label": dict(enumerate(HOSTILE.values()))}
    (folder / "config.json").write_text(json.dumps(config))
    passport = {
        "inputs": [{"name": f"/home/ann/{everything}", "kind": everything, "bytes": 7, "sha256": everything}],
        "steps": [{"step": everything, "examples_in": 2, "examples_out": 1}],
        "splits": {everything: {"examples": 3, "labels": dict.fromkeys(HOSTILE.values(), 1)}},
        "base": {"name": everything, "commit": None, "sha256": everything},
        "tokenizer": {"prompt_style": everything},
        "command": f"python recipes/prepare_data.py ```{everything}",
    }
    (folder / "passport.json").write_text(json.dumps(passport))
    per_class = {text: dict(precision=1.0, recall=0.5, f1=0.01 * n, support=2) for n, text in enumerate(HOSTILE.values())}
    scores = {"accuracy": 0.5, "per_class": per_class}
    metrics = {"seeds": {"0": {"test": scores, "device": everything, "steps": 3}}, "kept_seed": 0, "test": {}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    entry = {
        "task": "text-classification",
        "dataset": everything,
        "split": everything,
        "metrics": {"accuracy": 0.5, everything: 1.0},
    }
    (folder / "evaluation.json").write_text(json.dumps({"results": [entry]}))
    run = yaml.safe_dump(
        {"sample_prompts": [everything], "optimizer": everything, "sources": [everything], "seeds": [everything], "dataset": "x"}
    )
    head = "# python recipes/finetune_classification.py run.yaml --output_dir ANOTHER repeats this run."
    (folder / "run.yaml").write_text(f"{head}\n{run}")
    settings = {"license": everything, "license_name": everything, "license_link": "javascript:alert(1)", "author": everything,
                "language": [everything, "no"], "title": everything, "file_names": True}  # fmt: skip
    (folder / "card.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.mark.parametrize("task", ["ForSequenceClassification", "ForCausalLM"])
def test_a_card_full_of_hostile_texts_is_valid_and_shows_them(hostile, task):
    config = json.loads((hostile / "config.json").read_text())
    (hostile / "config.json").write_text(json.dumps(config | {"architectures": [f"HfGpt{task}"]}))
    card = sealed(render_card(identify(hostile)))
    everything = " ".join(NAME.split())
    data = ModelCard(card).data.to_dict()
    assert data["license"] == data["license_name"] == everything
    assert data["language"] == [everything, "no"]
    assert data["pipeline_tag"] == ("text-classification" if "Sequence" in task else "text-generation")
    assert NAME in {result["dataset"]["name"] for result in data["model-index"][0]["results"]}
    seen = cells(card)
    for text in HOSTILE.values() if "Sequence" in task else ():
        assert shown(text) in seen  # each label, in the table of figures
    if "Sequence" in task:
        (sentence,) = [text for text in seen if text.startswith("It labels 50.00 %")]
        assert sentence.endswith(f"It is best at {shown(list(HOSTILE.values())[-1])} (F1 0.1100) and worst at "
                                 f"{shown(HOSTILE['yaml'])} (F1 0).")  # fmt: skip
    (block,) = [token.content for token in READER.parse(body_of(card)) if token.type == "fence" and token.info == "bash"]
    of_data, of_training = block.replace("\\\n", " ").splitlines()
    assert shlex.split(of_data) == ["hfgpt", "data", *map(shown, shlex.split(f"```{NAME}")), "--output_dir", "DATA"]
    words = shlex.split(of_training)
    assert words[:6] == ["hfgpt", "classify", "--dataset", "DATA", "--sources", "FILES"]
    assert words[words.index("--optimizer") + 1] == words[words.index("--seeds") + 1] == shown(NAME)
    assert shown(NAME) in seen
    assert seen[0] == shown(NAME)  # the title
    assert not [text for text in seen if "49" in text]  # no template was evaluated
    ours = {"confusion.png", "curves.png", "loss.png", "memorization.png", "https://github.com/hfgpt/hfgpt"}
    assert [one for one in active(card) if one not in ours] == [SEAL.search(card)[0].strip()]
    assert "/home/ann" not in card
    assert is_ours(card)


def test_the_owners_markdown_stays_as_written_and_out_of_the_front_matter(plain, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(plain, folder)
    text = "---\nlicense: gpl-3.0\n---\n\n\n\n{{ 7 * 7 }} **bold** <b>x</b>  \n```python\n\n\n\nx = 1\n```"
    (folder / "card.yaml").write_text(
        yaml.safe_dump({"license": "mit", "description": text, "limits": "a\n---\nb: [", "title": "x"})
    )
    card = render_card(identify(folder))
    assert ModelCard(card).data.license == "mit"
    assert text in body_of(card)
    assert "\na\n---\nb: [\n" in body_of(card)


@pytest.mark.parametrize("content", ["- a\n", "license: [\n", "license: !!python/object/apply:os.system ['true']\n", "\ud800"])
def test_a_card_yaml_that_is_none_is_refused_by_name(content, tmp_path):
    (tmp_path / "card.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "card.yaml"))):
        load_settings(tmp_path)


def test_a_readme_in_another_encoding_is_somebodys_and_stays(plain, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(plain, folder)
    (folder / "README.md").write_bytes(b"# caf\xe9\n")
    assert published_card(identify(folder), repo_id="user/name").startswith("# caf")
