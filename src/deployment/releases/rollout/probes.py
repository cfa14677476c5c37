"""Questions with known answers, asked of both releases while a rollout is judged: quality without waiting for votes."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from deployment.releases.rollout.model import Rollout


class Questions(Protocol):
    """Questions with known answers, and who scores an answer to them."""

    async def load(self, rollout: Rollout) -> Sequence[Any]:
        """The questions; none where there is no evaluation set."""
        ...

    async def score(self, release: str, question: Any) -> float | None:
        """Ask a release one, as batch work; its score from 0 to 1, None where it gave no answer."""
        ...


class Probes:
    """Asks at the plan's rate, each question of both releases."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    async def ask(self, rollout: Rollout, told: Callable[[bool, float], None]) -> None:
        """Ask until cancelled, or until the plan's number is reached."""
        questions = await self._questions.load(rollout)
        if not questions:
            return
        done = rollout.figures.candidate.scored  # in an earlier phase, or before a crash: not the same ones again
        for question in itertools.islice(itertools.cycle(questions), done, max(done, rollout.plan.probes.most)):
            for release, candidate in ((rollout.from_release, False), (rollout.to_release, True)):
                score = await self._questions.score(release, question)
                if score is not None:
                    told(candidate, score)
            await asyncio.sleep(1 / rollout.plan.probes.rate)
