"""The keys of a pretraining run that is given a budget of time, tokens or FLOPs and chooses everything else from it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hfgpt.arguments.keys import RecipeArguments, training_key
from hfgpt.arguments.mappings import read_mapping
from hfgpt.errors import UserError

# The budgets and their units.
BUDGETS = {"time_budget": "seconds", "token_budget": "tokens", "flop_budget": "FLOPs"}
# The other keys that set the length of a run.
LENGTHS = ("max_steps", "num_train_epochs")


@dataclass
class BudgetKeys(RecipeArguments):
    """How much a run may use; whatever else is not given is chosen to fit.

    Attributes: `plan` has three parts: the budget `asked` for, the keys that were `chosen`, and the `expected` outcome.
    """

    time_budget: float | None = training_key(
        None,
        "Seconds the whole command may take, including startup, evaluations, checkpoints and the test; size, batch, steps and "
        "learning rates are chosen for this machine and text unless you give them.",
    )
    token_budget: float | None = training_key(None, "The same with a number of training tokens, such as 2e6.")
    flop_budget: float | None = training_key(None, "The same with a number of floating-point operations of training, such as 1e15.")
    plan: dict | str | None = training_key(
        None, "What a budget chose, as stored in run.yaml; a run that has a plan measures nothing."
    )

    def check_budget(self, explicit: Collection[str], *, overrides: Mapping[str, object]) -> None:
        """Refuse budgets that contradict each other, another length key, or the plan.

        Args:
            explicit: the keys that were given, whatever their values.
            overrides: the fields of the model that were given.
        Raises: UserError.
        """
        self.plan = read_mapping(self.plan, "plan", example="{asked: {time_budget: 180}, chosen: {depth: 4}, expected: {}}")
        budgets = self.budget()
        if len(budgets) > 1:
            raise UserError(
                f"{' and '.join(budgets)} are both given, but only one can set the length of the run; leave the other out."
            )
        for name, value in budgets.items():
            if not value > 0:
                raise UserError(f"{name} is {value}; it must be a number of {BUDGETS[name]} above 0.")
            if length := next((length for length in LENGTHS if length in explicit), None):
                both = f"{length} is {getattr(self, length)} and {name} is {value:g}"
                raise UserError(f"{both}; each sets the length of the run, so leave one of them out.")
        if self.plan is not None:
            self._check_plan(self.plan, explicit, overrides)

    def _check_plan(self, plan: Any, explicit: Collection[str], overrides: Mapping[str, object]) -> None:
        if not all(isinstance(plan.get(part), dict) for part in ("asked", "chosen", "expected")):
            raise UserError("plan needs the parts asked, chosen and expected, as in the run.yaml of a run with a budget.")
        if self.budget() != plan["asked"]:
            asked, given = (
                ", ".join(f"{name} {value:g}" for name, value in each.items()) or "no budget"
                for each in (plan["asked"], self.budget())
            )
            raise UserError(f"plan was made for {asked}, but you gave {given}; leave plan out to get a new one.")
        of_the_plan = plan["chosen"].get("config_overrides", {})
        kept = {"cpu_threads"}  # a key of the machine, as in `within_budget`
        if all(of_the_plan.get(name) == value for name, value in overrides.items()):
            kept.add("config_overrides")
        if other := next((name for name in plan["chosen"] if name in explicit and name not in kept), None):
            raise UserError(
                f"{other} is given, but plan has already chosen it; leave plan out to have a new one made around {other}."
            )

    def budget(self) -> dict[str, float]:
        """The budget by its key; empty if none was given."""
        return {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}
