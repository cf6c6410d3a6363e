"""transformers' common model tests on the two families of hfgpt; tests/upstream/test_upstream.py copies this beside them."""

import unittest

import torch
from transformers.models.auto import modeling_auto

from hfgpt import (
    HfGptConfig,
    HfGptForCausalLM,
    HfGptForQuestionAnswering,
    HfGptForSequenceClassification,
    HfGptForTokenClassification,
    HfGptModel,
)

from . import test_fsdp_mixin, test_tensor_parallel_mixin
from .generation.test_utils import GenerationTesterMixin
from .test_configuration_common import ConfigTester
from .test_fsdp_mixin import FSDPTesterMixin
from .test_modeling_common import ModelTesterMixin, ids_tensor
from .test_tensor_parallel_mixin import TensorParallelTesterMixin
from .test_training_mixin import TrainingTesterMixin

# transformers runs the multi-process tests only for a list of its own models.
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = {"hfgpt"}
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = {"hfgpt"}
# The tests use these names to look up which labels a class needs; without them they would skip all training.
modeling_auto.MODEL_MAPPING_NAMES["hfgpt"] = "HfGptModel"
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["hfgpt"] = "HfGptForCausalLM"
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["hfgpt"] = "HfGptForSequenceClassification"
modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES["hfgpt"] = "HfGptForTokenClassification"
modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES["hfgpt"] = "HfGptForQuestionAnswering"

SHAPE = dict(
    vocab_size=99,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    # One process and several are compared in training mode, where they would draw different dropout masks.
    embedding_dropout=0.0,
    residual_dropout=0.0,
    attention_dropout=0.0,
)


class ModelTester:
    """What the common tests need for a model: its classes, a small configuration and inputs."""

    base_model_class = HfGptModel
    causal_lm_class = HfGptForCausalLM
    sequence_classification_class = HfGptForSequenceClassification
    token_classification_class = HfGptForTokenClassification
    question_answering_class = HfGptForQuestionAnswering
    config_class = HfGptConfig
    batch_size, seq_length, is_training = 13, 7, True
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 32, 2, 4, 99

    def __init__(self, parent: unittest.TestCase, build_config):
        self.parent, self.build_config = parent, build_config

    def get_config(self) -> HfGptConfig:
        return self.build_config()

    def prepare_config_and_inputs_for_common(self):
        # No padding token inside: a classifier would read the token before it.
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 1) + 1
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.tril(torch.ones_like(input_ids))}


class CommonTests(
    ModelTesterMixin,
    GenerationTesterMixin,
    TrainingTesterMixin,
    TensorParallelTesterMixin,
    FSDPTesterMixin,
):
    all_model_classes = (
        HfGptModel,
        HfGptForCausalLM,
        HfGptForSequenceClassification,
        HfGptForTokenClassification,
        HfGptForQuestionAnswering,
    )
    all_generative_model_classes = (HfGptForCausalLM,)
    pipeline_model_mapping = {}  # the pipelines: tests/ecosystem/test_pipelines.py
    test_can_init_all_missing_weights_before_2023 = True  # the year is read from a copyright line, which ours lacks

    def setUp(self):
        self._tester = ModelTester(self, self.build_config)
        self.config_tester = ConfigTester(self, config_class=HfGptConfig, hidden_size=32, num_attention_heads=4)

    @property
    def model_tester(self) -> ModelTester:
        return self._tester

    def test_config(self):
        self.config_tester.run_common_tests()


class BookFamilyTest(CommonTests, unittest.TestCase):
    # Learned positions have a fixed length, and nothing to scale.
    test_model_rope_scaling_from_config_0_linear = None
    test_model_rope_scaling_from_config_1_dynamic = None
    test_model_rope_scaling_from_config_2_yarn = None
    test_model_rope_with_partial_rotation = None

    @staticmethod
    def build_config() -> HfGptConfig:
        return HfGptConfig(**SHAPE)


class ModernFamilyTest(CommonTests, unittest.TestCase):
    @staticmethod
    def build_config() -> HfGptConfig:
        return HfGptConfig.modern(2, **SHAPE | dict(num_key_value_heads=2, tie_word_embeddings=True))
