"""Conversations to token ids: formatted by the tokenizer's chat template, so that message text never becomes template markup.

The template is rendered once per sequence of roles, with placeholders for the contents. Text between the placeholders belongs to
the template, and special tokens are only recognized there; everything else is encoded as plain text, in the runs that a serving
engine would see between two special tokens. So contents never become special tokens, and the ids equal those of
`apply_chat_template` for harmless contents. An answer starts where the prompt ends, because that is where the model continues when
prompted:

    <|im_start|>user\\n What is 1 + 1? <|im_end|>\\n<|im_start|>assistant\\n  Two. <|im_end|>  \\n
    ------------------------------ not learned ---------------------------   ---- learned ----
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from hfgpt.chat_templates import control_token_ids
from hfgpt.data.messages import Message
from hfgpt.errors import UserError
from hfgpt.tokenization import encode_texts

PLACEHOLDER = re.compile(r"hfgptMessage(\d+)Content")
# No template writes such a space, so what remains of it shows how the template trims contents. Preserving ones come first.
FLANK = "\n\u2003\n"
TRIMMERS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
    lambda text: text.strip("\n"),
    str.lstrip,
    str.rstrip,
    str.strip,
)


@dataclass(frozen=True)
class Segment:
    """A special token of the template (`token`), or a run of text: literal strings and indices of messages.

    `answer` is the index of the answer it belongs to and is trained with; None if it is not part of an answer.
    """

    answer: int | None
    token: int | None = None
    parts: tuple[str | int, ...] = ()
    follows: str = "start"  # the "start" of everything, a "token", or "text" that was cut here


@dataclass(frozen=True)
class Layout:
    """The structure a template gives to one sequence of roles."""

    literals: list[str]  # one more than there are messages
    order: list[int]  # which message stands between them
    trimmers: list[Callable[[str], str]]  # of each message
    segments: list[Segment]


class ConversationEncoder:
    """Encodes conversations with a tokenizer and its current chat template.

    Raises: ValueError for a tokenizer without a chat template.
    Cost: the template is rendered about three times per new sequence of roles, and once per conversation, to verify that it changed
    no content.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        if tokenizer.chat_template is None:
            raise UserError("the tokenizer has no chat template; hfgpt.chat_templates.set_prompt_style adds one.")
        self.tokenizer = tokenizer
        self._control = control_token_ids(tokenizer)
        self._layouts: dict[tuple[tuple[str, ...], bool], Layout] = {}
        # `split_special_tokens` does not affect added tokens that are not special; split the text inside them.
        template = str(tokenizer.chat_template)
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
        plain = [content for content in added if content in template and not content.isspace() and len(content) > 1]
        self._inside_added = re.compile("|".join(f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in plain) or "(?!)")
        # SentencePiece tokenizers add a space at the beginning of text, and some of them after each special token.
        self._prefix_at_start = self._plain("a") != self._inside(["a"])[0]
        eos = str(tokenizer.eos_token or "")
        self._prefix_after_token = self._prefix_at_start and self._plain(eos + "a")[-len(self._plain("a")) :] == self._plain("a")

    def encode(
        self, conversations: list[list[Message]], unlearned: list[list[int]] | None = None
    ) -> list[tuple[list[int], list[bool]]]:
        """Ids of each conversation, and which of them are trained on: answers with the token that ends them.

        Args: `unlearned` lists, per conversation, the indices of answers that are not trained on.
        Raises: ValueError for a conversation that the template refuses or changes, and for a template that does not end answers.
        """
        return self._encode(conversations, unlearned or [[]] * len(conversations), generation_prompt=False)

    def encode_prompts(self, conversations: list[list[Message]]) -> list[list[int]]:
        """Ids of conversations that end before an answer; the model continues with what `encode` has after them."""
        return [ids for ids, _ in self._encode(conversations, [[]] * len(conversations), generation_prompt=True)]

    def _encode(
        self, conversations: list[list[Message]], unlearned: list[list[int]], *, generation_prompt: bool
    ) -> list[tuple[list[int], list[bool]]]:
        runs: dict[str, list[str]] = {"start": [], "token": [], "text": []}
        layouts = []
        for messages in conversations:
            layout = self._layout(tuple(message["role"] for message in messages), generation_prompt)
            contents = [trim(message["content"]) for trim, message in zip(layout.trimmers, messages, strict=True)]
            self._check_unchanged(layout, contents, messages, generation_prompt)
            layouts.append(layout)
            for segment in layout.segments:
                if segment.token is None:
                    text = "".join(contents[part] if isinstance(part, int) else part for part in segment.parts)
                    runs[segment.follows].append(text)
        encoded = {follows: iter(self._encode_runs(texts, follows)) for follows, texts in runs.items()}
        results = []
        for layout, not_learned in zip(layouts, unlearned, strict=True):
            ids: list[int] = []
            learned: list[bool] = []
            for segment in layout.segments:
                piece = [segment.token] if segment.token is not None else next(encoded[segment.follows])
                ids += piece
                learned += [segment.answer is not None and segment.answer not in not_learned] * len(piece)
            results.append((ids, learned))
        return results

    def _render(self, messages: list[Message], generation_prompt: bool) -> str:
        try:
            return cast(str, self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt))
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"the tokenizer's chat template refuses a conversation of {roles} ({error}); change the roles, or choose the "
                "prompt style 'chat'."
            ) from None

    def _check_unchanged(self, layout: Layout, contents: list[str], messages: list[Message], generation_prompt: bool) -> None:
        pieces = [layout.literals[0]]
        for index, literal in zip(layout.order, layout.literals[1:], strict=True):
            pieces += [contents[index], literal]
        if "".join(pieces) != self._render(messages, generation_prompt):
            raise UserError(
                "the tokenizer's chat template changes messages or formats them depending on their content, so it is not known "
                "which tokens are the assistant's; remove such passages from the messages, or choose the prompt style 'chat'."
            )

    def _layout(self, roles: tuple[str, ...], generation_prompt: bool) -> Layout:
        key = (roles, generation_prompt)
        if key not in self._layouts:
            literals, order = self._split(roles, generation_prompt)
            trimmers = self._find_trimmers(roles, generation_prompt, literals, order)
            starts = self._answer_starts(roles, generation_prompt, literals, order)
            segments = self._segments(literals, order, starts, complete=not generation_prompt)
            self._layouts[key] = Layout(literals, order, trimmers, segments)
        return self._layouts[key]

    def _split(self, roles: tuple[str, ...], generation_prompt: bool) -> tuple[list[str], list[int]]:
        pieces = PLACEHOLDER.split(self._render(_placeholders(roles), generation_prompt))
        order = [int(index) for index in pieces[1::2]]
        if sorted(order) != list(range(len(roles))):
            raise UserError(
                f"the tokenizer's chat template omits, repeats or rewrites messages of a conversation of {', '.join(roles)}; "
                "choose the prompt style 'chat'."
            )
        return pieces[::2], order

    def _find_trimmers(self, roles, generation_prompt, literals, order) -> list[Callable[[str], str]]:
        """How the template trims each content, determined from placeholders surrounded by spaces."""
        flanked = [{**message, "content": f"{FLANK}{message['content']}{FLANK}"} for message in _placeholders(roles)]
        rendered = self._render(flanked, generation_prompt)
        trimmers: list[Callable[[str], str]] = [str] * len(roles)
        position = len(literals[0])
        for index, literal in zip(order, literals[1:], strict=True):
            for trim in TRIMMERS:
                text = trim(flanked[index]["content"]) + literal
                if rendered.startswith(text, position):
                    trimmers[index] = trim
                    position += len(text)
                    break
        return trimmers  # if none fits, the comparison with the real rendering detects it

    def _answer_starts(self, roles, generation_prompt, literals, order) -> dict[int, int]:
        """For each answer, how much of the literal before it belongs to its prompt."""
        rendered = self._render(_placeholders(roles), generation_prompt)
        starts, position = {}, 0
        for index, literal in zip(order, literals, strict=False):
            if roles[index] == "assistant":
                prompt = self._render(_placeholders(roles[:index]), True) if index else ""
                fits = rendered.startswith(prompt) and position <= len(prompt) <= position + len(literal)
                # Templates may format earlier turns differently from the last one, and only the last matches serving.
                if not fits and index == len(roles) - 1:
                    raise UserError(
                        f"the tokenizer's chat template prompts for an answer with {prompt[-40:]!r}, but in a conversation the "
                        f"answer does not follow that text, so prompts would differ from training; choose the prompt style 'chat'."
                    )
                starts[index] = len(prompt) - position if fits else len(literal)
            position += len(literal) + len(_placeholder(index))
        return starts

    def _segments(self, literals: list[str], order: list[int], starts: dict[int, int], *, complete: bool) -> list[Segment]:
        # The template's output in order: its text and special tokens, the messages, and where an answer begins.
        pieces: list[tuple[str, str | int]] = []
        for index, literal in zip(order, literals, strict=False):
            if index in starts:
                pieces += [*self._parsed(literal[: starts[index]]), ("answer", index)]
                literal = literal[starts[index] :]
            pieces += [*self._parsed(literal), ("content", index)]
        pieces += self._parsed(literals[-1])

        segments: list[Segment] = []
        parts: list[str | int] = []
        follows, answer, said = "start", None, False  # an answer extends from its beginning to the first token after its message
        for kind, value in [*pieces, ("end", "")]:
            if kind in ("text", "content"):
                parts.append(value)
                said = said or (kind == "content" and value == answer)
                continue
            if parts:
                segments.append(Segment(answer, parts=tuple(parts), follows=follows))
                parts, follows = [], "text"
            if kind == "answer":
                answer, said = int(value), False
            elif kind == "token":
                segments.append(Segment(answer, token=int(value)))
                follows = "token"
                if said:
                    answer, said = None, False
        if complete and answer is not None:
            raise UserError(
                f"the tokenizer's chat template writes {literals[-1]!r} after an answer, but no special token to end it, so the "
                f"model would never learn to stop; choose the prompt style 'chat' or 'alpaca'."
            )
        return segments

    def _parsed(self, literal: str) -> Iterator[tuple[str, str | int]]:
        """The text and the special tokens in a template's output."""
        encoded = self.tokenizer(literal, add_special_tokens=False, return_offsets_mapping=True)
        done = 0
        for id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if id in self._control:
                if start > done:
                    yield "text", literal[done:start]
                yield "token", id
                done = end
        if done < len(literal):
            yield "text", literal[done:]

    def _encode_runs(self, texts: list[str], follows: str) -> list[list[int]]:
        at_start = follows == "start" or (follows == "token" and self._prefix_after_token)
        encode = self._inside if self._prefix_at_start and not at_start else lambda texts: encode_texts(self.tokenizer, texts)
        encoded = encode(texts) if texts else []
        for index, text in enumerate(texts):
            if not text:
                encoded[index] = []
            elif self._inside_added.search(text):
                first, *others = self._inside_added.split(text)
                encoded[index] = [id for ids in (*encode([first]), *self._inside(others)) for id in ids]
        return encoded

    def _inside(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts inside another text, where SentencePiece tokenizers add no space before them.

        A line break is put before each and its ids are removed again, if it stays separate.
        """
        before = encode_texts(self.tokenizer, ["\n"])[0]
        joined, plain = encode_texts(self.tokenizer, [f"\n{text}" for text in texts]), encode_texts(self.tokenizer, texts)
        return [ids[len(before) :] if ids[: len(before)] == before else own for ids, own in zip(joined, plain, strict=True)]

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _placeholder(index: int) -> str:
    return f"hfgptMessage{index}Content"


def _placeholders(roles: tuple[str, ...]) -> list[Message]:
    return [{"role": role, "content": _placeholder(index)} for index, role in enumerate(roles)]
