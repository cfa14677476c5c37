"""The gate that looks at answers: the evaluation set, against a floor and against the current release."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from deployment.releases.catalogue.evaluation import Evaluation, Question, digest_of
from deployment.releases.catalogue.gates.model import GateContext, GateResult

Evaluate = Callable[[str, Sequence[Question]], Awaitable[Evaluation]]
Scores = Callable[[str], Awaitable[Mapping[str, Any] | None]]


class EvaluationGate:
    """Enough answers are right, and not many fewer than the current release's."""

    name = "evaluation"

    def __init__(
        self, questions: Sequence[Question], evaluate: Evaluate, scores: Scores, floor: float, margin: float
    ) -> None:
        """`scores` are a release's from before; `margin` is how much smaller the share of right answers may be."""
        self._questions, self._evaluate, self._scores = questions, evaluate, scores
        self._floor, self._margin = floor, margin

    async def check(self, context: GateContext) -> GateResult:
        """Ask the new release; the current one only where it has no score on these very questions."""
        if not self._questions:
            return GateResult(self.name, True, "There is no evaluation set (releases.questions): nothing was asked.")
        new = await self._evaluate(context.entry.name, self._questions)
        told = f"{new.told}; the floor is {self._floor:.0%}"
        if new.accuracy < self._floor:
            return GateResult(self.name, False, f"{told}.{_example(new)}")
        if context.current is None or context.current == context.entry.name:
            return GateResult(self.name, True, f"{told}.")
        current = await self._accuracy(context.current)
        told += f"; {context.current} has {current:.1%}, and {self._margin * 100:g} points less are allowed"
        passed = new.accuracy >= current - self._margin - 1e-9
        return GateResult(self.name, passed, f"{told}.{'' if passed else _example(new)}")

    async def _accuracy(self, release: str) -> float:
        scores = await self._scores(release)
        if scores is not None and scores.get("questions_sha256") == digest_of(self._questions):
            return float(scores["right"]) / float(scores["of"])
        return (await self._evaluate(release, self._questions)).accuracy


def _example(evaluation: Evaluation) -> str:
    if not evaluation.wrong:
        return ""
    wrong = evaluation.wrong[0]
    return f" For instance {wrong.prompt[:100]!r}: it said {wrong.said[:120]!r}, not {wrong.expected[:120]!r}."
