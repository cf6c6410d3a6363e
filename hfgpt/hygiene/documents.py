"""From sources to documents ready for splitting: read, repaired, filtered, masked and deduplicated, in the same way for tokenizer
and rows."""

from collections.abc import Sequence
from pathlib import Path

from hfgpt.data.cleaning import drop_blank
from hfgpt.data.cluster_documents import load_on_engine
from hfgpt.data.document_copies import drop_document_copies
from hfgpt.data.dropped import DroppedDocuments
from hfgpt.data.engine import Engine
from hfgpt.data.filters import report_losses
from hfgpt.data.mail_files import say_what_is_kept
from hfgpt.data.markers import refuse_absent_separator
from hfgpt.data.passages import cut_repeated_passages
from hfgpt.data.passport import Passport
from hfgpt.data.reading import Source
from hfgpt.data.sources import ReadingOptions, load_documents
from hfgpt.data.splitting import Split
from hfgpt.data.steps import TextStep
from hfgpt.hygiene.personal_data import PersonalData


def clean_documents(
    sources: list[Source],
    options: ReadingOptions,
    passport: Passport,
    *,
    steps: Sequence[TextStep] = (),
    perplexity_model: str | None = None,
    perplexity_sigmas: float = 3.0,
    deduplicate: str = "near",
    near_copy_similarity: float = 0.8,
    repeated_passage_bytes: int | None = None,
    dropped: DroppedDocuments | None = None,
    split: Split,
    cache_dir: str | Path,
    on_error: str = "stop",
    num_proc: int = 1,
    engine: Engine | None = None,
):
    """The documents of all sources after every step before the split, as a `datasets.Dataset` on disk.

    Columns: `text`, `source`, `row_id`, `draw` (`Split.draw`).
    Args: see `load_documents`, `drop_unlikely` (perplexity_model and perplexity_sigmas), `drop_document_copies` and
        `cut_repeated_passages`; `dropped` receives the documents that these steps drop; `engine` is the cluster that reads and
        searches for copies, None means this process; a perplexity model runs here, before the search for copies.
    Raises: UserError if filters drop every document, or no text file has a line that is said to separate documents.
    """
    refuse_absent_separator(sources, options.text_documents)
    if not any(isinstance(step, PersonalData) for step in steps):
        say_what_is_kept(sources)
    copies = None
    if engine is None:
        on_drop = None if dropped is None else dropped.of_step
        documents = load_documents(
            sources,
            options,
            passport,
            steps=steps,
            draw=split.draw,
            cache_dir=cache_dir,
            on_error=on_error,
            on_drop=on_drop,
            num_proc=num_proc,
        )
    else:
        documents, copies = load_on_engine(
            engine,
            sources,
            options,
            passport,
            steps=steps,
            draw=split.draw,
            on_error=on_error,
            deduplicate=deduplicate,
            near_copy_similarity=near_copy_similarity if perplexity_model is None else None,
        )
    report_losses(passport.steps, kept=len(documents))
    documents = drop_blank(documents, passport)
    if perplexity_model is not None and len(documents):
        from hfgpt.hygiene.perplexity import drop_unlikely  # a model is only loaded if one is given

        documents = drop_unlikely(documents, passport, model=perplexity_model, sigmas=perplexity_sigmas, dropped=dropped)
    documents = drop_document_copies(
        documents,
        passport,
        mode=deduplicate,
        similarity=near_copy_similarity,
        dropped=dropped,
        num_proc=num_proc,
        cache_dir=cache_dir,
        found=copies,
    )
    if repeated_passage_bytes is not None:
        documents = cut_repeated_passages(
            documents, passport, shortest=repeated_passage_bytes, cache_dir=cache_dir, dropped=dropped
        )
    return documents
