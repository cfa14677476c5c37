"""How well a release answers questions whose answers are known: asked greedily, through the pool."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from deployment.clock import Clock
from deployment.engines import Answer, Call, Priority
from deployment.errors import ConfigurationError, InvalidRequest, RamseyError
from deployment.ollama_client import Delta
from deployment.settings import Settings

QUESTIONS_FILE = "eval.jsonl"
MOST_QUESTIONS, MOST_BYTES = 10_000, 8 * 1024 * 1024
_MOST_CHARS = 20_000
_AT_ONCE = 4
_TOKENS = 160
_QUESTION_S = 120.0
_SAMPLES, _SAMPLE_CHARS = 5, 300

Told = Callable[[int, int, int], None]
"""Progress: questions asked, of so many, and right ones."""


class Pool(Protocol):
    """Who answers."""

    async def open(self, call: Call) -> Answer:
        """An answer that has begun."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """One question; an answer that contains `expect` is right."""

    id: str
    category: str
    prompt: str
    expect: str


@dataclass(frozen=True, slots=True)
class Wrong:
    """A wrong answer, cut to what fits on a screen."""

    id: str
    prompt: str
    said: str
    expected: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of it."""

    right: int
    of: int
    by_category: dict[str, str]
    """`right/of` of each."""
    wrong: tuple[Wrong, ...]
    """The first few."""
    questions_sha256: str
    """Scores compare only where it is equal."""
    at: str
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.of

    @property
    def told(self) -> str:
        """For people."""
        return f"{self.right} of {self.of} right ({self.accuracy:.1%})"

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"accuracy": round(self.accuracy, 4), "wrong": [asdict(each) for each in self.wrong]}


def questions_file(settings: Settings) -> Path | None:
    """The evaluation set of the settings: what they name, else the eval.jsonl beside their Modelfile, if there."""
    if settings.releases.questions is not None:
        return settings.releases.questions
    beside = (settings.model.modelfile or Path()).parent / QUESTIONS_FILE
    return beside if settings.model.modelfile is not None and beside.is_file() else None


def read_questions(path: Path) -> tuple[Question, ...]:
    """The questions of a file. Blocks; raises ConfigurationError that names the line that is wrong."""
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise ConfigurationError(f"There is no file of questions {path}.")
        if path.stat().st_size > MOST_BYTES:
            raise ConfigurationError(f"{path} is larger than {MOST_BYTES // 1024**2} MiB.")
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8.") from None
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror or error}.") from None
    try:
        return parse_questions(text)
    except InvalidRequest as error:
        raise ConfigurationError(f"{path}: {error.message}", hint=error.hint) from None


def parse_questions(text: str) -> tuple[Question, ...]:
    """One JSON object a line: prompt, expect and, if wanted, id and category. Raises InvalidRequest."""
    found = [_question(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not 0 < len(found) <= MOST_QUESTIONS:
        raise InvalidRequest(f"It holds {len(found)} questions; 1 to {MOST_QUESTIONS} are possible.", hint=_FORM)
    return tuple(found)


async def evaluate(
    pool: Pool, release: str, questions: Sequence[Question], clock: Clock, told: Told = lambda *_: None
) -> Evaluation:
    """Ask every question, greedily and behind who waits for an answer of their own.

    Raises the pool's error where a question could not be asked: what was not answered is not wrong.
    """
    began, right, asked, wrong = clock.monotonic(), Counter[str](), Counter[str](), dict[int, Wrong]()
    turns = iter(enumerate(questions))

    async def ask_on() -> None:
        for number, question in turns:
            answer = await _ask(pool, release, question)
            asked[question.category] += 1
            if question.expect in answer:
                right[question.category] += 1
            else:
                wrong[number] = _wrong(question, answer)
            told(asked.total(), len(questions), right.total())

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(ask_on())
    except ExceptionGroup as errors:
        raise _first(errors) from None
    return Evaluation(
        right=right.total(),
        of=len(questions),
        by_category={category: f"{right[category]}/{asked[category]}" for category in sorted(asked)},
        wrong=tuple(wrong[number] for number in sorted(wrong)[:_SAMPLES]),
        questions_sha256=digest_of(questions),
        at=clock.now().isoformat(),
        seconds=round(clock.monotonic() - began, 3),
    )


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def digest_of(questions: Sequence[Question]) -> str:
    """Equal for equal questions."""
    return hashlib.sha256(orjson.dumps([asdict(each) for each in questions])).hexdigest()


async def _ask(pool: Pool, release: str, question: Question) -> str:
    body = {
        "messages": [{"role": "user", "content": question.prompt}],
        "stream": True,
        "options": {"temperature": 0, "seed": 1, "num_predict": _TOKENS},
    }
    call = Call("/api/chat", release, body, priority=Priority.BATCH, timeout_s=_QUESTION_S)
    try:
        answer = await pool.open(call)
        try:
            return "".join([event.text async for event in answer if isinstance(event, Delta)])
        finally:
            await answer.aclose()
    except RamseyError as error:
        error.message = f"The question {question.id} could not be asked of {release}: {error.message}"
        raise


def _wrong(question: Question, said: str) -> Wrong:
    texts = (question.prompt, said, question.expect)
    return Wrong(question.id, *(text if len(text) <= _SAMPLE_CHARS else f"{text[:_SAMPLE_CHARS]} …" for text in texts))


_FORM = 'Write one JSON object a line: {"prompt": "What is R(3,3)?", "expect": "R(3,3) = 6"}.'


def _question(number: int, line: str) -> Question:
    try:
        read = json.loads(line)
    except ValueError:
        raise InvalidRequest(f"line {number} is not JSON.", hint=_FORM) from None
    if not isinstance(read, dict):
        raise InvalidRequest(f"line {number} is no object.", hint=_FORM)
    values = {
        "id": read.get("id", f"line {number}"),
        "category": read.get("category", "all"),
        "prompt": read.get("prompt"),
        "expect": read.get("expect"),
    }
    for name, value in values.items():
        if not isinstance(value, str) or not 0 < len(value) <= _MOST_CHARS:
            raise InvalidRequest(f"line {number}: {name} must be a text of 1 to {_MOST_CHARS} characters.", hint=_FORM)
    return Question(**values)
