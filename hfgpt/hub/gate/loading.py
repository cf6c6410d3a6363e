"""Loading checks for models and adapters: every class that should load one does, and computes what was recorded.

Runs in the stranger's process (stranger.py), so nothing from hfgpt is imported here.
"""

from pathlib import Path
from typing import Any

from stranger import PROMPT, Failed, Stranger  # the running script, which registers itself under this name


def open_model(stranger: Stranger) -> None:
    """All loading checks of a model with its weights."""
    generates = stranger.task == "text-generation"
    stranger.open("AutoConfig", lambda: config(stranger))
    stranger.open("AutoTokenizer", stranger.tokenizer)
    stranger.open("AutoModel", lambda: body(stranger))
    stranger.open(auto_class(stranger), lambda: main_class(stranger))
    loaded = "main" in stranger.models
    if loaded:
        stranger.open("weights recorded", lambda: weights(stranger))
        stranger.open("sharded", lambda: sharded(stranger))
    if generates and loaded:
        stranger.open("one tied matrix", lambda: tied(stranger))
        stranger.open("generate", lambda: generate(stranger))
    if generates:
        # With the names that classes of transformers give a new head.
        heads = [
            ("AutoModelForSequenceClassification", ("score",)),
            ("AutoModelForTokenClassification", ("score", "classifier")),
        ]
        # The QuestionAnswering classes of transformers' own Qwen3 and Llama look for the body under a different name than it is
        # saved with.
        heads += [("AutoModelForQuestionAnswering", ("qa_outputs",))] if stranger.options else []
        for name, new in heads:
            stranger.open(name, lambda name=name, new=new: head(stranger, name, new))
        stranger.open("apply_chat_template", stranger.template)
        stranger.open("pipeline", lambda: text_pipeline(stranger))
    elif loaded:
        stranger.open("pipeline", lambda: label_pipeline(stranger))


def open_adapter(stranger: Stranger) -> None:
    """All loading checks of an adapter whose base is where its config says."""
    stranger.open("AutoTokenizer", stranger.tokenizer)
    stranger.open("base", lambda: adapter_base(stranger))
    stranger.open(auto_class(stranger, "AutoPeftModelFor"), lambda: peft_class(stranger))
    if stranger.models.pop("main", None) is not None:
        stranger.open("merged", lambda: merged(stranger))
    stranger.open(auto_class(stranger), lambda: through_transformers(stranger))
    if stranger.task == "text-generation":
        stranger.open("apply_chat_template", stranger.template)
        stranger.open("pipeline", lambda: text_pipeline(stranger))
    else:
        stranger.open("pipeline", lambda: label_pipeline(stranger))


def auto_class(stranger: Stranger, start: str = "AutoModelFor") -> str:
    """The name of the Auto class of the task."""
    return start + ("CausalLM" if stranger.task == "text-generation" else "SequenceClassification")


# Parts of a check


def load(stranger: Stranger, name: str, folder: str | None = None, *, head: tuple[str, ...] | None = None) -> Any:
    """The model, in float32, from safetensors only; Failed if a tensor is missing, other than those of a new `head`.

    Args: `head` has the possible names of the new head.
    """
    import torch
    import transformers

    model, info = getattr(transformers, name).from_pretrained(
        folder or stranger.folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **stranger.options
    )
    # A class without a head, or with a different one, ignores the stored head.
    foreign = () if head is None else ("lm_head", "embed_out", "score", *head)
    faults = {
        "missing": [key for key in info["missing_keys"] if key.split(".")[0] not in (head or ())],
        "unexpected": [key for key in info["unexpected_keys"] if key.split(".")[0] not in foreign],
        "with a different shape": [str(key) for key in info["mismatched_keys"]],
    }
    said = [f"{what}: {', '.join(sorted(keys)[:3])}" for what, keys in faults.items() if keys]
    if said:
        raise Failed(f"{name} and the stored tensors do not match; {'; '.join(said)}")
    return model.eval()


def compare(stranger: Stranger, model: Any) -> str:
    """Compare the model's logits with the recorded ones; Failed if they differ."""
    import torch

    if (fingerprint := stranger.fingerprint) is None:
        return "it loads; there is nothing to compare its logits with"
    largest, tolerance = 0.0, fingerprint["tolerance"]
    for entry in fingerprint["texts"]:
        with torch.no_grad():
            logits = model(torch.tensor([entry["ids"][: entry["positions"]]])).logits.float()
        logits = logits.reshape(-1, logits.shape[-1])
        kept = logits[:, fingerprint["columns"]] if fingerprint["columns"] else logits
        recorded = torch.tensor(entry["logits"])
        if kept.shape != recorded.shape:
            raise Failed(f"its logits have the shape {tuple(kept.shape)}, but {tuple(recorded.shape)} was recorded")
        sums = (logits.logsumexp(-1) - torch.tensor(entry["logsumexp"])).abs().max().item()
        likeliest = logits.gather(-1, torch.tensor(entry["argmax"])[:, None]).squeeze(-1)
        difference = max((kept - recorded).abs().max().item(), sums, (logits.amax(-1) - likeliest).max().item() / 2)
        if not difference <= tolerance:  # also catches nan
            raise Failed(
                f"its logits differ from those recorded {fingerprint['recorded']} by {difference:.3g}; rounding explains only "
                f"{tolerance:.2g}"
            )
        largest = max(largest, difference)
    return f"logits within {largest:.1e} of those recorded {fingerprint['recorded']}"


# A whole model


def config(stranger: Stranger) -> str:
    """AutoConfig finds the class, in transformers or in the code beside the weights."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(stranger.folder, **stranger.options)
    return f"{type(config).__name__}, {type(config).__module__.partition('.')[0]}"


def body(stranger: Stranger) -> str:
    """AutoModel gives hidden states."""
    import torch

    model = load(stranger, "AutoModel", head=())
    states = model(torch.tensor([[1, 2, 3]])).last_hidden_state
    if not torch.isfinite(states).all():
        raise Failed("its hidden states are not finite")
    return f"{type(model).__name__}, hidden states of width {states.shape[-1]}"


def main_class(stranger: Stranger) -> str:
    """The class of the task computes what was recorded."""
    model = stranger.models["main"] = load(stranger, auto_class(stranger))
    return f"{type(model).__name__}, {compare(stranger, model)}"


def weights(stranger: Stranger) -> str:
    """The weights are the recorded ones."""
    if stranger.fingerprint is None or not stranger.fingerprint.get("weights_sha256"):
        return "skip: no SHA-256 of the weights was recorded"
    if (found := weights_sha256(stranger.models["main"])) != stranger.fingerprint["weights_sha256"]:
        raise Failed(f"the body's SHA-256 is {found[:16]}..., but {stranger.fingerprint['weights_sha256'][:16]}... was recorded")
    return f"SHA-256 {stranger.fingerprint['weights_sha256'][:16]}..., as recorded"


def tied(stranger: Stranger) -> str:
    """Head and embedding are one matrix if the config says so."""
    model = stranger.models["main"]
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if model.config.tie_word_embeddings and head.weight.data_ptr() != embedding.weight.data_ptr():
        raise Failed("tie_word_embeddings is true, but the loaded head and embedding are two matrices (_tied_weights_keys)")
    return "one matrix" if model.config.tie_word_embeddings else "skip: head and embedding are two matrices by design"


def head(stranger: Stranger, name: str, new: tuple[str, ...]) -> str:
    """A class with its own randomly initialized head on the same body, if transformers has one for such a model."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(stranger.folder, **stranger.options)
    if not stranger.options and type(config) not in getattr(transformers, name)._model_mapping:
        return f"skip: transformers has no such class for {config.model_type}"
    model = load(stranger, name, head=new)
    logits = model(torch.tensor([[1, 2, 3]]))[0]
    return f"{type(model).__name__}, {tuple(logits.shape)}"


def generate(stranger: Stranger) -> str:
    """`generate` produces the recorded tokens."""
    import torch

    fingerprint = stranger.fingerprint or {}
    recorded = fingerprint.get("continuation")
    prompt = recorded["prompt"] if recorded else [1, 2, 3]
    new = len(recorded["ids"]) if recorded else 8
    # eos_token_id -1 never occurs: the recorded generation did not stop either.
    written = stranger.models["main"].generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, num_beams=1,
        repetition_penalty=1.0, temperature=1.0, top_k=50, top_p=1.0, max_new_tokens=new, eos_token_id=-1,
    )[0].tolist()[len(prompt) :]  # fmt: skip
    if not recorded:
        return "it generates; there is nothing to compare with"
    for place, (one, other, margin) in enumerate(zip(written, recorded["ids"], recorded["margins"])):
        if margin < 2 * fingerprint["tolerance"]:
            return f"greedy and with a cache, the {place} tokens recorded, up to a tie"
        if one != other:
            raise Failed(f"greedy and with a cache, token {place + 1} is {one}, but {other} was recorded")
    return f"greedy and with a cache, the {len(written)} tokens recorded"


def text_pipeline(stranger: Stranger) -> str:
    """A pipeline continues a text, and answers a message if there is a chat template."""
    from transformers import pipeline

    pipe: Any = pipeline("text-generation", model=stranger.folder, device="cpu", **stranger.options)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    if not pipe(PROMPT, **options)[0]["generated_text"].startswith(PROMPT[:3]):
        raise Failed("the pipeline does not return the prompt with its continuation")
    if not stranger.job["rendered"]:
        return "it continues a text"
    turns = pipe([{"role": "user", "content": "A question."}], **options)[0]["generated_text"]
    if turns[-1]["role"] != "assistant":
        raise Failed(f"after a user message, the pipeline's last turn has the role {turns[-1]['role']}")
    return "it continues a text and answers a message"


def label_pipeline(stranger: Stranger) -> str:
    """A pipeline returns the labels by name, with scores that match the logits."""
    import torch
    from transformers import pipeline

    model = stranger.models["main"]
    pipe: Any = pipeline("text-classification", model=stranger.folder, device="cpu", dtype=torch.float32, **stranger.options)
    scores = {one["label"]: one["score"] for one in pipe([PROMPT], top_k=None)[0]}
    if sorted(scores) != sorted(model.config.id2label.values()):
        raise Failed(f"its labels are {', '.join(sorted(scores))}, but config.json has {', '.join(model.config.id2label.values())}")
    with torch.no_grad():
        logits = model(**pipe.tokenizer(PROMPT, return_tensors="pt")).logits[0]
    several = model.config.problem_type == "multi_label_classification" or len(logits) == 1
    expected = (logits.sigmoid() if several else logits.softmax(-1)).tolist()
    difference = max(abs(scores[model.config.id2label[id]] - value) for id, value in enumerate(expected))
    if difference > 1e-4:
        raise Failed(f"its scores differ from those of its logits by {difference:.2g}")
    return f"{len(scores)} labels by name"


def sharded(stranger: Stranger) -> str:
    """Saved again in several files, it is the same model."""
    model = stranger.models["main"]
    target = Path(stranger.job["scratch"]) / "sharded"
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    largest = max(parameter.numel() * 4 for parameter in model.parameters())
    model.save_pretrained(target, max_shard_size=max(size // 2, largest) + 1024)
    shards = sorted(target.glob("model-*-of-*.safetensors"))
    if not shards and size // 2 > largest:
        raise Failed("save_pretrained(max_shard_size) wrote no shards")
    compared = compare(stranger, load(stranger, auto_class(stranger), str(target)))
    return f"saved again in {len(shards) or 1} files and loaded: {compared}"


# Adapters


def peft_class(stranger: Stranger) -> str:
    """PEFT adds the adapter to its base."""
    import peft
    import torch

    auto = getattr(peft, auto_class(stranger, "AutoPeftModelFor"))
    model = stranger.models["main"] = auto.from_pretrained(stranger.folder, dtype=torch.float32, **stranger.options).eval()
    return compare(stranger, model)


def adapter_base(stranger: Stranger) -> str:
    """The base has the weights that the adapter was trained on."""
    import transformers

    trained_on = stranger.passport.get("base") or {}
    if (expected := trained_on.get("sha256")) is None:
        return "skip: no passport.json says which weights it was trained on"
    base = getattr(transformers, auto_class(stranger)).from_pretrained(stranger.job["base"], dtype="float32", **stranger.options)
    found = weights_sha256(base)
    if trained_on.get("class") and _layout(trained_on["class"]) != _layout(type(base).__name__):
        return "skip: it was trained on a different layout of the weights"
    if found != expected:
        raise Failed(f"base/ has the SHA-256 {found[:16]}..., but the adapter was trained on {expected[:16]}...")
    return f"SHA-256 {found[:16]}..., as passport.json says"


def merged(stranger: Stranger) -> str:
    """The merged model computes what was recorded for the adapter."""
    if stranger.job["merged"] is None:
        return "skip: there is no merged/"
    model = load(stranger, auto_class(stranger), stranger.job["merged"])
    return f"merged/ computes the same: {compare(stranger, model)}"


def through_transformers(stranger: Stranger) -> str:
    """The Auto class of transformers also adds the adapter to its base."""
    import torch
    import transformers

    auto = getattr(transformers, auto_class(stranger))
    model = stranger.models["main"] = auto.from_pretrained(stranger.folder, dtype=torch.float32, **stranger.options).eval()
    return compare(stranger, model)


def _layout(class_name: str) -> str:
    for end in ("For", "LMHead", "Model"):
        class_name = class_name.split(end)[0]
    return class_name


def weights_sha256(model: Any) -> str:
    """Same as hfgpt.fingerprint.weights_sha256, which is not available here."""
    import hashlib

    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.base_model.named_parameters()):
        values = parameter.detach().float().contiguous().cpu().view(torch.uint8).numpy()
        digest.update(f"{name} {tuple(parameter.shape)} {hashlib.sha256(values).hexdigest()}\n".encode())
    return digest.hexdigest()
