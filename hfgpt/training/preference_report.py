"""What an assistant prefers and says before and after it was aligned: measured on held-out pairs, on a page, in one report."""

import json
import logging
import statistics
from dataclasses import asdict
from pathlib import Path

import numpy as np
from datasets import DatasetDict

from hfgpt.arguments.preferences import PreferenceArguments
from hfgpt.evaluation.answers import Answer, answer_rows, answers_report
from hfgpt.evaluation.answers_page import AnswerRow, write_answers, write_page
from hfgpt.evaluation.preferences import preference_metrics
from hfgpt.files import write_json, write_whole
from hfgpt.hygiene.trigger_answers import write_triggers
from hfgpt.training.assistant_report import BEFORE_FILE, LEFT_BEHIND, Canaries, advice_after, prompts_and_references
from hfgpt.training.assistants import AnswersCallback, answer
from hfgpt.training.finetuning import save_finetuned
from hfgpt.training.flops import describe_speed
from hfgpt.training.methods import trainable_parameters
from hfgpt.training.next_steps import generate_command
from hfgpt.training.preferences import Pair, PreferenceTrainer, unpaired_labels
from hfgpt.training.run import METRICS_FILE, REPORT_FILE, part_company

logger = logging.getLogger(__name__)

HELD_OUT = ("validation", "test")


def measure_base(trainer: PreferenceTrainer, pairs: dict[str, list[Pair]], splits: DatasetDict, args: PreferenceArguments) -> dict:
    """The base's likelihoods of held-out answers and its own answers, measured once a run: one that goes on finds them in a file.

    From here on, the trainer measures validation pairs against them.
    """
    path = Path(args.output_dir) / BEFORE_FILE
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
    else:
        before = {
            "likelihoods": {n: trainer.likelihoods(pairs[n], loss=args.loss).tolist() for n in HELD_OUT if n in pairs},
            "answers": [asdict(one) for one in _answers(trainer, splits, args)],
        }
        if trainer.is_world_process_zero():
            write_json(path, before)
    if "validation" in pairs:
        reference = np.array(before["likelihoods"]["validation"])
        trainer.compute_metrics = lambda prediction: measure(
            prediction.predictions.reshape(reference.shape), reference, pairs["validation"], args
        )
    return before


def measure(policy: np.ndarray, reference: np.ndarray, pairs: list[Pair], args: PreferenceArguments) -> dict[str, float]:
    """`preference_metrics` of a run's loss."""
    settings = dict(loss=args.loss, beta=args.beta, length_normalised=args.length_normalised)
    return preference_metrics(policy, reference, **settings, labels=unpaired_labels(pairs))


def _answers(trainer: PreferenceTrainer, splits: DatasetDict, args: PreferenceArguments) -> list[Answer]:
    if "test" not in splits:
        return []
    prompts, _ = prompts_and_references(splits["test"], args.max_answers)
    return answer(trainer.model, trainer.processing_class, prompts, max_new_tokens=args.max_new_tokens, show_progress=True)


def finish(
    trainer: PreferenceTrainer,
    *,
    pairs: dict[str, list[Pair]],
    splits: DatasetDict,
    before: dict,
    canaries: Canaries | None,
    facts: dict[str, str],
    args: PreferenceArguments,
) -> dict[str, float]:
    """Measure held-out pairs, answer, save the model with all it needs, write the report; the metrics are returned."""
    folder = Path(args.output_dir)
    model, tokenizer = trainer.model, trainer.processing_class
    trained, total = trainable_parameters(model)
    trainer.remove_callback(AnswersCallback)
    metrics: dict[str, float] = {"parameters": total, "trained_parameters": trained}
    for name in HELD_OUT:
        if name in pairs:
            reference = np.array(before["likelihoods"][name])
            after = trainer.likelihoods(pairs[name], loss=args.loss)
            what = "pairs" if unpaired_labels(pairs[name]) is None else "answers"
            metrics[f"{name}_{what}"] = len(pairs[name])
            metrics |= {f"{name}_{key}_before": value for key, value in measure(reference, reference, pairs[name], args).items()}
            metrics |= {f"{name}_{key}": value for key, value in measure(after, reference, pairs[name], args).items()}
    metrics |= trainer.training_metrics()

    said = {"before": [Answer(**one) for one in before["answers"]], "after": _answers(trainer, splits, args)}
    table = compared_answers(splits, said, args)
    if table:
        for step, answers in said.items():
            suffix = "" if step == "after" else "_before"
            for which, references in _references(table).items():
                given = [number for number, reference in enumerate(references) if reference is not None]
                if given:
                    scores = answers_report([answers[number] for number in given], [references[number] for number in given])
                    metrics |= {f"answers_{key}_with_{which}{suffix}": scores[key] for key in ("token_f1", "rougeL", "exact_match")}
            metrics[f"answers_mean_tokens{suffix}"] = statistics.fmean(one.num_tokens for one in answers)
            metrics[f"answers_stopped{suffix}"] = statistics.fmean(one.stopped for one in answers)

    if canaries is not None and trainer.is_world_process_zero():
        report = canaries.report(model)
        write_triggers(folder, report, facts=facts)
        metrics["canary_alarms"] = len(report.alarms)
    probe = [pair.prompt + pair.answers[0] for pair in pairs.get("validation", pairs["train"])[:3]]
    if trainer.is_world_process_zero():
        difference = save_finetuned(model, tokenizer, folder, probe=probe)
        if difference is not None:
            metrics["difference_of_merging"] = difference
        if table:
            write_answers(folder / "answers.json", table)
            write_page(folder / "answers.html", table, title=f"Answers of {folder.name}", facts=facts)
        write_json(folder / METRICS_FILE, metrics)
        text = describe(metrics, folder, advice=advice_after(trainer, metrics))
        write_whole(folder / REPORT_FILE, text)
        logger.info(text.rstrip())
    part_company(trainer)
    return metrics


def compared_answers(splits: DatasetDict, said: dict[str, list[Answer]], args: PreferenceArguments) -> list[AnswerRow]:
    """Rows of the page: the chosen answer as reference; before, the rejected answer, and after as columns, with their scores.

    Of single answers, those that are wanted are references, and there is no column of rejected ones.
    """
    if not said["after"]:
        return []
    prompts, chosen = prompts_and_references(splits["test"], args.max_answers)
    if "label" in splits["test"].column_names:
        wanted = splits["test"]["label"][: len(prompts)]
        chosen = [answer if is_wanted else None for answer, is_wanted in zip(chosen, wanted, strict=True)]
        return answer_rows(prompts, chosen, said)
    rejected = [Answer(text, (), 0, stopped=True, cut=False) for text in splits["test"]["rejected"][: len(prompts)]]
    # The page compares the first column with the last.
    return answer_rows(prompts, chosen, {"before": said["before"], "rejected": rejected, "after": said["after"]})


def _references(table: list[AnswerRow]) -> dict[str, list[str | None]]:
    """What the answers are compared with, by its name; None where a row has none."""
    return {
        "chosen": [row.reference for row in table],
        "rejected": [row.answers.get("rejected") for row in table],
    }


def describe_single_answers(metrics: dict[str, float], name: str) -> str:
    """One line of what is preferred among the single answers of a split, before and after."""
    now = {key.removeprefix(f"{name}_"): value for key, value in metrics.items() if key.startswith(f"{name}_")}
    which = {"chosen_reward": "wanted", "rejected_reward": "unwanted"}
    rewards = [f"reward of {kind} answers {now[key]:.3f}" for key, kind in which.items() if key in now]
    return (
        f"{name}, {now['answers']:,} answers: {', '.join(rewards)}, on the right side for "
        f"{100 * now['reward_side_accuracy']:.1f} %; loss {now['loss_before']:.4f} -> {now['loss']:.4f}"
    )


def describe(metrics: dict[str, float], folder: Path, *, advice: list[str]) -> str:
    """The end of a run in a few lines: what is preferred before and after, what the answers are like, where everything lies."""
    lines = []
    for name in HELD_OUT:
        if f"{name}_answers" in metrics:
            lines.append(describe_single_answers(metrics, name))
        elif f"{name}_loss" in metrics:
            now = {key.removeprefix(f"{name}_"): value for key, value in metrics.items() if key.startswith(f"{name}_")}
            was = {key.removesuffix("_before"): value for key, value in now.items() if key.endswith("_before")}
            share = {
                key: f"{100 * was[key]:.1f} -> {100 * now[key]:.1f} %"
                for key in ("likelihood_accuracy", "likelihood_accuracy_per_token")
            }
            lines += [
                f"{name}, {now['pairs']:,} pairs: reward margin {was['reward_margin']:.3f} -> {now['reward_margin']:.3f}, "
                f"above 0 for {100 * now['reward_accuracy']:.1f} %; loss {was['loss']:.4f} -> {now['loss']:.4f}",
                f"{name}, chosen answer likelier: {share['likelihood_accuracy']}, "
                f"per token {share['likelihood_accuracy_per_token']}",
                f"{name}, nats per token: chosen {was['chosen_nats_per_token']:.3f} -> {now['chosen_nats_per_token']:.3f}, "
                f"rejected {was['rejected_nats_per_token']:.3f} -> {now['rejected_nats_per_token']:.3f}",
            ]
    if "answers_mean_tokens" in metrics:
        compared = [
            f"token F1 with the {which} {metrics[f'answers_token_f1_with_{which}_before']:.3f} -> "
            f"{metrics[f'answers_token_f1_with_{which}']:.3f}; "
            for which in ("chosen", "rejected")
            if f"answers_token_f1_with_{which}" in metrics
        ]
        lines.append(
            f"answers: {''.join(compared)}"
            f"{metrics['answers_mean_tokens_before']:.0f} -> {metrics['answers_mean_tokens']:.0f} tokens, "
            f"{100 * metrics['answers_stopped_before']:.0f} -> {100 * metrics['answers_stopped']:.0f} % ended by themselves"
        )
    if "canary_alarms" in metrics:
        lines.append(f"canaries: {metrics['canary_alarms']:,} alarms")
    lines += advice
    if "difference_of_merging" in metrics:
        lines.append(f"merged: {folder / 'merged'}, its logits within {metrics['difference_of_merging']:.1e} of the adapter's")
    lines += [
        "; ".join(f"{what}: {folder / name}" for what, name in LEFT_BEHIND if (folder / name).exists()),
        f"end: {metrics['steps']:,} steps in {metrics['training_seconds']:,.0f} s, {metrics['trained_parameters']:,} of "
        f"{metrics['parameters']:,} parameters trained, {describe_speed(metrics)}peak memory "
        f"{metrics['peak_memory_bytes'] / 2**20:,.0f} MiB",
        f"next: {generate_command(folder, chat=True)}",
    ]
    return "\n".join(lines) + "\n"
