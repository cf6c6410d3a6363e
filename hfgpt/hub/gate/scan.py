"""What must not leave this machine: its paths, secrets, pickles, links. Only bytes are read; nothing is loaded or run."""

import ast
import getpass
import hashlib
import re
import socket
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.resources import files as package_files
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hfgpt.artifacts import Artifact
from hfgpt.counting import counted, listed
from hfgpt.hub.gate.report import AGAIN, CheckResult
from hfgpt.hygiene.secrets import BY_SHAPE

TEXT_SUFFIXES = (".json", ".jinja", ".md", ".py", ".txt", ".yaml", ".yml", "")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".msgpack", ".h5")
# It contains words of the training data, which may be about paths.
_WORDS_OF_THE_DATA = ("tokenizer.json",)
_HEADER_BYTES = 1 << 26  # searched in binary files: headers, not weights

_SECRETS = {what: re.compile(pattern.encode()) for what, pattern in BY_SHAPE.items()}
# File names commonly used for secrets. They are never published, but their presence deserves a warning.
_SECRET_NAMES = re.compile(
    r"^(\.env.*|\.netrc|id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|key|p12|pfx)|credentials.*|\.?token(s?))$", re.IGNORECASE
)
# Home folders on any machine. Not after a letter, a dot or another slash: https://host/home/x is not a path.
_HOMES = r"(?<![\w./~:\\-])(/home/[\w.-]+|/Users/[\w.-]+|/root(?=[/\"'\s,)]|$))|\b[A-Za-z]:(\\\\?|/)Users(\\\\?|/)[\w.-]+"
_TEMPORARY = r"(?<![\w./~:\\-])(/tmp/|/var/folders/|/private/tmp/)[\w.-]+"


def scan(artifact: Artifact, published: Path, names: list[Path]) -> list[CheckResult]:
    """Search every byte that would be published.

    Args:
        artifact: the user's folder; its location and the unpublished files in it are checked, too.
        published: the folder of the export, with the files `names`.
    """
    paths = [published / name for name in names]
    return [
        _paths(artifact, published, paths),
        _secrets(published, paths),
        _pickles(published, paths),
        *_safetensors(published, [path for path in paths if path.suffix.lower() == ".safetensors"]),
        *_code(published, [path for path in paths if path.suffix.lower() == ".py"]),
        *_left_here(artifact, names),
    ]


def _paths(artifact: Artifact, published: Path, paths: list[Path]) -> CheckResult:
    literal = re.compile("|".join([*map(_place, _places(artifact.folder)), *_host(), *_user()]).encode())
    homes, temporary = re.compile(_HOMES.encode()), re.compile(_TEMPORARY.encode())
    found = []
    for path in paths:
        patterns = [literal]
        if path.suffix.lower() in TEXT_SUFFIXES and path.name not in _WORDS_OF_THE_DATA:
            # A card shows generated text, and a model trained on documentation may write /tmp/x.
            patterns += [homes] if path.name == "README.md" else [homes, temporary]
        found += _hits(path, published, patterns)
    cure = "remove it from the file; passport.json of the recipes is published without paths"
    return _result("no path of this machine", found, cure, passed=f"in {counted(len(paths), 'files')}")


def _places(folder: Path) -> list[str]:
    """Folders of this machine, as texts; those with one part (/root, /tmp) are covered by the patterns."""
    candidates = [folder.absolute(), folder.resolve(), Path.cwd(), Path.home(), Path(sys.prefix), Path(tempfile.gettempdir())]
    candidates.append(Path(__file__).resolve().parents[3])
    system = {"/usr/local", "/usr/lib", "/usr/bin", "/var/tmp"}  # the same on every machine
    return sorted({str(place) for place in candidates if len(place.parts) > 2} - system)


def _place(place: str) -> str:
    # JSON doubles a backslash.
    return rf"(?<![\w.~-]){re.escape(place)}(?![\w-])".replace(r"\\", r"\\{1,2}")


def _host() -> list[str]:
    name = socket.gethostname()
    # A name such as "localhost" or "laptop" is a common word; one with a digit or a dash identifies a machine.
    return [rf"(?<![\w-]){re.escape(name)}(?![\w-])"] if len(name) > 4 and re.search(r"[\d.-]", name) else []


def _user() -> list[str]:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may not have a name
        return []
    # Only in an absolute path: user/name may be a Hub id.
    return [rf"(?<![\w./~:-])(/[\w.-]+)+/{re.escape(name)}(?=/)"] if name != "root" else []


def _secrets(published: Path, paths: list[Path]) -> CheckResult:
    found = []
    for path in paths:
        for what, pattern in _SECRETS.items():
            found += [f"{where} holds {what}" for where in _hits(path, published, [pattern], show=False)]
    cure = "revoke it where it was created, because somebody may already have read it, and remove it from the file"
    return _result("no secret", found, cure, passed=f"in {counted(len(paths), 'files')}")


def _hits(path: Path, published: Path, patterns: list[re.Pattern], *, show: bool = True) -> Iterator[str]:
    """The first match of each pattern in a file: "name, line 3: text"."""
    with path.open("rb") as file:
        content = file.read(_header_bytes(path))
    for pattern in patterns:
        if match := pattern.search(content):
            number = content.count(b"\n", 0, match.start()) + 1
            line = f", line {number}" if path.suffix.lower() in TEXT_SUFFIXES else ""
            shown = f": {match.group()[:80].decode(errors='replace')}" if show else ""
            yield f"{path.relative_to(published).as_posix()}{line}{shown}"


def _header_bytes(path: Path) -> int:
    if path.suffix.lower() != ".safetensors":
        return _HEADER_BYTES
    with path.open("rb") as file:  # 8 bytes contain the length of the header, which includes the metadata
        return min(8 + int.from_bytes(file.read(8), "little"), _HEADER_BYTES)


def _pickles(published: Path, paths: list[Path]) -> CheckResult:
    found = [path.relative_to(published).as_posix() for path in paths if is_pickle(path)]
    cure = "save the weights as safetensors: model.save_pretrained(folder); a pickle can run code when it is loaded"
    return _result("no pickle", found, cure, passed=f"{counted(len(paths), 'files')}")


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or a zip (as written by torch.save), by its name or its first bytes."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return True
    with path.open("rb") as file:
        first = file.read(2)
    return (
        first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05" and len(first) == 2 and not _opens(path)
    ) or zipfile.is_zipfile(path)


def _opens(path: Path) -> bool:
    # A safetensors header of n bytes may begin with the same bytes as a pickle.
    try:
        with safe_open(path, framework="pt") as tensors:
            return bool(tensors.keys())
    except (SafetensorError, OSError):
        return False


def _safetensors(published: Path, paths: list[Path]) -> Iterator[CheckResult]:
    import torch

    if not paths:
        return
    faults, tensors, unsaid = [], 0, []
    for path in paths:
        name = path.relative_to(published).as_posix()
        try:
            with safe_open(path, framework="pt") as opened:
                if (opened.metadata() or {}).get("format") != "pt":
                    unsaid.append(name)
                for key in opened.keys():  # noqa: SIM118 - no mapping
                    tensors += 1
                    tensor = opened.get_tensor(key)
                    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                        faults.append(f"{name}: {key} contains values that are not finite")
        except (SafetensorError, OSError) as error:
            faults.append(f"{name} is not a safetensors file ({error})")
    faults += [f"{name} does not declare its format (metadata format: pt)" for name in unsaid]
    if not tensors and not faults:
        faults = ["no tensor in any file"]
    yield _result("safetensors", faults, AGAIN, passed=f"{counted(len(paths), 'files')}, {tensors:,} tensors, every value finite")


def _code(published: Path, paths: list[Path]) -> Iterator[CheckResult]:
    """Code that is published with a model: whether it is what this hfgpt ships, and whether its imports can be resolved."""
    if not paths:
        return
    shipped = {
        entry.name: entry.read_bytes() for entry in package_files("hfgpt.model").iterdir() if entry.name.endswith("_hfgpt.py")
    }
    foreign = [
        f"{path.relative_to(published).as_posix()} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()})"
        for path in paths
        if shipped.get(path.name) != path.read_bytes()
    ]
    if foreign:
        cure = (
            "read that file before you publish it, because it runs on the machines of everyone who trusts it; or save the model "
            "again"
        )
        yield CheckResult("code as shipped", "warn", f"different from what this hfgpt ships: {_listed(foreign)}", cure)
    else:
        yield CheckResult("code as shipped", "pass", f"{counted(len(paths), 'files')}, identical to those of this hfgpt")
    faults = [fault for path in paths for fault in _import_faults(path)]
    cure = f"{AGAIN}; code in a folder may only import files directly beside it"
    yield _result("code is complete", faults, cure, passed="every import finds its file")


def _import_faults(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        yield f"{path.name} is not valid Python ({error})"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = node.module or ""
            if node.level > 1 or "." in module or not (path.parent / f"{module}.py").is_file():
                yield f"{path.name}, line {node.lineno}: from {'.' * node.level}{module} is not beside it"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any((name or "").split(".")[0] == "hfgpt" for name in names):
                yield f"{path.name}, line {node.lineno} imports hfgpt, which strangers do not have"


def _left_here(artifact: Artifact, names: list[Path]) -> Iterator[CheckResult]:
    """Files in the folder that are not published but would be harmful if somebody uploaded the whole folder."""
    published = {name.as_posix() for name in names}
    left = [path for path in sorted(artifact.folder.iterdir()) if path.name not in published and not path.is_dir()]
    harmful = [path.name for path in left if _SECRET_NAMES.match(path.name) or path.is_symlink() or is_pickle(path)]
    if harmful:
        cure = "recipes/publish.py does not upload them, but `hf upload` of the whole folder would; move them elsewhere"
        yield CheckResult("left here", "warn", f"secrets, pickles or links that are not published: {_listed(harmful)}", cure)


def _result(name: str, faults: list[str], cure: str, *, passed: str) -> CheckResult:
    return CheckResult(name, "fail", _listed(faults), cure) if faults else CheckResult(name, "pass", passed)


def _listed(items: list[str]) -> str:
    return listed(items, most=6, between="; ")
