import pytest
from recipes_in_process import run_script


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train_tokenizer", "vocab_size"),
        ("prepare_data", "stride"),
        ("pretrain", "optimizer"),
        ("generate", "top_p"),
        ("convert", "gguf_type"),
        ("evaluate", "stride"),
        ("check", "record"),
        ("publish", "delete_others"),
    ],
)
def test_every_recipe_explains_its_keys(run_recipe, name, key):
    run = run_recipe if name == "generate" else run_script  # one as a user asks for it, the others without a new process
    done = run(f"{name}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert f"--{key}" in done.stdout
