"""Continue prompts with any causal language model, or chat with an assistant.

    python recipes/generate.py runs/quickstart/base --prompt 'os.path.join('
    python recipes/generate.py runs/quickstart/base --prompt 'class ' 'os.' --num_samples 3 --temperature 1 --top_p 0.95
    python recipes/generate.py runs/quickstart/base --temperature 0          # greedy, from an empty prompt
    python recipes/generate.py runs/quickstart/assistant --chat true         # a conversation in the terminal
    python recipes/generate.py runs/quickstart/assistant --chat true --prompt 'What does os.getcwd do?'

The text is printed while it is generated and stops at the document separator; an answer stops where the assistant ends its turn.
MODEL may be an adapter: its base is found beside it or by the name in its config.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.generation:GenerateArguments")

import sys
from functools import partial

from transformers import TextStreamer

import hfgpt  # noqa: F401  (registers the model)
from hfgpt.arguments.commands import as_started, command_line
from hfgpt.arguments.generation import GenerateArguments
from hfgpt.arguments.launching import launch
from hfgpt.evaluation.chat_session import ChatSession, converse
from hfgpt.evaluation.generation import default_max_new_tokens, sample, token_choice
from hfgpt.evaluation.loading import load


def main(args: GenerateArguments) -> dict[str, list[str]]:
    # 1. Model and tokenizer
    loaded = load(args.model, trust_remote_code=args.trust_remote_code, dtype="auto", task="text-generation")
    model, tokenizer = loaded.model, loaded.tokenizer

    # 2. How to choose the next token
    generation_config = token_choice(
        tokenizer,
        max_new_tokens=args.max_new_tokens or default_max_new_tokens(model, chat=args.chat),
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
    )

    # 3. A conversation in the terminal
    if args.in_terminal:
        session = ChatSession(model, tokenizer, generation_config=generation_config, seed=args.seed)
        answers: dict[str, list[str]] = {}
        for message, answer in converse(session, stream=args.stream):
            answers.setdefault(message, []).append(answer)
        return answers

    # 4. Texts, each with its own seed
    texts: dict[str, list[str]] = {}
    for prompt in args.prompt:
        texts[prompt] = []
        for number in range(args.num_samples):
            if args.num_samples > 1 or len(args.prompt) > 1:
                print(f"--- {prompt!r}, sample {number + 1} of {args.num_samples}")
            if args.chat:
                session = ChatSession(model, tokenizer, generation_config=generation_config, seed=args.seed + number)
                text = session.ask(prompt, stream=args.stream).text
            else:
                streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if args.stream else None
                text = sample(
                    model,
                    tokenizer,
                    prompt,
                    generation_config=generation_config,
                    seed=args.seed + number,
                    streamer=streamer,
                    on_begin=partial(print, prompt, end="", flush=True),
                )[0]
            if not args.stream:
                print(text)
            texts[prompt].append(text)
    if tokenizer.chat_template is not None and not args.chat:  # not among the texts, which may be piped into a file
        print(as_started(f"an assistant answers messages with: {command_line('chat', args.model)}"), file=sys.stderr)
    return texts


if __name__ == "__main__":
    launch(main, GenerateArguments)
