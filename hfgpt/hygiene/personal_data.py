"""Personal data in text: e-mail addresses, phone numbers, public IP addresses, payment cards and bank accounts.

Patterns alone find far too much in texts full of dates, amounts, versions and ISBNs. So each finder verifies its matches: cards and
accounts by check digits, issuers and lengths (python-stdnum), phone numbers by the numbering plans of their countries
(phonenumbers, the Python version of Google's libphonenumber), and IP addresses by whether they are public. Findings are counted by
type and never shown.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hfgpt.arguments.privacy import PERSONAL_DATA_TYPES, PHONE_REGIONS
from hfgpt.data.shingles import WITHOUT_SPACES
from hfgpt.data.steps import Outcome
from hfgpt.errors import UserError, require
from hfgpt.hygiene.masking import Found, outcome

Place = tuple[int, int]
# The patterns below start with a digit and only then check what precedes it: in that order, a search is four times as fast.
_TWO_DIGITS = re.compile(r"[0-9]\D?[0-9]")  # a text without them, like most prose, has no number to check

# --- E-mail addresses. Of the characters that RFC 5322 allows before the @, those that are separators in URLs and code are
# excluded.
_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in WITHOUT_SPACES)
_LONGEST_LOCAL = 64  # characters; RFC 5321, 4.5.3.1.1
_LOCAL = re.compile(r"(?:\"[^\"\\\r\n]{1,62}\"|\w(?:[\w.+'!%~$-]*[\w+~$-])?)\Z")
# After an ASCII address, text in a script without spaces may follow at once, or the underscore of Markdown's italics.
_DOMAIN = re.compile(
    r"(?:\w(?:[\w-]{0,61}\w)?\.){1,8}"
    rf"(?:[A-Za-z]{{2,24}}(?=[{_UNSPACED}]|_(?!\w))|(?:xn--[A-Za-z0-9-]{{2,40}}|[^\W\d_]{{2,24}})(?![\w@(]|-\w))"
)
_BEHIND_UNSPACED = re.compile(rf".*[{_UNSPACED}](?=[A-Za-z0-9])", re.DOTALL)
_FILE = re.compile(r"\dx\.(?:png|jpe?g|gif|webp|svg|avif|bmp|ico)\Z", re.IGNORECASE)  # icon@2x.png
_REMOTE = re.compile(r":[\w~.-]+/")  # git@host:owner/name
_CREDENTIALS = re.compile(r"//[^\s/?#@]*\Z")  # //user:password@host
_SPELLED_AT, _SPELLED_DOT = r"(?:\s?[\[(](?:at|@)[\])]\s?|\s(?-i:AT)\s)", r"(?:\s?[\[(](?:dot|\.)[\])]\s?|\s(?-i:DOT)\s)"
_SPELLED = re.compile(
    rf"\b\w[\w.+-]{{0,63}}(?:{_SPELLED_DOT}[\w-]{{1,40}}){{0,3}}{_SPELLED_AT}[\w-]{{1,63}}(?:{_SPELLED_DOT}[\w-]{{2,63}}){{1,4}}",
    re.IGNORECASE,
)
_SPELLED_SIGNS = ("dot]", "dot)", "DOT")  # one of them is in what _SPELLED finds, but for [.], which is rare


def find_emails(text: str) -> Iterator[Place]:
    """Ordinary addresses, and those written with [at] and [dot]."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        local = _LOCAL.search(text, max(0, at - _LONGEST_LOCAL), at) if domain else None
        if local and domain:
            before = text[max(0, local.start() - 80) : local.start()]
            is_remote = local.group() == "git" or _REMOTE.match(text, domain.end())
            if not is_remote and not _FILE.match(domain.group()) and not _CREDENTIALS.search(before):
                ahead = _BEHIND_UNSPACED.match(local.group())
                yield local.start() + (ahead.end() if ahead else 0), domain.end()
        at = text.find("@", at + 1)
    if any(sign in text for sign in _SPELLED_SIGNS):
        for match in _SPELLED.finditer(text):
            yield match.span()


# --- IP addresses
_IPV4 = re.compile(r"[0-9](?<![\w.].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9A-Za-z])")
# Global addresses begin with 2000::/3, so dead::beef in a text about C++ is ignored.
_IPV6 = re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?!\w|\.[0-9])")
# After these words, four numbers with dots are a version, a section or an object identifier.
_NUMBERING = re.compile(
    r"(?:(?:\b(?:v|ver|version|rel|release|build|firmware|driver|update|sec|sect|section|ch|chapter|fig|figure|table|clause|article|art"
    r"|para|paragraph|annex|appendix|oid)|§)[.:]?\s{0,2}|[A-Za-z][/_-]|[=~<>!]=\s?|(?<![\w/\"'])[<>~^]\s?)\Z",
    re.IGNORECASE,
)


def find_ip_addresses(text: str) -> Iterator[Place]:
    """Publicly routable addresses; private and documentation addresses and masks belong to nobody."""
    for match in _IPV4.finditer(text):
        if _is_public(match.group()) and not _NUMBERING.search(text, max(0, match.start() - 14), match.start()):
            yield match.span()
    for match in _IPV6.finditer(text):
        written = match.group() if match.group().endswith("::") else match.group().rstrip(":")
        if _is_public(written):
            yield match.start(), match.start() + len(written)


def _is_public(written: str) -> bool:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


# --- Payment cards: issuers and lengths of ISO/IEC 7812 as published by the networks
_CARD = re.compile(
    r"[0-9](?<![\w.+-].)(?:[0-9]{12,18}|[0-9]{3}([ \u00a0-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?"
    r"|[0-9]{3}([ \u00a0-])[0-9]{6}\2[0-9]{4,5})(?!\w)"
)
# Between other numbers, digits with a valid check digit are most likely a row of a table; but a card may stand beside its expiry
# date, or the date and time of a payment.
_WHEN = (
    r"(?:[12][0-9]{3}-[01][0-9]-[0-3][0-9]|[0-3]?[0-9](?:/[01]?[0-9]/|\.[01]?[0-9]\.)(?:[0-9]{2}){1,2}"
    r"|(?:0?[1-9]|1[0-2])\s?/\s?(?:[0-9]{2}){1,2})"
)
_FIGURE_BEFORE = re.compile(r"[0-9] \Z")
_WHEN_BEFORE = re.compile(rf"(?<![\w.,/-])(?:{_WHEN}|(?:{_WHEN}[T ])?[0-2]?[0-9]:[0-5][0-9](?::[0-5][0-9])?) \Z")
_FIGURE_AFTER = re.compile(rf"[ .-](?=[0-9])(?!{_WHEN}(?![\w/]))")
_ISSUER = re.compile(
    r"(?:4(?:.{12}|.{15}|.{18})"  # Visa
    r"|(?:5[1-5].{2}|222[1-9]|22[3-9].|2[3-6].{2}|27[01].|2720).{12}"  # Mastercard
    r"|3[47].{13}"  # American Express
    r"|(?:6011.{2}|64[4-9].{3}|65.{4}).{10}(?:.{3})?"  # Discover
    r"|(?:30[0-5].|309.|36..|3[89]..).{10}(?:.{2})?"  # Diners Club
    r"|35(?:2[89]|[3-8].).{12}(?:.{3})?"  # JCB
    r"|62.{14}(?:.{3})?"  # UnionPay
    r"|(?:50|5[6-9]|6[37]).{14})\Z"  # Maestro, only the length of cards in use
)


def find_cards(text: str) -> Iterator[Place]:
    """Card numbers, with or without the usual grouping, whose issuer, length and check digit are valid."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        number = re.sub(r"[^0-9]", "", match.group())
        if _ISSUER.match(number) and luhn.is_valid(number) and not _is_in_a_row(text, *match.span()):
            yield match.span()


def _is_in_a_row(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 24) : start]
    return bool(_FIGURE_AFTER.match(text, end) or (_FIGURE_BEFORE.search(before) and not _WHEN_BEFORE.search(before)))


# --- Bank accounts
_IBAN = re.compile(r"[0-9]{2}(?<=(?<!\w)(?:[A-Z]{2}|[a-z]{2})..)(?:[ \u00a0-]?[A-Za-z0-9]){11,30}")
_GROUP_END = re.compile(r"[A-Za-z0-9](?![A-Za-z0-9_])")


def find_ibans(text: str) -> Iterator[Place]:
    """International account numbers whose country, length, structure and check digits (mod 97) are valid."""
    from stdnum import iban

    for match in _IBAN.finditer(text):
        # Following words may look like further groups: the number ends at the end of one of them.
        start = match.start() - 2
        for last in _GROUP_END.finditer(text, start + 14, match.end()):
            if iban.is_valid(text[start : last.end()].replace("\u00a0", " "), check_country=False):
                yield start, last.end()
                break


# --- Phone numbers
_BETWEEN = r"[ \u00a0().\-/\u2010-\u2013]{0,3}"  # between digits of one number
_PHONE = re.compile(rf"[+(0-9](?<![\w#$€£@+/-].)(?<![0-9]\..)(?:(?<=\()\+)?{_BETWEEN}(?:[0-9]{_BETWEEN}){{5,16}}[0-9](?!\w)")
_ROW = re.compile(rf"(?:[0-9]{_BETWEEN})*")
_LONGEST_ROW = 60  # digits; more of them without a comma, a word or the end of the line are a table of figures
_EXTENSION = 12  # characters after a number that may name an extension
_FEWEST_DIGITS = 9  # in a number with groups; shorter ones are local numbers, ISSNs and dates
_DATE = re.compile(r"[0-9]{1,2}([./-])[0-9]{1,2}\1(?:[0-9]{4}|[0-9]{2})\b|[12][0-9]{3}([./-])[01][0-9]\2[0-3][0-9]\b")
_DECIMAL = re.compile(r"\+?[0-9]+\.[0-9]+\Z")
# Without groups, any number looks like this, so a preceding word must say that it is a phone number.
_SAID = re.compile(
    r"\b(?:tel|tel[eé]phone?|telefono?|tel[eé]fono?|t[eé]l|phones?|call(?:ed)?|dial|ring|fax|mobile?|mobil|handy|cell(?:ular)?|m[oó]vil"
    r"|portable|whatsapp|signal|sms|text|hotline|helpline|durchwahl|rufnummer|rappele[rz]|appele[rz])\b[^0-9\n]{0,12}\Z",
    re.IGNORECASE,
)
# The beginnings of national numbers, by trunk prefix: a quick check that avoids the numbering plans for most numbers.
_NATIONAL = {
    "0": re.compile(r"\(?0[1-9(]"),
    "1": re.compile(r"(?:1[-. ]{0,2})?\(?[2-9][0-9]{2}[-. )/]{0,2}[2-9][0-9]{2}[-. /]?[0-9]{4}"),
}


@dataclass(frozen=True)
class PhoneFinder:
    """Phone numbers. Args: `regions` are the countries whose national numbers are searched; numbers with a + always are."""

    regions: tuple[str, ...] = PHONE_REGIONS

    def __call__(self, text: str) -> Iterator[Place]:
        """Cost: about 0.1 ms per country for each position that begins like one of its numbers."""
        match = _PHONE.search(text)
        while match:
            end = match.start()
            if _DATE.match(text, match.start()):
                end = match.end()
            elif (row := self._end_of_row(text, match)) is not None:
                end = row
            else:
                for start, end in self._within(text, match):
                    yield start, end
            # A finding may be followed by another number, whose beginning is in this match.
            match = _PHONE.search(text, end if end > match.start() else match.end())

    @staticmethod
    def _end_of_row(text: str, match: re.Match) -> int | None:
        """The end of a long row of figures that begins here; None if there is none."""
        if match.end() >= len(text) or text[match.end()].isalpha():
            return None
        row = _ROW.match(text, match.start())
        return row.end() if row and sum(map(str.isdigit, row.group())) > _LONGEST_ROW else None

    def _within(self, text: str, match: re.Match) -> list[Place]:
        """The numbers in a candidate match."""
        import phonenumbers

        written, (start, end) = match.group(), match.span()
        international = written.lstrip("(").startswith(("+", "00"))
        if _DECIMAL.match(written) or (written.isdigit() and not _SAID.search(text, max(0, start - 40), start)):
            return []
        window = text[start : end + _EXTENSION].partition("\n")[0]
        for region in self.regions:
            begins = _NATIONAL.get(phonenumbers.ndd_prefix_for_region(region, True) or "")
            if not international and begins and not begins.match(written):
                continue
            matcher = phonenumbers.PhoneNumberMatcher(window, region, leniency=phonenumbers.Leniency.STRICT_GROUPING, max_tries=10)
            found = [one for one in matcher if self._is_one(text, start + one.start, one.raw_string)]
            if found and (not international or found[0].start <= 1):
                return [(start + one.start, start + one.end) for one in found]
        return [(start, end)] if international and self._is_possible(written) else []

    @staticmethod
    def _is_one(text: str, start: int, written: str) -> bool:
        if written.startswith("+"):
            return True
        if written.isdigit():
            return bool(_SAID.search(text, max(0, start - 40), start))
        return sum(map(str.isdigit, written)) >= _FEWEST_DIGITS

    @staticmethod
    def _is_possible(written: str) -> bool:
        """Whether a number with a + or 00 has a valid country and length: plans grow, and ranges reserved for fiction are in
        none."""
        import phonenumbers

        if written.startswith("00"):
            if written.isdigit() or written.startswith("000"):
                return False
            written = f"+{written[2:]}"
        try:
            number = phonenumbers.parse(written.replace("(0)", ""), None)
        except phonenumbers.NumberParseException:
            return False
        return phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE


# By type, in order of precedence; the packages that a finder needs.
FINDERS: dict[str, Callable[[str], Iterator[Place]]] = {
    "iban": find_ibans,
    "card_number": find_cards,
    "ip_address": find_ip_addresses,
    "email": find_emails,
}
_PACKAGES = {"iban": "stdnum", "card_number": "stdnum", "phone": "phonenumbers"}


@dataclass(frozen=True)
class PersonalData:
    """The step for personal data.

    Args:
        action: "mask" or "drop".
        types: what to search for, from PERSONAL_DATA_TYPES.
        phone_regions: see `PhoneFinder`.
    Raises: UserError if packages for `types` are missing, and for a country without a numbering plan.
    """

    action: str
    types: tuple[str, ...] = PERSONAL_DATA_TYPES
    phone_regions: tuple[str, ...] = PHONE_REGIONS
    name = "personal data"  # without an annotation, it is not a field

    def __post_init__(self):
        for type in self.types:
            if type in _PACKAGES:
                module = require(_PACKAGES[type], extra="data", purpose=f"searching for {type} needs it")
                if type == "phone" and (unknown := sorted(set(self.phone_regions) - set(module.SUPPORTED_REGIONS))):
                    raise UserError(f"phone_regions has {unknown[0]!r}, which has no numbering plan; allowed: US, GB, DE, ...")

    @property
    def settings(self) -> dict[str, object]:
        """For the passport."""
        regions = {"phone_regions": list(self.phone_regions)} if "phone" in self.types else {}
        return {"action": self.action, "types": list(self.types), **regions}

    def find(self, text: str) -> Iterator[Found]:
        """The findings with their positions; they may overlap."""
        finders = {**FINDERS, "phone": PhoneFinder(self.phone_regions)}
        has_numbers = _TWO_DIGITS.search(text)
        for type, finder in finders.items():
            if type in self.types and (has_numbers or type == "email"):
                for start, end in finder(text):
                    yield Found(start, end, type, type)

    def __call__(self, text: str) -> Outcome:
        """The text without personal data, or None."""
        return outcome(text, self.find(text), self.action)
