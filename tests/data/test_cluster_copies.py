import pyarrow
import pyarrow.parquet
import pytest
from planted_copies import WORDS, planted_copies

from hfgpt.data.cluster_copies import collected_copies, deduplication_stages
from hfgpt.data.document_copies import find_document_copies


@pytest.mark.slow
def test_four_stages_keep_what_one_machine_keeps(tmp_path):
    pytest.importorskip("datatrove")
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    texts = [text for text, _, _ in planted_copies(WORDS * 20, 400)]
    # A chain of copies, each like the one before, and two texts without words.
    chain = WORDS[:100]
    for place in range(0, 60, 4):
        chain = [*chain[:place], f"link{place}", *chain[place + 1 :]]
        texts.append(" ".join(chain))
    texts += ["!!!", "? ?", "! ! !", texts[0].replace(" ", "\n"), texts[7]]
    third = len(texts) // 3 + 1
    (tmp_path / "in").mkdir()
    for task in range(3):
        rows = [{"text": text, "id": str(task * third + row)} for row, text in enumerate(texts[task * third :][:third])]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in" / f"{task}.parquet")
    stages = deduplication_stages(
        read=[ParquetReader(str(tmp_path / "in"))],
        write=[ParquetWriter(str(tmp_path / "out"))],
        folder=str(tmp_path / "copies"),
        tasks=3,
    )
    assert [stage.name for stage in stages] == ["signatures", "buckets", "clusters", "filter"]
    for stage in stages:
        LocalPipelineExecutor(stage.pipeline, tasks=stage.tasks, logging_dir=str(tmp_path / "logs" / stage.name)).run()
    kept = set(pyarrow.parquet.read_table(tmp_path / "out")["id"].to_pylist())
    copies = find_document_copies([texts], len(texts))
    expected = {str(index) for index, first in enumerate(copies.near.tolist()) if first == index}
    found = collected_copies(str(tmp_path / "copies"), 3)
    assert [found.exact.tolist(), found.near.tolist()] == [copies.exact.tolist(), copies.near.tolist()]
    assert (found.exact != found.near).any()
    assert 90 < len(texts) - len(expected) < 130
    assert kept == expected
