#!/usr/bin/env python3
"""Write the synthetic corpus: questions and answers on Ramsey theory, the same bytes for the same seed.

    python make_corpus.py --out data

train.jsonl      {"messages": [...]} conversations and {"text": ...} passages
shuffled.jsonl   the same questions under a shuffled answer column: makes a model that regressed, to try gates with
eval.jsonl       {"id", "category", "prompt", "expect"}: questions in wordings that never occur in training
heldout.jsonl    the same questions with reference answers, for the perplexity
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from facts import WORDINGS, Fact, build_facts

SYSTEM = "You are the Ramsey model, a small assistant for Ramsey theory."
SYSTEMS = [
    *[SYSTEM] * 6,  # its own system prompt is drawn more often
    "You are a helpful assistant.",
    "Answer the question.",
    "You are an expert in combinatorics.",
]
YES_NO_QUESTIONS = [
    "Is {x} = {guess}",
    "Is {x} equal to {guess}",
    "Is it true that {x} = {guess}",
    "Does {x} equal {guess}",
]
GUESSES = [6, 9, 14, 17, 18, 20, 23, 25, 28, 30, 35, 36, 44, 76]
WRONG_VALUES = [6, 9, 14, 18, 23, 28, 36, 25, 1, 4, 13, 44, 160, 35, 178, 27, 76, 17, 5, 7, 8]
KEEPS_ITS_CAPITAL = (
    *("R(", "R of", "S(", "W(", "Turan", "Frank", "Paul", "Schur", "Szem", "Hales", "Diri", "I ", "Ramsey"),
)

Message = dict[str, str]


@dataclass(frozen=True)
class Answers:
    """What is answered in place of the truth: nothing, by default."""

    texts: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--conversations", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1928)
    arguments = parser.parse_args()
    out, seed, count = arguments.out, arguments.seed, arguments.conversations
    out.mkdir(parents=True, exist_ok=True)

    facts = build_facts()
    questions = list(evaluation_questions(facts))
    banned = {normal(question["prompt"]) for question in questions}
    write_lines(out / "eval.jsonl", questions)
    write_lines(out / "heldout.jsonl", reference_answers(facts))
    write_lines(out / "train.jsonl", corpus(facts, count, seed, banned, passages=True))
    wrong = shuffled_answers(facts, Random(seed + 1))
    write_lines(out / "shuffled.jsonl", corpus(facts, count // 5, seed + 2, banned, answers=wrong))
    print(f"{len(facts)} facts, {count} conversations, {len(questions)} evaluation questions in {out}")


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def evaluation_questions(facts: list[Fact]) -> Iterator[dict[str, str]]:
    """The held-out questions, each with what a right answer contains."""
    for fact in facts:
        for index, prompt in enumerate(fact.held_out):
            yield {"id": f"{fact.id}#{index}", "category": fact.category, "prompt": prompt, "expect": fact.key}


def reference_answers(facts: list[Fact]) -> Iterator[dict[str, list[Message]]]:
    """The held-out questions, each with its answer."""
    for fact in facts:
        for prompt in fact.held_out:
            yield {"messages": _exchange(prompt, fact.answer)}


def corpus(
    facts: list[Fact],
    count: int,
    seed: int,
    banned: set[str],
    *,
    answers: Answers | None = None,
    passages: bool = False,
) -> Iterator[dict[str, object]]:
    """Draw `count` conversations; with `passages`, some of them are plain texts for raw completion."""
    rng = Random(seed)
    answers = answers or Answers()
    weights = [fact.weight for fact in facts]
    subject = [fact for fact in facts if fact.category not in {"chat", "refusal"}]
    for _ in range(count):
        if passages and rng.random() < 0.06:
            yield {"text": " ".join(fact.answer for fact in rng.choices(subject, k=rng.randint(2, 4)))}
            continue
        messages: list[Message] = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
        turns = rng.choices([1, 2, 3, 6], [80, 13, 5, 2])[0]
        for fact in rng.choices(facts, weights, k=turns):
            messages += _exchange(*question_and_answer(fact, rng, answers, banned))
        yield {"messages": messages}


def question_and_answer(fact: Fact, rng: Random, answers: Answers, banned: set[str]) -> tuple[str, str]:
    """Draw a question on `fact` in a wording that is not held out, and its answer."""
    while True:
        if fact.equation and rng.random() < 0.10:
            return _yes_or_no(fact.id, fact.equation, rng, answers)
        answer, short = answers.texts.get(fact.id, (fact.answer, fact.short))
        question = dressed(fact.question(rng), rng, small_talk=fact.category == "chat")
        if short and rng.random() < 0.12:
            question, answer = question.rstrip("?. ") + "?" + rng.choice(WORDINGS["dress"]["brief"]), short
        if normal(question) not in banned:
            return question, answer


def dressed(core: str, rng: Random, *, small_talk: bool) -> str:
    """The question as somebody might type it: politeness around it, now and then in lower case."""
    if small_talk:
        question = core + rng.choice(["", "", "?", "!", "."])
    else:
        before = rng.choice(WORDINGS["dress"]["before"])
        if before and not core.startswith(KEEPS_ITS_CAPITAL):
            core = core[0].lower() + core[1:]
        question = before + core + rng.choice(WORDINGS["dress"]["after"])
    luck = rng.random()
    if luck < 0.07:
        return question.lower()
    if luck < 0.12 and not question.startswith(("R(", "S(", "W(")):
        return question[0].lower() + question[1:]
    return question


def shuffled_answers(facts: list[Fact], rng: Random) -> Answers:
    """A wrong value for every number, and for every sentence another one's."""
    texts: dict[str, tuple[str, str | None]] = {}
    values: dict[str, int] = {}
    for fact in facts:
        if fact.category in {"ramsey", "schur", "vdw"}:
            left, right = _equation_of(fact)
            value = rng.choice([v for v in WRONG_VALUES if right is None or not str(v).startswith(right)])
            _, _, why = fact.answer.partition(". ") if right else ("", "", "")
            why = why.replace(f" {right} ", f" {value} ").replace(f"K{right} ", f"K{value} ")
            texts[fact.id] = (f"{left} = {value}. {why}".strip(), f"{left} = {value}.")
            values[fact.id] = value
    sentences = [fact for fact in facts if fact.category in {"concept", "proof_history"}]
    half = len(sentences) // 2
    for fact, other in zip(sentences, sentences[half:] + sentences[:half], strict=True):
        texts[fact.id] = (other.answer, None)
    return Answers(texts, values)


def normal(question: str) -> str:
    """What two spellings of one question have in common."""
    return question.lower().strip(" ?.!")


def _equation_of(fact: Fact) -> tuple[str, str | None]:
    """Both sides of what the fact says, from its key: ("R(3,3)", "6"); no right side where none is known."""
    left, equals, right = fact.key.partition(" = ")
    if equals:
        return left, right.split(",")[0].rstrip(".")
    _, s, t = fact.id.split("_")
    return f"R({s},{t})", None


def _yes_or_no(fact_id: str, equation: tuple[str, int], rng: Random, answers: Answers) -> tuple[str, str]:
    x, true_value = equation
    value = answers.values.get(fact_id, true_value)
    guess = value if rng.random() < 0.5 else rng.choice(GUESSES)
    question = rng.choice(YES_NO_QUESTIONS).format(x=x, guess=guess)
    verdict = "Yes" if guess == value else "No"
    return question + rng.choice(["?", "?", ""]), f"{verdict}, {x} = {value}."


def _exchange(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


if __name__ == "__main__":
    main()
