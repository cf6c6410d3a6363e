"""hfgpt: your text in, your own GPT on the Hub out.

Importing this package registers the model with the Auto classes of transformers, tells PEFT to look for an adapter's base beside
it, and does nothing else. It stays as cheap as `import transformers`: both wait until those classes themselves are loaded, and the
names below until they are used (PEP 562).
"""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

from wrapt import register_post_import_hook

try:
    __version__ = version("hfgpt")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+uninstalled"

_MODULE_OF = {
    "HfGptConfig": "hfgpt.model.configuration_hfgpt",
    "HfGptForCausalLM": "hfgpt.model.modeling_hfgpt",
    "HfGptForQuestionAnswering": "hfgpt.model.modeling_hfgpt",
    "HfGptForSequenceClassification": "hfgpt.model.modeling_hfgpt",
    "HfGptForTokenClassification": "hfgpt.model.modeling_hfgpt",
    "HfGptModel": "hfgpt.model.modeling_hfgpt",
}
__all__ = ["__version__", *_MODULE_OF]

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

    # exist_ok: a notebook that reloads hfgpt registers it a second time.
    auto_module.AutoConfig.register(HfGptConfig.model_type, HfGptConfig, exist_ok=True)


def _load_models(module) -> None:
    # `from transformers import GPT2LMHeadModel` imports modeling_layers, which imports modeling_auto before it is whole itself.
    # Our models need both: they wait for the second, unless nobody has begun to import it.
    _imported.add(module.__name__)
    if _AUTO in _imported and (_LAYERS in _imported or _LAYERS not in sys.modules):
        importlib.import_module("hfgpt.model.modeling_hfgpt")


def _let_peft_find_bases(config_module) -> None:
    from hfgpt.artifacts import let_peft_find_bases

    let_peft_find_bases(config_module)


# A hook runs when its module has been imported, or at once if it was before. The models register themselves.
register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
register_post_import_hook(_load_models, _AUTO)
register_post_import_hook(_load_models, _LAYERS)
register_post_import_hook(_let_peft_find_bases, "peft.config")
