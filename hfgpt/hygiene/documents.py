"""From sources to the documents that are split: read, repaired, filtered, masked, de-duplicated, alike for tokenizer and rows."""

from collections.abc import Sequence
from pathlib import Path

from hfgpt.data.cleaning import drop_blank, drop_exact_duplicates
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
):
    """The documents of all sources after every step that comes before the split, as a `datasets.Dataset` on disk.

    Columns: `text`, `source`, `row_id`, `draw` (`Split.draw`).
    Args: see `load_documents`.
    """
    documents = load_documents(
        sources, options, passport, steps=steps, draw=split.draw, cache_dir=cache_dir, on_error=on_error, num_proc=num_proc
    )
    documents = drop_blank(documents, passport)
    if deduplicate:
        documents = drop_exact_duplicates(documents, passport)
    return documents
