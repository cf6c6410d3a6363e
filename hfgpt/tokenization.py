"""Tokenizers: train them, give them their special tokens, and encode text so that it stays text.

The byte-level BPE loses nothing: every text, whatever its bytes, comes back as it was. The word-level tokenizer is the book's
first one, for learning; it loses spacing and unknown words.
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hfgpt.artifacts import check_folder_is_there
from hfgpt.chat_templates import CHAT_STYLES, add_special_tokens
from hfgpt.errors import MissingFileError, UserError

logger = logging.getLogger(__name__)

SEPARATOR = "<|endoftext|>"  # ends every document and begins the next: EOS and BOS in one
PAD = "<|pad|>"  # its own token: padding that equals EOS would hide the end of a text from the loss
CHAT_TOKENS = CHAT_STYLES["chat"].special_tokens  # reserved from the first day, so that fine-tuning needs no new rows
SPECIAL_TOKENS = (SEPARATOR, PAD, *CHAT_TOKENS)
NUM_BYTES = 256
# A vocabulary and its merges, as OpenAI and as transformers name the two files.
GPT2_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))

# Words with their leading space, single digits, runs of punctuation, line breaks, runs of spaces. It is the pattern of Qwen2
# to the letter, because engines outside Python (llama.cpp) know it by name and would refuse one that nobody has seen.
# Source: transformers models/qwen2/tokenization_qwen2.py, PRETOKENIZE_REGEX.
BPE_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# While the merges are learned, no word is longer than this: text without spaces (DNA, Chinese) would be one word of its whole
# length, and training quadratic in it. The saved tokenizer keeps the pattern that engines know; encoding is fast without a bound.
LONGEST_RUN = 256
TRAINING_PATTERN = BPE_PATTERN.replace("+", f"{{1,{LONGEST_RUN}}}").replace("*", f"{{0,{LONGEST_RUN}}}")
# Source: Raschka (2024), section 2.2: re.split(r'([,.:;?_!"()\']|--|\s)', text)
WORD_PATTERN = r"""[,.:;?_!"()']|--|\s"""
WORD_SPECIAL_TOKENS = ("[BOS]", "[EOS]", "[PAD]", "[UNK]")

# Where a text may be cut and each piece encoded by itself, with the same ids: what stands before such a place never shares a word
# with what follows, under the pattern of that name. Of several line breaks in a row, Qwen2's makes one word, GPT-2's leaves the
# last by itself. In both, a space after a letter or digit opens the next word, and so does punctuation; of letters, those are
# meant that every version of Unicode knows: ASCII, kana and Chinese characters.
_OPENS_A_WORD = (
    r"(?<=\w)(?= )|(?<=[0-9A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5])(?=[,.;:!?\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])"
)
SAFE_CUTS = {"qwen2": re.compile(rf"(?<=\n)(?=\S)|{_OPENS_A_WORD}"), "gpt-2": re.compile(rf"(?=\n\S)|{_OPENS_A_WORD}")}
PIECE_CHARACTERS = 2**15  # the library takes 475 bytes for each token of the text that it is at: a book of 20 MB would take 2.4 GB
LONGEST_PIECE = 2**21  # at most 1 GB, where every character is a token of its own
CALL_CHARACTERS = 2**20  # encoded by one call, on all cores


def check_vocab_size(vocab_size: int | None, *, algorithm: str) -> None:
    """Raises: ValueError for a vocabulary without room for what every tokenizer of this algorithm holds."""
    if algorithm == "bpe":
        smallest = NUM_BYTES + len(SPECIAL_TOKENS)
        reason = f"{NUM_BYTES} bytes and {len(SPECIAL_TOKENS)} special tokens ({', '.join(SPECIAL_TOKENS)})"
    else:
        smallest = len(WORD_SPECIAL_TOKENS) + 1
        reason = f"a word and {len(WORD_SPECIAL_TOKENS)} special tokens ({', '.join(WORD_SPECIAL_TOKENS)})"
    if vocab_size is not None and vocab_size < smallest:
        raise UserError(f"vocab_size is {vocab_size}, the smallest possible is {smallest}: {reason}.")


def suitable_vocab_size(num_bytes: int) -> int:
    """A vocabulary for a text of so many bytes: about 5 times the square root of them, a power of two or one and a half of it.

    More tokens make the text shorter, which short trainings gain from; but a token that stands in it only a few times is a row of
    the embedding that learns little, and what recurs grows with the square root of the text (Heaps' law). Nine of ten learned
    tokens are seen 20 times or more up to about 2.5 times that root, and bits per byte fell up to 7 to 9 times that root.
    Measured: BPE of 20 KB to 2 MB of novels, Shakespeare and documentation; depth 2 on 20 KB and on 200 KB, validation bits per
    byte 3.34, 2.86 and 2.84 at 512, 1,024 and 2,048 tokens, and 2.45, 2.42 and 2.31 at 768, 1,536 and 4,096; 2026-11-26.

    Returns: 512 (up to 12 KB) to 32,768 (from 38 MB on).
    """
    wanted = min(max(5 * math.sqrt(num_bytes), 512), 32_768)
    power = 2 ** int(math.log2(wanted))
    return min((power, power * 3 // 2, power * 2), key=lambda size: abs(size - wanted))


def train_bpe(texts: Iterable[str], *, vocab_size: int, max_token_length: int | None = None) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with the library `tokenizers`; the same texts in the same order give the same tokenizer.

    Args:
        texts: read once, one at a time; the counts of their distinct words stay in memory, so bound their size.
        vocab_size: rows of the model's embedding: 256 bytes, the special tokens and the merges.
            Texts with fewer different tokens give a smaller one, which is said in the log.
        max_token_length: most characters of one token; None sets no bound.
    Raises: ValueError for a vocabulary without room for bytes and special tokens.
    Cost: linear in the bytes, also where no space ever ends a word.
    """
    check_vocab_size(vocab_size, algorithm="bpe")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _words_as_bytes(TRAINING_PATTERN)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=max_token_length,
        show_progress=False,
    )
    # The library takes 50 bytes for each character of the text that it is at; words, and so the merges, are those of whole texts.
    pieces = (piece for text in texts for piece in cut_at(SAFE_CUTS["qwen2"], text, length=PIECE_CHARACTERS))
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.pre_tokenizer = _words_as_bytes(BPE_PATTERN)
    if tokenizer.get_vocab_size() < vocab_size:
        logger.info(
            f"tokenizer: the text yields {tokenizer.get_vocab_size():,} different tokens, fewer than vocab_size {vocab_size:,}; "
            "the tokenizer has these."
        )
    return _wrap(tokenizer, bos=SEPARATOR, eos=SEPARATOR, pad=PAD, additional_special_tokens=list(CHAT_TOKENS))


def _words_as_bytes(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_word_level(texts: Iterable[str], *, vocab_size: int | None = None) -> PreTrainedTokenizerFast:
    """The book's simple tokenizer: one id for every word and punctuation mark, `[UNK]` for all that training did not see.

    Args: `vocab_size` keeps the most frequent words; None keeps all.
    Source: Raschka (2024), sections 2.2 to 2.4.
    """
    check_vocab_size(vocab_size, algorithm="wordlevel")
    bos, eos, pad, unk = WORD_SPECIAL_TOKENS
    tokenizer = Tokenizer(models.WordLevel(unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"), pre_tokenizers.WhitespaceSplit()]
    )
    # Joins with spaces and takes back the one before punctuation; the prefix is one that no word has.
    tokenizer.decoder = decoders.WordPiece(prefix="\0", cleanup=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size or 2**31 - 1, special_tokens=list(WORD_SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer, bos=bos, eos=eos, pad=pad, unk_token=unk)


def _wrap(
    tokenizer: Tokenizer, *, bos: str, eos: str, pad: str, begins_with_eos: bool = True, **special_tokens
) -> PreTrainedTokenizerFast:
    if begins_with_eos:
        # A text begins with the separator, as it did in training; encode_texts leaves it out where rows are built.
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{eos} $A", pair=f"{eos} $A {eos} $B", special_tokens=[(eos, tokenizer.token_to_id(eos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        padding_side="left",  # generation continues at the right end
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **special_tokens,
    )


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer and check that the pipeline can build on it.

    Raises: FileNotFoundError for a folder without one; ValueError where it lacks a separator or a padding token of its own.
    """
    check_folder_is_there(folder)
    try:
        tokenizer = _tokenizer_class(folder).from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise MissingFileError(
            f"{folder} holds no tokenizer that loads ({str(error).splitlines()[0]}); train one with recipes/train_tokenizer.py."
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {folder} has no eos_token; one is needed to separate documents.")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"the tokenizer in {folder} has the pad_token {tokenizer.pad_token!r} and the eos_token {tokenizer.eos_token!r}; two "
            "different ones are needed, or the model never learns where a text ends."
        )
    return tokenizer


def _tokenizer_class(folder: str | Path) -> type:
    """The class to load it with: that of our own tokenizers where the folder names it, because AutoTokenizer imports torch."""
    try:
        settings = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        alone = not (Path(folder) / "config.json").exists()  # a model's configuration may ask for another class
        if alone and settings.get("tokenizer_class") == PreTrainedTokenizerFast.__name__ and "auto_map" not in settings:
            return PreTrainedTokenizerFast
    except (OSError, ValueError, AttributeError):
        pass  # a name on the Hub, or something that AutoTokenizer has a better word for
    from transformers import AutoTokenizer

    return AutoTokenizer


def load_or_wrap_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """`load_tokenizer`, or `gpt2_tokenizer` where that refuses GPT-2's own files, which lack a padding token."""
    try:
        return load_tokenizer(folder)
    except (FileNotFoundError, ValueError) as refusal:
        try:
            return gpt2_tokenizer(folder)
        except (FileNotFoundError, ValueError):
            raise refusal from None


def gpt2_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """GPT-2's tokenizer with its published ids, and a padding token and chat tokens of their own after the last of them.

    `<|endoftext|>` stays 50256; `<|pad|>` is 50257 and the chat tokens follow, so a model needs rows for them.

    Args:
        folder: OpenAI's encoder.json and vocab.bpe, the same as vocab.json and merges.txt, or any GPT-2 tokenizer of
            transformers (a folder or a Hub id).
    Raises: FileNotFoundError for a folder without one; ValueError for a tokenizer that is not GPT-2's kind.
    """
    for vocabulary, merges in GPT2_FILES:
        if (Path(folder) / vocabulary).is_file() and (Path(folder) / merges).is_file():
            try:
                model = models.BPE.from_file(str(Path(folder) / vocabulary), str(Path(folder) / merges))
            except Exception as error:  # tokenizers raises plain Exception
                raise UserError(f"{folder}: {vocabulary} and {merges} do not belong together or are cut off ({error}).") from None
            break
    else:
        published = _backend_of(folder)
        definition = json.loads(published.to_str())
        cut = definition["pre_tokenizer"] or {}
        if definition["model"]["type"] != "BPE" or cut.get("type") != "ByteLevel" or not cut.get("use_regex"):
            raise UserError(f"the tokenizer in {folder} is not of GPT-2's kind, a byte-level BPE with its pattern.")
        model = published.model
    tokenizer = Tokenizer(model)
    if tokenizer.token_to_id(SEPARATOR) is None:
        raise UserError(f"the tokenizer in {folder} has no {SEPARATOR}, which ends every document of GPT-2's.")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))  # the separator keeps its id, the others follow the last one
    return _wrap(tokenizer, bos=SEPARATOR, eos=SEPARATOR, pad=PAD, additional_special_tokens=list(CHAT_TOKENS))


def character_tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    """A token for every character, with the ids that are given; `[UNK]` for all others, and nothing is put before a text.

    The special tokens follow the last id, so a model needs rows for them.

    Args: `ids` are nanoGPT's `stoi`: characters and their ids from 0 on.
    Raises: ValueError for any other numbering.
    """
    if sorted(ids.values()) != list(range(len(ids))) or not ids or any(len(character) != 1 for character in ids):
        raise UserError(f"the {len(ids):,} characters are not numbered from 0 to {len(ids) - 1:,}, each once; that is needed.")
    unknown = WORD_SPECIAL_TOKENS[-1]
    # As a BPE without merges: unlike a word-level vocabulary, it may have an unknown token that is added after the others.
    tokenizer = Tokenizer(models.BPE(vocab=ids | {unknown: len(ids)}, merges=[], unk_token=unknown))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([unknown, *SPECIAL_TOKENS])
    return _wrap(
        tokenizer,
        bos=SEPARATOR,
        eos=SEPARATOR,
        pad=PAD,
        begins_with_eos=False,
        unk_token=unknown,
        additional_special_tokens=list(CHAT_TOKENS),
    )


def _backend_of(folder: str | Path) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:  # a tokenizer written in Python has no backend
        raise MissingFileError(f"{folder} holds no tokenizer of GPT-2's kind ({str(error).splitlines()[0]}).") from None


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, and of nothing but the text: no separator is added, and none comes out of `<|endoftext|>` in it.

    The saved tokenizer keeps the library's default (special tokens in text are special), because a chat template needs it;
    text from outside therefore always goes through here.
    """
    return [ids.tolist() for ids in encode_to_arrays(tokenizer, texts)]


def encode_to_arrays(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[np.ndarray]:
    """As `encode_texts`, as int32 arrays: 4 bytes per token, where a list takes 40.

    Raises: ValueError for a text with more than `LONGEST_PIECE` characters in which there is no place to cut it.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # as the characters that they are
    # Added tokens that are not special are found in texts before words are, perhaps across a cut.
    added_in_text = any(not token.special for token in tokenizer.added_tokens_decoder.values())
    pattern = None if added_in_text else word_pattern(tokenizer)
    safe_cut = None if pattern is None else SAFE_CUTS[pattern]
    ids: list[list[np.ndarray]] = [[] for _ in texts]
    pieces = ((index, piece) for index, text in enumerate(texts) for piece in cut_at(safe_cut, text, length=PIECE_CHARACTERS))
    while call := _up_to(CALL_CHARACTERS, pieces):
        encodings = backend.encode_batch_fast([piece for _, piece in call], add_special_tokens=False)  # fast: without offsets
        for (index, _), encoding in zip(call, encodings):
            ids[index].append(np.array(encoding.ids, dtype=np.int32))
        del encodings  # 475 bytes for each token
    return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in ids]


def _up_to(characters: int, pieces: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    taken = []
    for piece in pieces:
        taken.append(piece)
        characters -= len(piece[1])
        if characters <= 0:
            break
    return taken


def cut_at(place: re.Pattern | None, text: str, *, length: int) -> Iterator[str]:
    """Pieces of `text` that end at the first `place` after `length` characters; the whole text without a `place`.

    Raises: ValueError where more than `LONGEST_PIECE` characters follow without such a place.
    """
    start = 0
    while place and len(text) - start > length:
        cut = place.search(text, start + length, start + LONGEST_PIECE + 1)
        if cut is None:
            if len(text) - start > LONGEST_PIECE:
                raise UserError(
                    f"the text that begins {text[start : start + 40]!r} goes on for more than {LONGEST_PIECE:,} characters without "
                    "a line break, a space or a comma, and encoding it in one piece would take gigabytes; break it into lines."
                )
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def word_pattern(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """How a byte-level BPE cuts text into words before merging: by the pattern of "qwen2" (ours too) or "gpt-2"; None otherwise."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None or not isinstance(backend.model, models.BPE) or backend.pre_tokenizer is None:
        return None
    steps = json.loads(backend.pre_tokenizer.__getstate__())
    *splits, last = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    ours = {"type": "Split", "pattern": {"Regex": BPE_PATTERN}, "behavior": "Isolated", "invert": False}
    if last["use_regex"]:
        return None if splits else "gpt-2"
    return "qwen2" if splits == [ours] else None


def split_special_tokens(tokenizer: PreTrainedTokenizerFast, split: bool) -> None:
    """Whether a special token written in a text is text (True, for classifiers), for this tokenizer and when it is loaded again.

    True destroys the special tokens that a chat template writes.
    """
    tokenizer.split_special_tokens = split
    tokenizer.init_kwargs["split_special_tokens"] = split  # what save_pretrained writes


def ensure_pad_token(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Give the tokenizer a padding token of its own, `<|pad|>`, where it has none or pads with what ends a text.

    Returns: the ids that are new; the model needs rows for them.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    new = add_special_tokens(tokenizer, [PAD])
    tokenizer.pad_token = PAD
    return new


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of the tokenizer's definition: equal for equal ids, wherever it is stored."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode("utf-8")).hexdigest()
