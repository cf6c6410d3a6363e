"""The keys for personal data and secrets in documents."""

from dataclasses import dataclass
from typing import Any, Literal

from hfgpt.arguments.keys import RecipeArguments, hygiene_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home

PERSONAL_DATA_TYPES = ("email", "phone", "ip_address", "card_number", "iban")
# Countries whose numbers are told from sums and dates by a leading zero or, in North America, by their groups. In Spain or Norway
# nine or eight digits are a number, and a text is full of such.
PHONE_REGIONS = ("US", "GB", "IE", "AU", "DE", "AT", "CH", "FR", "NL", "SE")
PRIVACY_DEFAULTS = {
    "personal_data": "keep",
    "personal_data_types": list(PERSONAL_DATA_TYPES),
    "phone_regions": list(PHONE_REGIONS),
    "secrets": "keep",
    "privacy_model": None,
}


@dataclass
class PrivacyKeys(RecipeArguments):
    """What becomes of personal data and secrets; None and [] were not given."""

    personal_data: Literal["keep", "mask", "drop"] | None = hygiene_key(
        None,
        "What becomes of e-mail addresses, phone numbers and the like: 'keep' (without it), 'mask' puts <EMAIL>, <PHONE>, ... in "
        "their place, 'drop' leaves the document out.",
    )
    personal_data_types: list[str] = hygiene_key([], f"What is looked for: {', '.join(PERSONAL_DATA_TYPES)}; all of it without it.")
    phone_regions: list[str] = hygiene_key(
        [],
        "Countries whose national phone numbers are looked for; numbers that begin with + always are. Without it "
        f"{' '.join(PHONE_REGIONS)}.",
    )
    secrets: Literal["keep", "mask", "drop"] | None = hygiene_key(
        None, "What becomes of keys, tokens and private keys: 'keep' (without it), 'mask' (<SECRET>) or 'drop'."
    )
    privacy_model: str | None = hygiene_key(
        None, "Folder or Hub id of a token classifier, as openai/privacy-filter, whose finds are treated as personal_data says."
    )

    def check_privacy(self) -> None:
        """Raises: UserError for types and countries that nobody knows."""
        expand_home(self, "privacy_model")
        unknown = [name for name in self.personal_data_types if name not in PERSONAL_DATA_TYPES]
        if unknown:
            raise UserError(f"personal_data_types names {unknown[0]!r}; allowed are {', '.join(PERSONAL_DATA_TYPES)}.")
        if wrong := [region for region in self.phone_regions if not (len(region) == 2 and region.isascii() and region.isupper())]:
            raise UserError(f"phone_regions names {wrong[0]!r}; a country is two capital letters, as US or GB.")

    def privacy(self) -> dict[str, Any]:
        """The values of `hfgpt.hygiene.privacy.privacy_steps`."""
        return self.values_of(*PRIVACY_DEFAULTS)
