import re
from dataclasses import fields

import pytest

from hfgpt.arguments.documents import PrepareArguments, TokenizerArguments
from hfgpt.arguments.evaluation import EVALUATION_NEEDS, EvaluateArguments
from hfgpt.arguments.finetuning import InstructionArguments
from hfgpt.arguments.needs import NEEDS
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.data.sources import find_sources, refuse_unread_options
from hfgpt.errors import UserError

DATA = dict(sources=["a.txt"], tokenizer="t", output_dir="o")
MIXED = dict(sources=["a.txt", "b.txt"], mixture_alpha=0.5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(perplexity_sigmas=2.0), "perplexity_sigmas is 2.0, but perplexity_model is not given, so it would have no effect; "
         "give perplexity_model, or leave perplexity_sigmas out."),
        (dict(filter_settings={"min_words": 3}), "but filters is none, so it would have no effect; set filters to light or web,"),
        (dict(languages=["en", "de"]), "languages is en de, but filters is none"),
        (dict(personal_data_types=["email"]), "personal_data_types is email, but personal_data is keep"),
        (dict(phone_regions=["US"], personal_data="keep"), "phone_regions is US, but personal_data is keep"),
        (dict(privacy_model="m"), "privacy_model is m, but personal_data is keep"),
        (dict(personal_data="mask", personal_data_types=["email"], phone_regions=["US"]), "but personal_data_types is email"),
        (dict(split_by="position", split_seed=3), "split_seed is 3, but split_by is position"),
        (dict(lzma_baseline=True, test_share=0.0), "lzma_baseline is true, but test_share is 0.0"),
        (dict(leaks="ignore", leak_tokens=60), "leak_tokens is 60, but leaks is ignore and decontaminate_against is not given, so "
         "it would have no effect; set leaks to drop or count, give decontaminate_against, or leave leak_tokens out."),
        (dict(canary_counts=[1, 2]), "canary_counts is 1 2, but plant_canaries is false"),
        (dict(canary_seed=3), "canary_seed is 3, but plant_canaries is false"),
        (dict(mixture_tokens=100), "mixture_tokens is 100, but source_weights is not given and mix"),
        (dict(MIXED, shuffle_documents=False), "shuffle_documents is false, but mixture_alpha is 0.5"),
        (dict(shuffle_documents=False, mixture_seed=2), "mixture_seed is 2, but shuffle_documents is false and"),
        (dict(stride=2), "stride is 2, but window is not given"),
        (dict(packing="in_order", window=8), "packing is in_order, but window is 8, so it would have no effect; leave window out"),
        (dict(num_tasks=3), "num_tasks is 3, but engine is local, so it would have no effect; set engine to ray or slurm"),
        (dict(num_tasks=3, engine="ray", max_documents=9), "num_tasks is 3, but max_documents is 9"),
        (dict(engine_settings={"time": "02:00"}), "but engine is local"),
        (dict(keep_dropped=True, engine="ray"), "keep_dropped is true, but engine is ray"),
    ],
)  # fmt: skip
def test_a_key_of_documents_that_would_do_nothing_is_refused(given, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        PrepareArguments(**{**DATA, **given}).filled({})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(family="gpt2", depth=4), "depth is 4, but family is gpt2, so it would have no effect; set family to modern"),
        (dict(size="355M"), "size is 355M, but family is modern"),
        (
            dict(model="base", depth=4),
            "depth is 4, but model is base, so it would have no effect; leave model out, or leave depth out.",
        ),
        (dict(model="base", family="gpt2"), "family is gpt2, but model is base"),
        (dict(model="base", family="gpt2", size="355M"), "family is gpt2, but model is base"),
        (dict(old_dataset="d"), "old_dataset is d, but model is not given, so it would have no effect; give model, or leave"),
        (dict(rewarm_to=0.5), "rewarm_to is 0.5, but model is not given"),
        (
            dict(model="base", config_overrides={"num_hidden_layers": 2}),
            "config_overrides has num_hidden_layers, but model is base, whose weights fix what it computes; only dropout can be "
            "changed. Leave num_hidden_layers out.",
        ),
        (dict(model="base", rewarm_to=2.0), "rewarm_to is 2.0; it must be a fraction of the peak rates, above 0 and up to 1."),
        (dict(sample_prompts=[], sample_tokens=9), "sample_tokens is 9, but sample_prompts is not given"),
        (dict(num_train_epochs=5.0, max_steps=60), "num_train_epochs is 5.0, but max_steps is 60, so it would have no effect; set "
         "max_steps to -1, or leave num_train_epochs out."),
        (dict(eval_steps=5, eval_strategy="epoch"), "eval_steps is 5, but eval_strategy is epoch"),
        (dict(save_steps=5, save_strategy="epoch"), "save_steps is 5, but save_strategy is epoch"),
        (dict(hub_model_id="you/model"), "hub_model_id is you/model, but push_to_hub is false"),
    ],
)  # fmt: skip
def test_a_key_of_training_that_would_do_nothing_is_refused(given, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        PretrainArguments(dataset="d", output_dir="o", **given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(split="validation"), "split is validation, but dataset is not given, so it would have no effect; give dataset, or"),
        (dict(dataset="d", stride=2), "stride is 2, but text is not given"),
        (dict(text=["a.txt"], max_length=9), "max_length is 9, but test_sources is not given"),
        (dict(dataset="d", hub_split="train"), "hub_split is train, but text is not given and test_sources is not given"),
        (dict(dataset="d", limit=3), "limit is 3, but tasks is not given"),
        (dict(dataset="d", num_samples=3), "num_samples is 3, but memorization is false"),
    ],
)
def test_a_key_of_an_evaluation_that_would_do_nothing_is_refused(given, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        EvaluateArguments(model="m", **given)


def test_what_is_measured_on_held_out_text_needs_some():
    given = TokenizerArguments(sources=["a.txt"], output_dir="o", report_languages=True, validation_share=0.0)
    given.filled({})
    given.test_share = 0.0
    with pytest.raises(
        UserError, match=re.escape("report_languages is true, but validation_share is 0.0 and test_share is 0.0, so")
    ):
        given.filled({})


@pytest.mark.parametrize(
    "given",
    [
        dict(MIXED, mixture_alpha=0.0, mixture_tokens=100, mixture_seed=2),  # 0 gives every source the same weight
        dict(leaks="ignore", decontaminate_against=["b.txt"], leak_tokens=60),
        dict(window=8, context_length=8, stride=2),
        dict(engine="ray", num_tasks=2, engine_settings={}),
        dict(shuffle_documents=False),
    ],
)
def test_what_has_an_effect_passes(given):
    PrepareArguments(**{**DATA, **given}).filled({})


@pytest.mark.parametrize(
    "given",
    [dict(judge_model="m"), dict(canary_file="c.txt", canaries=False)],
)
def test_a_key_of_an_assistant_that_would_do_nothing_is_refused(given):
    with pytest.raises(UserError, match=f"{next(iter(given))} is .*, so it would have no effect"):
        InstructionArguments(model="user/base", sources=["a.json"], output_dir="o", **given)


def test_what_a_key_needs_may_come_from_the_tokenizer():
    earlier = {"filters": "web", "personal_data": "mask", "perplexity_model": "m"}
    given = PrepareArguments(**DATA, perplexity_sigmas=2.0, languages=["de"], personal_data_types=["phone"], phone_regions=["DE"])
    filled = given.filled(earlier)
    assert (filled.perplexity_model, filled.perplexity_sigmas, filled.personal_data) == ("m", 2.0, "mask")
    with pytest.raises(UserError, match="personal_data_types is phone, but personal_data is keep"):
        given.filled(earlier | {"personal_data": "keep"})
    # a key from the tokenizer that has no effect here was not given by the user
    assert PrepareArguments(**DATA, personal_data="keep").filled(earlier | {"personal_data_types": ["email"]})


def test_the_table_names_keys_that_there_are():
    kinds = (PrepareArguments, TokenizerArguments, PretrainArguments, InstructionArguments)
    assert {name for need in NEEDS for name in (*need.keys, *need.others)} <= {one.name for kind in kinds for one in fields(kind)}
    of_evaluation = {name for need in EVALUATION_NEEDS for name in (*need.keys, *need.others)}
    assert of_evaluation <= {one.name for one in fields(EvaluateArguments)}


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("a.txt", dict(hub_revision="main"), r"hub_revision is main, but no source is of a kind that uses it \(hub\)"),
        ("a.txt", dict(streaming=True), "streaming is true, but no source"),
        ("a.txt", dict(text_field="body"), "text_field is body, but"),
        ("a.jsonl", dict(text_documents="line"), r"of a kind that uses it \(text\), so it would have no effect; leave it out."),
        ("a.jsonl", dict(hub_split="test"), r"hub_split is test, but"),
    ],
)
def test_a_key_that_no_source_has_a_use_for_is_refused(name, given, sentence, tmp_path):
    (tmp_path / name).write_text("{}\n")
    sources = find_sources([str(tmp_path / name)])
    with pytest.raises(UserError, match=sentence):
        refuse_unread_options(sources, given)
    refuse_unread_options(find_sources([str(tmp_path / name), "user/name"]), dict(text_field="text", hub_revision="main"))
