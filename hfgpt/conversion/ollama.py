"""The Modelfile that makes a GGUF file a model of Ollama."""

from jinja2.exceptions import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerFast

# Ollama writes templates in Go's language; this is ChatML.
CHATML_TEMPLATE = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
RAW_TEMPLATE = "{{ .Prompt }}"


def modelfile(
    tokenizer: PreTrainedTokenizerFast, *, gguf_name: str, context_length: int, generation_config: GenerationConfig
) -> str:
    """The text of the Modelfile: where the weights lie, how a conversation is written, where an answer ends, how to sample.

    A chat template that is not ChatML has no translation here: the prompt then goes through as it is.
    """
    chat = is_chatml(tokenizer)
    stops = dict.fromkeys((*(["<|im_end|>"] if chat else []), tokenizer.eos_token))  # each once, in order
    lines = [
        f"# ollama create NAME -f Modelfile   {'(a conversation, in ChatML)' if chat else '(text is continued, no conversation)'}",
        f"FROM ./{gguf_name}",
        f'TEMPLATE """{CHATML_TEMPLATE if chat else RAW_TEMPLATE}"""',
        f"PARAMETER num_ctx {context_length}",
        *(f'PARAMETER stop "{stop}"' for stop in stops),
    ]
    if generation_config.do_sample:
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        given = {name: getattr(generation_config, name) for name in names}
        words = {"repetition_penalty": "repeat_penalty"}
        lines += [f"PARAMETER {words.get(name, name)} {value}" for name, value in given.items() if value is not None]
    return "\n".join(lines) + "\n"


def is_chatml(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the chat template writes a conversation in ChatML, to the letter; asked by rendering one."""
    if not tokenizer.chat_template:
        return False
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": f"words {number}"} for number, role in enumerate(roles)]
    expected = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:  # a template may refuse roles
        return False
    return rendered == expected + "<|im_start|>assistant\n"
