"""Record a fingerprint of a folder's current contents if training wrote none."""

from pathlib import Path

from peft import PeftModel

from hfgpt.artifacts import identify
from hfgpt.errors import UserError
from hfgpt.evaluation.loading import open_folder
from hfgpt.fingerprint import record_fingerprint


def record_from_folder(folder: str | Path) -> Path:
    """Write `fingerprint.json` from a folder's current contents, with the classes of this hfgpt; code in the folder is not run.

    Its `recorded` field says so: earlier damage can no longer be detected.
    Raises: ValueError for a folder without a model or adapter, or a class that needs the folder's own code.
    """
    artifact = identify(folder)
    if artifact.use:
        raise UserError(f"{folder} is a {artifact.kind}; only models and adapters can be recorded; leave --record out.")
    if artifact.whole is None:
        raise UserError(f"{folder} is an adapter without base/; put its base there, because nothing can be loaded without it.")
    opened = open_folder(folder)
    model = opened.load_whole()
    if opened.adapter is not None:
        model = PeftModel.from_pretrained(model, str(artifact.folder))
    has_tokenizer = (artifact.folder / "tokenizer.json").is_file()
    return record_fingerprint(
        model, opened.load_tokenizer() if has_tokenizer else None, artifact.folder, recorded="on demand, after it was saved"
    )
