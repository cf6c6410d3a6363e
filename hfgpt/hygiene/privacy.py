"""The steps for personal data and secrets, as configured by the recipes' keys."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from hfgpt.data.steps import TextStep
from hfgpt.hygiene.personal_data import PersonalData
from hfgpt.hygiene.secrets import Secrets


def privacy_steps(
    *,
    personal_data: str,
    personal_data_types: Sequence[str],
    phone_regions: Sequence[str],
    secrets: str,
    privacy_model: str | None,
) -> list[TextStep]:
    """Secrets first, so that part of a password in a URL is not mistaken for an e-mail address; then patterns, then the model.

    Args: see hfgpt/arguments/privacy.py; "keep" leaves a step out.
    Raises: UserError if a package or the model is missing.
    """
    steps: list[TextStep] = []
    if secrets != "keep":
        steps.append(Secrets(secrets))
    if personal_data != "keep":
        steps.append(PersonalData(personal_data, tuple(personal_data_types), tuple(phone_regions)))
    if privacy_model and personal_data != "keep":
        from hfgpt.hygiene.privacy_model import ModelFinder

        steps.append(ModelFinder(personal_data, privacy_model))
    return steps


def concealing(steps: Sequence[TextStep]) -> Callable[[str], str]:
    """A function that masks everything these steps search for, for dropped documents that are kept for inspection."""
    masks = [replace(step, action="mask") for step in steps]  # pyright: ignore[reportArgumentType]  # all are dataclasses

    def conceal(text: str) -> str:
        for mask in masks:
            text = mask(text).text or ""
        return text

    return conceal
