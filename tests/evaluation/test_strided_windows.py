"""Every token is scored once, whatever the windows and batches; lm-evaluation-harness finds the same, token for token."""

import json
import math
import sys

import pytest
import torch
from conftest import run_python
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

from hfgpt import HfGptConfig, HfGptForCausalLM
from hfgpt.evaluation.generation import prompt_ids
from hfgpt.evaluation.language_modeling import Window, nats_of_windows
from hfgpt.evaluation.strided import score_text, strided_windows
from hfgpt.tokenization import encode_texts, start_token, train_word_level

CONTEXT = 32


@pytest.fixture(scope="module")
def texts(small_corpus) -> list[str]:
    """Ragged documents: some shorter than a window, some much longer."""
    found = [json.loads(line)["text"] for line in small_corpus.read_text(encoding="utf-8").splitlines()]
    return [found[0], "ab", found[1] + found[2] + found[3], found[4][:40], "", found[5], "os.", found[6][:90]]


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return AutoTokenizer.from_pretrained(small_tokenizer)


@pytest.fixture(scope="module")
def models(tokenizer) -> dict:
    """Large random weights, so that a wrong context shows."""
    set_seed(0)
    shape = dict(vocab_size=len(tokenizer), num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
                 max_position_embeddings=CONTEXT, initializer_range=0.3)  # fmt: skip
    narrow = dict(num_key_value_heads=2, head_dim=8, intermediate_size=64)
    gpt2 = dict(vocab_size=len(tokenizer), n_layer=2, n_embd=32, n_head=4, n_positions=CONTEXT, initializer_range=0.3)
    return {
        "book": HfGptForCausalLM(HfGptConfig.gpt2("124M", **shape)).eval(),
        "modern": HfGptForCausalLM(HfGptConfig.modern(2, **shape, **narrow)).eval(),
        "gpt2": GPT2LMHeadModel(GPT2Config(**gpt2)).eval(),
    }


def documents(texts: list[str]) -> list[dict[str, str]]:
    return [{"text": text, "source": "texts", "row_id": str(number)} for number, text in enumerate(texts)]


def score(model, tokenizer, texts, *, context_length=CONTEXT, stride=CONTEXT, batch_size=4):
    return score_text(
        model, tokenizer, documents(texts), context_length=context_length, stride=stride, batch_size=batch_size
    )  # fmt: skip


def test_windows_overlap_and_score_what_is_new():
    windows = list(strided_windows(list(range(10)), prefix=99, context_length=4, stride=2))
    assert windows == [
        Window([99, 0, 1, 2], [0, 1, 2, 3]),
        Window([1, 2, 3, 4], [4, 5]),
        Window([3, 4, 5, 6], [6, 7]),
        Window([5, 6, 7, 8], [8, 9]),
    ]
    assert list(strided_windows([5, 6, 7], prefix=None, context_length=4, stride=4)) == [Window([5, 6], [6, 7])]
    assert list(strided_windows([5], prefix=None, context_length=4, stride=4)) == []
    assert list(strided_windows([5], prefix=9, context_length=1, stride=1)) == [Window([9], [5])]


@pytest.mark.parametrize("prefix", [None, -1])
def test_every_token_is_a_target_once_with_the_context_that_was_promised(prefix):
    count = 0
    for length in range(1, 40):
        for context_length in (1, 2, 5, 8):
            for stride in range(1, context_length + 1):
                ids = list(range(length))
                windows = list(strided_windows(ids, prefix=prefix, context_length=context_length, stride=stride))
                targets = [token for window in windows for token in window.targets]
                assert targets == (ids if prefix is not None else ids[1:])
                for number, window in enumerate(windows):
                    assert len(window.inputs) <= context_length
                    assert window.inputs[len(window.inputs) - len(window.targets) + 1 :] == window.targets[:-1]
                    if number:
                        assert len(window.inputs) - len(window.targets) + 1 >= context_length - stride + 1
                        assert len(window.inputs) == context_length
                    count += 1
    assert count > 4_000


def test_a_stride_of_the_whole_context_gives_the_windows_of_the_harness():
    utils = pytest.importorskip("lm_eval.utils")
    for length in (1, 7, 8, 9, 16, 17, 50):
        ids = list(range(length))
        theirs = utils.get_rolling_token_windows(ids, prefix_token=-1, max_seq_len=8, context_len=1)
        assert [tuple(window) for window in strided_windows(ids, prefix=-1, context_length=8, stride=8)] == list(theirs)


@pytest.mark.parametrize("name", ["book", "modern", "gpt2"])
def test_the_harness_finds_the_same_log_likelihood_of_every_document(models, tokenizer, texts, name):
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="needs the package lm_eval[hf]")
    from lm_eval.api.instance import Instance

    # add_bos_token false: our tokenizer begins a text with its separator, which the harness would add a second time.
    harness = huggingface.HFLM(pretrained=models[name], tokenizer=tokenizer, batch_size=3, add_bos_token=False, backend="causal")
    assert harness.max_length == CONTEXT
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts) if len(text) > 2]
    theirs = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    ours = [-score(models[name], tokenizer, [request.args[0]]).nats for request in requests]
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(ours) == 6
    assert max(-value for value in ours) > 1000
    longest = max((request.args[0] for request in requests), key=len)
    other = score(models[name], tokenizer, [longest], stride=8).nats  # another context gives another number: the test can fail
    assert abs(other / -min(theirs) - 1) > 1e-3


@pytest.mark.parametrize("name", ["book", "modern", "gpt2"])
@pytest.mark.parametrize("stride", [7, CONTEXT])
def test_batches_do_not_change_the_result(models, tokenizer, texts, name, stride):
    alone = score(models[name], tokenizer, texts, stride=stride, batch_size=1)
    for batch_size in (3, 64):
        together = score(models[name], tokenizer, texts, stride=stride, batch_size=batch_size)
        assert together.nats == pytest.approx(alone.nats, rel=1e-6)
        assert together.tokens == alone.tokens
    backwards = score(models[name], tokenizer, texts[::-1], stride=stride, batch_size=3)
    assert backwards.nats == pytest.approx(alone.nats, rel=1e-6)


def test_a_stride_of_one_gives_each_token_the_whole_context(models, tokenizer, texts):
    (ids,) = encode_texts(tokenizer, [texts[0]])
    sequence = [tokenizer.bos_token_id, *ids]
    expected = 0.0
    for place in range(1, len(sequence)):
        inputs = torch.tensor([sequence[max(0, place - CONTEXT) : place]])
        with torch.no_grad():
            expected -= models["book"](inputs).logits[0, -1].double().log_softmax(-1)[sequence[place]].item()
    assert len(sequence) > 2 * CONTEXT
    assert score(models["book"], tokenizer, [texts[0]], stride=1).nats == pytest.approx(expected, rel=1e-6)


def test_tokens_bytes_and_words_are_counted_and_the_first_token_has_the_bos_before_it(models, tokenizer, texts):
    found = score(models["book"], tokenizer, texts)
    ids = encode_texts(tokenizer, texts)
    assert found.tokens == sum(map(len, ids))
    assert found.num_bytes == sum(len(text.encode()) for text in texts)
    assert found.words == sum(len(text.split()) for text in texts)
    assert (found.documents, found.empty, found.unspelled) == (7, 1, 0)
    assert found.policy == "each document begins after <|endoftext|>"
    metrics = found.metrics()
    assert metrics["bits_per_byte"] == pytest.approx(found.nats / math.log(2) / found.num_bytes)
    assert metrics["word_perplexity"] == pytest.approx(math.exp(found.nats / found.words))


def test_a_text_begins_after_what_the_tokenizer_puts_there_or_else_its_bos_or_eos(small_tokenizer):
    assert start_token(train_word_level(["a b"])) == 1  # [EOS], as in training, where [BOS], the token 0, never occurs
    backend = AutoTokenizer.from_pretrained(small_tokenizer).backend_tokenizer
    backend.post_processor = None
    tokens = dict(bos_token="<|im_start|>", eos_token="<|endoftext|>")
    llama = PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    assert [start_token(llama), prompt_ids(llama, "os")[0, 0].item()] == [2, 2]
    assert start_token(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")) == 0
    assert start_token(PreTrainedTokenizerFast(tokenizer_object=backend)) is None


def test_without_a_bos_or_eos_the_first_token_and_its_bytes_do_not_count(models, small_tokenizer, texts):
    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.bos_token = tokenizer.eos_token = None
    found = score(models["book"], tokenizer, texts[:1])
    (ids,) = encode_texts(tokenizer, texts[:1])
    assert found.policy == "the first token of a document is not scored: the tokenizer has no BOS and no EOS"
    assert found.tokens == len(ids) - 1
    assert found.num_bytes == len(texts[0].encode()) - len(tokenizer.decode(ids[:1]).encode())


def test_a_special_token_in_a_text_is_text(models, tokenizer):
    found = score(models["book"], tokenizer, ["<|endoftext|>"])
    assert found.tokens > 5
    assert found.num_bytes == 13


def test_a_tokenizer_that_loses_words_has_no_bits_per_byte(models, texts):
    tokenizer = train_word_level(texts, vocab_size=100)
    metrics = score(models["book"], tokenizer, texts).metrics()
    assert "perplexity" in metrics
    assert "bits_per_byte" not in metrics


def test_what_cannot_be_scored_is_refused_with_its_place(models, tokenizer, texts):
    with pytest.raises(ValueError, match=r"the text has 0 tokens to score, in 2 documents; at least 2 are needed"):
        score(models["book"], tokenizer, ["", ""])
    with pytest.raises(ValueError, match=r"the text has 1 token to score, in 1 document;"):
        score(models["book"], tokenizer, ["a"])
    for stride in (0, CONTEXT + 1):
        with pytest.raises(ValueError, match=f"stride is {stride} and context_length is 32"):
            score(models["book"], tokenizer, texts, stride=stride)
    broken = GPT2LMHeadModel(models["gpt2"].config).eval()
    broken.transformer.wte.weight.data[encode_texts(tokenizer, ["os."])[0][0]] = math.nan
    with pytest.raises(ValueError, match=r"the model gives nan nats to a window of texts, \d+; finite numbers are needed: did its"):
        score(broken, tokenizer, ["os."] * 2)


def test_only_scored_positions_have_logits(models, tokenizer, monkeypatch):
    widths = []
    forward = type(models["book"]).forward

    def counting(self, *arguments, **settings):
        output = forward(self, *arguments, **settings)
        widths.append(output.logits.shape[1])
        return output

    windows = list(strided_windows(list(range(100)), prefix=0, context_length=CONTEXT, stride=4))[1:5]
    expected = nats_of_windows(models["book"], windows)
    counting.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(type(models["book"]), "forward", counting)
    assert nats_of_windows(models["book"], windows) == expected
    assert widths == [4]


MEASURE = """
import resource, sys
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from hfgpt.evaluation.strided import score_text
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_layer=1, n_embd=16, n_head=1, n_positions=128))
line = "Return the name of the file system path that os.path.join gives, and raise an error where it is missing. " * 10
for number in map(int, sys.argv[2:]):
    documents = ({"text": f"{row} {line}"} for row in range(number))
    score = score_text(model, tokenizer, documents, context_length=128, stride=128, batch_size=16)
    print(score.num_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts KiB as Linux does")
def test_memory_does_not_grow_with_the_text(small_tokenizer, without_hqq, tmp_path):
    done = run_python("-S", "-c", MEASURE, small_tokenizer, 100, 800, cwd=tmp_path, env=without_hqq | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    measured = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    (small, less), (large, more) = measured
    assert large > 7.9 * small > 800_000
    assert more - less < 8 * 1024  # the text alone is 0.7 MB more, its tokens as lists 10 MB
    print(f"{small:,} bytes: {less / 1024:,.1f} MiB; {large:,} bytes: {more / 1024:,.1f} MiB")
