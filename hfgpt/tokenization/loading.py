"""Load existing tokenizers: our own, GPT-2's, and nanoGPT's characters."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfgpt.artifacts import check_folder_is_there
from hfgpt.errors import MissingFileError, UserError
from hfgpt.tokenization.special_tokens import (
    CHAT_TOKENS,
    PAD,
    SEPARATOR,
    SPECIAL_TOKENS,
    WORD_SPECIAL_TOKENS,
    ensure_pad_token,
    wrap,
)

# The file names of vocabulary and merges in OpenAI's and in transformers' format.
GPT2_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


def load_tokenizer(folder: str | Path, *, revision: str | None = None, pad: bool = False) -> PreTrainedTokenizerFast:
    """Load a tokenizer and check that the pipeline can build on it.

    Args:
        revision: the revision of a Hub id.
        pad: add a padding token, `<|pad|>`, if it has none of its own.
    Raises: FileNotFoundError for a folder without one; ValueError if it is not fast, or lacks a separator or its own padding token.
    """
    check_folder_is_there(folder)
    try:
        tokenizer = _tokenizer_class(folder).from_pretrained(str(folder), **({"revision": revision} if revision else {}))
    except (OSError, ValueError) as error:
        inside = Path(folder) / "tokenizer"
        cure = f"give {inside}" if inside.is_dir() else "train one with recipes/train_tokenizer.py"
        said = " ".join(str(error).split())[:300]
        raise MissingFileError(f"{folder} has no tokenizer that can be loaded ({said}); {cure}.") from error
    check_is_fast(tokenizer, folder)
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {folder} has no eos_token, which is needed to separate documents.")
    if pad:
        ensure_pad_token(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"the tokenizer in {folder} has the pad_token {tokenizer.pad_token!r} and the eos_token {tokenizer.eos_token!r}; they "
            f"must differ, or the model never learns where a text ends."
        )
    return tokenizer


def check_is_fast(tokenizer: object, folder: str | Path) -> None:
    """Raises: UserError for a tokenizer without the Rust library's definition, which everything here is built on."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"the tokenizer in {folder} is a {type(tokenizer).__name__}, which has no tokenizer.json; give one that has a fast "
            f"tokenizer."
        )


def _tokenizer_class(folder: str | Path) -> type:
    """The class to load it with: that of our own tokenizers if the folder specifies it, because AutoTokenizer imports torch."""
    try:
        settings = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        alone = not (Path(folder) / "config.json").exists()  # a model's configuration may specify another class
        if alone and settings.get("tokenizer_class") == PreTrainedTokenizerFast.__name__ and "auto_map" not in settings:
            return PreTrainedTokenizerFast
    except (OSError, ValueError, AttributeError):
        pass  # a Hub id, or something for which AutoTokenizer has a better message
    from transformers import AutoTokenizer

    return AutoTokenizer


def load_or_wrap_tokenizer(folder: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerFast:
    """`load_tokenizer`; if that fails for lack of a padding token, `gpt2_tokenizer`, or any other one with `<|pad|>` added.

    Rows are made with this tokenizer, and a base uses it again, so both agree on every id.
    Args: `revision` of a Hub id.
    """
    try:
        return load_tokenizer(folder, revision=revision)
    except (FileNotFoundError, ValueError):
        try:
            return gpt2_tokenizer(folder, revision=revision)
        except (FileNotFoundError, ValueError):
            return load_tokenizer(folder, revision=revision, pad=True)


def gpt2_tokenizer(folder: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerFast:
    """GPT-2's tokenizer with its published ids, followed by separate padding and chat tokens.

    `<|endoftext|>` stays 50256; `<|pad|>` is 50257 and the chat tokens follow, so a model needs rows for them.

    Args:
        folder: OpenAI's encoder.json and vocab.bpe, the same as vocab.json and merges.txt, or any GPT-2 tokenizer of
            transformers (a folder or a Hub id).
        revision: the revision of a Hub id.
    Raises: FileNotFoundError for a folder without one; ValueError for a tokenizer that is not of GPT-2's kind, or to which
        something was added that would be lost here: tokens, a normalizer or a chat template.
    """
    whole = any((Path(folder) / name).is_file() for name in ("tokenizer.json", "added_tokens.json"))
    for vocabulary, merges in GPT2_FILES:
        if not whole and (Path(folder) / vocabulary).is_file() and (Path(folder) / merges).is_file():
            try:
                model = models.BPE.from_file(str(Path(folder) / vocabulary), str(Path(folder) / merges))
            except Exception as error:  # tokenizers raises plain Exception
                raise UserError(f"{folder}: {vocabulary} and {merges} do not match or are truncated ({error}).") from None
            break
    else:
        published = _published(folder, revision)
        definition = json.loads(published.backend_tokenizer.to_str())
        cut = definition["pre_tokenizer"] or {}
        if definition["model"]["type"] != "BPE" or cut.get("type") != "ByteLevel" or not cut.get("use_regex"):
            raise UserError(f"the tokenizer in {folder} is not of GPT-2's kind (a byte-level BPE with its pattern).")
        added = [token["content"] for token in definition["added_tokens"] if token["content"] != SEPARATOR]
        if added or definition["normalizer"] or published.chat_template:
            raise UserError(f"the tokenizer in {folder} has more than GPT-2's: added tokens, a normalizer or a chat template.")
        model = published.backend_tokenizer.model
    tokenizer = Tokenizer(model)
    if tokenizer.token_to_id(SEPARATOR) is None:
        raise UserError(f"the tokenizer in {folder} has no {SEPARATOR}, which ends every document in GPT-2's training.")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))  # the separator keeps its id; the others follow the last one
    return wrap(tokenizer, bos=SEPARATOR, eos=SEPARATOR, pad=PAD, additional_special_tokens=list(CHAT_TOKENS))


def character_tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    """A token per character, with the given ids; `[UNK]` for all others, and nothing is added before a text.

    The special tokens follow the last id, so a model needs rows for them.

    Args: `ids` are nanoGPT's `stoi`: characters and their ids from 0 on.
    Raises: ValueError for any other numbering.
    """
    if sorted(ids.values()) != list(range(len(ids))) or not ids or any(len(character) != 1 for character in ids):
        raise UserError(f"the {len(ids):,} characters must be numbered from 0 to {len(ids) - 1:,}, each once.")
    unknown = WORD_SPECIAL_TOKENS[-1]
    # As a BPE without merges: unlike a word-level vocabulary, it can have an unknown token added after the others.
    tokenizer = Tokenizer(models.BPE(vocab=ids | {unknown: len(ids)}, merges=[], unk_token=unknown))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([unknown, *SPECIAL_TOKENS])
    return wrap(
        tokenizer,
        bos=SEPARATOR,
        eos=SEPARATOR,
        pad=PAD,
        begins_with_eos=False,
        unk_token=unknown,
        additional_special_tokens=list(CHAT_TOKENS),
    )


def _published(folder: str | Path, revision: str | None) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), revision=revision or "main")
    except (OSError, ValueError) as error:
        raise MissingFileError(f"{folder} has no tokenizer of GPT-2's kind ({str(error).splitlines()[0]}).") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):  # a slow (Python) one
        raise UserError(f"{folder} has no tokenizer of GPT-2's kind.")
    return tokenizer
