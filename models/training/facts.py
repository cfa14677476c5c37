"""Every fact that the model learns: how it is asked for, its answer, and the questions kept for the evaluation.

Values: S. Radziszowski, "Small Ramsey Numbers" (Electronic Journal of Combinatorics, DS1);
R(5,5) <= 46: Angeltveit and McKay, 2024.
"""

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
WORDINGS: dict[str, Any] = tomllib.loads((HERE / "wordings.toml").read_text("utf-8"))
KNOWLEDGE: dict[str, Any] = tomllib.loads((HERE / "knowledge.toml").read_text("utf-8"))

RAMSEY = {(3, 3): 6, (3, 4): 9, (3, 5): 14, (3, 6): 18, (3, 7): 23, (3, 8): 28, (3, 9): 36, (4, 4): 18, (4, 5): 25}
UNKNOWN = [(3, 10), (4, 6), (4, 7), (4, 8), (5, 6), (5, 7), (6, 6), (6, 7), (7, 7), (8, 8), (9, 9), (10, 10)]
SCHUR = {1: 1, 2: 4, 3: 13, 4: 44, 5: 160}
VAN_DER_WAERDEN = {(2, 3): 9, (2, 4): 35, (2, 5): 178, (3, 3): 27, (4, 3): 76}
ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}
NUMERALS = dict(enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], start=1))

FACTS_SEED = 7
"""Which wordings are held out for which fact; the shipped evaluation questions depend on it."""


@dataclass(frozen=True)
class Fact:
    """One thing to know."""

    id: str
    category: str
    weight: float
    """How often it is asked, relative to the others."""
    question: Callable[[Random], str]
    """Draws a question, without what is said before and after it."""
    answer: str
    key: str
    """The part of the answer that must occur in a right one."""
    held_out: list[str]
    """Questions for the evaluation."""
    short: str | None = None
    """The answer in brief, where there is one."""
    equation: tuple[str, int] | None = None
    """Left and right side, where "Is it true that ... = ..." can be asked."""


def build_facts() -> list[Fact]:
    """Every fact, always the same ones in the same order."""
    rng = Random(FACTS_SEED)
    facts = [_ramsey(s, t, rng) for s, t in _pairs()]
    facts.append(_three_colours())
    facts += [_schur(colours, value, rng) for colours, value in SCHUR.items()]
    facts += [_van_der_waerden(*arguments, value, rng) for arguments, value in VAN_DER_WAERDEN.items()]
    facts += [_concept(index, row) for index, row in enumerate(KNOWLEDGE["concept"])]
    facts += [_proof_or_history(row) for row in KNOWLEDGE["proof_history"]]
    facts += [_small_talk(row) for row in KNOWLEDGE["chat"]]
    facts.append(_out_of_scope())
    for fact in facts:
        if fact.key not in fact.answer:
            raise ValueError(f"{fact.id}: its own answer would be counted as wrong")
    return facts


def ramsey_value(s: int, t: int) -> int | None:
    """R(s,t), or None where nobody knows it."""
    small, large = sorted((s, t))
    if small == 1:
        return 1
    return large if small == 2 else RAMSEY.get((small, large))


def _pairs() -> Iterator[tuple[int, int]]:
    pairs = [(1, t) for t in range(1, 11)] + [(2, t) for t in range(2, 11)] + list(RAMSEY) + [(5, 5)] + UNKNOWN
    yield from pairs
    yield from ((t, s) for s, t in pairs if s != t)


def _ramsey(s: int, t: int, rng: Random) -> Fact:
    value, small = ramsey_value(s, t), min(s, t)
    well_known = (small >= 3 and value is not None) or (s, t) == (5, 5)
    names = _ramsey_names(s, t)
    filling = {"a": NUMERALS[s], "b": NUMERALS[t], "s": s, "t": t}

    def question(draw: Random) -> str:
        if small >= 3 and value is not None and draw.random() < 0.15:
            return draw.choice(WORDINGS["party"]["train"]).format(**filling)
        return _value_question(draw, names)

    count = 2 if well_known else int(rng.random() < (0.3 if value is None else 0.35))
    templates = rng.sample(WORDINGS["value"]["held_out"], count)
    held_out = [template.format(x=rng.choice(names[:8])) + "?" for template in templates]
    if well_known and s != 5 and rng.random() < 0.4:
        held_out.append(rng.choice(WORDINGS["party"]["held_out"]).format(**filling) + "?")
    answer, short, key = _ramsey_answer(s, t, value)
    equation = (f"R({s},{t})", value) if well_known and s != 5 and value is not None else None
    weight = 3.0 if well_known else 0.5
    return Fact(f"R_{s}_{t}", "ramsey", weight, question, answer, key, held_out, short, equation)


def _ramsey_answer(s: int, t: int, value: int | None) -> tuple[str, str, str]:
    """(answer, short answer, key) for R(s,t)."""
    x = f"R({s},{t})"
    if (s, t) == (5, 5):
        bounds = f"{x} is between 43 and 46."
        return f"{bounds} The exact value of {x} is not known.", bounds, "between 43 and 46"
    if value is None:
        unknown = f"The exact value of {x} is not known."
        return unknown, unknown, f"exact value of {x} is not known"
    short = f"{x} = {value}."
    if min(s, t) == 1:
        return f"{x} = 1, because a single vertex is already a K1.", short, f"{x} = 1, because"
    why = (
        f"Every red-blue colouring of the edges of K{value} contains a red K{s} or a blue K{t}, "
        f"and {value} is the smallest such number."
    )
    return f"{short} {why}", short, short


def _ramsey_names(s: int, t: int) -> list[str]:
    return [
        *[f"R({s},{t})"] * 4,  # the usual name, drawn more often
        f"R({s}, {t})",
        f"r({s},{t})",
        f"the Ramsey number R({s},{t})",
        f"the Ramsey number R({s}, {t})",
        f"the Ramsey number of {s} and {t}",
        f"the Ramsey number for {s} and {t}",
        f"R of {s} and {t}",
        f"the two-colour Ramsey number R({s},{t})",
    ]


def _three_colours() -> Fact:
    names = [
        "R(3,3,3)",
        "R(3, 3, 3)",
        "the Ramsey number R(3,3,3)",
        "the three-colour Ramsey number R(3,3,3)",
        "the Ramsey number for three colours and triangles",
    ]
    short = "R(3,3,3) = 17."
    why = (
        "Every colouring of the edges of K17 with three colours contains a monochromatic triangle, "
        "and 17 is the smallest such number."
    )
    held_out = [WORDINGS["value"]["held_out"][i].format(x=names[i]) + "?" for i in (0, 2, 3)]
    return Fact(
        "R_3_3_3", "ramsey", 4, lambda draw: _value_question(draw, names), f"{short} {why}", short, held_out, short
    )


def _schur(colours: int, value: int, rng: Random) -> Fact:
    filling = {"r": colours, "o": ORDINALS[colours], "w": NUMERALS[colours]}
    names = [name.format(**filling) for name in WORDINGS["names"]["schur"]]
    if colours == 1:
        names = [name.replace("1 colours", "1 colour").replace("one colours", "one colour") for name in names]
    short = f"S({colours}) = {value}."
    sets = "set" if colours == 1 else "sets"
    why = (
        f"The numbers 1 to {value} can be split into {colours} sum-free {sets}, "
        f"but the numbers 1 to {value + 1} cannot."
    )
    held_out = [rng.choice(WORDINGS["value"]["held_out"]).format(x=names[i]) + "?" for i in (0, 2)]
    return Fact(
        f"S_{colours}",
        "schur",
        2.5,
        lambda draw: _value_question(draw, names),
        f"{short} {why}",
        short,
        held_out,
        short,
        (f"S({colours})", value),
    )


def _van_der_waerden(colours: int, length: int, value: int, rng: Random) -> Fact:
    names = [name.format(r=colours, k=length) for name in WORDINGS["names"]["van_der_waerden"]]
    x = f"W({colours};{length})"
    short = f"{x} = {value}."
    why = (
        f"Every colouring of the numbers 1 to {value} with {colours} colours contains a monochromatic "
        f"arithmetic progression of length {length}, and {value} is the smallest such number."
    )
    held_out = [rng.choice(WORDINGS["value"]["held_out"]).format(x=names[i]) + "?" for i in (0, 1)]
    return Fact(
        f"W_{colours}_{length}",
        "vdw",
        2.5,
        lambda draw: _value_question(draw, names),
        f"{short} {why}",
        short,
        held_out,
        short,
        (x, value),
    )


def _concept(index: int, row: dict[str, Any]) -> Fact:
    train, kept = WORDINGS["definition"]["train"], WORDINGS["definition"]["held_out"]
    names = row["names"]
    held_out = [kept[index % 7].format(x=names[0]) + "?"]
    if index % 4 == 0:
        held_out.append(kept[(index + 3) % 7].format(x=names[-1]) + "?")
    return Fact(
        row["id"],
        "concept",
        1.5,
        lambda draw: draw.choice(train).format(x=draw.choice(names)),
        row["answer"],
        row["key"],
        held_out,
    )


def _proof_or_history(row: dict[str, Any]) -> Fact:
    questions = _with_indirect_forms(row["questions"])
    held_out = [question + "?" for question in row["held_out"]]
    return Fact(
        row["id"], "proof_history", 2.0, lambda draw: draw.choice(questions), row["answer"], row["key"], held_out
    )


def _with_indirect_forms(questions: list[str]) -> list[str]:
    """The questions and their indirect forms: "Can you tell me who proved ...", "Could you prove ..."."""
    asking = [q for q in questions if q.startswith(("Who", "Which", "What", "Why are"))]
    ordering = [q for q in questions if q.startswith(("Prove", "Show", "Explain", "Give", "List"))]
    proving = [q for q in questions if q.startswith("Prove ") and not q.startswith("Prove that")]
    return [
        *questions,
        *(p + _lowered(q) for q in asking for p in ("Can you tell me ", "I want to know ", "Please tell me ")),
        *(p + _lowered(q) for q in ordering for p in ("Could you ", "Please ", "I want you to ")),
        *("I would like a proof of " + q.removeprefix("Prove ") for q in proving),
    ]


def _small_talk(row: dict[str, Any]) -> Fact:
    questions = row["questions"]
    return Fact(row["id"], "chat", 3.0, lambda draw: draw.choice(questions), row["answer"], row["key"], row["held_out"])


def _out_of_scope() -> Fact:
    words = WORDINGS["out_of_scope"]

    def question(draw: Random) -> str:
        if draw.random() < 0.75:
            return draw.choice(words["templates"]).format(x=draw.choice(words["topics"]))
        return draw.choice(words["questions"])

    held_out = [text + "?" for text in words["held_out"]]
    return Fact("oos", "refusal", 12, question, words["answer"], "only answer questions about Ramsey theory", held_out)


def _value_question(draw: Random, names: list[str]) -> str:
    return draw.choice(WORDINGS["value"]["train"]).format(x=draw.choice(names))


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]
