"""What a folder of runs contains, how good it is, and what to try: the last screen of `make quickstart`.

python -m hfgpt.training.summary runs/quickstart
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hfgpt.artifacts import METRICS_FILE
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.errors import UserError
from hfgpt.files import read_json
from hfgpt.training.next_steps import classify_command

QUESTION = "How many arguments does os.walk(top, topdown=True) take?"


def base_line(metrics: Mapping, passport: Mapping) -> str:
    """Bits per byte of a language model beside those of lzma."""
    lzma = passport.get("lzma_bits_per_byte")
    compared = f" (lzma, having read the same text: {lzma['after_training']:.3f})" if lzma else ""
    return (
        f"a GPT of {metrics['parameters'] / 1e6:.1f} million parameters, {metrics['test_bits_per_byte']:.3f} bits per byte on "
        f"unseen text{compared}"
    )


def classifier_line(metrics: Mapping, passport: Mapping) -> str:
    """Accuracy of a classifier beside that of simpler methods."""
    compared = [f"always naming the same label {100 * metrics['majority']:.1f} %"]
    if "tfidf" in metrics:
        compared.insert(0, f"TF-IDF with logistic regression {100 * metrics['tfidf']['accuracy']:.1f} %")
    accuracy, labels = metrics["test"]["accuracy"]["mean"], len(metrics["labels"])
    return f"distinguishes {labels} labels, {100 * accuracy:.1f} % of unseen texts right ({', '.join(compared)})"


def assistant_line(metrics: Mapping, passport: Mapping) -> str:
    """Correct answers of an assistant, by kind of question if the data has kinds."""
    if "test_right" not in metrics:
        return f"answers questions, token F1 {metrics['test_token_f1']:.3f} on unseen ones"
    kinds = metrics["test_kinds"]
    exact = [f"{kind} {100 * scores['right']:.0f} %" for kind, scores in kinds.items() if "right" in scores]
    free = [f"{kind} in free text, token F1 {scores['token_f1']:.2f}" for kind, scores in kinds.items() if "token_f1" in scores]
    return (
        f"answers questions, {100 * metrics['test_right']:.1f} % of unseen ones right (always giving the most frequent answer: "
        f"{100 * metrics['test_most_frequent']:.1f} %):\n{', '.join([*exact, *free])}"
    )


# The metric that identifies each kind of run, and its line.
PARTS: dict[str, Callable[[Mapping, Mapping], str]] = {
    "test_bits_per_byte": base_line,
    "majority": classifier_line,
    "test_token_f1": assistant_line,
}


def summary_lines(folder: Path) -> Iterator[str]:
    """At most a dozen lines: each finished run in `folder` with its figures, then commands that use them."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*/{METRICS_FILE}"), key=lambda path: path.stat().st_mtime):
        metrics, passport = read_json(path), read_json(path.parent / PASSPORT_NAME)
        if (mark := next((mark for mark in PARTS if mark in metrics), None)) is not None:
            found[mark] = path.parent
            yield f"{path.parent.name}: {PARTS[mark](metrics, passport)}".replace("\n", "\n    ")
    if not found:
        raise UserError(
            f"{folder} contains no finished run; give a folder that contains the folders of runs, such as runs/quickstart."
        )
    python = _shown(Path(sys.executable))
    hfgpt = shlex.quote(str(python.with_name("hfgpt")))
    yield "try:"
    if "test_bits_per_byte" in found:
        yield f"    {hfgpt} generate {shlex.quote(str(found['test_bits_per_byte']))} --prompt 'os.path.join('"
    if "majority" in found:
        yield f"    {python.parent}/{classify_command(found['majority'], text='Return the event loop.')}"
    if "test_token_f1" in found:
        yield f"    {hfgpt} chat {shlex.quote(str(found['test_token_f1']))}    # {QUESTION}"
        yield f"read: {found['test_token_f1'] / 'answers.html'}"


def _shown(path: Path) -> Path:
    """A path relative to the current folder if it is inside, so that the command can be pasted."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    try:
        print("\n".join(summary_lines(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))))
    except UserError as error:
        sys.exit(f"error: {error}")
