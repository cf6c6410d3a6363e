import pytest
from recipes_in_process import run_script


def test_greedy_text_is_printed_as_it_is_made_and_is_the_same_twice(run_recipe, small_run):
    words = (small_run, "--prompt", "os.", "--temperature", "0", "--max_new_tokens", "10")
    first, second = run_recipe("generate.py", *words), run_script("generate.py", *words, "--stream", "false")
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout.startswith("os.")
    assert len(first.stdout) > 6
    assert first.stdout.split() == second.stdout.split()


def test_several_prompts_and_samples_are_told_apart(small_run):
    done = run_script(
        "generate.py", small_run, "--prompt", "os.", "class ", "--num_samples", "2", "--top_p", "0.9", "--max_new_tokens", "5"
    )
    assert done.returncode == 0, done.stderr
    headings = [line for line in done.stdout.splitlines() if line.startswith("--- ")]
    assert headings == [f"--- {prompt!r}, sample {number} of 2" for prompt in ("os.", "class ") for number in (1, 2)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--max_new_tokens", "64"), "max_new_tokens is 64, but the model's context is 64 tokens"),
        (("--temperature", "-1"), "temperature is -1.0"),
        (("--top_p", "1.5"), "top_p is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(small_run, words, sentence):
    done = run_script("generate.py", small_run, *words)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_with_an_assistant_the_command_for_messages_is_named_beside_the_text(small_assistants, small_run):
    words = ("--prompt", "What is a list?", "--max_new_tokens", "3")
    done = run_script("generate.py", small_assistants["modern"], *words)
    assert done.stdout.startswith("What is a list?")
    assert done.stderr.endswith(f"answers messages with: python recipes/generate.py {small_assistants['modern']} --chat true\n")
    assert "answers messages" not in run_script("generate.py", small_run, *words).stderr
    assert "answers messages" not in run_script("generate.py", small_assistants["modern"], *words, "--chat", "true").stderr
