"""Whose fault an attempt's end was."""

import asyncio

import pytest

from deployment import errors
from deployment.engines.outcomes import Blame, blame

ROWS = [
    (errors.EngineUnavailable("x"), Blame.NODE),
    (errors.EngineBusy("x"), Blame.NODE),
    (errors.EngineTimeout("x"), Blame.NODE),
    (errors.EngineCrashed("x"), Blame.NODE),
    (errors.EngineProtocolError("x"), Blame.NODE),
    (errors.StreamIncomplete("x"), Blame.NODE),
    (errors.ModelMissing("x"), Blame.RELEASE),
    (errors.EngineRefused("x", status=429), Blame.NOBODY),
    (errors.EngineRefused("x", status=401), Blame.NOBODY),
    (errors.InvalidRequest("x"), Blame.NOBODY),
    (asyncio.CancelledError(), Blame.NOBODY),
]


@pytest.mark.parametrize(("error", "whose"), ROWS, ids=[type(row[0]).__name__ for row in ROWS])
def test_blame(error: BaseException, whose: Blame) -> None:
    assert blame(error) is whose
