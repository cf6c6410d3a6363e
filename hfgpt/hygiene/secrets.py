"""API keys, tokens and private keys in text: one table of patterns for training data and for publishing (hub/gate/scan.py).

The table contains what hfgpt finds without further packages. Documents are also searched with those plugins of detect-secrets (`pip
install 'hfgpt[data]'`) whose patterns identify keys by themselves; its entropy and keyword plugins are left out, because on text
they report hashes, identifiers and prose.
"""

import functools
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hfgpt.arguments.publishing import TOKEN
from hfgpt.data.steps import Outcome
from hfgpt.errors import require
from hfgpt.hygiene.masking import Found, outcome

# A pattern only matches at the beginning of a word, so that a long run is checked once, not at each position. If only part of the
# match is the secret, it is the group `secret`.
SECRETS = {
    "a Hugging Face token": TOKEN.pattern,
    "an API key (sk-...)": r"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{20,}",
    "an AWS key": r"(?<![A-Za-z0-9])(AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])",
    "an AWS secret key": r"(?i:aws_?secret_?(?:access_?)?key)[\"']?\s{0,4}[:=]{1,2}>?\s{0,4}[\"']?"
    r"(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    "an Azure storage key": r"(?<![A-Za-z0-9])AccountKey=(?P<secret>[A-Za-z0-9+/=]{88})",
    "a GitHub token": r"(?<![A-Za-z0-9])(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "a GitLab token": r"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"(?<![A-Za-z0-9])(?:xox[abprs]-(?=[A-Za-z-]{0,40}\d)[A-Za-z0-9-]{10,}"
    r"|xapp-\d-[A-Z0-9]{8,}-\d{8,}-[A-Za-z0-9]{20,})",
    "a Google key": r"(?<![A-Za-z0-9])AIza[0-9A-Za-z_-]{35}",
    "an npm token": r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])",
    "a JSON Web Token": r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",
    "a bearer token": r"(?i:\bbearer)\s{1,4}(?=[A-Za-z._~+/-]{0,40}\d)(?P<secret>[A-Za-z0-9._~+/-]{19,}[A-Za-z0-9_-]=*)",
    "a password in a URL": r"://[^\s/?#@:]{0,64}:(?P<secret>[^\s/?#@]{3,128})@",
    "a private key": r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
}
# Secrets recognizable by their own form. The others need context, and documentation is full of made-up ones.
BY_SHAPE = {what: pattern for what, pattern in SECRETS.items() if "?P<secret>" not in pattern}
PRIVATE_KEY = "a private key"
_PATTERNS = {what: re.compile(pattern) for what, pattern in SECRETS.items()}
# Plugins of detect-secrets that SECRETS does not cover and whose whole match is the secret.
PLUGINS = {
    "a Discord token": ("discord", "DiscordBotTokenDetector"),
    "a GitLab token": ("gitlab_token", "GitLabTokenDetector"),
    "a Mailchimp key": ("mailchimp", "MailchimpDetector"),
    "a PyPI token": ("pypi_token", "PypiTokenDetector"),
    "a SendGrid key": ("sendgrid", "SendGridDetector"),
    "a Slack token": ("slack", "SlackDetector"),  # webhooks too
    "a Square key": ("square_oauth", "SquareOAuthDetector"),
    "a Stripe key": ("stripe", "StripeDetector"),
    "a Telegram token": ("telegram_token", "TelegramBotTokenDetector"),
    "a Twilio key": ("twilio", "TwilioKeyDetector"),
}
# Keys can only be in words of at least this length. All patterns together cost about 20 microseconds, and most words are short.
_SHORTEST = 16
_LONG_WORD = re.compile(rf"\S{{{_SHORTEST},}}")
_MIXED = re.compile(r"[0-9]|[a-z][A-Z]|://|A[KS]IA")  # unlike words joined by a dash or a slash
_BEFORE = 48  # characters before a long word that may say what it is: "Authorization: Bearer", "aws_secret_access_key ="
_REST = re.compile(r"(?:[A-Za-z0-9_-]{0,255}[A-Za-z0-9])?")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}-----")
_KEY_LINES = re.compile(r"(?:(?:\s|\\n)+[A-Za-z0-9+/=:,.-]{8,})*")
_LONGEST_KEY = 20_000  # characters; RSA with 16,384 bits has 12,700
_FEWEST_CHARACTERS = 8  # distinct characters: hf_xxxxxxxxxxxxxxxxxxxx is a placeholder; 34 random letters contain about 20
_STAND_INS = frozenset(("password", "passwd", "pass", "pwd", "secret", "token", "xxx", "xxxx", "xxxxx", "***", "...", "changeme"))
_TEMPLATE = re.compile(r"[<{$%\[*]|x{4,}", re.IGNORECASE)


@functools.cache  # once per process
def _plugins() -> tuple[tuple[str, re.Pattern], ...]:
    found = []
    for what, (module, name) in PLUGINS.items():
        plugin = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)
        found += [(what, pattern) for pattern in plugin.denylist]
    return tuple(found)


def find_secrets(text: str) -> Iterator[Found]:
    """The positions of keys and tokens; they may overlap.

    Cost: linear; a text is first checked for long words, and skipped if there are none.
    Source: patterns of detect-secrets 1.5 and the makers' documentation.
    """
    if "PRIVATE KEY" in text:
        for match in _PATTERNS[PRIVATE_KEY].finditer(text):
            yield Found(match.start(), _end_of_key(text, match.end()), "secret", PRIVATE_KEY)
    if not any(len(word) >= _SHORTEST for word in text.split()):  # twice as fast as to search for the first
        return
    for word in _LONG_WORD.finditer(text):
        if not _MIXED.search(text, *word.span()):
            continue
        start = max(word.start() - _BEFORE, 0)
        piece = text[start : word.end()]
        for what, pattern in (*_PATTERNS.items(), *_plugins()):
            if what == PRIVATE_KEY:
                continue
            for match in pattern.finditer(piece):
                group = "secret" if "secret" in pattern.groupindex else 0
                first, last = match.span(group)
                if group == 0:
                    # The pattern has a length that keys used to have; the rest of a longer key belongs to it, too.
                    rest = _REST.match(piece, last)
                    assert rest is not None  # it also matches an empty string
                    last = rest.end()
                    if first and piece[first].isalnum() and piece[first - 1].isascii() and piece[first - 1].isalnum():
                        continue  # the middle of a longer word, a hash or an image
                if not _is_stand_in(piece[first:last]):
                    yield Found(start + first, start + last, "secret", what)


def _is_stand_in(value: str) -> bool:
    """Whether this is only a placeholder in documentation: `hf_xxxx`, `user:password@`, `${TOKEN}`."""
    lower = value.lower()
    return lower in _STAND_INS or bool(_TEMPLATE.match(value)) or (len(value) >= 20 and len(set(lower)) < _FEWEST_CHARACTERS)


def _end_of_key(text: str, start: int) -> int:
    """The end of a private key whose first line ends at `start`: its last line, or the last key-like line if that is missing."""
    end = text.find("-----END ", start, start + _LONGEST_KEY)
    if end >= 0 and (last := _KEY_END.match(text, end)):
        return last.end()
    lines = _KEY_LINES.match(text, start, start + _LONGEST_KEY)
    return lines.end() if lines else start


@dataclass(frozen=True)
class Secrets:
    """The step for keys and tokens. Args: `action` is "mask" or "drop". Raises: UserError without detect-secrets."""

    action: str
    name = "secrets"  # without an annotation, it is not a field

    def __post_init__(self):
        require("detect_secrets", extra="data", purpose="finding secrets needs detect-secrets")

    @property
    def settings(self) -> dict[str, object]:
        """For the passport."""
        return {"action": self.action, "kinds": sorted({*SECRETS, *PLUGINS})}

    def __call__(self, text: str) -> Outcome:
        """The text without its secrets, or None."""
        return outcome(text, find_secrets(text), self.action)
