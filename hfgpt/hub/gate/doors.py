"""The stranger: opens a folder through every door that it should have, in a process that has no hfgpt, no network and no token.

    python -I -S doors.py job.json

check.py writes the job and reads what this leaves, a line of JSON for each door, as soon as it is known. Nothing of ours is
imported here, and an attempt to is an error; whatever a door raises is that door's failure, and the next one is tried.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

PROMPT = "The class of the object"


class NoHfgpt:
    """Stands before every other finder: a stranger has no hfgpt, whatever is installed here."""

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name.partition(".")[0] == "hfgpt":
            raise ModuleNotFoundError("No module named 'hfgpt' (a stranger has none)", name=name)


class NoNetwork:
    """An audit hook: Python asks it before a socket goes anywhere. Who asked is remembered, since code may hide the refusal."""

    ADDRESSED = ("socket.connect", "socket.sendto", "socket.sendmsg")
    NAMED = ("socket.getaddrinfo", "socket.gethostbyname")

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in self.ADDRESSED:
            place = arguments[1]
            if place is None or isinstance(place, (str, bytes)):  # within this machine
                return
        elif event in self.NAMED:
            place = arguments[:2]
        else:
            return
        self.asked.append(f"{event} {place}")
        raise PermissionError(f"{event} {place}: a folder is opened without the network")


class Failed(Exception):
    """A door that opens, but onto something else."""


class Doors:
    """One folder, its job and its results."""

    def __init__(self, job: dict):
        self.job = job
        self.folder = job["folder"]
        self.fingerprint = job["fingerprint"]
        self.options = {"trust_remote_code": True} if job["custom_code"] else {}
        self.models: dict[str, object] = {}

    def open(self, name: str, door: Callable[[], str]) -> None:
        """Try one door and write down what came of it."""
        try:
            status, detail = "pass", door()
            if detail.startswith("skip: "):
                status, detail = "skip", detail.removeprefix("skip: ")
        except Exception as error:  # a foreign class may raise anything
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = "" if isinstance(error, Failed) else f" ({Path(where.filename).name}, line {where.lineno})"
            kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            status, detail = "fail", f"{kind}{' '.join(str(error).split())[:400]}{place}"
        with Path(self.job["results"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "status": status, "detail": detail}) + "\n")

    # Parts of a door

    def load(self, auto_class: str, folder: str | None = None, *, head: str | None = None):
        """The model, in float32, from safetensors only; Failed where a tensor is missing, other than those of a new `head`."""
        import torch
        import transformers

        model, info = getattr(transformers, auto_class).from_pretrained(
            folder or self.folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **self.options
        )
        # Without a head, or with another one, a class leaves the stored head where it is.
        foreign = () if head is None else ("lm_head", "score", head)
        faults = {
            "missing": [name for name in info["missing_keys"] if name.split(".")[0] != head],
            "unexpected": [name for name in info["unexpected_keys"] if name.split(".")[0] not in foreign],
            "of another shape": [str(key) for key in info["mismatched_keys"]],
        }
        said = [f"{what}: {', '.join(sorted(names)[:3])}" for what, names in faults.items() if names]
        if said:
            raise Failed(f"{auto_class} and the stored tensors do not fit; {'; '.join(said)}")
        return model.eval()

    def compare(self, model, *, fingerprint: dict | None = None) -> str:
        """The model's logits with those that were recorded; Failed where they are others."""
        import torch

        fingerprint = fingerprint or self.fingerprint
        if fingerprint is None:
            return "it loads; there is nothing to compare its logits with"
        largest, tolerance = 0.0, fingerprint["tolerance"]
        for entry in fingerprint["texts"]:
            with torch.no_grad():
                logits = model(torch.tensor([entry["ids"][: entry["positions"]]])).logits.float()
            logits = logits.reshape(-1, logits.shape[-1])
            kept = logits[:, fingerprint["columns"]] if fingerprint["columns"] else logits
            recorded = torch.tensor(entry["logits"])
            if kept.shape != recorded.shape:
                raise Failed(f"its logits have the shape {tuple(kept.shape)}, recorded were {tuple(recorded.shape)}")
            sums = (logits.logsumexp(-1) - torch.tensor(entry["logsumexp"])).abs().max().item()
            likeliest = logits.gather(-1, torch.tensor(entry["argmax"])[:, None]).squeeze(-1)
            difference = max((kept - recorded).abs().max().item(), sums, (logits.amax(-1) - likeliest).max().item() / 2)
            if not difference <= tolerance:  # nan, too
                raise Failed(
                    f"its logits are not those that were recorded {fingerprint['recorded']}: they differ by {difference:.3g}, "
                    f"{tolerance:.2g} is rounding"
                )
            largest = max(largest, difference)
        return f"logits within {largest:.1e} of those recorded {fingerprint['recorded']}"

    def config(self) -> str:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.folder, **self.options)
        return f"{type(config).__name__}, {type(config).__module__.partition('.')[0]}"

    def tokenizer(self) -> str:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, **self.options)
        texts = [entry for entry in (self.fingerprint or {"texts": []})["texts"] if entry["text"] is not None]
        for entry in texts:
            if (ids := tokenizer(entry["text"]).input_ids) != entry["ids"]:
                raise Failed(f"{entry['text']!r} has the ids {ids[:12]}..., recorded were {entry['ids'][:12]}...")
        if not texts:
            tokenizer(PROMPT)
            return "it loads; there is nothing to compare its ids with"
        return f"the ids of {len(texts)} texts as recorded"

    # The doors of a whole model

    def body(self) -> str:
        import torch

        model = self.load("AutoModel", head="")
        states = model(torch.tensor([[1, 2, 3]])).last_hidden_state
        if not torch.isfinite(states).all():
            raise Failed("its hidden states are not finite")
        return f"{type(model).__name__}, hidden states of width {states.shape[-1]}"

    def main_class(self) -> str:
        model = self.models["main"] = self.load(self.job["auto_class"])
        return f"{type(model).__name__}, {self.compare(model)}"

    def weights(self) -> str:
        if self.fingerprint is None or not self.fingerprint.get("weights_sha256"):
            return "skip: no SHA-256 of the weights was recorded"
        if (found := weights_sha256(self.models["main"])) != self.fingerprint["weights_sha256"]:
            raise Failed(f"the body's SHA-256 is {found[:16]}..., recorded was {self.fingerprint['weights_sha256'][:16]}...")
        return f"SHA-256 {self.fingerprint['weights_sha256'][:16]}..., as recorded"

    def tied(self) -> str:
        model = self.models["main"]
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if model.config.tie_word_embeddings and head.weight.data_ptr() != embedding.weight.data_ptr():
            raise Failed("tie_word_embeddings is true, but the loaded head and embedding are two matrices (_tied_weights_keys)")
        return "one matrix" if model.config.tie_word_embeddings else "skip: head and embedding are two matrices by design"

    def head(self, auto_class: str, new: str) -> str:
        import torch

        model = self.load(auto_class, head=new)
        logits = model(torch.tensor([[1, 2, 3]]))[0]
        return f"{type(model).__name__}, {tuple(logits.shape)}"

    def generate(self) -> str:
        import torch

        recorded = (self.fingerprint or {}).get("continuation")
        prompt = recorded["prompt"] if recorded else [1, 2, 3]
        new = len(recorded["ids"]) if recorded else 8
        # eos_token_id -1 never comes: what was recorded went on, too.
        written = self.models["main"].generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, num_beams=1,
            repetition_penalty=1.0, temperature=1.0, top_k=50, top_p=1.0, max_new_tokens=new, eos_token_id=-1,
        )[0].tolist()[len(prompt) :]  # fmt: skip
        if not recorded:
            return "it generates; there is nothing to compare with"
        for place, (one, other, margin) in enumerate(zip(written, recorded["ids"], recorded["margins"])):
            if margin < 2 * self.fingerprint["tolerance"]:
                return f"greedy and with a cache, the {place} tokens recorded, up to a tie"
            if one != other:
                raise Failed(f"greedy and with a cache, token {place + 1} is {one}, recorded was {other}")
        return f"greedy and with a cache, the {len(written)} tokens recorded"

    def text_pipeline(self) -> str:
        from transformers import pipeline

        pipe = pipeline("text-generation", model=self.folder, device="cpu", **self.options)
        options = dict(max_new_tokens=4, do_sample=False)
        if not pipe(PROMPT, **options)[0]["generated_text"].startswith(PROMPT[:3]):
            raise Failed("the pipeline does not give the prompt back with its continuation")
        if not self.job["rendered"]:
            return "it continues a text"
        turns = pipe([{"role": "user", "content": "A question."}], **options)[0]["generated_text"]
        if turns[-1]["role"] != "assistant":
            raise Failed(f"asked as a user, the pipeline's last turn is of the {turns[-1]['role']}")
        return "it continues a text and answers a message"

    def label_pipeline(self) -> str:
        import torch
        from transformers import pipeline

        model = self.models["main"]
        pipe = pipeline("text-classification", model=self.folder, device="cpu", dtype=torch.float32, **self.options)
        scores = {one["label"]: one["score"] for one in pipe([PROMPT], top_k=None)[0]}
        if sorted(scores) != sorted(model.config.id2label.values()):
            raise Failed(f"its labels are {', '.join(sorted(scores))}, config.json has {', '.join(model.config.id2label.values())}")
        with torch.no_grad():
            logits = model(**pipe.tokenizer(PROMPT, return_tensors="pt")).logits[0]
        several = model.config.problem_type == "multi_label_classification" or len(logits) == 1
        expected = (logits.sigmoid() if several else logits.softmax(-1)).tolist()
        difference = max(abs(scores[model.config.id2label[id]] - value) for id, value in enumerate(expected))
        if difference > 1e-4:
            raise Failed(f"its scores are not those of its logits, they differ by {difference:.2g}")
        return f"{len(scores)} labels by their names"

    def template(self) -> str:
        from transformers import AutoTokenizer

        rendered = self.job["rendered"]
        if not rendered:
            return "skip: there is no chat template that may be rendered"
        tokenizer = AutoTokenizer.from_pretrained(self.folder, **self.options)
        for name, text in rendered["texts"].items():
            options = dict(tokenize=False, add_generation_prompt=name != "answered")
            if text is not None and tokenizer.apply_chat_template(rendered["conversations"][name], **options) != text:
                raise Failed(f"apply_chat_template writes the conversation {name!r} otherwise than the template file")
        if self.job["stops"] is None or rendered["texts"]["answered"] is None:
            return "apply_chat_template writes what the template does"
        control = {id for id, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
        for text in rendered["texts"]["answered"].split(rendered["answer"])[1:]:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            end = next((id for id in ids if id in control), None)
            if end not in self.job["stops"]:
                raise Failed(f"after an answer the template writes {text[:40]!r}, which generation_config.json does not stop at")
        return "apply_chat_template writes what the template does; generation stops at what ends an answer"

    def sharded(self) -> str:
        model = self.models["main"]
        target = Path(self.job["scratch"]) / "sharded"
        size = sum(parameter.numel() * 4 for parameter in model.parameters())
        largest = max(parameter.numel() * 4 for parameter in model.parameters())
        model.save_pretrained(target, max_shard_size=max(size // 2, largest) + 1024)
        shards = sorted(target.glob("model-*-of-*.safetensors"))
        if not shards and size // 2 > largest:
            raise Failed("save_pretrained(max_shard_size) wrote no shards")
        compared = self.compare(self.load(self.job["auto_class"], str(target)))
        return f"saved again in {len(shards) or 1} files and loaded: {compared}"

    # Adapters

    def peft_class(self) -> str:
        import peft
        import torch

        model = getattr(peft, self.job["peft_class"]).from_pretrained(self.folder, dtype=torch.float32, **self.options).eval()
        self.models["main"] = model
        return self.compare(model)

    def adapter_base(self) -> str:
        import transformers

        base = getattr(transformers, self.job["auto_class"]).from_pretrained(self.job["base"], dtype="float32", **self.options)
        found, expected = weights_sha256(base), self.job["base_sha256"]
        if expected is None:
            return "skip: no passport.json says which weights it was trained on"
        if self.job["base_class"] and _layout(self.job["base_class"]) != _layout(type(base).__name__):
            return "skip: it was trained on another layout of the weights"
        if found != expected:
            raise Failed(f"base/ has the SHA-256 {found[:16]}..., the adapter was trained on {expected[:16]}...")
        return f"SHA-256 {found[:16]}..., as passport.json says"

    def merged(self) -> str:
        if self.job["merged"] is None:
            return "skip: there is no merged/"
        return f"merged/ computes the same: {self.compare(self.load(self.job['auto_class'], self.job['merged']))}"


def _layout(class_name: str) -> str:
    for end in ("For", "LMHead", "Model"):
        class_name = class_name.split(end)[0]
    return class_name


def weights_sha256(model) -> str:
    """As hfgpt.fingerprint.weights_sha256, which is not at hand here."""
    import hashlib

    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.base_model.named_parameters()):
        values = parameter.detach().float().contiguous().cpu().view(torch.uint8).numpy()
        digest.update(f"{name} {tuple(parameter.shape)} {hashlib.sha256(values).hexdigest()}\n".encode())
    return digest.hexdigest()


def open_model(doors: Doors) -> None:
    """Every door of a model with its weights."""
    job = doors.job
    doors.open("AutoConfig", doors.config)
    doors.open("AutoTokenizer", doors.tokenizer)
    doors.open("AutoModel", doors.body)
    doors.open(job["auto_class"], doors.main_class)
    if "main" in doors.models:
        doors.open("weights recorded", doors.weights)
        doors.open("sharded", doors.sharded)
    if job["task"] == "text-generation":
        if "main" in doors.models:
            doors.open("one tied matrix", doors.tied)
            doors.open("generate", doors.generate)
        for auto_class in job["heads"]:
            new = "qa_outputs" if auto_class.endswith("QuestionAnswering") else "score"
            doors.open(auto_class, lambda auto_class=auto_class, new=new: doors.head(auto_class, new))
        doors.open("apply_chat_template", doors.template)
        doors.open("pipeline", doors.text_pipeline)
    elif "main" in doors.models:
        doors.open("pipeline", doors.label_pipeline)


def open_adapter(doors: Doors) -> None:
    """Every door of an adapter whose base lies beside it."""
    doors.open("AutoTokenizer", doors.tokenizer)
    doors.open("base", doors.adapter_base)
    doors.open(doors.job["peft_class"], doors.peft_class)
    if "main" in doors.models:
        doors.open("merged", doors.merged)
    doors.models.pop("main", None)
    doors.open(doors.job["auto_class"], lambda: doors.compare(_through_transformers(doors)))
    if doors.job["task"] == "text-generation":
        doors.open("apply_chat_template", doors.template)
        doors.open("pipeline", doors.text_pipeline)
    else:
        doors.open("pipeline", doors.label_pipeline)


def _through_transformers(doors: Doors):
    import torch
    import transformers

    auto_class = getattr(transformers, doors.job["auto_class"])
    doors.models["main"] = model = auto_class.from_pretrained(doors.folder, dtype=torch.float32, **doors.options).eval()
    return model


def main() -> None:
    """Read the job, open the doors of its kind, and say at the end whether hfgpt stayed out."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path += job["path"]
    sys.meta_path.insert(0, NoHfgpt)
    os.environ["TQDM_DISABLE"] = "1"
    network = NoNetwork()
    sys.addaudithook(network)
    doors = Doors(job)
    if job["kind"] == "model":
        open_model(doors)
    elif job["kind"] == "adapter":
        open_adapter(doors)
    else:
        # Lies beside this file; under -I a script's own folder is not on the path.
        sys.modules["doors"] = sys.modules["__main__"]
        sys.path.append(str(Path(__file__).parent))
        import file_doors

        file_doors.open_files(doors)
    doors.open("without network", lambda: _without_network(network.asked))
    doors.open("without hfgpt", _without_hfgpt)


def _without_network(asked: list[str]) -> str:
    if asked:
        raise Failed(f"it asked for {'; '.join(sorted(set(asked))[:3])}")
    return "nothing asked for an address, offline, without a token"


def _without_hfgpt() -> str:
    found = sorted(name for name in sys.modules if name.partition(".")[0] == "hfgpt")
    if found:
        raise Failed(f"{', '.join(found)} was loaded")
    return "nothing of it was loaded"


if __name__ == "__main__":
    main()
