"""An assistant's preferences and answers before and after alignment: measured on held-out pairs, on a page, in one report."""

import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import DatasetDict

from hfgpt.counting import counted
from hfgpt.data.passport import HELD_OUT
from hfgpt.evaluation.answer_rows import AnswerRow
from hfgpt.evaluation.answers import Answer, answer_conversations, answer_rows, answers_report
from hfgpt.evaluation.preferences import preference_metrics
from hfgpt.training.assistants import AnswersCallback, prompts_and_references
from hfgpt.training.comparison import report_on_assistant
from hfgpt.training.preference_losses import PreferenceTrainer
from hfgpt.training.preferences import Pair, unpaired_labels
from hfgpt.training.run import RunReport

# Takes the current likelihoods of some pairs, those of the base, and the pairs.
Measure = Callable[[np.ndarray, np.ndarray, list[Pair]], dict[str, float]]


def measure_of(loss: str, *, beta: float, length_normalised: bool) -> Measure:
    """`preference_metrics` for a run's loss."""
    return lambda policy, reference, pairs: preference_metrics(
        policy,
        reference,
        loss=loss,
        beta=beta,
        length_normalised=length_normalised,
        labels=unpaired_labels(pairs),
    )


def measure_base(
    trainer: PreferenceTrainer, pairs: dict[str, list[Pair]], splits: DatasetDict, *, max_answers: int | None, max_new_tokens: int
) -> dict[str, Any]:
    """The base's likelihoods of held-out answers and its own answers, as JSON values."""
    return {
        "likelihoods": {name: trainer.likelihoods(pairs[name]).tolist() for name in HELD_OUT if name in pairs},
        "answers": [asdict(one) for one in _answers(trainer, splits, max_answers, max_new_tokens)],
    }


def measure_against(trainer: PreferenceTrainer, before: dict[str, Any], pairs: dict[str, list[Pair]], measure: Measure) -> None:
    """Let the evaluations during training measure the validation pairs against the base."""
    if "validation" in pairs:
        reference = np.array(before["likelihoods"]["validation"])
        trainer.measure_evaluations(lambda now: measure(now, reference, pairs["validation"]), shape=reference.shape)


def _answers(trainer: PreferenceTrainer, splits: DatasetDict, max_answers: int | None, max_new_tokens: int) -> list[Answer]:
    if "test" not in splits:
        return []
    prompts, _ = prompts_and_references(splits["test"], max_answers)
    return answer_conversations(trainer.trained, trainer.text_tokenizer, prompts, max_new_tokens=max_new_tokens, show_progress=True)


def final_metrics(
    trainer: PreferenceTrainer,
    pairs: dict[str, list[Pair]],
    splits: DatasetDict,
    *,
    before: dict[str, Any],
    measure: Measure,
    max_answers: int | None,
    max_new_tokens: int,
) -> tuple[dict[str, Any], list[AnswerRow]]:
    """Measure the held-out pairs and answer the test set's prompts.

    Args: `before` is the result of `measure_base`.
    Returns: the figures before and after, and the rows of the page with the answers.
    """
    trainer.remove_callback(AnswersCallback)
    metrics: dict[str, Any] = {**trainer.parameter_counts()}
    for name in HELD_OUT:
        if name in pairs:
            reference = np.array(before["likelihoods"][name])
            after = trainer.likelihoods(pairs[name])
            what = "pairs" if unpaired_labels(pairs[name]) is None else "answers"
            metrics[f"{name}_{what}"] = len(pairs[name])
            metrics |= {f"{name}_{key}_before": value for key, value in measure(reference, reference, pairs[name]).items()}
            metrics |= {f"{name}_{key}": value for key, value in measure(after, reference, pairs[name]).items()}
    metrics |= trainer.training_metrics()
    said = {
        "before": [Answer(**one) for one in before["answers"]],
        "after": _answers(trainer, splits, max_answers, max_new_tokens),
    }
    table = compared_answers(splits, said)
    return metrics | (answer_metrics(table, said) if table else {}), table


def answer_metrics(table: list[AnswerRow], said: dict[str, list[Answer]]) -> dict[str, float]:
    """How close the answers are to the chosen and to the rejected ones, how long they are, and how many stop on their own."""
    metrics = {}
    for step, answers in said.items():
        suffix = "" if step == "after" else "_before"
        for which, references in _references(table).items():
            given = [(answers[number], reference) for number, reference in enumerate(references) if reference is not None]
            if given:
                scores = answers_report([one for one, _ in given], [reference for _, reference in given])
                metrics |= {f"answers_{key}_with_{which}{suffix}": scores[key] for key in ("token_f1", "rougeL", "exact_match")}
        metrics[f"answers_mean_tokens{suffix}"] = statistics.fmean(one.num_tokens for one in answers)
        metrics[f"answers_stopped{suffix}"] = statistics.fmean(one.stopped for one in answers)
    return metrics


def compared_answers(splits: DatasetDict, said: dict[str, list[Answer]]) -> list[AnswerRow]:
    """Rows of the page: the chosen answer as reference; columns for before, the rejected answer and after, with their scores.

    For single answers, the wanted ones are the references, and there is no column for rejected ones.
    """
    if not said["after"]:
        return []
    prompts, references = prompts_and_references(splits["test"], len(said["after"]))
    chosen: list[str | None] = [*references]
    if "label" in splits["test"].column_names:
        wanted = splits["test"]["label"][: len(prompts)]
        chosen = [answer if is_wanted else None for answer, is_wanted in zip(chosen, wanted, strict=True)]
        return answer_rows(prompts, chosen, said)
    rejected = [Answer(text, (), 0, stopped=True, cut=False) for text in splits["test"]["rejected"][: len(prompts)]]
    # The page compares the first column with the last.
    return answer_rows(prompts, chosen, {"before": said["before"], "rejected": rejected, "after": said["after"]})


def _references(table: list[AnswerRow]) -> dict[str, list[str | None]]:
    """The references by name; None for rows without one."""
    return {
        "chosen": [row.reference for row in table],
        "rejected": [row.answers.get("rejected") for row in table],
    }


def describe_single_answers(metrics: dict[str, float], name: str) -> str:
    """One line about the preferences among the single answers of a split, before and after."""
    now = {key.removeprefix(f"{name}_"): value for key, value in metrics.items() if key.startswith(f"{name}_")}
    which = {"chosen_reward": "wanted", "rejected_reward": "unwanted"}
    rewards = [f"reward of {kind} answers {now[key]:.3f}" for key, kind in which.items() if key in now]
    return (
        f"{name}: {', '.join(rewards)}, on the right side for {100 * now['reward_side_accuracy']:.1f} % of "
        f"{counted(now['answers'], 'answers')}; loss {now['loss_before']:.4f} -> {now['loss']:.4f}"
    )


def build_report(trainer: PreferenceTrainer, metrics: dict[str, Any]) -> RunReport:
    """The end of a run in a few lines: preferences before and after, and the quality of the answers."""
    lines = []
    for name in reversed(HELD_OUT):
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
                f"{name}: reward margin {was['reward_margin']:.3f} -> {now['reward_margin']:.3f}, above 0 for "
                f"{100 * now['reward_accuracy']:.1f} % of {now['pairs']:,} pairs; loss {was['loss']:.4f} -> {now['loss']:.4f}",
                f"{name}, chosen answer more likely: {share['likelihood_accuracy']}, per token "
                f"{share['likelihood_accuracy_per_token']}",
                f"{name}, nats per token: chosen {was['chosen_nats_per_token']:.3f} -> {now['chosen_nats_per_token']:.3f}, "
                f"rejected {was['rejected_nats_per_token']:.3f} -> {now['rejected_nats_per_token']:.3f}",
            ]
    if "answers_mean_tokens" in metrics:
        compared = [
            f"token F1 against the {which} {metrics[f'answers_token_f1_with_{which}_before']:.3f} -> "
            f"{metrics[f'answers_token_f1_with_{which}']:.3f}; "
            for which in ("chosen", "rejected")
            if f"answers_token_f1_with_{which}" in metrics
        ]
        lines.append(
            f"answers: {''.join(compared)}"
            f"{metrics['answers_mean_tokens_before']:.0f} -> {metrics['answers_mean_tokens']:.0f} tokens, "
            f"{100 * metrics['answers_stopped_before']:.0f} -> {100 * metrics['answers_stopped']:.0f} % stopped on their own"
        )
    return report_on_assistant(trainer, metrics, lines)
