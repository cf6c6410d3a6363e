"""Use a trained model: evaluate, generate, convert, check and publish.

As in training.py, keys and errors are those of the recipes.
"""

import json
import tempfile
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

from hfgpt.api.calls import Place, choices_of, make_arguments, run_recipe, worded_for_python
from hfgpt.api.results import ConversionResult, EvaluationResult, PublishingResult
from hfgpt.arguments.generation import GenerateArguments
from hfgpt.artifacts import CONVERSION_FILE, Task
from hfgpt.errors import UserError
from hfgpt.evaluation.chat_session import ChatSession
from hfgpt.evaluation.generation import default_max_new_tokens, sample, token_choice
from hfgpt.evaluation.loading import Loaded, load
from hfgpt.files import with_home
from hfgpt.hub.gate.report import CheckReport, CheckResult
from hfgpt.tables import check_allowed

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def evaluate(
    model: Place,
    *,
    text: Place | Sequence[Place] = (),
    dataset: Place = "",
    test_sources: Place | Sequence[Place] = (),
    tasks: str | Sequence[str] = (),
    output_dir: Place = "",
    batch_size: int = 8,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a model on any of four kinds of data, and write the figures where others can find them.

    Args:
        model: folder or Hub id: an hfgpt model, a native twin, any other model, or an adapter with its base.
        text: any text, token by token: loss in nats per token, perplexity, bits per byte.
        dataset: folder of `prepare_data`; its test rows are evaluated as in the training run.
        test_sources: labelled texts for a classifier, conversations for an assistant.
        tasks: benchmarks of lm_eval, "TASK" or "FILE.jsonl:TASK"; they need the extra `hfgpt[benchmarks]`.
        output_dir: folder for evaluation.json (default: the model's own); required for a Hub id.
        batch_size: windows, rows or texts at a time; it only changes the speed, not the result.
        options: further keys of recipes/evaluate.py: context_length, stride, split, num_fewshot, memorization, ...
    Raises: UserError for a missing model or text, and for a model of the wrong kind.
    """
    given = dict(model=model, text=text, dataset=dataset, test_sources=test_sources, tasks=tasks, output_dir=output_dir)
    arguments, metrics = run_recipe("evaluate", given | dict(batch_size=batch_size) | options, where="evaluate()")
    return EvaluationResult(Path(arguments.output_dir or arguments.model), metrics)


def load_model(
    model: Place,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: Dtype = "auto",
    task: Task | None = None,
) -> Loaded:
    """Load a model with its tokenizer, in evaluation mode, on the GPU if there is one.

    Args:
        model: folder or Hub id: an hfgpt model, a native twin, any other model, or an adapter, whose base is in its base/ or where
            its config says.
        revision: branch, tag or commit of a model on the Hub.
        trust_remote_code: run the code in a third-party repository.
        dtype: the dtype of the weights; "auto" keeps the stored one.
        task: the required task; None accepts both.
    Returns: `model`, `tokenizer`, `task`, and `context_length` in tokens.
    Raises: UserError for a missing model, one of another kind, or an adapter that was trained on different weights.
    """
    if not isinstance(model, str | PathLike):
        raise UserError(f"model is {model!r}, a {type(model).__name__}; give a folder or a Hub id.")
    with worded_for_python():
        for key, value, hint in (("dtype", dtype, Dtype), ("task", task, Task)):
            if value is not None:
                check_allowed(key, value, get_args(hint))
        place = with_home(fspath(model))
        loaded = load(place, revision=revision, trust_remote_code=trust_remote_code, dtype=dtype, task=task)
        if task is not None:
            _check_loaded(loaded, task)
        return loaded


def _check_loaded(loaded: Loaded, task: Task) -> None:
    if loaded.task != task:
        what, needed = ("a classifier", "one that generates text") if task == "text-generation" else ("not a classifier", "one")
        raise UserError(f"{loaded.name} is {what}; give {needed}.")


class _OfLoaded(GenerateArguments):
    """For a model in memory: the folder that it came from may be gone, or relative to another folder."""

    def check_model(self) -> None:
        pass


def generate(
    model: Place | Loaded,
    prompts: str | Sequence[str] = "",
    *,
    chat: bool = False,
    max_new_tokens: int | None = None,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    num_samples: int = 1,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> list[str]:
    """Continue prompts, or answer them as an assistant; nothing is printed.

    Args:
        model: folder or Hub id, or the result of `load_model`, which is faster for repeated calls.
        prompts: one or several; an empty one starts a new text.
        chat: answer each prompt as a separate message, formatted with the tokenizer's chat template.
        max_new_tokens: maximum number of new tokens; None means 100 (512 in a chat), but at most half the context. The separator
            ends a text earlier.
        temperature: 0 is greedy, higher is more varied.
        top_k: sample from the k most likely tokens; 0 or None means all.
        top_p: sample from the most likely tokens that together have this probability.
        num_samples: texts per prompt.
        seed: seed of the first sample; each further one uses the next number.
    Returns: the texts without their prompts, `num_samples` for each prompt, in order.
    Raises: UserError for a missing model or one that does not generate text, and for values out of range.
    """
    loaded = model if isinstance(model, Loaded) else None
    given = dict(prompt=prompts, chat=chat, max_new_tokens=max_new_tokens) | ({} if loaded else dict(model=model))
    given |= dict(temperature=temperature, top_k=top_k, top_p=top_p, num_samples=num_samples, seed=seed)
    kind = _OfLoaded if loaded else GenerateArguments
    wanted = make_arguments(kind, given | dict(trust_remote_code=trust_remote_code), where="generate()")
    loaded = loaded or load_model(wanted.model, trust_remote_code=trust_remote_code, task="text-generation")
    _check_loaded(loaded, "text-generation")
    generation_config = token_choice(
        loaded.tokenizer,
        max_new_tokens=max_new_tokens or default_max_new_tokens(loaded.model, chat=chat),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )

    def text(prompt: str, seed: int) -> str:
        if chat:
            session = ChatSession(loaded.model, loaded.tokenizer, generation_config=generation_config, seed=seed)
            reply = session.ask(prompt)
            if reply.ending == "interrupted":  # in a terminal, this ends only the answer
                raise KeyboardInterrupt
            return reply.text
        return sample(loaded.model, loaded.tokenizer, prompt, generation_config=generation_config, seed=seed)[0]

    with worded_for_python(choices_of(GenerateArguments)):
        return [text(prompt, seed + number) for prompt in wanted.prompt for number in range(num_samples)]


def convert(
    source: Place,
    *,
    output_dir: Place,
    target: Literal["hfgpt", "native", "gguf"] = "hfgpt",
    tokenizer: Place = "",
    adapter: Place = "",
    overwrite: bool = False,
    **options: Any,
) -> ConversionResult:
    """Import weights from GPT-2, the book, nanoGPT or OpenAI's files, or export them to classes and files that do not need hfgpt.

    Args:
        source: folder, file or Hub id of the weights.
        output_dir: folder for the result.
        target: "hfgpt", "native" (transformers' own GPT-2, Qwen3 or Llama), or "gguf" (llama.cpp and Ollama; an extra).
        tokenizer: folder or Hub id (default: the one beside the source).
        adapter: folder of a LoRA adapter to merge into the weights.
        overwrite: replace the contents of output_dir.
        options: further keys of recipes/convert.py: source_format, gguf_type, dtype, num_attention_heads, hidden_act.
    Raises: UserError for weights of an unknown kind, a missing tensor, and logits that differ from the input's.
    """
    given = dict(source=source, output_dir=output_dir, target=target, tokenizer=tokenizer, adapter=adapter, overwrite=overwrite)
    arguments, figures = run_recipe("convert", given | options, where="convert()")
    folder = Path(arguments.output_dir)
    notes = json.loads((folder / CONVERSION_FILE).read_text(encoding="utf-8"))["notes"]
    return ConversionResult(folder, figures.pop("parameters"), figures, notes)


def check(folder: Place, *, parts: bool = True, record: bool = False, seconds: int = 900) -> list[CheckReport]:
    """The gate: check what would be published from a folder, opened as a stranger would receive it, in a separate process.

    Args:
        folder: written by a job: a model, an adapter, a GGUF file, a tokenizer, or prepared data.
        parts: for an adapter, also check its base and its merged model.
        record: first rewrite fingerprint.json from the current contents of the folder; it then proves nothing about the original.
        seconds: time limit for all loading checks of one model.
    Returns: one report for the folder and one per part; `passed` says whether nothing failed, `failures` lists what did, and
        `table()` is for people.
    Raises: UserError if the folder contains nothing publishable. A failed check does not raise.
    Cost: about 20 seconds per small model.
    """
    with tempfile.TemporaryDirectory(prefix="hfgpt-") as temporary:
        found = Path(temporary) / "check.json"
        given = dict(folder=folder, parts=parts, record=record, seconds=seconds, json=found)
        try:
            run_recipe("check", given, where="check()")
        except UserError:
            if not found.is_file():  # nothing could be checked
                raise
        content = json.loads(found.read_text(encoding="utf-8"))
    return [
        CheckReport(report["folder"], report["kind"], [CheckResult(**result) for result in report["results"]])
        for report in content["folders"]
    ]


def publish(
    folder: Place,
    *,
    repo: str,
    push: bool = False,
    public: bool = False,
    tag: str = "",
    parts: Sequence[str] = (),
    **options: Any,
) -> PublishingResult:
    """Publish a folder on the Hugging Face Hub: checked, clean, private by default. Without `push`, nothing is uploaded (a dry
    run).

    Args:
        folder: written by a job.
        repo: "USER/NAME"; an adapter's base goes to USER/NAME-base and its merged model to USER/NAME-merged.
        push: upload it. The token comes from `hf auth login` or HF_TOKEN, never from here.
        public: make it public after everything is uploaded; a new repository is private.
        tag: tag of the revision, such as "v1.0" (default: one derived from the SHA-256 of the weights).
        parts: for an adapter, what to publish: "base", "adapter", "merged" (default: all).
        options: further keys of recipes/publish.py: base_repo, base_revision, delete_others.
    Raises: UserError for a folder that fails the gate of `check`, for a repository that this token cannot write to, and if the Hub
        does not answer.
    """
    given = dict(folder=folder, repo=repo, push=push, public=public, tag=tag, parts=parts)
    _, figures = run_recipe("publish", given | options, where="publish()")
    return PublishingResult(files=figures["files"], num_bytes=figures["bytes"], sent=figures["sent"])
