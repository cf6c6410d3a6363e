from types import SimpleNamespace

import numpy as np

from hfgpt.data.cluster_tokens import EncodedTexts, WriteTokens, tokens_folder
from hfgpt.tokenization import encode_to_arrays, load_or_wrap_tokenizer


def test_ids_are_those_of_the_tokenizer_whether_tasks_wrote_them_or_not(small_tokenizer, tmp_path):
    tokenizer = load_or_wrap_tokenizer(str(small_tokenizer))
    texts = [f"text {number} " * (number % 7 + 1) for number in range(60)] + ["", "<|endoftext|>"]
    for rank, part in enumerate((texts[:20], [], texts[20:50])):
        WriteTokens(tokens_folder(tmp_path), tokenizer)((SimpleNamespace(text=text) for text in part), rank, 3)
    encoded = EncodedTexts(tmp_path, tokenizer)
    for order in (texts, texts[::-1], [texts[3]] * 2, [texts[-1]], []):
        for ids, expected in zip(encoded(order), encode_to_arrays(tokenizer, order), strict=True):
            assert ids.dtype == expected.dtype == np.int32
            assert ids.tolist() == expected.tolist()
    encoded.close()


def test_without_a_task_everything_is_encoded_here(small_tokenizer, tmp_path):
    tokenizer = load_or_wrap_tokenizer(str(small_tokenizer))
    assert EncodedTexts(tmp_path, tokenizer)(["a text"])[0].tolist() == encode_to_arrays(tokenizer, ["a text"])[0].tolist()
