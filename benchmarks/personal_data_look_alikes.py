"""Look-alikes of personal data and secrets: for each type, forms that a finder based on shape alone would mistake for it."""

import base64
import hashlib
import ipaddress
import string
import uuid
from random import Random

from personal_data_values import (
    ALNUM,
    FIRST,
    HEX,
    IBANS,
    LAST,
    TOKENS,
    UPPER,
    URL,
    card_digits,
    characters,
    check_digits,
    digits,
    grouped,
    iban_digits,
    phone_us,
)

WORDS = ("parser", "engine", "loader", "render", "widget", "router", "buffer", "socket", "model", "cache", "tensor", "mixer")


def version(draw: Random, parts: int = 3) -> str:
    return ".".join(str(draw.randrange(30)) for _ in range(parts))


def date(draw: Random) -> str:
    year, month, day = draw.randrange(1900, 2030), draw.randrange(1, 13), draw.randrange(1, 29)
    forms = (
        f"{day:02}.{month:02}.{year}",
        f"{month:02}/{day:02}/{year}",
        f"{year}-{month:02}-{day:02}",
        f"{day:02}-{month:02}-{year}",
        f"{year}{month:02}{day:02}",
    )
    return draw.choice(forms)


def isbn(draw: Random) -> str:
    number = draw.choice(("978", "979")) + digits(draw, 9)
    check = -sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(number)) % 10
    return draw.choice(
        (
            f"{number[:3]}-{number[3]}-{number[4:8]}-{number[8:]}-{check}",
            f"{number}{check}",
            f"{number[:3]} {number[3:5]} {number[5:9]} {number[9:]} {check}",
        )
    )


def isbn10(draw: Random) -> str:
    number = digits(draw, 9)
    check = sum(int(digit) * place for place, digit in enumerate(number, start=1)) % 11
    return f"{number[0]}-{number[1:4]}-{number[4:]}-{'X' if check == 10 else check}"


EMAIL = {
    "handle": lambda draw: f"@{draw.choice(FIRST)}_{draw.choice(LAST)}",
    "decorator": lambda draw: f"@{draw.choice(WORDS)}.{draw.choice(('route', 'setter', 'mark.slow', 'fixture'))}",
    "picture for two densities": lambda draw: (
        f"{draw.choice(WORDS)}-{draw.randrange(16, 512)}@{draw.choice((2, 3))}x.{draw.choice(('png', 'jpg', 'webp'))}"
    ),
    "package and version": lambda draw: (
        f"{draw.choice(('', '@types/'))}{draw.choice(WORDS)}@{draw.choice(('', '^', 'v'))}{version(draw)}"
    ),
    "module at latest": lambda draw: f"example.org/x/{draw.choice(WORDS)}@{draw.choice(('latest', 'main', 'v' + version(draw)))}",
    "remote of git": lambda draw: (
        f"git@{draw.choice(('github.com', 'gitlab.com', 'git.example.org'))}:{draw.choice(LAST)}/{draw.choice(WORDS)}.git"
    ),
    "prompt of a shell": lambda draw: (
        f"{draw.choice(('root', 'deploy', *FIRST))}@{draw.choice(('localhost', 'web01', 'node-3'))}:~$"
    ),
    "price": lambda draw: f"{draw.randrange(2, 90)} pcs @ {draw.randrange(1, 99)}.{digits(draw, 2)}",
    "product of matrices": lambda draw: draw.choice(
        ("q @ k.transpose(1, 2)", "x@w.T", "hidden@self.weight", "A@B.inverse()", "scores@values.float()")
    ),
    "address of a page": lambda draw: f"https://blog.example.org/@{draw.choice(FIRST)}/{draw.choice(WORDS)}-{draw.randrange(99)}",
    "digest of an image": lambda draw: f"{draw.choice(WORDS)}@sha256:{characters(draw, HEX, 64)}",
    "at a time or place": lambda draw: f"{draw.choice(WORDS)} @ {draw.randrange(1, 13)}.{draw.choice(('00', '30'))} p.m",
}

PHONE = {
    "date": date,
    "ISBN-13": isbn,
    "ISBN-10": isbn10,
    "ISSN": lambda draw: f"{digits(draw, 4)}-{digits(draw, 4)}",
    "two years": lambda draw: f"{draw.randrange(1500, 1980)}-{draw.randrange(1980, 2030)}",
    "time stamp": lambda draw: f"{date(draw)} {draw.randrange(24):02}:{draw.randrange(60):02}:{draw.randrange(60):02}",
    "seconds of Unix": lambda draw: str(draw.randrange(1_000_000_000, 1_800_000_000)),
    "number of an order": lambda draw: digits(draw, draw.randrange(7, 13)),
    "sum": lambda draw: draw.choice(("{:,}", "{:,}.00")).format(draw.randrange(10**6, 10**10)).replace(",", draw.choice(", .'")),
    "decimal": lambda draw: f"{draw.randrange(100)}.{digits(draw, 10)}",
    "coordinates": lambda draw: f"{draw.randrange(90)}.{digits(draw, 4)}, -{draw.randrange(180)}.{digits(draw, 4)}",
    "pages": lambda draw: (
        f"{draw.randrange(1, 40)}({draw.randrange(1, 12)}): {draw.randrange(100, 500)}-{draw.randrange(500, 999)} "
        f"(19{digits(draw, 2)})"
    ),
    "social security": lambda draw: f"9{digits(draw, 2)}-{digits(draw, 2)}-{digits(draw, 4)}",
    "postal code": lambda draw: f"{digits(draw, 5)}-{digits(draw, 4)}",
    "row of figures": lambda draw: " ".join(digits(draw, draw.choice((2, 3, 4))) for _ in range(draw.randrange(4, 9))),
    "part number": lambda draw: f"{digits(draw, 3)}-{digits(draw, 4)}-{characters(draw, UPPER, 2)}",
    "patent": lambda draw: f"US {draw.randrange(4, 11)},{digits(draw, 3)},{digits(draw, 3)}",
    "power of two": lambda draw: str(2 ** draw.randrange(24, 64)),
    "score of games": lambda draw: " ".join(f"{draw.randrange(8)}-{draw.randrange(8)}" for _ in range(5)),
    "identifier in code": lambda draw: f"id_{digits(draw, 10)}",
    "digits of a product": lambda draw: f"{phone_us(draw)[0]}{digits(draw, 7)}{characters(draw, UPPER, 1)}",
}


def address_in(draw: Random, *networks: str) -> str:
    network = ipaddress.ip_network(draw.choice(networks))
    return str(network[draw.randrange(min(network.num_addresses, 1 << 60))])


PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10")
IP_ADDRESS = {
    "private": lambda draw: address_in(draw, *PRIVATE),
    "for documentation": lambda draw: address_in(draw, "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
    "mask": lambda draw: draw.choice(("255.255.255.0", "255.255.0.0", "0.0.0.0", "255.255.255.255", "224.0.0.1")),
    "version": lambda draw: f"{draw.choice(('version ', 'v', 'release ', 'Version: ', 'build '))}{version(draw, 4)}",
    "version of a program": lambda draw: (
        f"{draw.choice(('Chrome/', 'Edg/', 'openssl-', 'driver==', 'libfoo.so.'))}{version(draw, 4)}"
    ),
    "section": lambda draw: f"{draw.choice(('section ', '§ ', 'chapter ', 'Figure ', 'clause '))}{version(draw, 4)}",
    "object identifier": lambda draw: draw.choice((f"OID {version(draw, 4)}", f"1.3.6.1.4.1.{version(draw, 2)}")),
    "out of range": lambda draw: f"{draw.randrange(256, 999)}.{version(draw)}",
    "five parts": lambda draw: version(draw, 5),
    "date": date,
    "private, IPv6": lambda draw: address_in(draw, "fe80::/64", "fd00::/8", "fc00::/7", "ff02::/16"),
    "for documentation, IPv6": lambda draw: address_in(draw, "2001:db8::/32"),
    "loop, IPv6": lambda draw: draw.choice(("::1", "::", "[::1]:8080")),
    "MAC address": lambda draw: ":".join(characters(draw, HEX, 2) for _ in range(6)),
    "fingerprint": lambda draw: ":".join(characters(draw, HEX, 2) for _ in range(16)),
    "name in C++": lambda draw: draw.choice(("std::dec", "dead::beef", "a::b::c", "face::add", "Abc::Def", "cafe::bad::feed")),
    "time": lambda draw: f"{draw.randrange(24):02}:{draw.randrange(60):02}:{draw.randrange(60):02}",
}


def wrong_card(draw: Random) -> str:
    number = card_digits(draw)
    return number[:-1] + str((int(number[-1]) + draw.randrange(1, 10)) % 10)


CARD_NUMBER = {
    "wrong check digit": wrong_card,
    "wrong check digit, in groups": lambda draw: grouped(wrong_card(draw), draw.choice(" -")),
    "ISBN-13": isbn,
    "nanoseconds of Unix": lambda draw: f"17{digits(draw, 17)}",
    "snowflake": lambda draw: str(draw.randrange(10**17, 2 * 10**18)),
    "16 digits of an order": lambda draw: digits(draw, 16),
    "decimal": lambda draw: f"0.{digits(draw, 16)}",
    "universally unique id": lambda draw: str(uuid.UUID(bytes=draw.randbytes(16), version=4)),
    "device (IMEI)": lambda draw: f"86{digits(draw, 13)}",
    "row of years": lambda draw: " ".join(str(draw.randrange(1900, 2030)) for _ in range(4)),
    "in a longer number": lambda draw: digits(draw, 8) + card_digits(draw) + digits(draw, 8),
    "in a hash": lambda draw: f"{characters(draw, HEX, 20)}a{card_digits(draw)}f{characters(draw, HEX, 4)}",
    "SIM card": lambda draw: f"89{digits(draw, 17)}",
}


def other_check(draw: Random) -> str:
    number = iban_digits(draw)
    return f"{number[:2]}{(int(number[2:4]) + draw.randrange(1, 90)) % 97 + 2:02}{number[4:]}"


def wrong_iban(draw: Random) -> str:
    number = other_check(draw)
    return number if check_digits(number[:2], number[4:]) != number[2:4] else wrong_iban(draw)


def iban_of(country: str, account: str) -> str:
    return country + check_digits(country, account) + account


IBAN = {
    "wrong check digits": wrong_iban,
    "wrong check digits, in groups": lambda draw: grouped(wrong_iban(draw)),
    "of no country": lambda draw: grouped(iban_of(draw.choice(("XX", "ZZ", "US", "CA")), digits(draw, 18))),
    "too short": lambda draw: iban_of(draw.choice(("DE", "PL", "HU")), digits(draw, 12)),
    "too long": lambda draw: iban_of("NO", digits(draw, 20)),
    "letters for digits": lambda draw: iban_of("DE", characters(draw, UPPER, 18)),
    "value added tax": lambda draw: draw.choice(
        (f"DE{digits(draw, 9)}", f"ATU{digits(draw, 8)}", f"FR{digits(draw, 11)}", f"NL{digits(draw, 9)}B{digits(draw, 2)}")
    ),
    "bank (BIC)": lambda draw: f"{characters(draw, UPPER, 4)}{draw.choice(list(IBANS))}{characters(draw, UPPER, 2)}XXX",
    "product key": lambda draw: "-".join(characters(draw, UPPER + string.digits, 5) for _ in range(5)),
    "security (ISIN)": lambda draw: (
        f"{draw.choice(('DE', 'US', 'FR'))}{characters(draw, UPPER + string.digits, 9)}{digits(draw, 1)}"
    ),
    "parcel": lambda draw: f"R{draw.choice('RCX')}{digits(draw, 9)}{draw.choice(list(IBANS))}",
    "hash in capitals": lambda draw: characters(draw, HEX, 40).upper(),
    "number of a file": lambda draw: (
        f"{draw.choice(list(IBANS))}{digits(draw, 2)} {digits(draw, 4)} {digits(draw, 4)} {digits(draw, 4)}"
    ),
}

PLACEHOLDERS = (
    "hf_" + "x" * 34,
    "ghp_" + "X" * 36,
    "hf_your_token_here",
    "sk-your-api-key-goes-here",
    "xoxb-your-bot-token",
    "AKIA" + "X" * 16,
)
SECRET = {
    "commit": lambda draw: characters(draw, HEX, 40),
    "SHA-256": lambda draw: hashlib.sha256(draw.randbytes(8)).hexdigest(),
    "universally unique id": lambda draw: str(uuid.UUID(bytes=draw.randbytes(16), version=4)),
    "integrity": lambda draw: "sha512-" + base64.b64encode(draw.randbytes(64)).decode(),
    "picture in base64": lambda draw: "data:image/png;base64,iVBORw0KGgo" + base64.b64encode(draw.randbytes(90)).decode(),
    "public key": lambda draw: (
        f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(draw.randbytes(45)).decode()}\n-----END PUBLIC KEY-----"
    ),
    "public key of ssh": lambda draw: f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{characters(draw, ALNUM, 43)}",
    "certificate": lambda draw: f"-----BEGIN CERTIFICATE-----\nMII{characters(draw, ALNUM, 60)}\n-----END CERTIFICATE-----",
    "placeholder": lambda draw: draw.choice(PLACEHOLDERS),
    "name of a variable": lambda draw: draw.choice(
        ('os.environ["AWS_SECRET_ACCESS_KEY"]', "${GITHUB_TOKEN}", "HF_TOKEN", "secrets.NPM_TOKEN", "getenv('SLACK_TOKEN')")
    ),
    "words with dashes": lambda draw: f"sk-{'-'.join(draw.choices(WORDS, k=5))}",
    "path of a module": lambda draw: f"hf_{draw.choice(WORDS)}_{draw.choice(WORDS)}_{draw.choice(WORDS)}_for_{draw.choice(WORDS)}",
    "address of a page": lambda draw: (
        f"https://www.example.org/{draw.choice(WORDS)}/{characters(draw, URL, 22)}?id={digits(draw, 8)}"
    ),
    "cut off": lambda draw: TOKENS[draw.choice(("GitHub", "Hugging Face", "Google", "Slack"))](draw)[:10] + "...",
    "not a JSON Web Token": lambda draw: (
        f"eyJ{characters(draw, ALNUM, 30)}.{characters(draw, ALNUM, 40)}.{characters(draw, ALNUM, 43)}"
    ),
    "port and path": lambda draw: f"http://localhost:{draw.randrange(3000, 9999)}/@{draw.choice(WORDS)}/{draw.choice(WORDS)}",
    "long word": lambda draw: draw.choice(
        ("Donaudampfschifffahrtsgesellschaft", "antidisestablishmentarianism_and_more", "AbstractSingletonProxyFactoryBean2")
    ),
}

LOOK_ALIKES = {"email": EMAIL, "phone": PHONE, "ip_address": IP_ADDRESS, "card_number": CARD_NUMBER, "iban": IBAN, "secret": SECRET}
