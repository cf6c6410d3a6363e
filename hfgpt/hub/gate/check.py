"""The gate: is what would be published exactly what was trained, complete, harmless, and loadable by strangers?

    files        scan.py            no path, secret, pickle or link in the files to publish; code as shipped with this hfgpt
    consistency  consistency.py     config, code, tokenizer and generation config agree
    card         card_checks.py     and the card agrees with them
    template     chat_templates.py  it renders in a process with limited time and memory
    doors        stranger.py        every class that should load it does, in a process without hfgpt, network or token

Everything is checked on an export in a temporary folder, so that no other file and nothing on the training machine can help. That
export is what gets published, byte for byte.
"""

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from hfgpt.artifacts import FINGERPRINT_FILE, HUB_ID, Artifact, adapter_around, adapter_settings, identify, stale_base
from hfgpt.counting import counted
from hfgpt.errors import UserError
from hfgpt.evaluation.template_trial import ANSWER, CONVERSATIONS, render
from hfgpt.files import read_json
from hfgpt.hub.card.rendering import CARD_NAME, render_card
from hfgpt.hub.export import Exported, export
from hfgpt.hub.gate.card_checks import check_card
from hfgpt.hub.gate.consistency import judged
from hfgpt.hub.gate.report import AGAIN, CheckReport, CheckResult, Disagreement
from hfgpt.hub.gate.scan import scan
from hfgpt.hub.kinds import HUB_KINDS, HubKind

_PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "peft", "datasets", "jinja2", "gguf", "llama_cpp")
# The child only gets these environment variables: those for finding programs and libraries, the locale, and thread counts.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_CURES = {
    "AutoTokenizer": "save the tokenizer that the model was trained with: tokenizer.save_pretrained(folder)",
    "weights recorded": "restore the weights or, if you changed them on purpose, record them again: recipes/check.py FOLDER "
    "--record true",
    "base": "give the adapter its own base again; finetune_*.py writes it",
    "merged": "merge again: recipes/convert.py BASE --adapter FOLDER --output_dir MERGED",
    "without network": "read the code in the folder: loading a model should not send or fetch anything",
    "apply_chat_template": "make the template end an answer with one of the eos_token_id in generation_config.json",
}


def check_folder(folder: str | Path, *, seconds: float = 900) -> CheckReport:
    """Check what would be published from `folder`; nothing in it is changed, and none of its code runs in this process.

    Args:
        folder: written by a recipe: a model, an adapter with its base/, a GGUF file, a tokenizer, or prepared data.
        seconds: time limit for the loading checks.
    Raises: FileNotFoundError or ValueError if the folder contains nothing publishable.
    Cost: about 20 seconds for a small model on one core, most of it for importing torch and transformers again.
    """
    with closing(check_parts(folder, seconds=seconds)) as reports:
        return next(reports)


def check_parts(folder: str | Path, *, seconds: float = 900) -> Generator[CheckReport, None, None]:
    """Check a folder and, for an adapter, its base and its merged model, as `check_folder` does. Each is exported once."""
    artifact = identify(folder)
    with tempfile.TemporaryDirectory(prefix="hfgpt-check-") as temporary:
        workspace = Path(temporary).resolve()
        exports = {name: attempt(identify(place), workspace / name) for name, place in artifact.parts.items()}
        yield from check_exports(artifact, exports, workspace, seconds=seconds)


def attempt(artifact: Artifact, target: Path) -> Exported | UserError:
    """The export of an artifact, or why it is not possible."""
    try:
        return export(artifact, target)
    except UserError as error:
        return error


def check_exports(
    artifact: Artifact, exports: Mapping[str, Exported | UserError], workspace: Path, *, seconds: float = 900
) -> Iterator[CheckReport]:
    """Check existing exports, that of the folder itself first.

    Args:
        artifact: the folder that they are parts of.
        exports: by the names of its parts. An adapter is opened with its base and merged model: if they are not among `exports`,
            they are exported to `workspace` but not reported on.
    """
    missing = artifact.parts.keys() - exports.keys() if artifact.needs_base else ()
    beside = {**exports, **{name: attempt(identify(artifact.parts[name]), workspace / f"beside-{name}") for name in missing}}
    for name in sorted(exports, key=lambda name: artifact.parts[name] != artifact.folder):
        part = artifact if artifact.parts[name] == artifact.folder else identify(artifact.parts[name])
        report = CheckReport(str(part.folder), part.kind)
        exported = exports[name]
        if isinstance(exported, UserError):
            report.results.append(_not_exported("export", exported))
        else:
            report.results += _checked(exported, beside, seconds=seconds)
        yield report


def _not_exported(name: str, error: UserError) -> CheckResult:
    return CheckResult(name, "fail", str(error), "see the message; nothing can be published until this is fixed")


def _checked(exported: Exported, beside: Mapping[str, Exported | UserError], *, seconds: float) -> Iterator[CheckResult]:
    artifact, published = exported.artifact, exported.folder
    kind = HUB_KINDS.find(artifact.kind)
    yield CheckResult("export", "pass", f"{counted(len(exported.files), 'files')}, {exported.size:,} bytes")
    yield from scan(artifact, published, exported.names)
    for name, check in kind.checks:
        yield judged(name, lambda check=check: check(artifact, published))
    yield from check_card(artifact, published, _card_of(artifact, published))
    yield from _base_named(artifact)
    fingerprint: dict[str, Any] | None = None
    if kind.fingerprint_cure is not None:
        result, fingerprint = _fingerprint(exported, kind.fingerprint_cure)
        yield result
    result, rendered = _rendered(published, kind)
    yield result
    whole: dict[str, str | None] = {"base": None, "merged": None}  # the locations of the parts an adapter is opened with
    if artifact.needs_base:
        for name in whole:
            if isinstance(part := beside.get(name), UserError):
                yield _not_exported(name, part)
                return
            whole[name] = str(part.folder) if part is not None else None
        if whole["base"] is None:
            cure = "the recipes write base/ into the adapter's folder; put its base there"
            yield CheckResult("base", "fail", "the adapter has no base/, so nothing can be loaded", cure)
            return
    passport = read_json(published / "passport.json") if (published / "passport.json").is_file() else {}
    yield from open_as_stranger(
        {
            "opener": [str(kind.opener[0]), kind.opener[1]],
            "task": artifact.task,
            "folder": str(published),
            "custom_code": artifact.custom_code,
            "fingerprint": fingerprint,
            "rendered": rendered,
            "passport": passport,
            **whole,
        },
        seconds=seconds,
    )


def _card_of(artifact: Artifact, published: Path) -> str | None:
    if (published / CARD_NAME).is_file():
        return (published / CARD_NAME).read_text(encoding="utf-8", errors="replace")
    # The base and the merged model in an adapter's folder get their card when they are published; that card is checked here.
    return render_card(artifact) if adapter_around(artifact.folder) else None


def _base_named(artifact: Artifact) -> Iterator[CheckResult]:
    """Whether adapter_config.json in this folder names the actual location of the base; the published one names its Hub id."""
    if not artifact.needs_base or artifact.base is None:
        return
    if (stale := stale_base(artifact.folder)) is None:
        yield CheckResult("place of the base", "pass", "adapter_config.json names its actual location")
        return
    detail = f"adapter_config.json says {stale}, but the base is beside the adapter; without hfgpt, PEFT does not find it here"
    cure = f"python recipes/check.py {shlex.quote(str(artifact.folder))} updates its location, as after every move"
    yield CheckResult("place of the base", "warn", detail, cure)


def _fingerprint(exported: Exported, cure: str) -> tuple[CheckResult, dict[str, Any] | None]:
    """Whether the files are those recorded when the weights were saved, and the record if it can be read."""
    path = exported.folder / FINGERPRINT_FILE
    if not path.is_file():
        detail = f"there is no {FINGERPRINT_FILE}: this folder predates hfgpt's fingerprints or was not written by it"
        return CheckResult("fingerprint", "fail", detail, cure.format(folder=exported.artifact.folder)), None
    content = read_json(path)
    if content.get("format") != 1:
        detail = f"{FINGERPRINT_FILE} has format {content.get('format')}, but this hfgpt reads format 1"
        return CheckResult("fingerprint", "fail", detail, AGAIN), None

    def check() -> str:
        files = {file.name: file for file in exported.files}
        for name, recorded in content["files"].items():
            found = files[name].sha256 if name in files else None
            if found != recorded:
                what = "is not among the files" if found is None else f"has the SHA-256 {found[:16]}..."
                raise Disagreement(f"{name} {what}, but {recorded[:16]}... was recorded", _CURES["weights recorded"])
        return f"{', '.join(content['files'])}: SHA-256 as recorded {content['recorded']}"

    result = judged("fingerprint", check)
    if result.status == "pass" and content["recorded"] != "when it was saved":
        cure = "nothing to do; a newly written folder has its own fingerprint"
        result = CheckResult(
            "fingerprint", "warn", f"recorded {content['recorded']}, so it proves nothing about the original", cure
        )
    return result, content


def _rendered(published: Path, kind: HubKind) -> tuple[CheckResult, dict[str, Any] | None]:
    """The conversations as rendered by the template, or None if there is no template that may be run again."""
    try:
        templates, tokens = kind.chat_templates(published)
    except (ValueError, KeyError, TypeError, OSError) as error:
        return CheckResult("chat template", "fail", f"it cannot be read: {error}", AGAIN), None
    if not templates:
        return CheckResult("chat template", "skip", "there is none"), None
    path = _packages("jinja2", "markupsafe")
    texts = {name: render(template, tokens, path=path) for name, template in templates.items()}
    errors = [f"{name}: {text['error']}" for name, text in texts.items() if "error" in text]
    if errors:
        cure = "everyone who chats with the model would run it; set one of hfgpt's own with set_prompt_style, or correct it"
        return CheckResult("chat template", "fail", "; ".join(errors), cure), None
    result = CheckResult("chat template", "pass", f"{', '.join(texts)}: renders in a sandbox within the limits on time and memory")
    # If there are several, transformers uses the file.
    return result, {"texts": next(iter(texts.values())), "conversations": CONVERSATIONS, "answer": ANSWER}


# The doors


def _packages(*names: str) -> list[str]:
    """The folders of sys.path that contain these packages, in order, so that a process without site can find them."""
    found = [importlib.util.find_spec(name) for name in names]
    folders = [place for spec in found if spec for place in spec.submodule_search_locations or [spec.origin or ""]]
    places = {str(Path(place).parent) for place in folders}
    installed = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    return [place for place in sys.path if place in places or place in installed]


def open_as_stranger(job: dict[str, Any], *, seconds: float) -> list[CheckResult]:
    """Run stranger.py and read its results; it and its children are killed when the time is up.

    Args: `job` describes the folder to stranger.py.
    """
    with tempfile.TemporaryDirectory(prefix="hfgpt-stranger-") as temporary:
        workspace = Path(temporary).resolve()
        home, scratch, results = workspace / "home", workspace / "scratch", workspace / "results.jsonl"
        for place in (home, scratch):
            place.mkdir()
        if job["base"] is not None:
            _lay_base(Path(job["folder"]), Path(job["base"]), cache=home / "hf" / "hub", working_folder=scratch)
        job = job | {"path": _packages(*_PACKAGES), "scratch": str(scratch), "results": str(results)}
        (workspace / "job.json").write_text(json.dumps(job), encoding="utf-8")
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        places = {"HOME": home, "HF_HOME": home / "hf", "XDG_CACHE_HOME": home / "cache", "TMPDIR": scratch, "PYTHONUTF8": "1"}
        offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        # Compared in float32 on a CPU: the recorded figures have that precision.
        environment |= {name: str(value) for name, value in (places | offline | {"CUDA_VISIBLE_DEVICES": ""}).items()}
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-W", "ignore", str(Path(__file__).with_name("stranger.py")), str(workspace / "job.json")],
            cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        said, late = "", False
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _end(child)
        lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    found = [_cured(json.loads(line), job["folder"]) for line in lines]
    if late or child.returncode or not found or found[-1].name != "without hfgpt":
        last = (said.strip() or f"exit code {child.returncode}").splitlines()[-1][-300:]
        why = f"it took more than {seconds:g} seconds" if late else f"the process ended early: {last}"
        done = f" after {found[-1].name}" if found else ""
        found.append(CheckResult("doors", "fail", f"{why}{done}", "give more --seconds, or check what the folder's code does"))
    return found


def _lay_base(adapter: Path, base: Path, *, cache: Path, working_folder: Path) -> None:
    """Put an adapter's base where a stranger's PEFT looks for it: the published adapter is opened unchanged.

    A Hub id is found in the cache, as if it had been downloaded before; the name of a folder (used if nothing has been published
    yet) is found in the working folder of the process.
    """
    settings = adapter_settings(adapter)
    named, revision = settings["base_model_name_or_path"], str(settings.get("revision") or "main")
    if not HUB_ID.fullmatch(named):
        (working_folder / named).symlink_to(base)
        return
    commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else "0" * 40
    repository = cache / f"models--{named.replace('/', '--')}"
    for name in ("refs", "snapshots"):
        (repository / name).mkdir(parents=True)
    for name in {"main", revision}:
        (repository / "refs" / name).write_text(commit, encoding="utf-8")
    (repository / "snapshots" / commit).symlink_to(base)


def _end(child: subprocess.Popen) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)  # its process group, including everything it has started
    except ProcessLookupError:
        return
    finally:
        child.wait()


def _cured(line: dict[str, Any], folder: str) -> CheckResult:
    cure = line["cure"] or (_CURES.get(line["name"], AGAIN) if line["status"] == "fail" else "")
    # A stranger's folder has a different name, so this one's does, too.
    return CheckResult(line["name"], line["status"], line["detail"].replace(folder, "FOLDER"), cure)
