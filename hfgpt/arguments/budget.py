"""The keys of a pretraining that is given time, tokens or arithmetic, and chooses everything else from them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hfgpt.arguments.keys import RecipeArguments, training_key
from hfgpt.arguments.mappings import read_mapping
from hfgpt.errors import UserError

# The budgets, and what each is counted in.
BUDGETS = {"time_budget": "seconds", "token_budget": "tokens", "flop_budget": "FLOPs"}
# What else says how long a run is.
LENGTHS = ("max_steps", "num_train_epochs")


@dataclass
class BudgetKeys(RecipeArguments):
    """How much a run may take; what is not given beside it is chosen to fit.

    Attributes: `plan` has three parts: the budget that was `asked`, the keys that were `chosen`, and what is `expected` of them.
    """

    time_budget: float | None = training_key(
        None,
        "Seconds that the command may take, its start, evaluations, checkpoints and test included; size, batch, steps and rates "
        "are chosen for this machine and text, but for those that are given.",
    )
    token_budget: float | None = training_key(None, "The same for so many tokens that are learned from, such as 2e6.")
    flop_budget: float | None = training_key(None, "The same for so many floating-point operations of training, such as 1e15.")
    plan: dict | str | None = training_key(None, "What a budget chose, as run.yaml keeps it; a run that has it measures nothing.")

    def check_budget(self, explicit: Collection[str], *, overrides: Mapping[str, object]) -> None:
        """Refuse budgets that contradict each other, another length, or the plan.

        Args:
            explicit: the keys that were given, whatever their values.
            overrides: the fields of the model that were given.
        Raises: UserError.
        """
        self.plan = read_mapping(self.plan, "plan", example="{asked: {time_budget: 180}, chosen: {depth: 4}, expected: {}}")
        budgets = self.budget()
        if len(budgets) > 1:
            raise UserError(f"{' and '.join(budgets)} are given; one of them decides how long the run is, leave the other out.")
        for name, value in budgets.items():
            if not value > 0:
                raise UserError(f"{name} is {value}; {BUDGETS[name]} above 0 are needed.")
            if length := next((length for length in LENGTHS if length in explicit), None):
                both = f"{length} is {getattr(self, length)} and {name} is {value:g}"
                raise UserError(f"{both}; each says how long the run is, leave one of them out.")
        if self.plan is not None:
            self._check_plan(self.plan, explicit, overrides)

    def _check_plan(self, plan: Any, explicit: Collection[str], overrides: Mapping[str, object]) -> None:
        if not all(isinstance(plan.get(part), dict) for part in ("asked", "chosen", "expected")):
            raise UserError("plan needs the parts asked, chosen and expected, as run.yaml of a run with a budget has them.")
        if self.budget() != plan["asked"]:
            asked, given = (
                ", ".join(f"{name} {value:g}" for name, value in each.items()) or "no budget"
                for each in (plan["asked"], self.budget())
            )
            raise UserError(f"plan was made for {asked}, given is {given}; leave plan out for a new one.")
        of_the_plan = plan["chosen"].get("config_overrides", {})
        kept = {"config_overrides"} if all(of_the_plan.get(name) == value for name, value in overrides.items()) else set()
        if other := next((name for name in plan["chosen"] if name in explicit and name not in kept), None):
            raise UserError(f"{other} is given, and plan has chosen it; leave plan out, and another one is made around {other}.")

    def budget(self) -> dict[str, float]:
        """The budget by its key; empty where none was given."""
        return {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}
