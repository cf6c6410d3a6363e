"""Made-up personal data and secrets in the forms given by their specifications, for `personal_data.py` to hide in text.

Nobody's data is used: e-mail domains are reserved (RFC 2606), phone numbers are in the ranges that regulators reserve for films and
books (NANPA 555-01XX, Ofcom, Bundesnetzagentur, ARCEP, ACMA, ComReg, PTS), IP addresses are in blocks of companies and authorities
(IANA's registry of /8 blocks, root servers, public resolvers), cards and accounts have random digits and a valid check digit, and
keys are random letters after the prefix that their issuers publish. Each function takes a `random.Random` and returns a value.
"""

import base64
import json
import string
from random import Random

ALNUM = string.ascii_letters + string.digits
FIRST = (*("anna", "jan", "maria", "li", "fatima", "john", "sofia", "pedro", "yuki", "omar"), *("ines", "lars", "chloe", "raj"))
LAST = (*("berg", "smith", "garcia", "nguyen", "kowalski", "rossi", "dupont", "okafor"), *("silva", "jansen", "tanaka", "haddad"))
DOMAINS = (
    *("example.com", "example.org", "example.net", "mail.example.com", "uni-koeln.example", "physics.uni.example", "shop24.test"),
    *("a.b.c.example.org", "kliniek-zuid.example", "co.example", "my-company.test", "edu.example.net"),
)


def characters(draw: Random, alphabet: str, length: int) -> str:
    return "".join(draw.choices(alphabet, k=length))


def digits(draw: Random, length: int) -> str:
    return characters(draw, string.digits, length)


# E-mail addresses: RFC 5322 (atoms), 5321 (quoted), 6531 (international)
def local_part(draw: Random) -> str:
    first, last = draw.choice(FIRST), draw.choice(LAST)
    forms = (
        f"{first}.{last}",
        f"{first}_{last}",
        f"{first[0]}{last}",
        f"{first}-{last}{draw.randrange(1, 99)}",
        f"{last}{first[0]}",
        first,
    )
    return draw.choice(forms)


def email(draw: Random) -> str:
    return f"{local_part(draw)}@{draw.choice(DOMAINS)}"


def email_tagged(draw: Random) -> str:
    return f"{local_part(draw)}+{draw.choice(('news', 'shop.2024', 'x1'))}@{draw.choice(DOMAINS)}"


def email_upper(draw: Random) -> str:
    return email(draw).upper() if draw.random() < 0.5 else email(draw).title()


def email_atoms(draw: Random) -> str:
    return f"{draw.choice(FIRST)}{draw.choice(chr(39) + '/=&!#%')}{draw.choice(LAST)}@{draw.choice(DOMAINS)}"


def email_international(draw: Random) -> str:
    local = draw.choice(("jörg.müller", "françoise", "josé.núñez", "用户", "иван", "zoë"))
    return f"{local}@{draw.choice(('bücher.example', 'example.org', '例え.test', 'münchen.example'))}"


def email_quoted(draw: Random) -> str:
    return f'"{draw.choice(FIRST)} {draw.choice(LAST)}"@{draw.choice(DOMAINS)}'


def email_spelled(draw: Random) -> str:
    at, dot = draw.choice(((" [at] ", " [dot] "), (" (at) ", " (dot) "), (" AT ", " DOT ")))
    return local_part(draw).replace(".", dot) + at + draw.choice(("example.org", "example.com")).replace(".", dot)


# Phone numbers
def phone_us(draw: Random) -> tuple[str, str, str]:
    area = draw.choice(("212", "310", "415", "512", "604", "617", "702", "718", "808", "905"))
    return area, "555", f"01{digits(draw, 2)}"


def phone_us_national(draw: Random) -> str:
    form = draw.choice(("({}) {}-{}", "{}-{}-{}", "{}.{}.{}", "{} {} {}", "1-{}-{}-{}", "({}){}-{}", "{}/{}-{}"))
    return form.format(*phone_us(draw))


def phone_us_international(draw: Random) -> str:
    return draw.choice(("+1 {} {} {}", "+1-{}-{}-{}", "+1 ({}) {}-{}", "+1{}{}{}", "+1.{}.{}.{}")).format(*phone_us(draw))


def national_numbers(draw: Random) -> tuple[str, list[str], str]:
    """Country code, groups of the national number without its leading zero, and the separators customary in the country."""
    three, two, four = digits(draw, 3), digits(draw, 2), digits(draw, 4)
    return draw.choice(
        (
            ("44", ["20", "7946", f"0{three}"], " "),
            ("44", [draw.choice(("121", "161", "113")), "496", f"0{three}"], " "),
            ("44", ["7700", f"900{three}"], " "),
            ("44", ["7700", "900", three], " "),
            (
                "49",
                [*draw.choice((("30", "23125"), ("69", "90009"), ("40", "66969"), ("221", "4710"), ("89", "99998"))), three],
                " ",
            ),
            ("49", ["171", f"39200{two}"], draw.choice(" /-")),
            ("49", ["30", f"23125{three}"], draw.choice(" /-")),
            (
                "33",
                [*draw.choice((("1", "99", "00"), ("2", "61", "91"), ("3", "53", "01"), ("6", "39", "98"))), two, digits(draw, 2)],
                draw.choice(" . -"),
            ),
            ("61", [draw.choice("2378"), draw.choice(("5550", "7010")), four], " "),
            ("61", ["491", "570", draw.choice(("006", "110", "156", "157", "158", "159", "266", "313", "491", "737", "804"))], " "),
            ("353", ["20", f"91{digits(draw, 1)}", four], " "),
            ("46", ["8", "465", f"00{digits(draw, 1)}", two], draw.choice((" ", "-"))),
            ("46", ["31", "390", "06", two], draw.choice((" ", "-"))),
        )
    )


def phone_national(draw: Random) -> str:
    code, groups, joined = national_numbers(draw)
    if (code == "61" and len(groups[0]) == 1) or draw.random() < 0.1:
        return f"(0{groups[0]}) {' '.join(groups[1:])}"
    if code == "46" and joined == "-":
        return f"0{groups[0]}-{' '.join(groups[1:])}"
    return f"0{joined.join(groups)}" if joined != "/" else f"0{groups[0]}/{''.join(groups[1:])}"


def phone_international(draw: Random) -> str:
    code, groups, joined = national_numbers(draw)
    joined = " " if joined == "/" else joined
    forms = (
        f"+{code} {joined.join(groups)}",
        f"+{code} (0){joined.join(groups)}",
        f"+{code}{''.join(groups)}",
        f"00{code} {' '.join(groups)}",
    )
    return draw.choices(forms, weights=(5, 2, 2, 1))[0]


def phone_digits(draw: Random) -> str:
    return "".join(phone_us(draw)) if draw.random() < 0.5 else "0" + "".join(national_numbers(draw)[1])


def phone_extension(draw: Random) -> str:
    return f"{phone_us_national(draw)} {draw.choice(('ext. ', 'x', 'ext '))}{draw.randrange(10, 999)}"


# IP addresses
def ipv4(draw: Random) -> str:
    known = (
        "8.8.8.8",
        "8.8.4.4",
        "1.1.1.1",
        "9.9.9.9",
        "208.67.222.222",
        "198.41.0.4",
        "199.9.14.201",
        "192.33.4.12",
        "199.7.91.13",
        "192.203.230.10",
        "192.5.5.241",
        "192.112.36.4",
        "198.97.190.53",
        "192.36.148.17",
        "192.58.128.30",
        "193.0.14.129",
        "199.7.83.42",
        "202.12.27.33",
    )
    blocks = (6, 9, 11, 12, 17, 19, 21, 22, 26, 28, 29, 30, 33, 53, 55, 56, 214, 215)
    return (
        draw.choice(known)
        if draw.random() < 0.2
        else ".".join(map(str, (draw.choice(blocks), *(draw.randrange(256) for _ in range(3)))))
    )


def ipv4_port(draw: Random) -> str:
    return ipv4(draw)


def ipv6_groups(draw: Random) -> list[str]:
    prefix = draw.choice((["2001", "4860"], ["2606", "4700"], ["2620", "fe"], ["2001", "500"], ["2a00", "1450"], ["2600", "1f18"]))
    return prefix + [f"{draw.randrange(1, 1 << 16):x}" for _ in range(6)]


def ipv6(draw: Random) -> str:
    return ":".join(ipv6_groups(draw))


def ipv6_full(draw: Random) -> str:
    return ":".join(group.zfill(4) for group in ipv6_groups(draw)).upper() if draw.random() < 0.5 else ipv6(draw).upper()


def ipv6_short(draw: Random) -> str:
    groups = ipv6_groups(draw)
    return ":".join(groups[: draw.randrange(2, 5)]) + "::" + ":".join(groups[-draw.randrange(1, 3) :])


# Payment cards: issuer prefixes and lengths of ISO/IEC 7812, the last digit of Luhn
def luhn_digit(number: str) -> str:
    doubled = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(number))]
    return str(-sum(value - 9 if value > 9 else value for value in doubled) % 10)


def card_digits(draw: Random, *, short: bool = False) -> str:
    issuers = (("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("6011", 16), ("65", 16), ("3530", 16), ("62", 16))
    others = (("34", 15), ("37", 15), ("36", 14), ("305", 14), ("38", 14))
    prefix, length = draw.choice(others if short else issuers)
    number = prefix + digits(draw, length - len(prefix) - 1)
    return number + luhn_digit(number)


def card_grouped(draw: Random) -> str:
    number, joined = card_digits(draw), draw.choice("  -")
    return joined.join(number[start : start + 4] for start in range(0, 16, 4))


def card_plain(draw: Random) -> str:
    return card_digits(draw)


def card_short(draw: Random) -> str:
    number = card_digits(draw, short=True)
    return draw.choice((number, f"{number[:4]} {number[4:10]} {number[10:]}"))


def card_long(draw: Random) -> str:
    number = (draw.choice(("4", "62")) + digits(draw, 17))[:18]
    return number + luhn_digit(number)


# Accounts: SWIFT's IBAN registry; a letter is one upper-case letter, 'n' a digit, 'c' either
IBANS = {
    **{"DE": "n18", "GB": "a4n14", "FR": "n10c11n2", "ES": "n20", "IT": "a1n10c12", "NL": "a4n10", "BE": "n12", "AT": "n16"},
    **{"CH": "n5c12", "PL": "n24", "SE": "n20", "NO": "n11", "DK": "n14", "FI": "n14", "PT": "n21", "IE": "a4n14", "GR": "n7c16"},
    **{"CZ": "n20", "HU": "n24", "RO": "a4c16", "TR": "n6c16", "SA": "n2c18", "AE": "n19", "MT": "a4n5c18", "LU": "n3c13"},
}


def check_digits(country: str, account: str) -> str:
    number = "".join(str(int(character, 36)) for character in f"{account}{country}00")
    return f"{98 - int(number) % 97:02}"


def iban_digits(draw: Random, country: str | None = None) -> str:
    country = country or draw.choice(list(IBANS))
    account, structure = "", IBANS.get(country, "n18")
    alphabets = {"n": string.digits, "a": string.ascii_uppercase, "c": string.digits + string.ascii_uppercase}
    for kind, length in parts(structure):
        account += characters(draw, alphabets[kind], length)
    return country + check_digits(country, account) + account


def parts(structure: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for character in structure:
        found = (
            [*found, (character, 0)] if character.isalpha() else [*found[:-1], (found[-1][0], found[-1][1] * 10 + int(character))]
        )
    return found


def grouped(number: str, joined: str = " ") -> str:
    return joined.join(number[start : start + 4] for start in range(0, len(number), 4))


def iban_grouped(draw: Random) -> str:
    return grouped(iban_digits(draw), draw.choice((" ", " ", " ", "\u00a0", "-")))


def iban_plain(draw: Random) -> str:
    return iban_digits(draw)


def iban_lower(draw: Random) -> str:
    return draw.choice((iban_digits(draw).lower(), grouped(iban_digits(draw)).lower()))


# Keys and tokens, as their issuers document them
def base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def jwt(draw: Random) -> str:
    header = {"alg": draw.choice(("HS256", "RS256", "ES256")), "typ": "JWT"}
    claims = {"sub": digits(draw, 10), "name": draw.choice(FIRST), "iat": 1_700_000_000 + draw.randrange(10**7)}
    return ".".join(
        [*(base64url(json.dumps(one, separators=(",", ":")).encode()) for one in (header, claims)), base64url(draw.randbytes(32))]
    )


def private_key(draw: Random) -> str:
    kind = draw.choice(("RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED "))
    body = base64.b64encode(draw.randbytes(draw.randrange(120, 600))).decode()
    lines = "\n".join(body[start : start + 64] for start in range(0, len(body), 64))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


UPPER, LOWER, HEX, URL = string.ascii_uppercase, string.ascii_lowercase, "0123456789abcdef", ALNUM + "-_"
TOKENS = {
    "AWS key id": lambda draw: draw.choice(("AKIA", "ASIA")) + characters(draw, UPPER + "234567", 16),
    "AWS secret": lambda draw: characters(draw, ALNUM + "/+", 40),
    "GitHub": lambda draw: draw.choice(("ghp_", "gho_", "ghs_", "ghu_")) + characters(draw, ALNUM, 36),
    "GitHub, fine-grained": lambda draw: f"github_pat_{characters(draw, ALNUM, 22)}_{characters(draw, ALNUM, 59)}",
    "Hugging Face": lambda draw: "hf_" + characters(draw, string.ascii_letters, 34),
    "Slack": lambda draw: f"{draw.choice(('xoxb', 'xoxp'))}-{digits(draw, 12)}-{digits(draw, 12)}-{characters(draw, ALNUM, 24)}",
    "Slack, app": lambda draw: (
        f"xapp-1-A{characters(draw, UPPER + string.digits, 10)}-{digits(draw, 13)}-{characters(draw, HEX, 64)}"
    ),
    "Slack, webhook": lambda draw: (
        f"https://hooks.slack.com/services/T{characters(draw, UPPER, 8)}/B{characters(draw, UPPER, 8)}/"
        f"{characters(draw, ALNUM, 24)}"
    ),
    "JSON Web Token": jwt,
    "private key": private_key,
    "Google": lambda draw: "AIza" + characters(draw, URL, 35),
    "GitLab": lambda draw: "glpat-" + characters(draw, URL, 20),
    "Stripe": lambda draw: draw.choice(("sk_live_", "rk_live_")) + characters(draw, ALNUM, draw.choice((24, 99))),
    "OpenAI": lambda draw: f"sk-proj-{characters(draw, URL, 74)}T3BlbkFJ{characters(draw, URL, 74)}",
    "Anthropic": lambda draw: f"sk-ant-api03-{characters(draw, URL, 93)}AA",
    "PyPI": lambda draw: "pypi-AgEIcHlwaS5vcmc" + characters(draw, URL, 140),
    "npm": lambda draw: "npm_" + characters(draw, ALNUM, 36),
    "SendGrid": lambda draw: f"SG.{characters(draw, URL, 22)}.{characters(draw, URL, 43)}",
    "Telegram": lambda draw: f"{digits(draw, 10)}:AA{characters(draw, URL, 33)}",
    "Twilio": lambda draw: "SK" + characters(draw, HEX, 32),
    "Azure storage": lambda draw: base64.b64encode(draw.randbytes(64)).decode(),
    "Mailchimp": lambda draw: f"{characters(draw, HEX, 32)}-us{draw.randrange(1, 22)}",
    "Discord": lambda draw: (
        f"M{characters(draw, ALNUM, 25)}.G{characters(draw, ALNUM, 5)}.{characters(draw, URL, 27 if draw.random() < 0.5 else 38)}"
    ),
    "password in a URL": lambda draw: characters(draw, ALNUM + "!._-", 14),
    "bearer": lambda draw: characters(draw, URL, 43),
}
