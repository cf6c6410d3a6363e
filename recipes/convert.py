"""Bring weights in from GPT-2, the book, nanoGPT or OpenAI's files, and out to classes and files that know no code of ours.

    python recipes/convert.py openai-community/gpt2 --output_dir runs/gpt2                 # GPT-2, from the Hub or a folder
    python recipes/convert.py model_and_optimizer.pth --tokenizer openai-community/gpt2 --output_dir runs/book
    python recipes/convert.py nanoGPT/out-shakespeare --tokenizer runs/mine/tokenizer --output_dir runs/nanogpt
    python recipes/convert.py runs/quickstart/base --target native --output_dir runs/quickstart/native
    python recipes/convert.py runs/quickstart/base --target gguf --gguf_type q8_0 --output_dir runs/quickstart/gguf
    python recipes/convert.py runs/mine/base --adapter runs/mine/lora --output_dir runs/mine/merged

What is written has been measured: the logits in float32 of what came in, of what goes out, and with an adapter before and after
merging. conversion.json in the result says by how much they differ.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.conversion:ConvertArguments", positional="source")

import json
import re
import shlex
import shutil
from pathlib import Path

import torch
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from hfgpt.arguments.conversion import ConvertArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.conversion.adapters import merge_adapter
from hfgpt.conversion.checkpoints import read_characters
from hfgpt.conversion.gguf_file import check_gguf, write_gguf
from hfgpt.conversion.ollama import modelfile
from hfgpt.conversion.vocabulary import adopt_tokenizer
from hfgpt.conversion.weights_in import Converted, Model, read_source
from hfgpt.conversion.weights_out import dropped_dropouts, twin_kind, twin_of
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.errors import UserError, require_space
from hfgpt.files import claim_output, public_name, replaced_folder
from hfgpt.fingerprint import check_equal, logits_of, probe_rows, record_fingerprint
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.card.settings import load_settings, save_settings
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM
from hfgpt.tokenization import character_tokenizer, load_or_wrap_tokenizer
from hfgpt.training.next_steps import classify_command, command, generate_command, words_of

REPORT_NAME = "conversion.json"
CHARACTERS = "meta.pkl"  # nanoGPT's, of a model of characters


def main(args: ConvertArguments) -> dict[str, float]:
    # 1. Weights in, every tensor checked; then the same tokens through the class that they came from, where there is one
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=REPORT_NAME)
    converted = read_source(
        args.source,
        source_format=args.source_format,
        num_attention_heads=args.num_attention_heads,
        hidden_act=args.hidden_act,
    )
    model, notes = converted.model, converted.notes
    differences: dict[str, float] = {}
    if converted.format == "gpt2":
        differences["difference_from_source"] = compare_with_source(converted)

    # 2. An adapter, merged in float32
    if args.adapter:
        model, differences["difference_of_merging"] = merge_adapter(model, Path(args.adapter))

    # 3. The tokenizer, and rows for its special tokens
    tokenizer = find_tokenizer(args, converted)
    if tokenizer is not None:
        notes += adopt_tokenizer(model, tokenizer)
    else:
        notes.append("no tokenizer was found beside the weights; give one with --tokenizer, generating text needs it.")

    # 4. What goes out, in float32 once more compared with what came in
    dtype = converted.dtype if args.dtype == "source" else getattr(torch, args.dtype)
    result = model
    if args.target == "native":
        result = twin_of(model)
        rows = probe_rows(model)
        what = f"{type(model).__name__} and {type(result).__name__}"
        differences["difference_of_twin"] = check_equal(logits_of(result, rows), logits_of(model, rows), what=what)
        if dropouts := dropped_dropouts(model.config):
            notes.append(f"{type(result).__name__} has no {' and no '.join(dropouts)}, which matters only to further training.")
    elif args.target == "gguf":
        if tokenizer is None:
            raise UserError(f"GGUF carries the tokenizer, and none was found beside {args.source}; give one with --tokenizer.")
        if not isinstance(model, HfGptForCausalLM):
            raise UserError(f"{args.source} is a classifier; llama.cpp generates text, so --target native is its way out.")
        notes += [note for note in check_gguf(model.config, tokenizer) if note not in notes]

    # 5. Written beside, and renamed when all of it is there
    report = {"source": public_name(args.source), "commit": commit_of(converted), "format": converted.format, "target": args.target}
    report |= {**differences, "notes": notes}
    itemsize = {"f32": 4, "f16": 2, "q8_0": 1}[args.gguf_type] if args.target == "gguf" else dtype.itemsize
    require_space(output.parent, sum(parameter.numel() for parameter in result.parameters()) * itemsize)
    with replaced_folder(output) as folder:
        if args.target == "gguf":
            gguf_name = f"{output.name}-{args.gguf_type}.gguf"
            write_gguf(model, tokenizer, path=folder / gguf_name, gguf_type=args.gguf_type, name=output.name)
            text = modelfile(
                tokenizer,
                gguf_name=gguf_name,
                context_length=model.config.max_position_embeddings,
                generation_config=model.generation_config,
            )
            (folder / "Modelfile").write_text(text, encoding="utf-8")
        else:
            result.to(dtype).save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        record_fingerprint(result, tokenizer, folder)
        (folder / REPORT_NAME).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        # The same weights come from the same data, and have the same licence.
        if (passport := passport_of(converted)) is not None:
            shutil.copyfile(passport, folder / PASSPORT_NAME)
        save_settings(folder, args.card or load_settings(converted.source))
        write_card(folder)

    # 6. Report
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = twin_kind(model.config) if args.target != "hfgpt" else "hfgpt"
    logger.info(f"convert: {converted.format} -> {args.target} ({kind}), {parameters:,} parameters; saved in {output}")
    for name, difference in differences.items():
        logger.info(f"{name.replace('_', ' ')}: {difference:.2e} (largest of all logits, float32)")
    for note in notes:
        logger.info(f"note: {note}")
    logger.info(next_line(args, output, model, tokenizer=tokenizer))
    return {"parameters": parameters, **differences}


def compare_with_source(converted: Converted) -> float:
    """The largest difference from what transformers' own GPT-2 reads out of the same folder."""
    is_causal = isinstance(converted.model, HfGptForCausalLM)
    source_class = GPT2LMHeadModel if is_causal else GPT2ForSequenceClassification
    source = source_class.from_pretrained(converted.source, dtype=torch.float32)
    rows = probe_rows(converted.model)
    return check_equal(logits_of(converted.model, rows), logits_of(source, rows), what=f"hfgpt and {source_class.__name__}")


def commit_of(converted: Converted) -> str | None:
    """Of a Hub id the commit that was read, as the cache's folder is called; None for a folder or file of the user."""
    return converted.source.name if converted.source.parent.name == "snapshots" else None


def passport_of(converted: Converted) -> Path | None:
    """The passport of the data that the weights were trained on; a merged twin's lies with its adapter."""
    places = (converted.source, converted.source.parent) if converted.source.name == "merged" else (converted.source,)
    return next((place / PASSPORT_NAME for place in places if (place / PASSPORT_NAME).is_file()), None)


def find_tokenizer(args: ConvertArguments, converted: Converted) -> PreTrainedTokenizerFast | None:
    """The tokenizer that was named, or the one beside the weights; GPT-2's own files and nanoGPT's characters get a padding."""
    folder = converted.source if converted.source.is_dir() else converted.source.parent
    place = Path(args.tokenizer) if args.tokenizer else folder
    if place.name == CHARACTERS or (place / CHARACTERS).is_file():
        return character_tokenizer(read_characters(place if place.name == CHARACTERS else place / CHARACTERS))
    if args.tokenizer:
        return load_or_wrap_tokenizer(args.tokenizer)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "encoder.json")):
        return None
    return load_or_wrap_tokenizer(folder)


def next_line(args: ConvertArguments, output: Path, model: Model, *, tokenizer: PreTrainedTokenizerFast | None) -> str:
    """What can be done with the result; where its tokenizer is missing, the same conversion with one."""
    if args.target == "gguf":
        return f"next: cd {shlex.quote(str(output))} && ollama create {shlex.quote(ollama_name(output.name))} -f Modelfile"
    if tokenizer is None:
        again = command("convert", *words_of(args, positional="source", tokenizer="TOKENIZER", overwrite=True))
        return f"to generate text, put the folder or Hub id of its tokenizer for TOKENIZER in this: {again}"
    if not isinstance(model, HfGptForCausalLM):
        return f"next: {classify_command(output)}"
    return f"next: {generate_command(output, chat=tokenizer.chat_template is not None)}"


def ollama_name(name: str) -> str:
    """A folder's name as Ollama takes it for a model."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"


if __name__ == "__main__":
    launch(main, ConvertArguments, positional="source")
