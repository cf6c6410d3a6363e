"""From sources to the documents that are split: read, repaired, filtered, masked, de-duplicated, alike for tokenizer and rows."""

from collections.abc import Sequence

from hfgpt.data.cleaning import drop_blank
from hfgpt.data.document_copies import drop_document_copies
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
    deduplicate: str = "near",
    near_copy_similarity: float = 0.8,
    num_proc: int = 1,
    split: Split,
    cache_dir: str,
    on_error: str = "stop",
):
    """The documents of all sources after every step that comes before the split, as a `datasets.Dataset` on disk.

    Columns: `text`, `source`, `row_id`, `draw` (`Split.draw`).
    Args: see `load_documents` and `drop_document_copies`.
    """
    documents = load_documents(sources, options, passport, steps=steps, draw=split.draw, cache_dir=cache_dir, on_error=on_error)
    documents = drop_blank(documents, passport)
    return drop_document_copies(documents, passport, mode=deduplicate, similarity=near_copy_similarity, num_proc=num_proc)
