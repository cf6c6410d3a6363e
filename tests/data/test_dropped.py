import json

from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.filters import cleaning_steps
from hfgpt.data.steps import StepCounts, apply_steps


def documents(number: int) -> list[dict]:
    return [
        {"text": f"a\u2028“é” {'b' * (index % 7)}", "source": "s.jsonl", "row_id": str(index), "draw": 0.5}
        for index in range(number)
    ]


def test_a_dropped_document_is_written_as_the_step_found_it(tmp_path):
    dropped = DroppedDocuments(tmp_path)
    steps = cleaning_steps(filters="light", filter_settings={"min_characters": 11})
    kept = list(apply_steps(documents(14), steps, [StepCounts() for _ in steps], dropped.of_step))
    (tmp_path / "out").mkdir()
    dropped.move_into(tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(kept) == 4
    assert len(lines) == dropped.num_documents == 10
    assert lines[0] == {"step": "filter: length", "reason": "length: too few characters", "source": "s.jsonl", "row_id": "0",
                        "text": "a\n“é”"}  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_many_dropped_documents_are_written_in_several_files(tmp_path):
    dropped = DroppedDocuments(tmp_path, file_bytes=300)
    for document in documents(9):
        dropped.add(document, step="s", reason="r")
    (tmp_path / "out").mkdir()
    dropped.move_into(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"dropped-{number:05}-of-{len(names):05}.jsonl" for number in range(1, len(names) + 1)]
    assert len(names) > 1
    lines = [json.loads(line) for name in names for line in (tmp_path / "out" / name).read_text(encoding="utf-8").split("\n")[:-1]]
    assert [line["row_id"] for line in lines] == [str(number) for number in range(9)]
