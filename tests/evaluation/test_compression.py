import lzma

import pytest

from hfgpt.evaluation.compression import lzma_bits_per_byte


def test_lzma_that_has_read_the_text_before_needs_almost_nothing():
    text = "".join(chr(97 + (n * n + n // 7) % 26) for n in range(5000))
    bits = lzma_bits_per_byte([text], [text])
    assert bits["alone"] == pytest.approx(8 * len(lzma.compress(text.encode() + b"\0", preset=9 | lzma.PRESET_EXTREME)) / 5000)
    assert bits["after_training"] < 0.1 * bits["alone"]
