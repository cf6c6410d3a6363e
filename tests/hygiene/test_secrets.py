import random
import sys

import pytest
from conftest import ROOT

pytest.importorskip("detect_secrets", reason="pip install 'hfgpt[data]'")

from hfgpt.hygiene.secrets import SECRETS, Secrets

sys.path.insert(0, str(ROOT / "benchmarks"))
from personal_data_values import TOKENS

MASK = Secrets("mask")
# Assembled here, so that no scanner reports this file as a leak.
TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"


@pytest.mark.parametrize(
    "kind", [kind for kind in TOKENS if kind not in ("AWS secret", "bearer", "password in a URL", "Azure storage")]
)
def test_a_key_is_masked_whole_wherever_it_stands(kind):
    secret = TOKENS[kind](random.Random(f"one {kind}"))
    for text in ("{}", "key={}\n", "'{}',", '{{"token":"{}","other":1}}', "Use {}, please.", "a line\n{}\nand another"):
        assert MASK(text.format(secret)).text == text.format("<SECRET>")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("aws_secret_access_key = " + "aB3/xY7q+Z" * 4, "aws_secret_access_key = <SECRET>"),
        ("https://admin:Xk29-sd!a@db.example.org/x", "https://admin:<SECRET>@db.example.org/x"),
        ("Authorization: Bearer " + "a1B2c3D4e5F6" * 3, "Authorization: Bearer <SECRET>"),
    ],
)
def test_where_words_around_it_make_a_secret_they_stay(text, masked):
    assert MASK(text).text == masked


def test_a_private_key_goes_with_all_its_lines():
    head, lines = "-----BEGIN RSA " + "PRIVATE KEY-----", "\n".join(["MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn" + "ab12" * 8] * 3)
    whole = f"{head}\n{lines}\n-----END RSA PRIVATE KEY-----"
    assert MASK(f"see\n{whole}\nend").text == "see\n<SECRET>\nend"
    assert MASK(f"see\n{head}\n{lines}\n\nThe end is missing.").text == "see\n<SECRET>\n\nThe end is missing."


@pytest.mark.parametrize(
    "text",
    [
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
        "hf_" + "x" * 34 + ", sk-your-key-goes-here-please, xoxb-your-bot-token-here, os.environ['AWS_SECRET_ACCESS_KEY']",
        "https://user:password@proxy.example.org and https://${USER}:${PASSWORD}@example.org/",
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----",
        "AbstractSingletonProxyFactoryBean2, Donaudampfschifffahrtsgesellschaft, morning--and--evening--and--night",
    ],
)
def test_hashes_public_keys_and_stand_ins_are_left(text):
    assert MASK(text).text == text


def test_a_document_with_a_secret_is_dropped_and_its_kind_counted():
    dropped = Secrets("drop")(f"token {TOKEN} and again {TOKEN}")
    assert (dropped.text, dropped.counts) == (None, {"a Hugging Face token": 2})
    assert "a Hugging Face token" in SECRETS
    assert set(Secrets("drop").settings["kinds"]) >= set(SECRETS)
