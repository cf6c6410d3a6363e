"""Import weights from GPT-2, the book, nanoGPT or OpenAI's files, and export them to classes and files that do not need hfgpt.

    python recipes/convert.py openai-community/gpt2 --output_dir runs/gpt2                 # GPT-2, from the Hub or a folder
    python recipes/convert.py model_and_optimizer.pth --tokenizer openai-community/gpt2 --output_dir runs/book
    python recipes/convert.py nanoGPT/out-shakespeare --tokenizer runs/mine/tokenizer --output_dir runs/nanogpt
    python recipes/convert.py runs/quickstart/base --target native --output_dir runs/quickstart/native
    python recipes/convert.py runs/quickstart/base --target gguf --gguf_type q8_0 --output_dir runs/quickstart/gguf
    python recipes/convert.py runs/mine/base --adapter runs/mine/lora --output_dir runs/mine/merged

Everything is verified before it is written: the float32 logits of the input and the output are compared, and with an adapter those
before and after merging. conversion.json in the result records the differences.
"""

if __name__ == "__main__":  # --help and mistakes are answered here, before the imports below
    from hfgpt.arguments.launching import check_command_line

    check_command_line("hfgpt.arguments.conversion:ConvertArguments")

import shutil
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments.commands import command_line
from hfgpt.arguments.conversion import TARGETS, ConvertArguments
from hfgpt.arguments.launching import launch, logger
from hfgpt.arguments.terminal import RESULT
from hfgpt.artifacts import CONVERSION_FILE, run_folders
from hfgpt.conversion.adapters import merge_adapter
from hfgpt.conversion.exports import Export, ExportOptions
from hfgpt.conversion.vocabulary import adopt_tokenizer, find_tokenizer
from hfgpt.conversion.weights_in import difference_from_source, read_source
from hfgpt.data.passport import PASSPORT_NAME
from hfgpt.errors import require_space
from hfgpt.files import claim_output, public_name, replaced_folder, write_json
from hfgpt.fingerprint import record_fingerprint
from hfgpt.hub.card.rendering import write_card
from hfgpt.hub.card.settings import load_settings, save_settings
from hfgpt.tables import resolve
from hfgpt.training.next_steps import classify_command, generate_command


def main(args: ConvertArguments) -> dict[str, float]:
    # 1. Import the weights, checking every tensor; then run the same tokens through the original class, if there is one
    output = claim_output(args.output_dir, overwrite=args.overwrite, marker=CONVERSION_FILE, whole=True)
    converted = read_source(
        args.source,
        source_format=args.source_format,
        num_attention_heads=args.num_attention_heads,
        hidden_act=args.hidden_act,
    )
    model, notes = converted.model, converted.notes
    differences = difference_from_source(converted)

    # 2. An adapter, merged in float32; its tokenizer, passport and card count, and the source's only where it has none
    if args.adapter:
        converted.adapter_folders = run_folders(args.adapter)
        model, differences["difference_of_merging"] = merge_adapter(model, Path(args.adapter))

    # 3. The tokenizer, and rows for its special tokens
    tokenizer = find_tokenizer(args.tokenizer, beside=converted.folders)
    if tokenizer is not None:
        notes += adopt_tokenizer(model, tokenizer)
    else:
        notes.append("no tokenizer was found beside the weights; give one with --tokenizer, generating text needs it.")

    # 4. The output, compared with the input in float32
    dtype = converted.dtype if args.dtype == "source" else getattr(torch, args.dtype)
    options = ExportOptions(source=args.source, output=output, dtype=dtype, gguf_type=args.gguf_type)
    export: Export = resolve(TARGETS.find(args.target).export)(model, tokenizer, options)
    differences |= export.differences
    notes += [note for note in export.notes if note not in notes]
    parameters = model.num_parameters()

    # 5. Write to a temporary folder, and rename it when complete
    report = {"source": public_name(args.source), "commit": converted.commit, "format": converted.format, "target": args.target}
    require_space(output.parent, export.num_bytes)
    with replaced_folder(output) as folder:
        export.write(folder)
        record_fingerprint(export.model, tokenizer, folder)
        write_json(folder / CONVERSION_FILE, {**report, **differences, "notes": notes}, ensure_ascii=False)
        if converted.passport is not None:  # the same weights come from the same data, and have the same licence
            shutil.copyfile(converted.passport, folder / PASSPORT_NAME)
        cards = (load_settings(place) for place in (*converted.adapter_folders, converted.source))
        save_settings(folder, cast("dict | None", args.card) or next(filter(None, cards), None))
        write_card(folder)

    # 6. Report
    what = f"{converted.format} -> {args.target} ({export.kind}), {parameters:,} parameters"
    logger.log(RESULT, f"convert: {what}; saved in {output}")
    for name, difference in differences.items():
        logger.log(RESULT, f"{name.replace('_', ' ')}: {difference:.2e} (largest of all logits, float32)")
    for note in notes:
        logger.log(RESULT, f"note: {note}")
    logger.log(RESULT, next_line(args, output, export, tokenizer=tokenizer))
    return {"parameters": parameters, **differences}


def next_line(args: ConvertArguments, output: Path, export: Export, *, tokenizer: PreTrainedTokenizerFast | None) -> str:
    """The suggested next command; if the tokenizer is missing, the same conversion with one."""
    if export.next_command is not None:
        return f"next: {export.next_command}"
    if tokenizer is None:
        again = command_line("convert", *args.as_command(tokenizer="TOKENIZER", overwrite=True))
        return f"to generate text, run this with TOKENIZER replaced by the folder or Hub id of its tokenizer: {again}"
    if not export.model.can_generate():
        return f"next: {classify_command(output)}"
    return f"next: {generate_command(output, chat=tokenizer.chat_template is not None)}"


if __name__ == "__main__":
    launch(main, ConvertArguments)
