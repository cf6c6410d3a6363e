"""A fingerprint of what a folder holds now, where its training wrote none."""

from pathlib import Path

from peft import PeftModel

from hfgpt.artifacts import identify
from hfgpt.errors import UserError
from hfgpt.evaluation.loading import open_folder
from hfgpt.fingerprint import record_fingerprint


def record_from_folder(folder: str | Path) -> Path:
    """Write `fingerprint.json` from what a folder holds now, with the classes of this hfgpt; code in the folder is not run.

    It says so in its `recorded`: what went wrong before cannot show any more.
    Raises: ValueError for a folder that holds no model or adapter, or a class that needs the folder's own code.
    """
    artifact = identify(folder)
    if artifact.use:
        raise UserError(f"{folder} is a {artifact.kind}; only models and adapters are recorded, leave --record out.")
    if artifact.whole is None:
        raise UserError(f"{folder} is an adapter without base/; put the folder of its base there, nothing can be loaded without.")
    opened = open_folder(folder)
    model = opened.load_whole()
    if opened.adapter is not None:
        model = PeftModel.from_pretrained(model, str(artifact.folder))
    has_tokenizer = (artifact.folder / "tokenizer.json").is_file()
    return record_fingerprint(
        model, opened.load_tokenizer() if has_tokenizer else None, artifact.folder, recorded="on demand, after it was saved"
    )
