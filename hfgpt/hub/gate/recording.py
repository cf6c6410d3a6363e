"""A fingerprint of what a folder holds now, where its training wrote none."""

from pathlib import Path

import torch
from peft import PeftModel

from hfgpt.errors import UserError
from hfgpt.fingerprint import record_fingerprint


def record_from_folder(folder: str | Path) -> Path:
    """Write `fingerprint.json` from what a folder holds now, with the classes of this hfgpt; code in the folder is not run.

    It says so in its `recorded`: what went wrong before cannot show any more.
    Raises: ValueError for a folder that holds no model or adapter, or a class that needs the folder's own code.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    import hfgpt  # noqa: F401 - the Auto classes know our model by it
    from hfgpt.conversion.adapters import check_adapter_base
    from hfgpt.hub.artifacts import identify

    artifact = identify(folder)
    if artifact.kind not in ("model", "adapter"):
        raise UserError(f"{folder} is a {artifact.kind}; only models and adapters are recorded, leave --record out.")
    whole = artifact.base if artifact.kind == "adapter" else artifact.folder
    if whole is None:
        raise UserError(f"{folder} is an adapter without base/; put the folder of its base there, nothing can be loaded without.")
    classifies = artifact.task == "text-classification"
    auto_class = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    model = auto_class.from_pretrained(whole, dtype=torch.float32, trust_remote_code=False)
    if artifact.kind == "adapter":
        check_adapter_base(artifact.folder, model)
        model = PeftModel.from_pretrained(model, str(artifact.folder))
    has_tokenizer = (artifact.folder / "tokenizer.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(artifact.folder, trust_remote_code=False) if has_tokenizer else None
    return record_fingerprint(model, tokenizer, artifact.folder, recorded="on demand, after it was saved")
