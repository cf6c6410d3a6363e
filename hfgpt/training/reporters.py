"""What a run sends to its reporters (trackio, TensorBoard, W&B) besides its log lines: its start, samples, and final figures.

They are Trainer's own callbacks, which run before all that are added later: what another callback adds to a log line never reaches
them, so it is sent here.
"""

import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

# Reporters that show texts by name and step; the others would warn about them.
SHOW_TEXT = ("tensorboard", "trackio", "wandb")


class KeptOpen:
    """A reporter that stays open after training, because the test figures come later.

    Trainer closes its reporters when training ends. Anything logged later would start a second run in trackio or MLflow.
    """

    def __init__(self, reporter: Any):
        self.reporter = reporter

    def __getattr__(self, name: str):
        return getattr(self.reporter, name)

    def on_train_end(self, *args, **kwargs):
        pass


class Reporters:
    """The reporters of a trainer, open until `close`."""

    def __init__(self, trainer: Trainer):
        known = tuple(INTEGRATION_TO_CALLBACK.values())
        handler = trainer.callback_handler
        handler.callbacks = [KeptOpen(one) if isinstance(one, known) else one for one in handler.callbacks]
        self._open: list[KeptOpen] = [one for one in handler.callbacks if isinstance(one, KeptOpen)]
        for one in self._open:
            if isinstance(one.reporter, TensorBoardCallback) and one.reporter.logging_dir is None:
                # By default it uses a new folder at each start and, before training begins, one in the current folder.
                one.reporter.logging_dir = str(Path(str(trainer.args.output_dir)) / "runs")
        self._trainer = trainer
        self._waiting: dict[str, float | str] = {}

    def tell_first(self, values: Mapping[str, float | str]) -> None:
        """Keep these figures and texts until the first log line: before that, the reporters are not set up."""
        self._waiting |= values

    def tell_what_waits(self) -> None:
        """Send what was passed to `tell_first`."""
        waiting, self._waiting = self._waiting, {}
        self.tell(waiting)

    def tell(self, values: Mapping[str, float | str]) -> None:
        """Send figures and texts at the current training step; texts only to reporters that show them."""
        texts = tuple(INTEGRATION_TO_CALLBACK[name] for name in SHOW_TEXT)
        shown = {name: fenced(value) if isinstance(value, str) else value for name, value in values.items()}
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        trainer = self._trainer
        for one in self._open:
            if told := shown if isinstance(one.reporter, texts) else numbers:
                one.reporter.on_log(trainer.args, trainer.state, trainer.control, logs=dict(told), model=trainer.model)

    def close(self, figures: Mapping[str, object] | None = None, text: str = "") -> None:
        """Send the final figures as `final/NAME` and close the reporters; nothing is sent after that."""
        numbers = {f"final/{name}": value for name, value in flat_numbers(figures or {}).items()}
        self.tell(numbers | ({"final/report": text} if text else {}))
        trainer = self._trainer
        for one in self._open:
            one.reporter.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
        self._open = []


def flat_numbers(figures: Mapping[str, object], above: str = "") -> dict[str, float]:
    """The numbers in nested mappings by path, such as `test/accuracy`; lists and texts are left out."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{above}{name}/")
        elif isinstance(value, Real) and not isinstance(value, bool):
            found[f"{above}{name}"] = float(value)
    return found


def fenced(text: str) -> str:
    """A text as a Markdown block in which nothing is interpreted and line breaks are kept, whatever it contains."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}text\n{text}\n{fence}"
