"""The gate: is what would be published what was trained, whole, harmless, and open to strangers?

    files     scan.py          no path, secret, pickle or link in what would be published; code as this hfgpt ships it
    words     agreement.py     config, code, tokenizer, generation config and card say the same
    template  chat_templates.py   it renders, in a process with little time and memory
    doors     doors.py         every class that should load it does, in a process without hfgpt, network and token

Everything is done to an export in a temporary folder, so that nothing beside the published files and nothing of the place where
it was trained can help.
"""

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from hfgpt.artifacts import ADAPTER_CONFIG, Artifact, identify, stale_base
from hfgpt.errors import UserError
from hfgpt.files import read_json, sha256_of_file
from hfgpt.hub.card.card import render_card
from hfgpt.hub.export import export
from hfgpt.hub.gate.agreement import CARD_NAME, Disagreement, check_agreement, judged, special_tokens
from hfgpt.hub.gate.chat_templates import ANSWER, CONVERSATIONS, render
from hfgpt.hub.gate.report import CheckReport, CheckResult
from hfgpt.hub.gate.scan import scan

__all__ = ["CheckReport", "CheckResult", "check_folder"]

FINGERPRINT_NAME = "fingerprint.json"
_PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "peft", "datasets", "jinja2", "gguf", "llama_cpp")
# Of the caller's variables the child gets these alone: what finds programs and libraries, speaks a language, counts threads.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_AGAIN = "write the folder again with the recipe that made it"
_CURES = {
    "AutoTokenizer": "save the tokenizer that the model was trained with: tokenizer.save_pretrained(folder)",
    "weights recorded": "restore the weights, or, where you changed them, record them anew: recipes/check.py FOLDER --record true",
    "base": "give the adapter its own base again; finetune_*.py writes it",
    "merged": "merge again: recipes/convert.py BASE --adapter FOLDER --output_dir MERGED",
    "without network": "read the code in the folder: loading a model has nothing to send or to fetch",
    "apply_chat_template": "let the template end an answer with a token that generation_config.json has among its eos_token_id",
}


def check_folder(folder: str | Path, *, seconds: float = 900) -> CheckReport:
    """Check what would be published of `folder`; nothing in it is changed, and none of its code is run in this process.

    Args:
        folder: what a recipe wrote: a model, an adapter with its base/, a GGUF file, a tokenizer, prepared data.
        seconds: most that opening the doors may take.
    Raises: FileNotFoundError or ValueError where the folder holds nothing that can be published.
    Cost: about 20 seconds for a small model on one core, most of it for importing torch and transformers once more.
    """
    artifact = identify(folder)
    report = CheckReport(str(folder), artifact.kind)
    with tempfile.TemporaryDirectory(prefix="hfgpt-check-") as temporary:
        workspace = Path(temporary).resolve()
        published = workspace / "published"
        exported = judged("export", lambda: _exported(artifact, published))
        report.results.append(exported)
        if exported.status == "fail":
            return report
        names = [path.relative_to(published) for path in sorted(published.rglob("*")) if path.is_file()]
        report.results += scan(artifact, published, names)
        report.results += check_agreement(artifact, published, card=_card_of(artifact, published))
        report.results += _base_named(artifact)
        fingerprint = _fingerprint(artifact, published, report)
        rendered = _rendered(artifact, published, report)
        job = _job(artifact, published, workspace, fingerprint=fingerprint, rendered=rendered, report=report)
        if job is not None:
            report.results += _opened(job, workspace, seconds=seconds)
    return report


def _exported(artifact: Artifact, target: Path) -> str:
    try:
        names = export(artifact, target)
    except UserError as error:
        raise Disagreement(str(error), "see the sentence; nothing can be published before") from None
    size = sum((target / name).stat().st_size for name in names)
    return f"{len(names)} files, {size:,} bytes"


def _card_of(artifact: Artifact, published: Path) -> str | None:
    if (published / CARD_NAME).is_file():
        return (published / CARD_NAME).read_text(encoding="utf-8", errors="replace")
    # The base and the merged twin in an adapter's folder get theirs when they are published; it is what is judged here.
    return render_card(artifact) if (artifact.folder.resolve().parent / ADAPTER_CONFIG).is_file() else None


def _fingerprint(artifact: Artifact, published: Path, report: CheckReport) -> dict | None:
    """What was recorded when the weights were saved, and whether the files are those."""
    if artifact.kind not in ("model", "adapter", "gguf"):
        return None
    path = published / FINGERPRINT_NAME
    content = read_json(path) if path.is_file() else None

    def check() -> str:
        if content is None:
            raise Disagreement(
                f"there is no {FINGERPRINT_NAME}: this folder is older than hfgpt's fingerprints, or was not written by it",
                f"record it now, which then proves only itself: python recipes/check.py {report.folder} --record true"
                if artifact.kind != "gguf"
                else "convert again: recipes/convert.py writes it beside the GGUF file",
            )
        if content.get("format") != 1:
            raise Disagreement(f"{FINGERPRINT_NAME} has the format {content.get('format')}; this hfgpt reads 1")
        for name, recorded in content["files"].items():
            found = sha256_of_file(published / name) if (published / name).is_file() else None
            if found != recorded:
                what = "is not among the files" if found is None else f"has the SHA-256 {found[:16]}..."
                raise Disagreement(f"{name} {what}, recorded was {recorded[:16]}...", _CURES["weights recorded"])
        return f"{', '.join(content['files'])}: SHA-256 as recorded {content['recorded']}"

    result = judged("fingerprint", check)
    if result.status == "pass" and content["recorded"] != "when it was saved":
        cure = "nothing needs to be done; a folder written anew has one of its own"
        result = CheckResult("fingerprint", "warn", f"recorded {content['recorded']}, so it proves only itself", cure)
    report.results.append(result)
    return content if content is not None and content.get("format") == 1 else None


def _base_named(artifact: Artifact) -> list[CheckResult]:
    """Whether adapter_config.json here names the base where it lies; what is published names its place on the Hub."""
    if artifact.kind != "adapter" or artifact.base is None:
        return []
    if (stale := stale_base(artifact.folder)) is None:
        return [CheckResult("place of the base", "pass", "adapter_config.json names it where it lies")]
    detail = f"adapter_config.json names it at {stale}, it lies beside the adapter; without hfgpt, PEFT does not find it here"
    cure = f"python recipes/check.py {shlex.quote(str(artifact.folder))} writes its place anew, as after every move"
    return [CheckResult("place of the base", "warn", detail, cure)]


# Chat templates


def _rendered(artifact: Artifact, published: Path, report: CheckReport) -> dict | None:
    """The conversations as the template writes them, or None where there is none that may be run again."""
    try:
        templates, tokens = _templates(artifact, published)
    except (ValueError, KeyError, TypeError, OSError) as error:
        report.results.append(CheckResult("chat template", "fail", f"it cannot be read: {error}", _AGAIN))
        return None
    if not templates:
        report.results.append(CheckResult("chat template", "skip", "there is none"))
        return None
    path = _packages("jinja2", "markupsafe")
    texts = {name: render(template, tokens, path=path) for name, template in templates.items()}
    errors = [f"{name}: {text['error']}" for name, text in texts.items() if "error" in text]
    if errors:
        cure = "whoever talks with the model would run it; set one of hfgpt's own with set_prompt_style, or correct it"
        report.results.append(CheckResult("chat template", "fail", "; ".join(errors), cure))
        return None
    report.results.append(CheckResult("chat template", "pass", f"{', '.join(texts)}: renders in a sandbox, in time and memory"))
    # Where there are several, transformers takes the file.
    return {"texts": next(iter(texts.values())), "conversations": CONVERSATIONS, "answer": ANSWER}


def _templates(artifact: Artifact, published: Path) -> tuple[dict[str, str], dict[str, str]]:
    if artifact.kind == "gguf":
        return _templates_of_gguf(published)
    folder = published / "tokenizer" if artifact.kind == "dataset" else published
    templates = {}
    if (folder / "chat_template.jinja").is_file():
        templates["chat_template.jinja"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    inside = settings.get("chat_template") or []
    for entry in [{"name": "default", "template": inside}] if isinstance(inside, str) else inside:
        templates[f"tokenizer_config.json ({entry['name']})"] = entry["template"]
    return templates, special_tokens(settings)


def _templates_of_gguf(published: Path) -> tuple[dict[str, str], dict[str, str]]:
    if importlib.util.find_spec("gguf") is None:
        return {}, {}
    from gguf import GGUFReader

    templates, tokens = {}, {}
    for path in sorted(published.glob("*.gguf")):
        fields = GGUFReader(path).fields
        templates |= {f"{path.name}: {name}": field.contents() for name, field in fields.items()
                      if name.startswith("tokenizer.chat_template")}  # fmt: skip
        for name in ("bos", "eos"):
            if f"tokenizer.ggml.{name}_token_id" in fields:
                id = fields[f"tokenizer.ggml.{name}_token_id"].contents()
                tokens[f"{name}_token"] = fields["tokenizer.ggml.tokens"].contents(id)
    return templates, tokens


# The doors


def _job(
    artifact: Artifact, published: Path, workspace: Path, *, fingerprint: dict | None, rendered: dict | None, report: CheckReport
) -> dict | None:
    """What doors.py is told; None where something that it needs is missing, which the report then says."""
    if artifact.kind == "gguf" and importlib.util.find_spec("gguf") is None:
        cure = 'pip install "hfgpt[gguf]"'
        report.results.append(
            CheckResult("GGUF header", "fail", "the package gguf, which reads GGUF files, is not installed", cure)
        )
        return None
    passport = read_json(published / "passport.json") if (published / "passport.json").is_file() else None
    classifies = artifact.task == "text-classification"
    job = {
        "kind": artifact.kind,
        "task": artifact.task,
        "folder": str(published),
        "custom_code": artifact.custom_code,
        "fingerprint": fingerprint,
        "rendered": rendered,
        "stops": None,
        "passport": passport,
        "auto_class": "AutoModelForSequenceClassification" if classifies else "AutoModelForCausalLM",
        "peft_class": "AutoPeftModelForSequenceClassification" if classifies else "AutoPeftModelForCausalLM",
        "heads": [],
        "path": _packages(*_PACKAGES),
        "scratch": str(workspace / "scratch"),
        "results": str(workspace / "results.jsonl"),
    }
    generates_by = published
    if artifact.kind == "model":
        # QuestionAnswering of transformers' own Qwen3 and Llama looks for the body under another name than they save it.
        heads = ("SequenceClassification", "TokenClassification", *(["QuestionAnswering"] if artifact.custom_code else []))
        job["heads"] = [f"AutoModelFor{head}" for head in heads]
    elif artifact.kind == "adapter":
        base = _with_base(artifact, published, workspace, job, report)
        if base is None:
            return None
        generates_by = base
    if (generates_by / "generation_config.json").is_file():
        stops = read_json(generates_by / "generation_config.json").get("eos_token_id")
        job["stops"] = stops if isinstance(stops, list) else [stops]
    return job


def _with_base(artifact: Artifact, published: Path, workspace: Path, job: dict, report: CheckReport) -> Path | None:
    """Put the base, and the merged twin where there is one, where the adapter's doors find them."""
    if artifact.base is None:
        cure = "the recipes write base/ into the adapter's folder; put the folder of its base there"
        report.results.append(CheckResult("base", "fail", "the adapter has no base/ beside it, so nothing can be loaded", cure))
        return None
    for name, part in (("base", artifact.base), ("merged", artifact.merged)):
        job[name] = None
        if part is not None:
            exported = judged(name, lambda name=name, part=part: _exported(identify(part), workspace / name))
            if exported.status == "fail":
                report.results.append(exported)
                return None
            job[name] = str(workspace / name)
    # Told of the base here only: what is published names its place on the Hub.
    settings = read_json(published / ADAPTER_CONFIG) | {"base_model_name_or_path": job["base"], "revision": None}
    (published / ADAPTER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    base = (job["passport"] or {}).get("base") or {}
    job |= {"base_sha256": base.get("sha256"), "base_class": base.get("class")}
    return workspace / "base"


def _packages(*names: str) -> list[str]:
    """The folders of sys.path that hold these packages, so that a process without site finds them, in order."""
    found = [importlib.util.find_spec(name) for name in names]
    places = {str(Path(place).parent) for spec in found if spec for place in spec.submodule_search_locations or [spec.origin]}
    installed = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    return [place for place in sys.path if place in places or place in installed]


def _opened(job: dict, workspace: Path, *, seconds: float) -> list[CheckResult]:
    """Run doors.py and read what it wrote; it ends with its children when its time is up."""
    home = workspace / "home"
    for place in (home, Path(job["scratch"])):
        place.mkdir()
    (workspace / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    places = {"HOME": home, "HF_HOME": home / "hf", "XDG_CACHE_HOME": home / "cache", "TMPDIR": job["scratch"], "PYTHONUTF8": "1"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # Compared in float32 on a CPU: the recorded figures are good to that.
    environment |= {name: str(value) for name, value in (places | offline | {"CUDA_VISIBLE_DEVICES": ""}).items()}
    script = Path(__file__).with_name("doors.py")
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-W", "ignore", str(script), str(workspace / "job.json")],
        cwd=job["scratch"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    said, late = "", False
    try:
        said, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        _end(child)
    path = Path(job["results"])
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    results = [_cured(json.loads(line), job) for line in lines]
    if late or child.returncode or not results or results[-1].name != "without hfgpt":
        last = (said.strip() or f"exit code {child.returncode}").splitlines()[-1][-300:]
        why = f"it took more than {seconds:g} seconds" if late else f"the process ended early: {last}"
        done = f" after {results[-1].name}" if results else ""
        results.append(CheckResult("doors", "fail", f"{why}{done}", "give more --seconds, or see what the folder's code does"))
    return results


def _end(child: subprocess.Popen) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)  # its group, whatever it has started
    except ProcessLookupError:
        return
    finally:
        child.wait()


def _cured(line: dict, job: dict) -> CheckResult:
    cure = _CURES.get(line["name"], _AGAIN) if line["status"] == "fail" else ""
    # Strangers' folders have other names, and so has this one's.
    detail = line["detail"].replace(job["folder"], "FOLDER")
    return CheckResult(line["name"], line["status"], detail, cure)
