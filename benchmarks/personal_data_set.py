"""A set for measuring finders of personal data and secrets: true values and look-alikes of each type, each within a text."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import personal_data_values as values
from personal_data_look_alikes import LOOK_ALIKES

Maker = Callable[[Random], str]
TRUE: dict[str, dict[str, Maker]] = {
    "email": {
        "plain": values.email,
        "plain, again": values.email,
        "tagged": values.email_tagged,
        "capitals": values.email_upper,
        "rare characters": values.email_atoms,
        "international": values.email_international,
        "quoted": values.email_quoted,
        "spelled out": values.email_spelled,
    },
    "phone": {
        "national, US": values.phone_us_national,
        "international, US": values.phone_us_international,
        "national": values.phone_national,
        "international": values.phone_international,
        "digits only": values.phone_digits,
        "with extension": values.phone_extension,
    },
    "ip_address": {
        "IPv4": values.ipv4,
        "IPv4, again": values.ipv4,
        "IPv6": values.ipv6,
        "IPv6, capitals": values.ipv6_full,
        "IPv6, short": values.ipv6_short,
    },
    "card_number": {
        "groups": values.card_grouped,
        "digits": values.card_plain,
        "14 or 15 digits": values.card_short,
        "19 digits": values.card_long,
    },
    "iban": {"groups": values.iban_grouped, "in one": values.iban_plain, "lower case": values.iban_lower},
    "secret": dict(values.TOKENS),
}

# The text around a value; `{}` is the value or the look-alike.
AROUND = (
    "{}",
    "{}.",
    "({})",
    "{}, and that was all",
    '"{}"',
    "as follows: {}\n",
    "{}; see below",
    "| {} | yes | 12 |",
    "<td>{}</td>",
    "{}\n\nRegards",
)
FRAMES: dict[str, tuple[str, ...]] = {
    "email": (
        "Write to {}",
        "Contact: {}",
        "From: Anna Berg <{}>",
        "Schreiben Sie an {}",
        "mailto:{}",
        '{{"user": "{}", "age": 41}}',
        "See {} for more",
    ),
    "phone": (
        "Call {}",
        "Phone: {}",
        "Tel. {}",
        "Our office: {}",
        "You reach me at {}",
        "Telefon {}",
        "3,{},yes",
        "Fax {}",
        "Please ring {} tonight",
    ),
    "ip_address": (
        "Connection from {}",
        "Client {} asked for /index.html",
        "It answers at {}",
        "ping {}",
        "{} - - GET / 200",
        "host {} is down",
    ),
    "card_number": ("Card: {}", "Paid with {}", "Visa {}, valid to 12/29", "Kartennummer {}", "7;{};EUR", "the card number {}"),
    "iban": ("IBAN {}", "Please pay to {}", "Konto: {}", "Bank account {}", "2024-01-03;{};120,00 EUR", "an account, {}"),
    "secret": ("token = '{}'", "api_key: {}", "export KEY={}", "I pasted {} by mistake", '"key": "{}"', "Use {} here"),
}
LOOK_ALIKE_FRAMES = ("See {}", "It was {}", "The value {} is right", "number {}", "{}", "we noted {}", "    x = {}", "id: {}")
# A number without separators could be anything: the words before it make it a phone number.
OWN_FRAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("phone", "digits only"): ("Call {}", "Phone: {}", "Tel. {}", "Telefon {}", "Fax {}", "My mobile is {}", "WhatsApp {}"),
    ("secret", "private key"): ("{}", "the key:\n{}", "cat id_rsa\n{}"),
    ("secret", "AWS secret"): (
        "aws_secret_access_key = {}",
        'AWS_SECRET_ACCESS_KEY="{}"',
        "aws_secret_key: '{}'",
        "export AWS_SECRET_ACCESS_KEY={}",
    ),
    ("secret", "password in a URL"): ("https://admin:{}@db.example.org/x", "postgres://app:{}@10.0.0.3:5432/shop"),
    ("secret", "Azure storage"): ("DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={};EndpointSuffix=core.windows.net",),
    ("secret", "bearer"): ('curl -H "Authorization: Bearer {}" https://api.example.org', "Authorization: Bearer {}"),
}
PROSE = (
    "The ship left the harbour in 1851 with a crew of forty.",
    "Nobody had expected the rain to last until the evening.",
    "Der Zug nach Ulm hatte am Montag zwanzig Minuten Verspätung.",
    "In total, 1,250 people took part; 37 of them came twice.",
    "Le marché ouvre à huit heures et ferme avant midi.",
    "def area(radius):\n    return 3.14159 * radius ** 2",
    "She closed the book, and for a while she said nothing.",
    "Los resultados de la prueba se publicarán en abril.",
    "Install it with pip, then restart the service.",
    "He had paid $12.50 for it, or so he told us.",
)


@dataclass(frozen=True)
class Sample:
    """Args: `value` is to be found in `text`, None for a look-alike; `form` is the kind of value or look-alike."""

    type: str
    form: str
    text: str
    value: str | None


def in_text(draw: Random, frames: tuple[str, ...], value: str) -> str:
    before, after = ("" if draw.random() < 0.25 else draw.choice(PROSE) + draw.choice((" ", "\n", "\n\n")) for _ in range(2))
    # Words follow without a full stop only if the sentence ends with the value.
    sentence = draw.choice(AROUND).format(draw.choice(frames).format(value))
    return f"{before}{sentence}\n{after}" if after else before + sentence


def make_set(*, size: int = 500, seed: int = 0) -> list[Sample]:
    """`size` true values and `size` look-alikes of each type, the forms of a type in equal shares."""
    samples = []
    for kind, forms in TRUE.items():
        draw = Random(f"{seed} {kind}")
        for number in range(size):
            form = list(forms)[number % len(forms)]
            value = forms[form](draw)
            samples.append(Sample(kind, form, in_text(draw, OWN_FRAMES.get((kind, form), FRAMES[kind]), value), value))
        others = LOOK_ALIKES[kind]
        for number in range(size):
            form = list(others)[number % len(others)]
            samples.append(Sample(kind, form, in_text(draw, LOOK_ALIKE_FRAMES, others[form](draw)), None))
    return samples
