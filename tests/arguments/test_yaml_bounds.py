"""A recipe's YAML is bounded: endless nesting or multiplication is refused in one sentence."""

import re

import pytest
from recipes_in_process import run_script

BOMB = "card:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {after}: &{after} [{', '.join(['*' + before] * 10)}]\n" for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "card:\n  a: &a {k: v}\n" + "".join(
    f"  {after}: &{after} {{<<: [{', '.join(['*' + before] * 10)}]}}\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, r"with its aliases expanded it has [\d,]+ characters; 10,000,000 are allowed"),
        (MERGED, r"with its aliases expanded it has [\d,]+ characters; 10,000,000 are allowed"),
        ("card: " + "[" * 20_000 + "]" * 20_000, "it is nested too deeply"),
        ("card: &a [*a]", "it contains an alias that refers to itself"),
    ],
    ids=["aliases", "merged", "nested", "circle"],
)
def test_a_yaml_that_would_fill_the_memory_is_refused(tmp_path, text, why):
    (tmp_path / "run.yaml").write_text(text + "\noutput_dir: out\n")
    done = run_script("pretrain.py", "run.yaml", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: run.yaml is not valid YAML: ")
    assert re.search(why, line)
    assert not (tmp_path / "out").exists()
