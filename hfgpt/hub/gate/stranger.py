"""The stranger: opens a folder in every way that should work, in a process without hfgpt, network or token.

    python -I -S stranger.py job.json

check.py writes the job and reads the results, one line of JSON per check, written as soon as it is known. The job names the checks:
a file and the function in it that gets the `Stranger` (loading.py and file_formats.py beside this one, or one from another
package). Nothing from hfgpt is imported here, and trying to is an error; any exception in a check is that check's failure, and the
next one is tried.
"""

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT = "The class of the object"


class NoHfgpt:
    """Comes before every other finder: a stranger has no hfgpt, whatever is installed here."""

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name.partition(".")[0] == "hfgpt":
            raise ModuleNotFoundError("No module named 'hfgpt' (a stranger has none)", name=name)


class NoNetwork:
    """An audit hook: Python calls it before a socket connects. Attempts are recorded, since code may hide the refusal."""

    ADDRESSED = ("socket.connect", "socket.sendto", "socket.sendmsg")
    NAMED = ("socket.getaddrinfo", "socket.gethostbyname")

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in self.ADDRESSED:
            place = arguments[1]
            if place is None or isinstance(place, (str, bytes)):  # local to this machine
                return
        elif event in self.NAMED:
            place = arguments[:2]
        else:
            return
        self.asked.append(f"{event} {place}")
        raise PermissionError(f"{event} {place}: folders are opened without network access")


class Failed(Exception):
    """A check that ran but found a difference; `cure` says what to do if the gate does not know."""

    def __init__(self, detail: str, cure: str = ""):
        super().__init__(detail)
        self.cure = cure


class Stranger:
    """One folder as described by the job, and the results of its checks.

    Attributes:
        folder: the files to publish, with those they depend on.
        task: the task of a model, as the Hub names it, or None.
        fingerprint: what was recorded when the weights were saved, or None.
        passport: the folder's passport.json, or empty.
        options: for `from_pretrained`: trust_remote_code if the model comes with code.
        models: loaded models, for later checks.
    """

    def __init__(self, job: dict[str, Any]):
        self.job = job
        self.folder: str = job["folder"]
        self.task: str | None = job["task"]
        self.fingerprint: dict[str, Any] | None = job["fingerprint"]
        self.passport: dict[str, Any] = job["passport"]
        self.options: dict[str, Any] = {"trust_remote_code": True} if job["custom_code"] else {}
        self.models: dict[str, Any] = {}

    @property
    def recorded_texts(self) -> list[dict[str, Any]]:
        """The texts of the fingerprint with the recorded ids and logits; entries without a text are left out."""
        return [entry for entry in (self.fingerprint or {"texts": []})["texts"] if entry["text"] is not None]

    def open(self, name: str, door: Callable[[], str]) -> None:
        """Run one check and record the result: its text, "skip: " and the reason, or the exception."""
        cure = ""
        try:
            status, detail = "pass", door()
            if detail.startswith("skip: "):
                status, detail = "skip", detail.removeprefix("skip: ")
        except Failed as failure:
            status, detail, cure = "fail", " ".join(str(failure).split())[:400], failure.cure
        except Exception as error:  # third-party code may raise anything
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}, line {where.lineno}"
            status, detail = "fail", f"{type(error).__name__}: {' '.join(str(error).split())[:400]} ({place})"
        with Path(self.job["results"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "status": status, "detail": detail, "cure": cure}) + "\n")

    # Checks for several kinds of folder

    def tokenizer(self) -> str:
        """AutoTokenizer gives the recorded ids."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, **self.options)
        for entry in self.recorded_texts:
            self.compare_ids(entry, tokenizer(entry["text"]).input_ids)
        if not self.recorded_texts:
            tokenizer(PROMPT)
            return "it loads; there is nothing to compare its ids with"
        return f"the ids of {len(self.recorded_texts)} texts as recorded"

    @staticmethod
    def compare_ids(entry: dict[str, Any], ids: list[int]) -> None:
        """Raises: Failed if a recorded text now has different ids."""
        if ids != entry["ids"]:
            raise Failed(f"{entry['text']!r} has the ids {ids[:12]}..., but {entry['ids'][:12]}... were recorded")

    def template(self) -> str:
        """apply_chat_template gives the same text as the template file, and generation stops at the end of an answer."""
        from transformers import AutoTokenizer

        rendered = self.job["rendered"]
        if not rendered:
            return "skip: there is no chat template that may be rendered"
        tokenizer = AutoTokenizer.from_pretrained(self.folder, **self.options)
        for name, text in rendered["texts"].items():
            options = dict(tokenize=False, add_generation_prompt=name != "answered")
            if text is not None and tokenizer.apply_chat_template(rendered["conversations"][name], **options) != text:
                raise Failed(f"apply_chat_template writes the conversation {name!r} differently from the template file")
        if (stops := self._stops()) is None or rendered["texts"]["answered"] is None:
            return "apply_chat_template writes the same as the template"
        control = {id for id, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
        for text in rendered["texts"]["answered"].split(rendered["answer"])[1:]:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            end = next((id for id in ids if id in control), None)
            if end not in stops:
                raise Failed(f"after an answer, the template writes {text[:40]!r}, at which generation_config.json does not stop")
        return "apply_chat_template writes the same as the template; generation stops at the end of an answer"

    def _stops(self) -> list[int] | None:
        """The tokens at which generation stops, from the generation_config.json of the whole weights; None without one."""
        path = Path(self.job["base"] or self.folder) / "generation_config.json"
        if not path.is_file():
            return None
        stops = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        return stops if isinstance(stops, list) else [stops]


def main() -> None:
    """Read the job, run the checks for its kind, and report at the end whether hfgpt was ever imported."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path += job["path"]
    sys.meta_path.insert(0, NoHfgpt)  # pyright: ignore[reportArgumentType]  # a class does for an instance
    os.environ["TQDM_DISABLE"] = "1"
    network = NoNetwork()
    sys.addaudithook(network)
    # Imported by the file with the checks; with -I, none of our folders is on the path.
    sys.modules["stranger"] = sys.modules["__main__"]
    file, function = job["opener"]
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    doors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(doors)
    stranger = Stranger(job)
    getattr(doors, function)(stranger)
    stranger.open("without network", lambda: _without_network(network.asked))
    stranger.open("without hfgpt", _without_hfgpt)


def _without_network(asked: list[str]) -> str:
    if asked:
        raise Failed(f"it tried to reach {'; '.join(sorted(set(asked))[:3])}")
    return "no network access was attempted; offline, without a token"


def _without_hfgpt() -> str:
    found = sorted(name for name in sys.modules if name.partition(".")[0] == "hfgpt")
    if found:
        raise Failed(f"{', '.join(found)} was loaded")
    return "nothing from it was loaded"


if __name__ == "__main__":
    main()
