"""Copies are found among any number of documents with a few bytes of memory per document."""

import subprocess
import sys

import numpy as np
import pytest

from hfgpt.data import signature_files
from hfgpt.data.minhash import PLACES, Bands, join, join_similar, least_agreement, neighbours
from hfgpt.data.signature_files import DIGEST_BYTES, SignatureFiles, exact_groups, near_groups

# Sorting the keys of a partition takes about 70 MB, however many documents there are; both numbers below have whole partitions.
MOST_BYTES_A_DOCUMENT = 60
MEASURE = """
import sys
from pathlib import Path
import numpy as np
from hfgpt.data import document_copies, signature_files

signature_files.PARTITION_DOCUMENTS = 2**14
texts = (["{:x} of a text".format(number) for number in range(start, start + 1000)] for start in range(0, int(sys.argv[1]), 1000))
copies = document_copies.find_document_copies(texts, int(sys.argv[1]), cache_dir=sys.argv[2])
assert (copies.near == np.arange(int(sys.argv[1]))).all()
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def made_up(number=3_000):
    """Signatures and digests; one in five is a near or exact copy of an earlier one."""
    generator = np.random.default_rng(0)
    signatures = generator.integers(0, 256, (number, PLACES), dtype=np.uint8)
    digests = generator.integers(0, 256, (number, DIGEST_BYTES), dtype=np.uint8)
    for index in range(5, number, 5):
        of = generator.integers(0, index)
        signatures[index] = signatures[of]
        changed = generator.integers(0, 40)
        signatures[index, generator.permutation(PLACES)[:changed]] = 0
        if not changed:
            digests[index] = digests[of]
    return digests.reshape(-1).view(f"S{DIGEST_BYTES}"), signatures


@pytest.mark.parametrize("documents", [2**20, 700])
def test_partitions_find_what_one_array_of_all_finds(tmp_path, monkeypatch, documents):
    monkeypatch.setattr(signature_files, "PARTITION_DOCUMENTS", documents)
    monkeypatch.setattr(signature_files, "READ_AT_ONCE", 1_000)
    digests, signatures = made_up()
    bands = Bands.for_threshold(0.8)
    near = np.arange(len(signatures))
    for band in range(bands.number):
        near = join_similar(near, *neighbours(bands.keys(signatures, band)), signatures, least=least_agreement(0.8))
    exact = join(np.arange(len(digests)), *neighbours(np.unique(digests, return_inverse=True)[1]))
    assert 100 < (near != np.arange(len(near))).sum() < 500
    assert (exact != np.arange(len(exact))).sum() > 5
    with SignatureFiles(tmp_path, bands) as files:
        for start in range(0, len(signatures), 900):
            files.append(digests[start : start + 900], signatures[start : start + 900])
        assert (exact_groups(files) == exact).all()
        assert (near_groups(files, threshold=0.8) == near).all()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read as Linux tells it")
def test_a_document_takes_few_bytes_of_memory_while_copies_are_searched(tmp_path):
    few, many = (
        int(subprocess.run([sys.executable, "-c", MEASURE, str(number), tmp_path], check=True, capture_output=True).stdout) * 1024
        for number in (50_000, 200_000)
    )
    assert (many - few) / 150_000 < MOST_BYTES_A_DOCUMENT
