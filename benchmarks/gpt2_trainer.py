"""The external baseline of time_to_loss.py: GPT2LMHeadModel and the Trainer of transformers, combined as in their documentation.

    python benchmarks/gpt2_trainer.py --dataset runs/mine/data --output_dir runs/outsider --max_steps 500 --learning_rate 2e-3

It reads the rows that recipes/prepare_data.py wrote and imports nothing of hfgpt. It is
evaluated once, at the end, and its `metrics.json` uses the same names as our runs.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from datasets import load_from_disk
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--per_device_train_batch_size", type=int, default=16)
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--adam_beta2", type=float, default=0.99)
    parser.add_argument("--warmup_steps", type=float, default=0.05, help="Below 1, a share of all steps.")
    parser.add_argument("--lr_scheduler_type", default="cosine")
    parser.add_argument("--bf16", type=lambda word: word == "true", default=False)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()

    passport = json.loads((args.dataset / "passport.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((args.dataset / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    vocab_size = 1 + max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])])
    pad = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|pad|>")
    rows = cast(Any, load_from_disk(str(args.dataset)).select_columns("input_ids"))

    def batch_of(examples: list[dict]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([example["input_ids"] for example in examples])
        return {"input_ids": ids, "labels": ids.masked_fill(ids == pad, -100)}

    config = GPT2Config(
        vocab_size=vocab_size, n_positions=passport["settings"]["context_length"], n_layer=args.layers, n_embd=args.width,
        n_head=args.heads, resid_pdrop=args.dropout, embd_pdrop=args.dropout, attn_pdrop=args.dropout,
    )  # fmt: skip
    settings: dict[str, Any] = {key: value for key, value in vars(args).items() if key in TrainingArguments.__dataclass_fields__}
    settings["output_dir"] = str(args.output_dir)
    model = GPT2LMHeadModel(config)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            **settings,
            per_device_eval_batch_size=64,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows["train"],
        data_collator=batch_of,
    )
    trainer.train()
    metrics: dict[str, float] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": trainer.state.global_step,
    }
    for name in ("validation", "test"):
        if name in rows:
            split = passport["splits"][name]
            metrics[f"{name}_loss"] = loss = trainer.evaluate(rows[name])["eval_loss"]
            metrics[f"{name}_bits_per_byte"] = loss * split["tokens"] / split["bytes"] / math.log(2)
    (args.output_dir / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


if __name__ == "__main__":
    main()
