"""hfgpt: your text in, your own GPT on the Hub out.

Importing this package registers the model with the Auto classes of transformers, tells PEFT to look for an adapter's base beside
it, and does nothing else. It is as cheap as `import transformers`: both registrations wait until those classes are loaded, and the
names below until they are used (PEP 562).
"""

import importlib
import sys
from typing import TYPE_CHECKING

from wrapt import register_post_import_hook

if TYPE_CHECKING:  # for editors and type checkers, for which `x as x` means that x is public; the same names as in _MODULE_OF
    from hfgpt.api.models import check as check
    from hfgpt.api.models import convert as convert
    from hfgpt.api.models import evaluate as evaluate
    from hfgpt.api.models import generate as generate
    from hfgpt.api.models import load_model as load_model
    from hfgpt.api.models import publish as publish
    from hfgpt.api.results import ConversionResult as ConversionResult
    from hfgpt.api.results import DataResult as DataResult
    from hfgpt.api.results import EvaluationResult as EvaluationResult
    from hfgpt.api.results import PublishingResult as PublishingResult
    from hfgpt.api.results import TokenizerResult as TokenizerResult
    from hfgpt.api.results import TrainingResult as TrainingResult
    from hfgpt.api.texts import pack_rows as pack_rows
    from hfgpt.api.texts import read_conversations as read_conversations
    from hfgpt.api.texts import read_documents as read_documents
    from hfgpt.api.texts import read_records as read_records
    from hfgpt.api.training import align as align
    from hfgpt.api.training import finetune_assistant as finetune_assistant
    from hfgpt.api.training import finetune_classifier as finetune_classifier
    from hfgpt.api.training import from_text as from_text
    from hfgpt.api.training import prepare_data as prepare_data
    from hfgpt.api.training import pretrain as pretrain
    from hfgpt.api.training import train_tokenizer as train_tokenizer
    from hfgpt.api.training import verify_data as verify_data
    from hfgpt.data.packing import sliding_windows as sliding_windows
    from hfgpt.errors import RunStopped as RunStopped
    from hfgpt.errors import UserError as UserError
    from hfgpt.model.configuration_hfgpt import HfGptConfig as HfGptConfig
    from hfgpt.model.modeling_hfgpt import HfGptForCausalLM as HfGptForCausalLM
    from hfgpt.model.modeling_hfgpt import HfGptForQuestionAnswering as HfGptForQuestionAnswering
    from hfgpt.model.modeling_hfgpt import HfGptForSequenceClassification as HfGptForSequenceClassification
    from hfgpt.model.modeling_hfgpt import HfGptForTokenClassification as HfGptForTokenClassification
    from hfgpt.model.modeling_hfgpt import HfGptModel as HfGptModel
    from hfgpt.tokenization import encode_texts as encode_texts
    from hfgpt.tokenization import load_tokenizer as load_tokenizer

__version__ = "0.2.0"  # the only place: pyproject.toml reads it here

_MODULE_OF = {
    "check": "hfgpt.api.models",
    "convert": "hfgpt.api.models",
    "evaluate": "hfgpt.api.models",
    "generate": "hfgpt.api.models",
    "load_model": "hfgpt.api.models",
    "publish": "hfgpt.api.models",
    "ConversionResult": "hfgpt.api.results",
    "DataResult": "hfgpt.api.results",
    "EvaluationResult": "hfgpt.api.results",
    "PublishingResult": "hfgpt.api.results",
    "TokenizerResult": "hfgpt.api.results",
    "TrainingResult": "hfgpt.api.results",
    "pack_rows": "hfgpt.api.texts",
    "read_conversations": "hfgpt.api.texts",
    "read_documents": "hfgpt.api.texts",
    "read_records": "hfgpt.api.texts",
    "align": "hfgpt.api.training",
    "finetune_assistant": "hfgpt.api.training",
    "finetune_classifier": "hfgpt.api.training",
    "from_text": "hfgpt.api.training",
    "prepare_data": "hfgpt.api.training",
    "pretrain": "hfgpt.api.training",
    "train_tokenizer": "hfgpt.api.training",
    "verify_data": "hfgpt.api.training",
    "sliding_windows": "hfgpt.data.packing",
    "RunStopped": "hfgpt.errors",
    "UserError": "hfgpt.errors",
    "HfGptConfig": "hfgpt.model.configuration_hfgpt",
    "HfGptForCausalLM": "hfgpt.model.modeling_hfgpt",
    "HfGptForQuestionAnswering": "hfgpt.model.modeling_hfgpt",
    "HfGptForSequenceClassification": "hfgpt.model.modeling_hfgpt",
    "HfGptForTokenClassification": "hfgpt.model.modeling_hfgpt",
    "HfGptModel": "hfgpt.model.modeling_hfgpt",
    "encode_texts": "hfgpt.tokenization",
    "load_tokenizer": "hfgpt.tokenization",
}
__all__ = ["__version__", *_MODULE_OF]  # pyright: ignore[reportUnsupportedDunderAll]  # the same as the aliases above

_AUTO, _LAYERS = "transformers.models.auto.modeling_auto", "transformers.modeling_layers"
_imported: set[str] = set()


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hfgpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


def _register_config(auto_module) -> None:
    from hfgpt.model.configuration_hfgpt import HfGptConfig

    # exist_ok: a notebook that reloads hfgpt registers it again.
    auto_module.AutoConfig.register(HfGptConfig.model_type, HfGptConfig, exist_ok=True)


def _load_models(module) -> None:
    # `from transformers import GPT2LMHeadModel` imports modeling_layers, which imports modeling_auto before it is complete itself.
    # Our models need both: they wait for the second, unless nobody has started importing it.
    _imported.add(module.__name__)
    if _AUTO in _imported and (_LAYERS in _imported or _LAYERS not in sys.modules):
        importlib.import_module("hfgpt.model.modeling_hfgpt")


def _let_peft_find_bases(config_module) -> None:
    from hfgpt.artifacts import let_peft_find_bases

    let_peft_find_bases(config_module)


# A hook runs after its module has been imported, or at once if it already was. The models register themselves.
register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
register_post_import_hook(_load_models, _AUTO)
register_post_import_hook(_load_models, _LAYERS)
register_post_import_hook(_let_peft_find_bases, "peft.config")
