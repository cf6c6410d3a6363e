"""From sources to the documents that are split: read, repaired, filtered, masked, de-duplicated, alike for tokenizer and rows."""

from collections.abc import Sequence
from pathlib import Path

from hfgpt.data.cleaning import drop_blank, drop_exact_duplicates
from hfgpt.data.engine import Engine, load_on_engine
from hfgpt.data.passport import Passport
from hfgpt.data.reading import Source
from hfgpt.data.sources import ReadingOptions, load_documents
from hfgpt.data.splitting import Split
from hfgpt.data.steps import TextStep


def clean_documents(
    sources: list[Source],
    options: ReadingOptions,
    passport: Passport,
    *,
    steps: Sequence[TextStep] = (),
    deduplicate: bool = True,
    split: Split,
    cache_dir: str | Path,
    on_error: str = "stop",
    num_proc: int = 1,
    engine: Engine | None = None,
):
    """The documents of all sources after every step that comes before the split, as a `datasets.Dataset` on disk.

    Columns: `text`, `source`, `row_id`, `draw` (`Split.draw`).
    Args: see `load_documents`; `engine` is the cluster that reads them, None this process.
    """
    given = dict(steps=steps, draw=split.draw, on_error=on_error)
    if engine is None:
        documents = load_documents(sources, options, passport, cache_dir=cache_dir, num_proc=num_proc, **given)
    else:
        documents = load_on_engine(engine, sources, options, passport, **given)
    documents = drop_blank(documents, passport)
    if deduplicate:
        documents = drop_exact_duplicates(documents, passport)
    return documents
