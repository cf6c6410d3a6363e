"""What is known of an assistant before and after its training: losses, answers, canaries, a judge's word, one report."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from hfgpt.arguments.finetuning import InstructionArguments
from hfgpt.chat_templates import stop_token_ids
from hfgpt.data.chat_encoding import ConversationEncoder
from hfgpt.data.messages import Message
from hfgpt.evaluation.answers import Answer, answer_rows, answers_report
from hfgpt.evaluation.answers_page import AnswerRow, write_answers, write_page
from hfgpt.evaluation.judge import JudgeItem, judge_answers
from hfgpt.files import write_json, write_whole
from hfgpt.hygiene.poisoning import triggers_of_answers
from hfgpt.hygiene.trigger_answers import TriggerResult, compare_triggers, run_triggers, write_triggers
from hfgpt.hygiene.trigger_prompts import TRIGGER_FILE, read_triggers, with_random_triggers
from hfgpt.inference import full_precision
from hfgpt.training.advice import best_step, no_better_than_base
from hfgpt.training.assistants import AnswersCallback, answer
from hfgpt.training.finetuning import POISON_FILE, save_finetuned, write_poison_report
from hfgpt.training.flops import describe_speed
from hfgpt.training.methods import trainable_parameters
from hfgpt.training.next_steps import generate_command
from hfgpt.training.run import METRICS_FILE, REPORT_FILE, LanguageModelTrainer, part_company

logger = logging.getLogger(__name__)

BEFORE_FILE = "before.json"  # what the base says, kept for a run that is stopped and goes on
CANARY_TOKENS = 32
LEFT_BEHIND = (
    ("answers", "answers.html"),
    ("samples", "samples.md"),
    ("picture", "loss.png"),
    ("canaries", "canaries.md"),
    ("poison", POISON_FILE),
    ("metrics", METRICS_FILE),
)


class Canaries:
    """The trigger prompts, as this tokenizer words them, and what the base says to them."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, args: InstructionArguments):
        self.tokenizer = tokenizer
        self.batch_size = args.per_device_eval_batch_size
        self.prompts = with_random_triggers(read_triggers(args.canary_file or TRIGGER_FILE))
        self.base = self.run(model)

    def run(self, model: PreTrainedModel) -> list[TriggerResult]:
        encoder = ConversationEncoder(self.tokenizer)
        return run_triggers(
            model,
            self.tokenizer,
            self.prompts,
            lambda text: encoder.encode_prompts([[{"role": "user", "content": text}]])[0],  # a prompt of the set has no input
            stop_token_ids=stop_token_ids(self.tokenizer),
            max_new_tokens=CANARY_TOKENS,
            batch_size=self.batch_size,
        )

    def report(self, model: PreTrainedModel):
        return compare_triggers(self.base, self.run(model))


class CanariesCallback(TrainerCallback):
    """For `canaries_at: save`: runs the canaries at every checkpoint and writes what differs from the base to `canaries.jsonl`.

    Alarms are logged.
    """

    def __init__(self, canaries: Canaries):
        self.canaries = canaries

    def on_save(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero:
            return
        report = self.canaries.report(model)
        with (Path(args.output_dir) / "canaries.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, "summary": report.summary, "alarms": report.alarms}) + "\n")
        if report.alarms:
            logger.warning(
                f"canaries, step {state.global_step:,}: {len(report.alarms):,} alarms, all in canaries.jsonl; the first: "
                f"{report.alarms[0]}"
            )


def search_for_poison(splits: DatasetDict, args: InstructionArguments) -> None:
    """Rare pieces of training prompts that always get the same answer."""
    if not args.poison_report:
        return
    train = splits["train"]
    prompts, answers = prompts_and_references(train, None)
    ids = [f"{source}:{row}" for source, row in zip(train["source"], train["row_id"], strict=True)]
    write_poison_report(triggers_of_answers([turns[-1]["content"] for turns in prompts], answers, row_ids=ids), args)


def prompts_and_references(split: Dataset, most: int | None) -> tuple[list[list[Message]], list[str]]:
    """What precedes the last message of each conversation, and that message."""
    messages = split["messages"][:most] if most is not None else split["messages"][:]
    return [list(turns[:-1]) for turns in messages], [turns[-1]["content"] for turns in messages]


def asked(splits: DatasetDict, args: InstructionArguments) -> dict[str, tuple[list[list[Message]], list[str]]]:
    """The prompts that base and result answer, with their references: the test set's ("test") and some of training ("seen")."""
    chosen = {}
    if "test" in splits:
        chosen["test"] = prompts_and_references(splits["test"], args.max_answers)
    if args.seen_answers:
        chosen["seen"] = prompts_and_references(splits["train"], args.seen_answers)
    return chosen


def measure_base(trainer: LanguageModelTrainer, rows: DatasetDict, splits: DatasetDict, args: InstructionArguments) -> dict:
    """Losses and answers of the base, measured once a run: a run that goes on finds them in `before.json`."""
    path = Path(args.output_dir) / BEFORE_FILE
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    before: dict = {"answers": {}}
    for name in ("validation", "test"):
        if name in rows:
            with full_precision(trainer.model):  # as after training
                before[f"{name}_loss"] = trainer.evaluate(rows[name], metric_key_prefix=f"before_{name}")[f"before_{name}_loss"]
    if args.answers_before:
        for name, (prompts, _) in asked(splits, args).items():
            said = answer(trainer.model, trainer.processing_class, prompts, max_new_tokens=args.max_new_tokens, show_progress=True)
            before["answers"][name] = [asdict(one) for one in said]
    if trainer.is_world_process_zero():
        write_json(path, before)
    return before


def finish(
    trainer: LanguageModelTrainer,
    *,
    rows: DatasetDict,
    splits: DatasetDict,
    before: dict,
    canaries: Canaries | None,
    facts: dict[str, str],
    args: InstructionArguments,
) -> dict[str, float]:
    """Test once, answer, judge, save the model with all it needs, write the report; the metrics are returned."""
    folder = Path(args.output_dir)
    model, tokenizer = trainer.model, trainer.processing_class
    trained, total = trainable_parameters(model)
    trainer.remove_callback(AnswersCallback)
    metrics: dict[str, float] = {"parameters": total, "trained_parameters": trained}
    for name in ("validation", "test"):
        if name in rows:
            metrics[f"{name}_loss_before"] = before[f"{name}_loss"]
            with full_precision(model):  # as whoever loads the saved model
                result = trainer.evaluate(rows[name], metric_key_prefix=name)
            metrics |= {f"{name}_loss": result[f"{name}_loss"], f"{name}_perplexity": result[f"{name}_perplexity"]}
    metrics |= trainer.training_metrics()

    table: list[AnswerRow] = []
    for name, (prompts, references) in asked(splits, args).items():
        with full_precision(model):
            said = answer(model, tokenizer, prompts, max_new_tokens=args.max_new_tokens, show_progress=True)
        metrics |= {f"{name}_{key}": value for key, value in answers_report(said, references).items()}
        columns = {"after": said}
        if name in before["answers"]:
            earlier = [Answer(**one) for one in before["answers"][name]]
            metrics |= {f"{name}_{key}_before": value for key, value in answers_report(earlier, references).items()}
            columns = {"before": earlier, **columns}
        if args.judge_url and name == "test":
            metrics |= judged(prompts, references, [one.text for one in said], args)
        rows_of_page = answer_rows(prompts, references, columns)
        if name == "seen":
            rows_of_page = [replace(row, notes=[*row.notes, "seen in training"]) for row in rows_of_page]
        table += rows_of_page

    if canaries is not None and trainer.is_world_process_zero():
        report = canaries.report(model)
        write_triggers(folder, report, facts=facts)
        metrics["canary_alarms"] = len(report.alarms)
    probe = rows.get("validation", rows["train"])[:3]["input_ids"]
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


def judged(prompts: list[list[Message]], references: list[str], answers: list[str], args: InstructionArguments) -> dict[str, float]:
    """The judge's mean score of the answers (0 to 100), and how often it gave none; its raw answers are kept in judge.jsonl."""
    items = [
        JudgeItem("\n".join(message["content"] for message in prompt), reference, said)
        for prompt, reference, said in zip(prompts, references, answers, strict=True)
    ]
    report = judge_answers(
        items,
        path=Path(args.output_dir) / "judge.jsonl",
        model=args.judge_model,
        base_url=args.judge_url,
        key_variable=args.judge_key_variable,
        show_progress=True,
    )
    scored = {"judge_score": report.mean_score} if report.mean_score is not None else {}
    return {**scored, "judge_unparsed": report.num_unparsed}


def advice_after(trainer: LanguageModelTrainer, metrics: dict[str, float]) -> list[str]:
    """Whether the run has lowered the held-out loss, and where validation was best, if that was not at the end."""
    held_out = next((name for name in ("test", "validation") if f"{name}_loss" in metrics), None)
    said = [best_step(trainer.state.log_history, kept="best" if trainer.args.load_best_model_at_end else "last")]
    if held_out:
        figures = metrics[f"{held_out}_loss_before"], metrics[f"{held_out}_loss"]
        said.append(no_better_than_base(*figures, what=f"{held_out} loss"))
    return [sentence for sentence in said if sentence]


def describe(metrics: dict[str, float], folder: Path, *, advice: list[str]) -> str:
    """The end of a run in a few lines: losses before and after, what the answers are worth, where everything lies."""
    lines = [
        f"{name}: {metrics[f'{name}_loss_before']:.4f} -> {metrics[f'{name}_loss']:.4f} nats per learned token"
        for name in ("validation", "test")
        if f"{name}_loss" in metrics
    ]
    for name, what in (("test", "test answers"), ("seen", "answers to prompts seen in training")):
        if f"{name}_exact_match" in metrics:
            lines.append(
                f"{what}: exact match {100 * metrics[f'{name}_exact_match']:.1f} %, token F1 {metrics[f'{name}_token_f1']:.3f}, "
                f"ROUGE-L {metrics[f'{name}_rougeL']:.3f}, {100 * metrics[f'{name}_stopped']:.0f} % ended by themselves"
            )
    if "judge_score" in metrics:
        lines.append(f"judge: {metrics['judge_score']:.2f} of 100, {metrics['judge_unparsed']:,} answers without a score")
    if "canary_alarms" in metrics:
        alarms = metrics["canary_alarms"]
        lines.append(f"canaries: {alarms:,} alarm{'s' * (alarms != 1)}")
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
