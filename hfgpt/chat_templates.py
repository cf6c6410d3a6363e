"""Chat styles: how a conversation is formatted, with which tokens, and where an answer ends. One entry per style, in one table.

Nothing here imports transformers, so that the recipes' arguments can name the styles.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from hfgpt.errors import UserError
from hfgpt.tables import Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# ChatML. `generation` marks what an assistant's loss is computed on; the dash at the start of a tag removes the line break.
CHATML_TEMPLATE = """\
{%- if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
# The book's format; a system message replaces its first paragraph. Source: Raschka (2024), section 7.2.
ALPACA_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}
{%- else %}{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ '\\n\\n### Instruction:\\n' + message['content'] }}
{%- elif message['role'] == 'assistant' %}{{ '\\n\\n### Response:\\n' }}
{%- generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{%- elif message['role'] != 'system' or not loop.first %}{{ raise_exception('misplaced role ' + message['role']) }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '\\n\\n### Response:\\n' }}{% endif %}"""


@dataclass(frozen=True)
class ChatStyle:
    """Everything that depends on a prompt style.

    Args:
        template: the Jinja template stored in the tokenizer; None keeps the tokenizer's own.
        special_tokens: tokens that the template writes besides the tokenizer's own special tokens. They are added if missing, and
            trained with every method.
        stop_token: the special token that ends an answer; None means the tokenizer's eos_token.
        instruction_with_input: the user's message for an Alpaca row with an input.
    """

    template: str | None
    special_tokens: tuple[str, ...] = ()
    stop_token: str | None = None
    instruction_with_input: str = "{instruction}\n\n{input}"

    def user_message(self, instruction: str, input: str) -> str:
        """The user's message for an Alpaca row; `input` may be empty."""
        return self.instruction_with_input.format(instruction=instruction, input=input) if input else instruction


CHAT_STYLES = Table(
    "the prompt style",
    {
        "chat": ChatStyle(CHATML_TEMPLATE, special_tokens=("<|im_start|>", "<|im_end|>"), stop_token="<|im_end|>"),
        "alpaca": ChatStyle(ALPACA_TEMPLATE, instruction_with_input="{instruction}\n\n### Input:\n{input}"),
        "base": ChatStyle(None),
    },
)


def set_prompt_style(tokenizer: "PreTrainedTokenizerBase", style: str) -> list[int]:
    """Give the tokenizer the chat template of a style; it is saved with the tokenizer, so serving formats prompts as in training.

    Returns: the ids of new special tokens; the model needs rows for them, and they must be trained.
    Raises: ValueError for an unknown style, for "base" if there is no template, and for a style whose answers end with an eos_token
    that the tokenizer does not have.
    """
    entry = CHAT_STYLES.find(style)
    if entry.template is None:
        if tokenizer.chat_template is None:
            raise UserError(
                f"the prompt style is {style!r}, but the base model's tokenizer has no chat template; choose 'chat' or 'alpaca', "
                f"which add one."
            )
        return []
    if entry.stop_token is None and tokenizer.eos_token is None:
        raise UserError(f"the prompt style is {style!r}, but the tokenizer has no eos_token to end an answer with; choose 'chat'.")
    tokenizer.chat_template = entry.template
    return add_special_tokens(tokenizer, entry.special_tokens) if entry.special_tokens else []


def style_of(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The style of the tokenizer's template; "base" for any other template."""
    return next((name for name, style in CHAT_STYLES.items() if style.template == tokenizer.chat_template), "base")


def style_token_ids(tokenizer: "PreTrainedTokenizerBase", style: str) -> list[int]:
    """Ids of the special tokens that the style's template writes; our base models have reserved rows for them but never trained
    them."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[token] for token in CHAT_STYLES.find(style).special_tokens]


def stop_token_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Ids that end an assistant's turn under the tokenizer's chat template, found by rendering, and the eos_token's.

    They belong in the generation config as `eos_token_id`.

    Raises: ValueError for a tokenizer without a template, and for a template that does not end an answer with a special token.
    """
    if tokenizer.chat_template is None:
        raise UserError("the tokenizer has no chat template; set_prompt_style adds one.")
    answer = "The Answer Of 1 Turn"
    turns = [{"role": role, "content": content} for role, content in (("user", "A question."), ("assistant", answer))] * 2
    rendered = cast(str, tokenizer.apply_chat_template(turns, tokenize=False))
    control = control_token_ids(tokenizer)
    stops: list[int] = []
    for text in rendered.split(answer)[1:]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        # None: no special token, so an answer could not end
        end = next((id for id in ids if id in control), None)
        if end is None:
            raise UserError(
                f"the chat template writes {text!r} after an answer, without a special token to end it, so the model would never "
                f"learn to stop; choose the prompt style 'chat' or 'alpaca'."
            )
        stops.append(end)
    if tokenizer.eos_token_id is not None:
        stops.append(cast(int, tokenizer.eos_token_id))
    return list(dict.fromkeys(stops))


def add_special_tokens(tokenizer: "PreTrainedTokenizerBase", tokens: Iterable[str]) -> list[int]:
    """Make these tokens special, adding those that the tokenizer lacks. Returns: the new ids."""
    before = tokenizer.get_vocab()
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    missing = [token for token in tokens if token not in special]
    # False: existing special tokens stay special
    tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    after = tokenizer.get_vocab()
    return [after[token] for token in missing if token not in before]


def control_token_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Ids that a template may write but text should not: the added tokens, except the runs of spaces that some vocabularies add."""
    return {id for id, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
