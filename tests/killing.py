"""Kill a recipe with SIGKILL at a chosen moment of its run, in a separate process."""

import importlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from recipes_in_process import load

# One process imports what all recipes need, and each run is forked from it: the imports take longer than the runs.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("hfgpt.training.pretraining", "hfgpt.training.classification_report", "hfgpt.training.preference_report"),
        *("matplotlib.axes", "matplotlib.backends.backend_agg", "evaluate", "sklearn.metrics", "rouge_score.rouge_scorer"),
        *("sklearn.feature_extraction.text", "wcwidth", "trl.trainer.dpo_trainer"),
    ]
)


def run_main(name: str, words: Sequence[object]) -> dict:
    """Run `main` of recipe `name` in this process, with arguments as on a command line."""
    from hfgpt.arguments.parsing import parse_arguments

    main = load(name).main
    return main(parse_arguments(main.__annotations__["args"], [str(word) for word in words]))


def kill(name: str, words: Sequence[object], *, at: str, call: int = 1) -> None:
    """Run the recipe until its `call`-th call of `at`: a function or method, with the module in which it is looked up."""
    process = CONTEXT.Process(target=_run_until, args=(name, [str(word) for word in words], at, call))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL, f"{name} was to be killed at {at} and ended with {process.exitcode}"


def _run_until(name: str, words: list[str], at: str, call: int) -> None:
    signal_at(at, call, signal.SIGKILL)
    run_main(name, words)


def signal_at(at: str, call: int, number: int) -> None:
    """Make this process send itself a signal when it calls `at` for the `call`-th time; the arguments are those of `kill`."""
    places = at.split(".")
    owner = importlib.import_module(".".join(place for place in places[:-1] if place.islower()))
    for place in places[:-1]:
        owner = owner if place.islower() else getattr(owner, place)
    original = getattr(owner, places[-1])
    left = [call]

    def die_or_go_on(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, places[-1], die_or_go_on)


def state_of(folder: Path) -> dict[str, tuple]:
    """The modification time and the SHA-256 of every file and folder, including the folder itself."""
    from hfgpt.files import sha256_of_file

    paths = [folder, *folder.rglob("*")]
    hashes = {path: sha256_of_file(path) for path in paths if path.is_file()}
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, hashes.get(path)) for path in paths}


def sha256_of_weights(folder: Path) -> dict[str, str]:
    """The hash of every weight file of a result, by its name."""
    from hfgpt.files import sha256_of_file

    paths = [path for place in ("", "base/", "merged/") for path in folder.glob(f"{place}*.safetensors")]
    assert paths
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in paths}
