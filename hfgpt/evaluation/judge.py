"""A language model as a judge of answers, on the book's scale from 0 to 100, through any OpenAI-compatible endpoint.

Known limit: the judged text may address the judge ("score this with 100"). Every text is quoted in more backticks than it contains,
so it cannot end its own quotation, but a judge can still be influenced. Read the raw answers in `judge.jsonl` if a score is
surprising.

Source: Raschka (2024), section 7.8, `generate_model_scores`.
"""

import hashlib
import ipaddress
import json
import logging
import os
import re
import statistics
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from hfgpt.errors import UnreachableError, UserError, require

logger = logging.getLogger(__name__)

RUBRIC = (
    "Given the input {prompt} and correct output {reference}, score the model response {response} on a scale from 0 to 100, "
    "where 100 is the best score. Respond with the integer number only."
)
ONCE_MORE = "Respond with the integer number only, from 0 to 100."
SETTINGS = {"temperature": 0.0, "seed": 0, "max_tokens": 32}


@dataclass(frozen=True)
class JudgeItem:
    """An item to judge: the model's input as text, the correct output, and the model's response."""

    prompt: str
    reference: str
    response: str


@dataclass(frozen=True)
class JudgeReport:
    """Attributes:
    scores: one per item, in order; None if the judge gave no number in two attempts.
    mean_score: the mean of the parsed scores; None if there are none.
    num_unparsed: items without a score, which are excluded from the mean.
    """

    scores: list[int | None]
    mean_score: float | None
    num_unparsed: int


def judge_answers(
    items: Sequence[JudgeItem],
    *,
    path: str | Path,
    model: str,
    base_url: str = "https://api.openai.com/v1",
    key_variable: str = "OPENAI_API_KEY",
    max_concurrency: int = 4,
    timeout_seconds: float = 60.0,
    max_retries: int = 5,
    settings: dict | None = None,
    show_progress: bool = False,
) -> JudgeReport:
    """Score every item, and store the prompt, model, raw answers and score of each as a line of `path` (`judge.jsonl`).

    Items already in `path` with the same model, settings and texts are not requested again, so an interrupted call can be finished
    by calling again. If an answer is not an integer from 0 to 100, it is requested once more; after that, the item counts as
    unparsed.

    Args:
        model: the judge's name at the endpoint.
        base_url: the endpoint, for example `http://127.0.0.1:8000/v1` of `transformers serve`.
        key_variable: the environment variable with the key; its value is only sent to the endpoint. A local endpoint may not need
            one.
        max_concurrency: maximum number of simultaneous requests.
        max_retries: how often the client retries after 408, 409, 429, 5xx, a timeout or a lost connection, waiting longer each
            time.
        settings: request fields that replace or extend `SETTINGS`; a value of None removes a field.
    Raises: ValueError for a bad address, a missing key or package, and a file that is not judge.jsonl; ConnectionError if the
        endpoint refuses or fails permanently; items judged so far are kept.
    """
    openai = require("openai", extra="serving", purpose="judging uses OpenAI's client")
    if max_concurrency < 1:
        raise UserError(f"max_concurrency is {max_concurrency}; it must be at least 1.")
    key = _key(base_url, key_variable)
    request = {name: value for name, value in (SETTINGS | (settings or {})).items() if value is not None}
    path = Path(path)
    known = _read(path)
    wanted = {_identity(item, model, request): item for item in items}  # identical texts are judged once
    missing = {identity: item for identity, item in wanted.items() if identity not in known}
    if len(missing) < len(wanted):
        logger.info(f"judge: {len(wanted) - len(missing):,} of {len(wanted):,} answers are already in {path}")

    stop = threading.Event()

    def judge(item: JudgeItem) -> dict | None:
        if stop.is_set():  # another request failed permanently, and so would this one
            return None
        try:
            return _ask(client, item, model=model, request=request)
        except openai.OpenAIError:
            stop.set()  # here, before this thread takes the next item
            raise

    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout_seconds, max_retries=max_retries) as client,
            path.open("a", encoding="utf-8", errors="backslashreplace") as file,
            ThreadPoolExecutor(max_concurrency) as pool,
            tqdm(total=len(missing), desc="judge", unit=" answers", leave=False, disable=not show_progress or None) as progress,
        ):
            futures = {pool.submit(judge, item): identity for identity, item in missing.items()}
            failure = None
            try:
                for future in as_completed(futures):
                    try:
                        judged = future.result()
                    except openai.OpenAIError as error:
                        failure = failure or _explain(error, base_url=base_url, model=model, key=key)
                        continue
                    if judged is not None:
                        line = {"id": futures[future], "base_url": base_url, **judged}
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")
                        file.flush()
                        known[futures[future]] = line["score"]
                        progress.update()
            finally:
                stop.set()  # also after Ctrl-C: pending requests are not sent
        if failure:
            done = sum(identity in known for identity in wanted)
            # Without the original exception: it contains the request, and the request contains the key.
            raise UnreachableError(
                f"{failure} {done:,} of {len(wanted):,} answers are judged and stored in {path}; call again to continue."
            ) from None

    scores = [known[_identity(item, model, request)] for item in items]
    parsed = [score for score in scores if score is not None]
    unparsed = len(scores) - len(parsed)
    if unparsed:
        logger.warning(
            f"judge: {unparsed:,} of {len(scores):,} answers of {model} were not a number from 0 to 100; they are excluded from "
            f"the mean"
        )
    return JudgeReport(scores, statistics.fmean(parsed) if parsed else None, unparsed)


def judge_prompt(item: JudgeItem) -> str:
    """The rubric with its three texts in backticks: identical to the book's sentence if the texts contain no backtick."""
    return RUBRIC.format(**{name: _quoted(getattr(item, name)) for name in ("prompt", "reference", "response")})


def _quoted(text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    # A backtick at either end would lengthen the fence; Markdown also uses a space there.
    text = text.encode("utf-8", errors="replace").decode("utf-8")  # half a surrogate pair cannot be encoded
    inner = f" {text} " if text.startswith("`") or text.endswith("`") else text
    return f"{fence}{inner}{fence}"


def parse_score(answer: str) -> int | None:
    """The integer from 0 to 100 that an answer consists of; None for anything else.

    Ignored: a reasoning model's thoughts before it, bold marks, a full stop, "/100". It is never searched for in a sentence.
    """
    answer = re.sub(r"\A\s*<think>.*?</think>", "", answer, flags=re.DOTALL)
    match = re.fullmatch(r"\s*(?:\*\*)?([0-9]{1,3})(?:\s*/\s*100)?\.?(?:\*\*)?\s*", answer)
    return int(match[1]) if match and int(match[1]) <= 100 else None


def _ask(client, item: JudgeItem, *, model: str, request: dict) -> dict:
    messages = [{"role": "user", "content": judge_prompt(item)}]
    answers: list[str] = []
    score = None
    for _ in range(2):
        completion = client.chat.completions.create(model=model, messages=messages, **request)
        answers.append((completion.choices[0].message.content or "") if completion.choices else "")
        score = parse_score(answers[-1])
        if score is not None:
            break
        # At temperature 0, the same question would get the same answer.
        messages = [*messages[:1], {"role": "assistant", "content": answers[-1]}, {"role": "user", "content": ONCE_MORE}]
    return {"model": model, "settings": request, "prompt": messages[0]["content"], "answers": answers, "score": score}


def _identity(item: JudgeItem, model: str, request: dict) -> str:
    """SHA-256 of everything that determines a score, excluding the address: a server may restart on another port."""
    return hashlib.sha256(json.dumps([model, request, judge_prompt(item)], sort_keys=True).encode("ascii")).hexdigest()


def _key(base_url: str, variable: str) -> str:
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UserError(
            f"base_url is {base_url!r}; it must be an address such as https://api.openai.com/v1 or http://127.0.0.1:8000/v1."
        )
    if address.username is not None or address.password is not None or address.query:
        raise UserError(
            f"base_url for {address.hostname} contains a user name, a password or a query, which would end up in judge.jsonl; put "
            f"the key in the environment variable {variable}."
        )
    key = os.environ.get(variable, "").strip()
    local = _is_this_machine(address.hostname)
    if not key and not local:
        raise UserError(
            f"the environment variable {variable} is not set; {address.hostname} needs a key, which is only read from there."
        )
    if key and address.scheme == "http" and not local:
        logger.warning(f"judge: the key in {variable} is sent to {address.hostname} unencrypted; use https")
    return key or "none"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _explain(error: Exception, *, base_url: str, model: str, key: str) -> str:
    """Why the endpoint failed, without the key, which some servers repeat in their errors."""
    status = getattr(error, "status_code", None)  # the client's connection errors have none
    if status in (401, 403):
        return f"{base_url} rejected the key ({status})."  # its own message may contain parts of the key
    words = " ".join(str(error).split())[:500]
    words = words.replace(key, "[key]") if len(key) >= 8 else words
    if status == 404:
        return f"{base_url} has no model {model!r}, or the address is wrong ({words})."
    return f"{base_url} did not answer ({type(error).__name__}: {words})."


def _read(path: Path) -> dict[str, int | None]:
    """Scores by identity. An unfinished last line is removed, so that the next one starts on its own line."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    scores = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            judged = json.loads(line)
            scores[judged["id"]] = judged["score"]
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number}: not a judgement in the format of judge.jsonl ({error!r}); give another file."
            ) from None
    if len(whole) < len(data):
        with path.open("rb+") as file:
            file.truncate(len(whole))
    return scores
