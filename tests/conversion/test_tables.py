"""Another package adds a source format or a target with one entry."""

import pytest
import torch
from twins import modern_model

from hfgpt.arguments.conversion import SOURCES, TARGETS, ConvertArguments, Target
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.conversion.exports import Export, ExportOptions
from hfgpt.conversion.weights_in import Converted, Reader, read_source
from hfgpt.errors import UserError
from hfgpt.tables import resolve


def test_a_source_format_of_another_package(monkeypatch, tmp_path):
    def read(contents):
        model = modern_model()
        model.model.embed_tokens.weight.data = contents.tensors["toy.embedding"]
        return Converted(contents.path, "toy", model, torch.float32)

    monkeypatch.setitem(SOURCES, "toy", Reader(lambda contents: "toy.embedding" in contents.tensors, read))
    embedding = torch.randn(97, 48)
    torch.save({"toy.embedding": embedding}, tmp_path / "toy.pt")
    converted = read_source(str(tmp_path / "toy.pt"), source_format="toy")
    assert converted.format == "toy"
    assert torch.equal(converted.model.get_input_embeddings().weight, embedding)
    with pytest.raises(UserError, match="already specifies num_attention_heads"):
        read_source(str(tmp_path / "toy.pt"), num_attention_heads=4)
    words = [str(tmp_path / "toy.pt"), "--output_dir", str(tmp_path / "out"), "--source_format", "toy"]
    assert parse_arguments(ConvertArguments, words).source_format == "toy"


def test_a_target_of_another_package(monkeypatch, tmp_path):
    def as_toy(model, tokenizer, options):
        def write(folder):
            torch.save(model.state_dict(), folder / f"{options.output.name}.pt")

        return Export(model, kind="toy", num_bytes=4 * model.num_parameters(), write=write, next_command="ls")

    monkeypatch.setitem(TARGETS, "toy", Target(as_toy, refuses={"dtype": "it keeps what it is given."}))
    words = ["base", "--output_dir", str(tmp_path / "out"), "--target", "toy"]
    args = parse_arguments(ConvertArguments, words)
    model = modern_model()
    export = resolve(TARGETS.find(args.target).export)(model, None, ExportOptions("base", tmp_path / "out"))
    export.write(tmp_path)
    assert torch.load(tmp_path / "out.pt").keys() == model.state_dict().keys()
    with pytest.raises(UserError, match="dtype is bfloat16, but target is toy; it keeps what it is given"):
        parse_arguments(ConvertArguments, [*words, "--dtype", "bfloat16"])
