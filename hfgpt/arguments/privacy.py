"""The keys for personal data and secrets in documents."""

from dataclasses import dataclass
from typing import Any, Literal

from hfgpt.arguments.keys import RecipeArguments, hygiene_key
from hfgpt.errors import UserError
from hfgpt.files import expand_home

PERSONAL_DATA_TYPES = ("email", "phone", "ip_address", "card_number", "iban")
# Countries whose phone numbers differ from amounts and dates by a leading zero or, in North America, by their groups. In Spain or
# Norway any nine or eight digits may be a phone number, and texts are full of those.
PHONE_REGIONS = ("US", "GB", "IE", "AU", "DE", "AT", "CH", "FR", "NL", "SE")
PERSONAL_DATA_HELP = (
    "What to do with e-mail addresses, phone numbers and the like: 'keep' (default), 'mask' replaces them with <EMAIL>, <PHONE>, "
    "..., 'drop' drops the document."
)
PRIVACY_DEFAULTS = {
    "personal_data": "keep",
    "personal_data_types": list(PERSONAL_DATA_TYPES),
    "phone_regions": list(PHONE_REGIONS),
    "secrets": "keep",
    "privacy_model": None,
}


@dataclass
class PrivacyKeys(RecipeArguments):
    """What happens to personal data and secrets; None and [] mean not given."""

    personal_data: Literal["keep", "mask", "drop"] | None = hygiene_key(None, PERSONAL_DATA_HELP)
    personal_data_types: list[str] = hygiene_key([], f"What to look for: {', '.join(PERSONAL_DATA_TYPES)} (default: all).")
    phone_regions: list[str] = hygiene_key(
        [],
        f"Countries whose national phone numbers to look for; numbers that begin with + are always found. Default: "
        f"{' '.join(PHONE_REGIONS)}.",
    )
    secrets: Literal["keep", "mask", "drop"] | None = hygiene_key(
        None, "What to do with API keys, tokens and private keys: 'keep' (default), 'mask' (<SECRET>) or 'drop'."
    )
    privacy_model: str | None = hygiene_key(
        None,
        "Folder or Hub id of a token classifier, such as openai/privacy-filter, whose findings are treated as set by "
        "personal_data.",
    )

    def check_privacy(self) -> None:
        """Raises: UserError for unknown types and countries."""
        expand_home(self, "privacy_model")
        unknown = [name for name in self.personal_data_types if name not in PERSONAL_DATA_TYPES]
        if unknown:
            raise UserError(f"personal_data_types has {unknown[0]!r}; allowed: {', '.join(PERSONAL_DATA_TYPES)}.")
        if wrong := [region for region in self.phone_regions if not (len(region) == 2 and region.isascii() and region.isupper())]:
            raise UserError(f"phone_regions has {wrong[0]!r}; a country is two capital letters, such as US or GB.")

    def privacy(self) -> dict[str, Any]:
        """The values of `hfgpt.hygiene.privacy.privacy_steps`."""
        return self.values_of(*PRIVACY_DEFAULTS)
