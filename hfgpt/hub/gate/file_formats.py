"""Loading checks for everything other than transformers models: GGUF files, tokenizers, prepared data.

Runs in the stranger's process (stranger.py), so nothing from hfgpt is imported here.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from stranger import Failed, Stranger  # the running script, which registers itself under this name

# What these names mean in llama.cpp; duplicated here, because this process must not trust hfgpt's own table.
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WITH_SPLIT = {"qwen2": QWEN2, "dbrx": QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)}
TEXTS = ("The quick brown fox jumps over the lazy dog.", "def add(a, b):\n    return a + b  # 12,345 times")


def open_gguf(stranger: Stranger) -> None:
    """All loading checks of a folder of GGUF files."""
    if importlib.util.find_spec("gguf") is None:
        stranger.open("GGUF header", _no_reader)
        return
    for path in sorted(Path(stranger.folder).glob("*.gguf")):
        stranger.open("GGUF header", lambda path=path: gguf_header(path))
        stranger.open("GGUF tokenizer", lambda path=path: gguf_tokenizer(path, stranger))
        stranger.open("llama.cpp", lambda path=path: llama_cpp(path, stranger))
    stranger.open("Modelfile", lambda: modelfile(Path(stranger.folder)))


def open_tokenizer(stranger: Stranger) -> None:
    """All loading checks of a tokenizer alone."""
    stranger.open("AutoTokenizer", lambda: tokenizer(Path(stranger.folder), stranger))
    stranger.open("apply_chat_template", stranger.template)


def open_dataset(stranger: Stranger) -> None:
    """All loading checks of prepared data and the tokenizer in it."""
    folder = Path(stranger.folder)
    stranger.open("load_from_disk", lambda: dataset(folder, stranger))
    if (folder / "tokenizer").is_dir():
        stranger.open("AutoTokenizer", lambda: tokenizer(folder / "tokenizer", stranger))


def _no_reader() -> str:
    raise Failed("the package gguf, which reads GGUF files, is not installed", 'pip install "hfgpt[gguf]"')


def gguf_header(path: Path) -> str:
    """The architecture and its shape, and every tensor at the position given in the header."""
    import numpy
    from gguf import GGUFReader

    reader = GGUFReader(path)
    kind = reader.fields["general.architecture"].contents()
    for key in ("block_count", "context_length", "embedding_length", "attention.head_count"):
        if f"{kind}.{key}" not in reader.fields:
            raise Failed(f"{path.name} lacks {kind}.{key}, without which llama.cpp does not load it")
    if not reader.tensors:
        raise Failed(f"{path.name} contains no tensors")
    for tensor in reader.tensors:
        if tensor.data.dtype in (numpy.float32, numpy.float16) and not numpy.isfinite(tensor.data).all():
            raise Failed(f"{path.name}: {tensor.name} contains values that are not finite")
    return f"{path.name}: {kind}, {reader.fields[f'{kind}.block_count'].contents()} blocks, {len(reader.tensors)} tensors"


def gguf_tokenizer(path: Path, stranger: Stranger) -> str:
    """Compare the ids from the tokens and merges in the file, using an independent BPE, with the recorded ones."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    fields: dict[str, Any] = {name: field.contents() for name, field in GGUFReader(path).fields.items()}
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    backend = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges]))
    if (pattern := WITH_SPLIT.get(fields["tokenizer.ggml.pre"])) is not None:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    control = [token for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == 3]
    backend.add_special_tokens([AddedToken(token, special=True) for token in control])
    if not stranger.recorded_texts:
        return "skip: no ids were recorded to compare with"
    before = [fields["tokenizer.ggml.bos_token_id"]] if fields.get("tokenizer.ggml.add_bos_token") else []
    after = [fields["tokenizer.ggml.eos_token_id"]] if fields.get("tokenizer.ggml.add_eos_token") else []
    for entry in stranger.recorded_texts:
        stranger.compare_ids(entry, before + backend.encode(entry["text"]).ids + after)
    return f"{len(tokens):,} tokens; the ids of {len(stranger.recorded_texts)} texts as recorded"


def llama_cpp(path: Path, stranger: Stranger) -> str:
    """llama.cpp itself, if its package is installed: the ids, and the most likely next tokens."""
    try:
        from llama_cpp import Llama  # pyright: ignore[reportMissingImports]  # an extra that takes minutes to build
    except ImportError:
        return 'skip: llama-cpp-python is not installed (pip install "hfgpt[llama]")'
    model = Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    agree = of = 0
    for entry in stranger.recorded_texts:
        ids = model.tokenize(entry["text"].encode(), add_bos=True)
        stranger.compare_ids(entry, ids)
        model.reset()
        model.eval(ids[: entry["positions"]])
        likeliest = model.scores[: entry["positions"]].argmax(-1).tolist()
        agree, of = agree + sum(one == other for one, other in zip(likeliest, entry["argmax"])), of + entry["positions"]
    if agree < 0.8 * of:  # 8-bit rounding occasionally flips a tie; a different model only agrees by chance
        raise Failed(f"the most likely next token matches the recorded one at {agree} of {of} positions")
    return f"the ids as recorded, the most likely next token at {agree} of {of} positions"


def modelfile(folder: Path) -> str:
    """The Modelfile, if there is one, names an existing file."""
    if not (folder / "Modelfile").is_file():
        return "skip: there is none"
    names = [line.split(maxsplit=1)[1] for line in (folder / "Modelfile").read_text().splitlines() if line.startswith("FROM ")]
    if len(names) != 1 or "/" in names[0].removeprefix("./") or not (folder / names[0]).is_file():
        raise Failed(f"its FROM names {', '.join(names) or 'nothing'}; it must name a file beside it")
    return f"FROM {names[0]}"


def tokenizer(folder: Path, stranger: Stranger) -> str:
    """AutoTokenizer gives the same ids as the file itself, and decoding restores the text."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    loaded, plain = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        ids = loaded(text, add_special_tokens=False).input_ids
        if ids != plain.encode(text, add_special_tokens=False).ids:
            raise Failed(f"{text!r} has different ids with AutoTokenizer than with tokenizer.json")
        if loaded.unk_token_id is None and loaded.decode(ids) != text:
            raise Failed(f"{text!r} is decoded as {loaded.decode(ids)!r}")
    recorded = (stranger.passport.get("tokenizer") or {}).get("sha256")
    found = hashlib.sha256(loaded.backend_tokenizer.to_str().encode("utf-8")).hexdigest()
    if recorded not in (None, found):
        raise Failed(f"its definition has the SHA-256 {found[:16]}..., but passport.json says {recorded[:16]}...")
    return f"{len(loaded):,} tokens, the ids of {len(TEXTS)} texts match tokenizer.json"


def dataset(folder: Path, stranger: Stranger) -> str:
    """The rows load, as many as the passport says, with ids that exist in the tokenizer."""
    from datasets import DatasetDict, load_from_disk

    splits = load_from_disk(str(folder))
    if not isinstance(splits, DatasetDict):
        raise Failed("it is one data set without splits")
    counts = stranger.passport.get("splits") or {}
    wrong = [f"{name} has {len(rows):,} rows, but passport.json says {counts[name]['rows']:,}" for name, rows in splits.items()
             if name in counts and len(rows) != counts[name].get("rows")]  # fmt: skip
    wrong += [f"{name} is missing" for name in counts if name not in splits]
    size = (stranger.passport.get("tokenizer") or {}).get("vocab_size")
    for name, rows in splits.items():
        sample = rows.select(range(min(len(rows), 1000)))
        if size and "input_ids" in rows.column_names and max(max(ids, default=0) for ids in sample["input_ids"][:]) >= size:
            wrong.append(f"{name} contains ids above the {size:,} of its tokenizer")
    if wrong:
        raise Failed("; ".join(wrong))
    return ", ".join(f"{len(rows):,} {name} rows" for name, rows in splits.items())
