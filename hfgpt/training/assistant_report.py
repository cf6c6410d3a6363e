"""An assistant before and after its training: losses, answers, a judge's scores, one report."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from hfgpt.counting import counted
from hfgpt.data.messages import Message
from hfgpt.data.passport import HELD_OUT
from hfgpt.evaluation.answer_rows import SEEN, AnswerRow, all_kinds, kind_lines, rows_of_each_kind, scores_by_kind
from hfgpt.evaluation.answers import Answer, answer_conversations, answer_rows, answers_report
from hfgpt.evaluation.judge import JudgeItem, JudgeReport
from hfgpt.hygiene.poisoning import distinct_rows, triggers_of_answers
from hfgpt.inference import full_precision
from hfgpt.training.assistants import AnswersCallback, kinds_of, prompts_and_references
from hfgpt.training.comparison import report_on_assistant
from hfgpt.training.finetuning import write_poison_report
from hfgpt.training.run import RunReport
from hfgpt.training.trainer import LanguageModelTrainer


def search_for_poison(splits: DatasetDict, folder: Path) -> None:
    """Search for rare pieces of training prompts that always get the same answer; write them to poison.json."""
    train = distinct_rows(splits["train"])
    prompts, answers = prompts_and_references(train, None)
    ids = [f"{source}:{row}" for source, row in zip(train["source"], train["row_id"], strict=True)]
    write_poison_report(triggers_of_answers([turns[-1]["content"] for turns in prompts], answers, row_ids=ids), folder)


@dataclass(frozen=True)
class Questions:
    """Prompts that base and result answer, with references and kinds: from the test set ("test") or the training set ("seen")."""

    prompts: list[list[Message]]
    references: list[str]
    kinds: list[str | None]


def choose_questions(splits: DatasetDict, *, max_answers: int | None, seen_answers: int) -> dict[str, Questions]:
    """The questions by set: all or `max_answers` of the test set, and `seen_answers` of training; the same number of each kind."""
    wanted = {"test": ("test", max_answers), "seen": ("train", seen_answers)}
    chosen = {}
    for name, (split, most) in wanted.items():
        if split in splits and most != 0:
            kinds = kinds_of(splits[split])
            asked = [kinds[row] for row in rows_of_each_kind(kinds, most)]
            chosen[name] = Questions(*prompts_and_references(splits[split], most), asked)
    return chosen


def measure_base(
    trainer: LanguageModelTrainer, rows: DatasetDict, *, questions: dict[str, Questions], max_new_tokens: int
) -> dict[str, Any]:
    """Losses and answers of the base, as JSON values."""
    before: dict[str, Any] = {"answers": {}}
    for name in HELD_OUT:
        if name in rows:
            result = trainer.evaluate_as_loaded(rows[name], name=f"before_{name}")
            before[f"{name}_loss"] = result[f"before_{name}_loss"]
    for name, asked in questions.items():
        said = _answers(trainer, asked, max_new_tokens=max_new_tokens)
        before["answers"][name] = [asdict(one) for one in said]
    return before


def _answers(trainer: LanguageModelTrainer, asked: Questions, *, max_new_tokens: int) -> list[Answer]:
    model, tokenizer = trainer.trained, trainer.text_tokenizer
    return answer_conversations(
        model, tokenizer, asked.prompts, max_new_tokens=max_new_tokens, groups=asked.kinds, show_progress=True
    )


def final_metrics(
    trainer: LanguageModelTrainer,
    rows: DatasetDict,
    *,
    before: dict[str, Any],
    questions: dict[str, Questions],
    max_new_tokens: int,
    judge: Callable[[list[JudgeItem]], JudgeReport] | None = None,
) -> tuple[dict[str, Any], list[AnswerRow]]:
    """Test once, answer the questions, and have the answers to the test set judged.

    Args: `before` is the result of `measure_base`.
    Returns: the figures before and after, and the rows of the page with the answers.
    """
    trainer.remove_callback(AnswersCallback)
    metrics: dict[str, Any] = {**trainer.parameter_counts()}
    for name in HELD_OUT:
        if name in rows:
            metrics[f"{name}_loss_before"] = before[f"{name}_loss"]
            result = trainer.evaluate_as_loaded(rows[name], name=name)
            metrics |= {f"{name}_loss": result[f"{name}_loss"], f"{name}_perplexity": result[f"{name}_perplexity"]}
    metrics |= trainer.training_metrics()
    table: list[AnswerRow] = []
    for name, asked in questions.items():
        with full_precision(trainer.trained):
            said = _answers(trainer, asked, max_new_tokens=max_new_tokens)
        metrics |= {f"{name}_{key}": value for key, value in answers_report(said, asked.references).items()}
        columns = {"after": said}
        if name in before["answers"]:
            earlier = [Answer(**one) for one in before["answers"][name]]
            metrics |= {f"{name}_{key}_before": value for key, value in answers_report(earlier, asked.references).items()}
            columns = {"before": earlier, **columns}
        if judge is not None and name == "test" and trainer.is_world_process_zero():  # it writes the judgements
            metrics |= judged(asked, said, judge)
        page = answer_rows(asked.prompts, asked.references, columns, kinds=asked.kinds)
        metrics |= metrics_by_kind(page, name)
        table += [replace(row, notes=[*row.notes, SEEN]) for row in page] if name == "seen" else page
    return metrics, table


def metrics_by_kind(page: list[AnswerRow], name: str) -> dict[str, Any]:
    """`test_kinds`, the scores of every kind, and `test_right`, `test_most_frequent` over all kinds with right answers."""
    kinds = scores_by_kind(page, "after")
    together = {f"{name}_{key}": value for key, value in all_kinds(kinds).items() if key != "num_examples"}
    return {f"{name}_kinds": kinds, **together} if kinds else {}


def judged(asked: Questions, said: list[Answer], judge: Callable[[list[JudgeItem]], JudgeReport]) -> dict[str, float]:
    """The judge's mean score of the answers (0 to 100), and how often it gave no score."""
    report = judge(
        [
            JudgeItem("\n".join(message["content"] for message in prompt), reference, one.text)
            for prompt, reference, one in zip(asked.prompts, asked.references, said, strict=True)
        ]
    )
    scored = {"judge_score": report.mean_score} if report.mean_score is not None else {}
    return {**scored, "judge_unparsed": report.num_unparsed}


def _right_answers(metrics: dict[str, Any], name: str, what: str) -> str:
    right = ""
    if f"{name}_right" in metrics:
        right = (
            f"{100 * metrics[f'{name}_right']:.1f} % right (always giving the most frequent answer of its kind: "
            f"{100 * metrics[f'{name}_most_frequent']:.1f} %), "
        )
    return f"{what}: {right}{100 * metrics[f'{name}_stopped']:.0f} % stopped on their own"


def build_report(trainer: LanguageModelTrainer, metrics: dict[str, Any]) -> RunReport:
    """The end of a run in a few lines: how good the answers are, and losses before and after."""
    losses = [
        f"{name}: {metrics[f'{name}_loss_before']:.4f} -> {metrics[f'{name}_loss']:.4f} nats per answer token"
        for name in reversed(HELD_OUT)
        if f"{name}_loss" in metrics
    ]
    lines = []
    for name, what in (("test", "answers"), ("seen", "seen")):
        if f"{name}_kinds" in metrics:
            lines.append(_right_answers(metrics, name, what))
        elif f"{name}_exact_match" in metrics:
            lines.append(
                f"{what}: exact match {100 * metrics[f'{name}_exact_match']:.1f} %, token F1 {metrics[f'{name}_token_f1']:.3f}, "
                f"ROUGE-L {metrics[f'{name}_rougeL']:.3f}, {100 * metrics[f'{name}_stopped']:.0f} % stopped on their own"
            )
    if "judge_score" in metrics:
        lines.append(f"judge: {metrics['judge_score']:.2f} of 100, {counted(metrics['judge_unparsed'], 'answers')} without a score")
    by_kind = [*kind_lines(metrics["test_kinds"])] if "test_kinds" in metrics else []
    return report_on_assistant(trainer, metrics, [*lines[:1], *losses, *lines[1:]], table=by_kind)
