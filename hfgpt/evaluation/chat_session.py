"""A conversation with an assistant: what it remembers, what fits its context, where an answer ends; in a terminal or not."""

import contextlib
import copy
import io
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from hfgpt.chat_templates import stop_token_ids
from hfgpt.data.chat_encoding import ConversationEncoder
from hfgpt.data.messages import Message
from hfgpt.errors import UserError
from hfgpt.evaluation.answers import read_answer
from hfgpt.evaluation.generation import check_is_text, check_room, context_length_of, generate
from hfgpt.inference import evaluating, isolated_random_state

COMMANDS = "/system TEXT sets a system message, /reset starts over, /exit quits"


@dataclass(frozen=True)
class Reply:
    """An assistant's reply.

    Attributes:
        text: without special tokens.
        ending: "stopped" (on its own), "cut" (at max_new_tokens) or "interrupted".
        dropped: how many of the oldest exchanges were dropped to make room.
    """

    text: str
    ending: str
    dropped: int


class ChatSession:
    """An ongoing conversation, formatted by the tokenizer's chat template; typed text never becomes a special token.

    Args:
        generation_config: how tokens are chosen; its `max_new_tokens` limits each answer.
        seed: the seed of the first answer; each later one uses the next number.
    Raises: ValueError for a tokenizer without a chat template, and if an answer alone would fill the context.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        generation_config: GenerationConfig,
        seed: int = 0,
    ):
        if tokenizer.chat_template is None:
            raise UserError(
                f"{tokenizer.name_or_path} has no chat template, so it cannot chat, only continue texts. "
                f"recipes/finetune_instructions.py turns it into an assistant."
            )
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.stops = stop_token_ids(tokenizer)
        self.generation_config = copy.deepcopy(generation_config)
        self.generation_config.eos_token_id = self.stops
        self.encoder = ConversationEncoder(tokenizer)
        self.system: str | None = None
        self.turns: list[Message] = []  # alternating user and assistant turns
        self.context_length = context_length_of(model)
        check_room(generation_config.max_new_tokens, self.context_length)

    def reset(self) -> None:
        """Forget the conversation; the system message stays."""
        self.turns = []

    def set_system(self, text: str | None) -> None:
        """Set the system message. Raises: ValueError if the template does not support one."""
        before, self.system = self.system, text or None
        try:
            self._encode([{"role": "user", "content": "words"}])
        except ValueError:
            self.system = before
            raise

    def ask(self, text: str, *, stream: bool = False) -> Reply:
        """The answer to the user's next message, printed while it is generated with `stream`; both are remembered.

        Ctrl-C stops the answer, and the part so far counts. The model's mode and the random state are restored.

        Raises: ValueError for a message that is not text, for one that does not fit the context, and for one that the template
        refuses; the conversation is then unchanged.
        """
        check_is_text(text)
        turns = [*self.turns, {"role": "user", "content": text}]
        dropped = 0
        room = self.context_length - self.generation_config.max_new_tokens
        while len(ids := self._encode(turns)) > room and len(turns) > 1:
            turns = turns[2:]
            dropped += 1
        if len(ids) > room:
            around = "the template and the system message" if self.system else "the template"
            raise UserError(
                f"the message has {len(ids):,} tokens including {around}, but with an answer of up to "
                f"{self.generation_config.max_new_tokens:,} tokens the context only has room for {room:,}; shorten the message, or "
                f"give a smaller --max_new_tokens."
            )
        prompt = torch.tensor([ids], device=self.model.device)
        streamer = AnswerStreamer(self.tokenizer, self.stops) if stream else None
        with evaluating(self.model), isolated_random_state(self.seed), Interruption() as interruption:
            output = generate(
                self.model,
                prompt,
                generation_config=self.generation_config,
                stopping_criteria=StoppingCriteriaList([interruption]),
                streamer=streamer,
            )
        self.seed += 1
        answer = read_answer(self.tokenizer, output[0].tolist(), self.stops)
        self.turns = [*turns, {"role": "assistant", "content": self._as_remembered(turns, answer.text)}]
        return Reply(answer.text, "stopped" if answer.stopped else "interrupted" if interruption.noted else "cut", dropped)

    def _as_remembered(self, turns: list[Message], answer: str) -> str:
        """The answer as the template writes it in later turns, where the templates of many models leave the reasoning out."""
        _, end, rest = answer.rpartition("</think>")
        if end:
            following: list[Message] = [{"role": "assistant", "content": answer}, {"role": "user", "content": "words"}]
            try:
                self._encode([*turns, *following])
            except UserError:  # the template changes the answer
                return rest
        return answer

    def _encode(self, turns: list[Message]) -> list[int]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self.encoder.encode_prompts([[*system, *turns]])[0]


class AnswerStreamer(TextStreamer):
    """Prints an answer while it is generated, without its stop token: not every tokenizer marks those as special."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stops: list[int]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stops = stops

    def put(self, value: torch.Tensor) -> None:
        if self.next_tokens_are_prompt or value.tolist()[-1] not in self.stops:
            super().put(value)


class Interruption(StoppingCriteria):
    """Ctrl-C ends the answer after its current token; a second one ends the program, as usual."""

    noted = False

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            self.previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.previous)

    def _note(self, number, frame) -> None:
        self.noted = True
        signal.signal(signal.SIGINT, self.previous)

    def __call__(self, input_ids, scores, **kwargs) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.noted, device=input_ids.device, dtype=torch.bool)


def converse(session: ChatSession, *, stream: bool = True) -> list[tuple[str, str]]:
    """Answer each line of standard input until it ends; commands begin with a slash.

    Answers go to standard output, notes on them to standard error.
    Returns: every message with its answer, including forgotten ones.
    """
    said = []
    for line in _lines():
        command, _, argument = line.partition(" ")
        try:
            if command == "/exit":
                break
            elif command == "/reset":
                session.reset()
                _note("a new conversation")
            elif command == "/system":
                session.set_system(argument.strip())
                _note("the system message is set" if session.system else "no system message")
            elif line.startswith("/") and line[1:].isalpha():
                _note(f"{line} is not a command: {COMMANDS}")
            elif line:
                reply = session.ask(line, stream=stream)
                said.append((line, reply.text))
                if not stream:
                    print(reply.text, flush=True)
                _comment(reply, session)
        except UserError as error:  # the conversation is unchanged
            _note(str(error))
    return said


def _comment(reply: Reply, session: ChatSession) -> None:
    if reply.dropped:
        what = "exchange was" if reply.dropped == 1 else f"{reply.dropped} exchanges were"
        _note(f"the oldest {what} forgotten: the context has {session.context_length:,} tokens")
    if reply.ending == "cut":
        _note(f"cut at max_new_tokens, {session.generation_config.max_new_tokens:,}")
    elif reply.ending == "interrupted":
        _note("interrupted")
    elif not reply.text:
        _note("the model gave an empty answer")


def _lines() -> Iterator[str]:
    """The lines of standard input; in a terminal, with a prompt and arrow-key history, and Ctrl-C discards the line."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a line may end in the middle of a character
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.strip()
        return
    with contextlib.suppress(ImportError):  # Windows has its own line editing
        import readline  # noqa: F401
    _note(f"{COMMANDS}; Ctrl-C stops an answer")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        yield line


def _note(text: str) -> None:
    print(f"({text})", file=sys.stderr, flush=True)
