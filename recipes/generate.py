"""Continue prompts with any causal language model, or talk with an assistant.

    python recipes/generate.py runs/quickstart/base --prompt 'os.path.join('
    python recipes/generate.py runs/quickstart/base --prompt 'class ' 'os.' --num_samples 3 --temperature 1 --top_p 0.95
    python recipes/generate.py runs/quickstart/base --temperature 0          # greedy, from an empty prompt
    python recipes/generate.py runs/quickstart/assistant --chat true         # a conversation in the terminal
    python recipes/generate.py runs/quickstart/assistant --chat true --prompt 'What does os.getcwd do?'

The text is printed while it is made and stops at the document separator, an answer where the assistant ends its turn. MODEL may be
an adapter: its base is found beside it or by the name that it bears.
"""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, TextStreamer
from transformers.utils.peft_utils import find_adapter_config_file

import hfgpt  # noqa: F401  (registers the model)
from hfgpt.conversion.adapters import check_adapter_base
from hfgpt.conversion.checkpoints import read_json
from hfgpt.errors import MissingFileError, UserError
from hfgpt.evaluation.chat_session import ChatSession, converse
from hfgpt.evaluation.generation import generation_settings, sample
from hfgpt.tokenization import load_tokenizer
from hfgpt.training.arguments import GenerateArguments, launch
from hfgpt.training.finetuning import quiet_loading


def main(args: GenerateArguments) -> dict[str, list[str]]:
    # 1. Model and tokenizer
    base = base_of_adapter(args.model)
    has_tokenizer = base is None or (Path(args.model) / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(args.model if has_tokenizer else base)
    model = load_model(args, base=base)
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    # 2. How to choose the next token
    if args.temperature > 0:
        # Every one is given: what is not would come from the model's own generation_config.
        choice = dict(do_sample=True, temperature=args.temperature, top_k=args.top_k or 0, top_p=args.top_p or 1.0)
    else:
        choice = dict(do_sample=False, temperature=1.0, top_k=50, top_p=1.0)  # the neutral values; greedy ignores them
    most = 512 if args.chat else 100
    max_new_tokens = args.max_new_tokens or min(most, model.config.max_position_embeddings // 2)
    generation_config = generation_settings(tokenizer, max_new_tokens=max_new_tokens, **choice)

    # 3. A conversation in the terminal
    if args.in_terminal:
        session = ChatSession(model, tokenizer, generation_config=generation_config, seed=args.seed)
        answers: dict[str, list[str]] = {}
        for message, answer in converse(session, stream=args.stream):
            answers.setdefault(message, []).append(answer)
        return answers

    # 4. Texts, each with a seed of its own
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
                print(prompt, end="", flush=True)
                streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if args.stream else None
                text = sample(
                    model, tokenizer, prompt, generation_config=generation_config, seed=args.seed + number, streamer=streamer
                )[0]
            if not args.stream:
                print(text)
            texts[prompt].append(text)
    return texts


def base_of_adapter(name: str) -> str | None:
    """Where the base of an adapter lies, or None for a model that is none.

    Raises: FileNotFoundError for a folder that is not there any more.
    """
    try:
        path = find_adapter_config_file(name)
    except OSError:  # nothing of this name: the tokenizer's error says so
        return None
    if path is None:
        return None
    settings = read_json(Path(path))
    base = settings.get("base_model_name_or_path") or ""
    if settings.get("task_type") == "SEQ_CLS":
        raise UserError(f"{name} is a classifier's adapter, which gives texts labels: pipeline('text-classification', {name!r}).")
    beside = Path(name) / "base"  # a folder of our recipes, which may have been moved
    if beside.is_dir():
        return str(beside)
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise MissingFileError(f"{name} is an adapter of {base}, which does not exist; put its base into {beside}.")
    return base


def load_model(args: GenerateArguments, *, base: str | None) -> PreTrainedModel:
    """The language model, with its adapter in it where it is one.

    Raises: ValueError for a model of another kind, and for an adapter that was trained on other weights.
    """
    options = {"trust_remote_code": args.trust_remote_code}
    source = base or args.model
    try:
        architectures = AutoConfig.from_pretrained(source, **options).architectures or []
    except (OSError, ValueError) as error:
        what = f"{args.model} is an adapter of {source!r}, which" if base else source
        raise MissingFileError(f"{what} does not load ({str(error).strip().splitlines()[0]}).") from None
    if any(name.endswith(("Classification", "QuestionAnswering")) for name in architectures):
        raise UserError(f"{source} is a {', '.join(architectures)}, which gives no text; a causal language model is needed.")
    model = AutoModelForCausalLM.from_pretrained(source, **options)
    if base is not None:
        check_adapter_base(Path(args.model), model)
        with quiet_loading():
            found = model.load_adapter(args.model)
        # A token_adapter of a head that is the embedding lies in the file once, and is reported as missing.
        missing = sorted(key for key in found.missing_keys if ".token_adapter." not in key)
        if missing or found.unexpected_keys:
            problem = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(sorted(found.unexpected_keys))} too many"
            raise UserError(f"the adapter in {args.model} does not fit {source}: it {problem}.")
    return model


if __name__ == "__main__":
    launch(main, GenerateArguments, positional="model")
