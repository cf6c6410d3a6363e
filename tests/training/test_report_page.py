"""The page of a run: everything about it in one file that loads nothing, whatever the texts contain."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hfgpt.training.curves import drawn_charts, figure, points_of, thinned, ticks
from hfgpt.training.report_page import plan_and_outcome, write_report_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = [
    "</script><script>document.title = 'RAN'</script>",
    "<img src=x onerror=\"document.title = 'RAN'\">",
    "</style></title><svg onload=\"document.title = 'RAN'\">",
    '" onmouseover="document.title = 1" x="{{ 7 * 7 }}{% endraw %}',
    "&lt;b&gt; \x1b[31m right to left \u202e half a pair \ud83d",
]


def log(steps: int = 40) -> list[dict]:
    lines = [
        {"step": step, "loss": 5 - step / steps, "learning_rate": 0.003, "muon_learning_rate": 0.02, "grad_norm": 1.0, "mfu": 0.45}
        | {"tokens_per_second": 7000.0}
        for step in range(1, steps + 1)
    ]
    return [*lines, *({"step": step, "eval_loss": 5.0, "eval_bits_per_byte": 2.0} for step in (steps // 2, steps))]


def run_folder(folder: Path, *, said: list[str], source: str = "/home/ann/secret place/novels.txt") -> Path:
    """A folder with the files that the page is made from, as runs write them."""
    folder.mkdir()
    (folder / "history.json").write_text(json.dumps({"unit": "nats per token", "kept_step": 20, "log": log()}))
    lines = [{"step": step, "said": [{"prompt": one, "text": one, "note": ""} for one in said]} for step in (20, 40)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    split = {"documents": 9, "tokens": 1234, "bytes": 5000}
    passport = {
        "inputs": [{"name": source, "kind": "text", "bytes": 1_234_567, "documents": 10, "splits": {"train": split}}],
        "steps": [{"step": "drop blank", "documents_in": 10, "documents_out": 9, "reasons": {"blank": 1}}],
        "splits": {"train": split},
    }
    (folder / "passport.json").write_text(json.dumps(passport))
    plan = {"asked": {"time_budget": 240}, "expected": {"seconds": 200, "bits_per_byte": 1.5, "unknown": 3}}
    metrics = {"steps": 40, "kept_step": 20, "training_seconds": 187.2, "test_loss": 4.3147, "test_bits_per_byte": 1.7395}
    metrics |= {"plan": plan | {"came": {"seconds": 210.0, "bits_per_byte": 1.7395}}, "device": "a processor, 2 cores"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "run.yaml").write_text("dataset: /home/ann/runs/data\ndepth: 4\n")
    write_report_page(folder, recipe="pretrain.py", lines=["test: 4.3147 nats per token", *said], end="40 steps in 187 s")
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return run_folder(tmp_path_factory.mktemp("page") / "my base", said=["os.path", *HOSTILE])


def shown(page: Path) -> str:
    """The text of the page as people read it, with spaces collapsed."""
    body = page.read_text(encoding="utf-8").partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_page_is_one_file_that_asks_for_nothing_and_runs_nothing(page):
    text = page.read_text(encoding="utf-8")
    tags = re.sub(r">[^<]*<", "><", text.partition("<body>")[2]) + text.partition("<body>")[0]  # without the escaped texts
    assert tags.count("<svg") > 6
    assert not re.search(r"""(?:src|href|action)\s*=\s*(?:["'](?!#)|[^"'\s#])|@import|url\(|https?://|<script""", tags)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_it_shows_figures_curves_samples_data_plan_and_how_to_repeat_the_run(page):
    text = shown(page)
    for said in (
        *("Training report my base", "1.74 bits per byte, test", "40 steps in 187 s", "a processor, 2 cores"),
        *(
            "Loss nats per token training validation",
            "kept: step 20",
            "Learning rate AdamW Muon",
            "step 40: training 4, validation 5",
        ),
        *("Gradient norm", "Speed tokens per second", "MFU", "Bits per byte"),
        *("time of the whole command 3.3 minutes 3.5 minutes +5.0 %", "bits per byte of the test 1.5 1.74 +16.0 %"),
        *("Step 20", "Step 40", "novels.txt unknown 1.2 MB 10 1,234", "drop blank 10 9 documents 1 blank: 1"),
        *("hfgpt pretrain run.yaml --output_dir ANOTHER", "depth 4", "transformers 5."),
    ):
        assert said in text, said
    assert text.count("Step 20") == 1
    assert "U+202E" in text


def test_it_tells_no_place_of_the_machine(page):
    text = page.read_text(encoding="utf-8")
    assert "/home/ann" not in text
    assert str(page.parent.parent) not in text


def test_a_run_without_a_training_and_one_of_a_single_step_have_a_page(tmp_path):
    for name, files in (("none", {}), ("one", {"history.json": {"unit": "x", "log": [{"step": 1, "loss": 3.0}]}})):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(json.dumps(content))
        write_report_page(tmp_path / name, recipe="pretrain.py", lines=[], end=None)
        assert ("Curves" in shown(tmp_path / name / "report.html")) == bool(files)


def test_plan_and_outcome_take_mappings_and_say_what_is_not_known():
    lines = plan_and_outcome({"loss": 4.0, "epochs": 2, "memory_bytes": 10**9, "who": "x"}, {"test_loss": 4.4, "epochs": None})
    assert [one.cells for one in lines] == [
        ("loss of the test, nats per token", "4", "4.4", "+10.0 %"),
        ("passes over the text", "2", "not measured", ""),
        ("memory", "1.0 GB", "not measured", ""),
    ]


def test_points_are_finite_and_long_curves_are_means():
    assert points_of([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 3}, {"loss": 1}, {"step": 3}], "loss") == [(2, 3.0)]
    assert thinned([(1, 1.0), (2, 3.0), (3, 5.0)], most=2) == [(2, 2.0), (3, 5.0)]
    assert thinned([]) == []
    chart = drawn_charts(log(1000))[0]
    assert len(chart.lines[0].points) == 112
    assert (chart.of_one, len(chart.table), chart.table[-1][0]) == (9, 2, "1,000")
    assert sum(width for _, width, _ in chart.moments) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize(("low", "high"), [(0, 7), (3.61, 7.02), (1e-6, 3e-3), (5, 5), (0, 0), (-2.5, 2.5), (0, 12_345)])
def test_ticks_are_round_and_enclose_the_values(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 7
    assert found[0] <= low
    assert found[-1] >= high
    assert all(len(figure(tick)) <= 8 for tick in found)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH")
def test_a_browser_shows_hostile_texts_and_runs_none(page):
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={page.parent.parent / 'profile'}", "--virtual-time-budget=300", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, encoding="utf-8",
    )  # fmt: skip
    document = done.stdout
    assert "</html>" in document, done.stderr[-2000:]
    assert "<title>my base: training report</title>" in document
    assert not re.search(r"<(?:script|img|iframe|base|link)\b", document)
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r'="[^"]*"', '=""', document))
    body = html.unescape(re.sub(r"<[^>]+>", "", document.partition("<main")[2]))
    for text in HOSTILE[:4]:
        assert body.count(text) >= 4  # prompts and samples of two steps
