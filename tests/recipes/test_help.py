import pytest


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train_tokenizer", "vocab_size"),
        ("prepare_data", "stride"),
        ("pretrain", "optimizer"),
        ("generate", "top_p"),
        ("convert", "gguf_type"),
    ],
)
def test_every_recipe_explains_its_keys(run_recipe, name, key):
    done = run_recipe(f"{name}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert f"--{key}" in done.stdout
