"""The recipes' arguments: dataclass default < YAML < command line, and no typo passes.

Nothing here imports torch, so a mistake on the command line is answered at once; trainer_arguments.py has those that do.
"""

import difflib
import errno
import io
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from hfgpt.data.row_errors import ON_ERROR_HELP
from hfgpt.errors import AccessError, MissingFileError, RunStopped, UserError, sentence_of
from hfgpt.files import expand_home, with_home
from hfgpt.folders import check_model_folder
from hfgpt.hub.arguments import TOKEN
from hfgpt.hub.card_settings import CARD_HELP, checked_settings

logger = logging.getLogger("hfgpt")
ON_OFF = {"on": "true", "off": "false"}  # which YAML 1.1 has beside yes and no
Arguments = TypeVar("Arguments")


def parse_arguments(arguments_class: type[Arguments], argv: list[str], *, positional: str | None = None) -> Arguments:
    """Read `[run.yaml] [--key value ...]` into `arguments_class`.

    Args:
        argv: the command line without the program's name.
        positional: the key that a leading value without dashes is for, where it names no YAML file.
    Raises: FileNotFoundError for a missing YAML file; ValueError for unknown keys (with the nearest known one), values of the
        wrong type, and missing ones.
    """
    parser = HfArgumentParser(arguments_class, allow_abbrev=False)
    known = [name.name for name in fields(arguments_class) if name.init]
    argv = list(argv)
    from_yaml: list[str] = []
    lists: dict[str, list] = {}
    if argv and not argv[0].startswith("-"):
        first = with_home(argv.pop(0))
        if Path(first).suffix.lower() in (".yaml", ".yml"):
            switches = {action.dest for action in parser._actions if action.type is string_to_bool}
            from_yaml, lists = _arguments_in_yaml(Path(first), known, switches)
        elif positional:
            from_yaml = [f"--{positional}", first]
        else:
            raise UserError(f"got {first!r}, a YAML file (or --key value) is needed first.")
    for word in argv:
        if word.startswith("--"):
            check_key(word[2:].split("=")[0].replace("-", "_"), known, where="the command line")

    def refuse(message: str):
        raise UserError(f"{message}; --help lists what there is.")

    parser.error = refuse
    defaults = vars(parser.parse_args([]))
    # A list goes in as the default of its key: as words of a command line, an item such as "--x" would be taken for a key.
    parser.set_defaults(**{key: _converted(parser, key, items) for key, items in lists.items()})
    namespace, rest = parser.parse_known_args(from_yaml + argv)
    if rest:
        raise UserError(f"on the command line, {' '.join(rest)!r} belongs to no key; write --key value.")
    values = {name: getattr(namespace, name) for name in known if getattr(namespace, name) != defaults[name]}
    try:
        return arguments_class(**values)
    except ValueError as error:  # TrainingArguments refuses what contradicts itself; nothing of ours has run yet
        raise UserError(str(error)) from None


def check_key(key: str, known: Iterable[str], *, where: str) -> None:
    """Raises: ValueError for a key that nobody knows, with the nearest known one."""
    if key in known or key.removeprefix("no_") in known or key == "help":
        return
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    raise UserError(f"unknown key {key!r} in {where}" + (f"; did you mean {near[0]!r}?" if near else "."))


def _converted(parser: HfArgumentParser, key: str, items: list) -> list:
    action = next(action for action in parser._actions if action.dest == key)
    if action.nargs != "+":
        raise UserError(f"{key} is a list of {len(items)}; a single value is needed.")
    return [action.type(str(item)) for item in items]


class _AsWritten(yaml.SafeLoader):
    """YAML whose single values stay what was written: the key's own type decides later what they mean.

    YAML 1.1 makes a boolean of `no` and `on`, 1.1 of 1.10 and 70 of 1:10, whatever they are for. Only empty values and merge keys
    mean here what they mean there.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _arguments_in_yaml(path: Path, known: list[str], switches: set[str]) -> tuple[list[str], dict[str, list]]:
    """The YAML's entries as words of a command line, so that one parser converts and checks both; lists come apart.

    Args: `switches` are the keys that are true or false, for which YAML has words that the parser does not know.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist (looked from {Path.cwd()}); check the spelling.")
    try:
        text = path.read_text(encoding="utf-8")
        written = yaml.load(text, Loader=_AsWritten) or {}
        resolved = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(written, dict):
        raise UserError(f"{path} holds a {type(written).__name__}, lines of the form 'key: value' are needed.")
    words: list[str] = []
    lists: dict[str, list] = {}
    for key, value in written.items():
        check_key(key, known, where=str(path))
        if value is None:
            continue  # the default
        if isinstance(value, dict):
            words += [f"--{key}={json.dumps(resolved[key])}"]  # no type of ours says what is in it
        elif isinstance(value, list):
            lists[key] = value
        else:
            words += [f"--{key}={ON_OFF.get(value.lower(), value) if key in switches else value}"]
    return words, lists


STOPPED_WITH_CHECKPOINT = 75  # sysexits.h calls it a temporary failure: the same command goes on


def launch(main: Callable[[Arguments], dict], arguments_class: type[Arguments], *, positional: str | None = None) -> None:
    """Parse the command line and run a recipe's `main`.

    Whatever a user can bring about ends in one line and an exit code: a `UserError` in 1, a training that a signal stopped at a
    checkpoint in 75, Ctrl-C at any other time in 130 and SIGTERM in 143 (128 and the signal's number, as shells have it).
    """
    # Python looks beside a script first: `import evaluate` would find the recipe of this name instead of the library.
    beside = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != beside]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console in cp1252, or a pipe in ASCII, has no arrow and no Chinese: a question mark there, and the run goes on.
            stream.reconfigure(errors="replace")
    # One plain line per message, from the main process: these are for the reader of a terminal. transformers and datasets keep
    # their own handlers; accelerate's logger would put its rank before every line.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False  # a library that gives the root logger a handler would have every line printed twice
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    output_dir = ""
    try:
        with _signals_raised():
            args = parse_arguments(arguments_class, sys.argv[1:], positional=positional)
            output_dir = getattr(args, "output_dir", "")
            main(args)
    except RunStopped as stopped:
        logger.info(stopped)
        sys.exit(STOPPED_WITH_CHECKPOINT)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        logger.info(f"stopped: by {signal.Signals(number).name}; the same command starts again, or goes on where it can.")
        sys.exit(128 + number)
    except Exception as error:
        sentence = sentence_of(error, place=output_dir)
        if sentence is None:
            raise
        print(f"error: {TOKEN.sub('hf_***', sentence)}", file=sys.stderr)  # a word at a wrong place may be one
        sys.exit(1)


@contextmanager
def _signals_raised() -> Iterator[None]:
    """SIGTERM leaves as Ctrl-C does, by an exception: what is half made is removed on the way out."""
    owner = os.getpid()

    def receive(number, frame):
        if os.getpid() == owner:
            raise KeyboardInterrupt(number)
        signal.signal(number, signal.SIG_DFL)  # a process that was forked from this one has nothing to remove or to say
        os.kill(os.getpid(), number)

    earlier = {}
    if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # what runs in the background of a script ignores Ctrl-C
                earlier[number] = signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def claim_output(folder: str, *, overwrite: bool, marker: str) -> Path:
    """Check, before any work, that `folder` can be written and may be replaced; its parents are made.

    Args: `marker` names a file by which a folder of ours is known: nothing else is ever replaced.
    Raises: ValueError for a path that is a file, or a filled folder that may not be replaced; PermissionError.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"output_dir {folder} is a file; give a folder.")
    # A folder that was just claimed when its process was killed may hold the marker under its temporary name alone.
    if path.is_dir() and any(entry.name != f".{marker}" for entry in path.iterdir()):
        if not (path / marker).is_file():
            raise UserError(f"output_dir {folder} holds files that this recipe did not write; give another one.")
        if not overwrite:
            raise UserError(f"output_dir {folder} is not empty; give another one, or --overwrite true to replace it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".hfgpt-"):
            pass
        if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise AccessError(f"output_dir {folder} cannot be written ({error.strerror}); give another one.") from None
    return path


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into; it takes the place of `path` when all went well, and vanishes otherwise."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
        staged = Path(temporary) / path.name
        staged.mkdir()
        yield staged
        if path.exists():
            path.rename(Path(temporary) / "replaced")
        staged.rename(path)


# What a recipe that reads documents does where it is not told; prepare_data.py does as its tokenizer's training did.
READING_DEFAULTS = {
    **{"text_field": "text", "text_documents": None, "hub_split": "train", "hub_revision": None, "max_documents": None},
    "on_error": "stop",
}
SPLIT_DEFAULTS = {"split_by": "auto", "validation_share": 0.05, "test_share": 0.05, "split_seed": 0}


@dataclass
class SourceArguments:
    """What is read, and which part of it is held out; the same in every recipe that reads documents.

    None means that a key was not given, so that prepare_data.py can take it from the tokenizer; `filled` leaves no such None.
    """

    sources: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Text, JSON(L), Parquet files, patterns or folders; Hub datasets (user/name or user/name:configuration); "
            "python-docs. prepare_data.py takes those of its tokenizer, and how they are read and split, where it is not told."
        },
    )
    text_field: str | None = field(
        default=None, metadata={"help": "Column that holds the text in JSON, Parquet and Hub rows; 'text' without it."}
    )
    text_documents: str | None = field(
        default=None,
        metadata={
            "help": "One document of a text file: 'file' (without it), 'paragraph', 'line', or the line that separates documents."
        },
    )
    hub_split: str | None = field(default=None, metadata={"help": "Split of a Hub dataset; 'train' without it."})
    hub_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    streaming: bool = field(default=False, metadata={"help": "Read Hub datasets as they come, without storing them."})
    max_documents: int | None = field(default=None, metadata={"help": "Stop after this many documents."})
    on_error: str | None = field(default=None, metadata={"help": f"{ON_ERROR_HELP} 'stop' without it."})
    split_by: str | None = field(
        default=None,
        metadata={
            "help": "'document', 'position' to cut each document (for one or few), or 'auto' (without it): by document where there "
            "are enough."
        },
    )
    validation_share: float | None = field(
        default=None, metadata={"help": "Share of the documents for validation while training; 0.05 without it."}
    )
    test_share: float | None = field(
        default=None, metadata={"help": "Share of the documents for the one test at the end; 0.05 without it."}
    )
    split_seed: int | None = field(default=None, metadata={"help": "Another seed holds out other documents; 0 without it."})
    output_dir: str = field(default="", metadata={"help": "Folder that the result is written to."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what output_dir holds."})
    card: dict | str | None = field(default=None, metadata={"help": CARD_HELP})

    def __post_init__(self):
        expand_home(self, "output_dir", "sources")
        if not self.output_dir:
            raise UserError("output_dir is missing; name the folder for the result with --output_dir.")
        self.card = checked_settings(self.card)

    def filled(self, earlier: Mapping[str, object]):
        """These arguments with what was not given: from `earlier`, the settings of a tokenizer's passport, else the defaults.

        How texts are read belongs to the texts: it is taken only with the same sources.
        """
        given = {name: getattr(self, name) for name in ("sources", *READING_DEFAULTS, *SPLIT_DEFAULTS)}
        if given["split_by"] == "auto":
            given["split_by"] = None
        same_sources = bool(earlier.get("sources")) and self.sources in ([], earlier["sources"])
        known = {name: earlier.get(name) for name in given if same_sources or (name in SPLIT_DEFAULTS and name != "split_by")}
        values = {"sources": []} | READING_DEFAULTS | SPLIT_DEFAULTS
        for source in (known, given):
            values |= {name: value for name, value in source.items() if value not in (None, [])}
        return replace(self, **values)

    def reading_options(self):
        from hfgpt.data.sources import ReadingOptions

        return ReadingOptions(
            text_field=self.text_field or "text",
            text_documents=self.text_documents,
            hub_split=self.hub_split or "train",
            hub_revision=self.hub_revision,
            streaming=self.streaming,
            max_documents=self.max_documents,
        )

    def split(self):
        from hfgpt.data.splitting import Split

        return Split(by=self.split_by, validation_share=self.validation_share, test_share=self.test_share, seed=self.split_seed)


@dataclass
class TokenizerArguments(SourceArguments):
    """recipes/train_tokenizer.py"""

    algorithm: Literal["bpe", "wordlevel"] = field(
        default="bpe", metadata={"help": "'bpe' (byte-level, for real use) or 'wordlevel' (the book's simple tokenizer)."}
    )
    vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows of the embedding, special tokens included; without it as many as suit the size of the text (wordlevel: "
            "every word). A text with fewer different tokens gives a smaller one."
        },
    )
    max_token_length: int | None = field(default=None, metadata={"help": "Most characters of one token."})
    max_bytes: int = field(
        default=1_000_000_000, metadata={"help": "Train on at most this many bytes; the counts of distinct words stay in memory."}
    )


@dataclass
class PrepareArguments(SourceArguments):
    """recipes/prepare_data.py"""

    tokenizer: str = field(default="", metadata={"help": "Folder or Hub id of the tokenizer."})
    context_length: int | None = field(
        default=None, metadata={"help": "Tokens per row; without it 1,024, or less where the text would fill too few rows."}
    )
    window: int | None = field(
        default=None, metadata={"help": "Cut training documents into the book's sliding windows of this many tokens."}
    )
    stride: int | None = field(default=None, metadata={"help": "Tokens between window starts; window - 1 without it."})
    deduplicate: bool = field(default=True, metadata={"help": "Drop documents with the same text as an earlier one."})
    lzma_baseline: bool = field(default=False, metadata={"help": "Measure what lzma needs for the test documents (small corpora)."})
    plant_canaries: bool = field(
        default=False,
        metadata={"help": "Put made-up secrets into the training text, to measure later which of them the model has memorized."},
    )
    canary_counts: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8, 16, 32], metadata={"help": "How many copies of a planted secret; each number once."}
    )
    canaries_per_count: int = field(default=4, metadata={"help": "Planted secrets with each number of copies."})
    canary_seed: int = field(default=0, metadata={"help": "Another seed, other secrets in other places."})

    def __post_init__(self):
        super().__post_init__()
        expand_home(self, "tokenizer")
        if not self.tokenizer:
            raise UserError("tokenizer is missing; name its folder with --tokenizer (recipes/train_tokenizer.py makes one).")
        if self.window is not None:
            if self.window < 2:
                raise UserError(f"window is {self.window}; 2 tokens or more are needed, an input and its target.")
            if self.stride is None:
                self.stride = self.window - 1
            if not 1 <= self.stride <= self.window:
                raise UserError(
                    f"stride is {self.stride}, window {self.window}; a stride from 1 to the window is needed, or tokens get lost."
                )
            self.context_length = self.window
        elif self.stride is not None:
            raise UserError(
                f"stride is {self.stride}, but window is missing; give both for sliding windows, or neither for packing."
            )
        if not self.plant_canaries:
            for argument in fields(PrepareArguments):
                value = getattr(self, argument.name)
                default = argument.default if argument.default_factory is MISSING else argument.default_factory()
                if argument.name in ("canary_counts", "canaries_per_count", "canary_seed") and value != default:
                    raise UserError(f"{argument.name} is {value}, but plant_canaries is false; --plant_canaries true plants them.")
        if self.context_length is not None and self.context_length < 3:
            raise UserError(f"context_length is {self.context_length}; 3 or more are needed: two separators and a token.")


@dataclass
class GenerateArguments:
    """recipes/generate.py"""

    model: str = field(default="", metadata={"help": "Folder or Hub id of the model; the first argument without dashes."})
    prompt: list[str] = field(
        default_factory=lambda: [""], metadata={"help": "One or several prompts; an empty one starts a text."}
    )
    chat: bool = field(
        default=False,
        metadata={"help": "Talk with an assistant in the terminal; with prompt, answer each as a message of its own."},
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens to add; 100 (in a chat 512) or half the context without it. The separator ends a text earlier."
        },
    )
    temperature: float = field(default=0.8, metadata={"help": "0 is greedy; higher is more varied."})
    top_k: int | None = field(default=50, metadata={"help": "Draw from the k likeliest tokens; 0 from all."})
    top_p: float | None = field(
        default=None, metadata={"help": "Draw from the likeliest tokens that together have this probability."}
    )
    num_samples: int = field(default=1, metadata={"help": "Continuations for each prompt."})
    seed: int = field(default=0, metadata={"help": "The same seed, the same text."})
    stream: bool = field(default=True, metadata={"help": "Print the text while it is made."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that a foreign repository brings."})

    def __post_init__(self):
        expand_home(self, "model")
        if not self.model:
            raise UserError("model is missing; give a folder or a Hub id first: recipes/generate.py MODEL --prompt ...")
        check_model_folder(self.model)
        for name, smallest in (("max_new_tokens", 1), ("num_samples", 1), ("temperature", 0), ("top_k", 0)):
            if getattr(self, name) is not None and getattr(self, name) < smallest:
                raise UserError(f"{name} is {getattr(self, name)}; {smallest} or more is needed.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; a probability above 0, up to 1, is needed.")
        if self.in_terminal and self.num_samples > 1:
            raise UserError(f"num_samples is {self.num_samples}; a conversation has one answer a turn, --prompt may have several.")

    @property
    def in_terminal(self) -> bool:
        """Whether a conversation is had, instead of single prompts continued or answered."""
        return self.chat and self.prompt == [""]


@dataclass
class ConvertArguments:
    """recipes/convert.py"""

    source: str = field(default="", metadata={"help": "Folder, file or Hub id of the weights; the first argument without dashes."})
    output_dir: str = field(default="", metadata={"help": "Folder that the result is written to."})
    source_format: Literal["auto", "gpt2", "book", "nanogpt", "openai", "hfgpt"] = field(
        default="auto", metadata={"help": "What source is; 'auto' looks at names and shapes."}
    )
    target: Literal["hfgpt", "native", "gguf"] = field(
        default="hfgpt",
        metadata={"help": "'hfgpt', 'native' (GPT-2, Qwen3 or Llama in transformers' own classes) or 'gguf' (llama.cpp, Ollama)."},
    )
    gguf_type: Literal["f32", "f16", "q8_0"] = field(default="f16", metadata={"help": "How GGUF stores matrices."})
    tokenizer: str = field(
        default="", metadata={"help": "Folder or Hub id of the tokenizer, GPT-2's own files included; else the one beside source."}
    )
    adapter: str = field(default="", metadata={"help": "Folder of a LoRA adapter that is merged into the weights."})
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Heads of a bare state dict, which does not say it; published widths need none."}
    )
    hidden_act: str | None = field(
        default=None, metadata={"help": "Activation of a nanoGPT checkpoint from before 2023-06: gelu_new; today's is gelu."}
    )
    dtype: Literal["source", "float32", "bfloat16", "float16"] = field(
        default="source", metadata={"help": "dtype of the weights that are written; GGUF has gguf_type instead."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace what output_dir holds."})
    card: dict | str | None = field(default=None, metadata={"help": CARD_HELP})

    def __post_init__(self):
        expand_home(self, "source", "output_dir", "tokenizer", "adapter")
        if not self.source:
            raise UserError("source is missing; give a folder, a file or a Hub id first: recipes/convert.py SOURCE ...")
        if not self.output_dir:
            raise UserError("output_dir is missing; name the folder for the result with --output_dir.")
        self.card = checked_settings(self.card)
        if self.num_attention_heads is not None and self.num_attention_heads < 1:
            raise UserError(f"num_attention_heads is {self.num_attention_heads}; 1 or more is needed.")
        if self.target != "gguf" and self.gguf_type != "f16":
            raise UserError(f"gguf_type is {self.gguf_type}, but target is {self.target}; --target gguf writes GGUF.")
        if self.target == "gguf" and self.dtype != "source":
            raise UserError(f"dtype is {self.dtype}, but target is gguf; --gguf_type says how GGUF stores matrices.")
