"""How a run resumes: the keys `resume` and `allow_change`, and what may change.

Three kinds of keys: those that may always differ, those that may differ with `--allow_change`, and those that may never differ,
because the checkpoint would not fit.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfgpt.arguments.keys import RecipeArguments, output_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home
from hfgpt.tables import nearest

AUTO, NEVER = "auto", "never"
# These are not keys: the examples or rows that a run is trained on, and the rows per optimizer step in all processes.
ROWS, ROWS_PER_STEP = "rows", "rows_per_step"
# The keys that determine ROWS_PER_STEP together with the number of processes; individually they may differ.
LAYOUT = ("per_device_train_batch_size", "gradient_accumulation_steps")
_SHAPE = "the weights and the optimizer's state in a checkpoint have the shape of the model"
_STATE = "a checkpoint has the state of the optimizer that wrote it"
_PLAN = "a budget chooses the model's size, and a checkpoint has that size"
_BASE = "a run is tied to its base"
_TOKENS = "the ids in the rows would mean different tokens to the model"
_LABELS = "a classifier's head has one row per label"
CANNOT_CHANGE = {
    **dict.fromkeys(("family", "depth", "size", "config_overrides"), _SHAPE),
    **dict.fromkeys(("method", "lora_rank", "lora_targets", "dora", "quantization"), _SHAPE),
    **dict.fromkeys(("optimizer", "optim", "optim_target_modules", "deepspeed"), _STATE),
    **dict.fromkeys(("time_budget", "token_budget", "flop_budget", "plan"), _PLAN),
    **dict.fromkeys(("model", "base", "revision"), _BASE),
    **dict.fromkeys(("tokenizer", "prompt_style"), _TOKENS),
    **dict.fromkeys(("labels", "label_column", "label_delimiter", "min_label_count", "max_labels"), _LABELS),
}


@dataclass
class ResumeKeys(RecipeArguments):
    """Whether and from where a run resumes, and what may differ."""

    resume: str = output_key(
        AUTO, "Resume from the newest complete checkpoint in output_dir (auto), from the checkpoint in this folder, or never."
    )
    allow_change: list[str] = output_key([], "Keys that may differ from those of the run in output_dir; also rows.")

    def check_resuming(self, known: Collection[str]) -> None:
        """Refuse unknown keys and keys that cannot change. Raises: UserError.

        Args: `known` are the keys of the recipe.
        """
        if self.resume not in (AUTO, NEVER):
            expand_home(self, "resume")
            if not Path(self.resume).is_dir():
                raise UserError(f"resume is {self.resume!r}; allowed: auto, never, or the folder of a checkpoint of this run.")
        for name in self.allow_change:
            if name in CANNOT_CHANGE:
                raise UserError(
                    f"allow_change has {name}, which cannot change within a run: {CANNOT_CHANGE[name]}; give another --output_dir."
                )
            if name not in known and name not in (ROWS, ROWS_PER_STEP):
                near = nearest(name, [*known, ROWS, ROWS_PER_STEP])
                raise UserError(f"allow_change has {name!r}, which is not a key" + (f"; did you mean {near!r}?" if near else "."))


def is_allowed(field: str, allowed: Sequence[str]) -> bool:
    """Whether `--allow_change` names the field or, for the rows per step, one of the keys that determine them."""
    return field in allowed or (field == ROWS_PER_STEP and any(key in allowed for key in LAYOUT))
