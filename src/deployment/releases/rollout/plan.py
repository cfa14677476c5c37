"""`rollout.toml`: how a model's traffic moves to another release. Every key has a default; unknown ones are refused."""

import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from deployment.errors import ConfigurationError
from deployment.spelling import misspelt

FILE = "rollout.toml"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LENGTH = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)(ms|s|m|h|d)")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WINDOW = re.compile(
    r"(?P<day>Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d)"
    r" - (?P<to_day>Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?P<to_hour>[01]\d|2[0-3]):(?P<to_minute>[0-5]\d)"
)
_MOST_STEPS = 20
_MOST_BYTES = 64 * 1024


def _seconds(value: Any) -> Any:
    """A length such as 90s, 2m, 1h, or a number of seconds."""
    if not isinstance(value, str):
        return value
    if (found := _LENGTH.fullmatch(value.strip())) is None:
        raise ValueError("write a length such as 30s, 5m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def _share(value: Any) -> Any:
    """A share such as "5%", or a number from 0 to 1."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"\d{1,3}(\.\d{1,4})? ?%", value.strip()) is None:
        raise ValueError('write a share such as "5%", or a number from 0 to 1')
    return float(value.strip().rstrip("% ")) / 100


Length = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=30 * 86400, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1, allow_inf_nan=False)]


_Label = Annotated[str, Field(max_length=64)]


class Part(BaseModel):
    """A table of the file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Strategy(StrEnum):
    """How the traffic moves."""

    CANARY = "canary"
    """By steps, each judged."""
    BLUE_GREEN = "blue-green"
    """All at once after the gates, the old release kept warm."""
    RECREATE = "recreate"
    """All at once, the old release not kept and the new one loaded only then: for nodes without room for both."""
    SHADOW = "shadow"
    """Requests are mirrored and compared; the traffic stays."""
    AB = "ab"
    """Fixed shares for sticky callers, until a person decides."""

    @property
    def cold(self) -> bool:
        """The new release is loaded only when it has the traffic."""
        return self is Strategy.RECREATE


class Step(Part):
    """One share of the traffic, and what must be seen before the next."""

    weight: Share = Field(description="The new release's share of the traffic.")
    min_time: Length | None = Field(None, description="Least time at this share; by default the plan's.")
    min_requests: int | None = Field(
        None, ge=0, le=10_000_000, description="Fewest requests that the new release answered here; default the plan's."
    )
    deadline: Length | None = Field(None, description="When to hold and tell a person; by default the plan's.")
    approval: bool = Field(False, description="Begin this step only once a person approves.")


def _step(value: Any) -> Any:
    return value if isinstance(value, dict | Step) else {"weight": value}


class ShadowPlan(Part):
    """Mirror requests to the new release before it gets traffic."""

    share: Share = Field(0.1, description="Which part of the requests.")
    time: Length = Field(300.0, description="For how long.")
    min_requests: int = Field(50, ge=0, le=10_000_000, description="How many must have been mirrored.")


class GatePlan(Part):
    """What must hold before the new release gets traffic."""

    skip: tuple[Literal["digests", "load", "memory", "smoke", "evaluation"], ...] = Field(
        (), description="Gates that are left out; the rollout shows it."
    )
    smoke: tuple[str, ...] = Field(
        ("Hello.",), max_length=100, description="Prompts that the new release must answer on each node."
    )
    floor: float = Field(0.0, ge=0, le=1, description="Least share of right answers to the evaluation set.")
    margin: float = Field(0.05, ge=0, le=1, description="How much worse than the current release it may be.")
    webhooks: tuple[str, ...] = Field(
        (), max_length=10, description="URLs that are asked; any status but 2xx stops it.", repr=False
    )
    commands: tuple[tuple[str, ...], ...] = Field(
        (), max_length=10, description="Programs with arguments, run on the leader; any exit status but 0 stops it."
    )
    timeout: Length = Field(600.0, description="How long all gates together may take.")


class JudgePlan(Part):
    """The judge's limits; docs/rollouts.md says what each test does."""

    alpha: float = Field(0.01, gt=0, le=0.2, description="Chance that a healthy release is rolled back.")
    error_limit: float = Field(0.05, gt=0, lt=1, description="Share of errors that is too much by itself.")
    latency_ratio: float = Field(2.0, gt=1, le=100, description="How much slower than the old release is too slow.")
    quality_margin: float = Field(0.05, gt=0, lt=1, description="How much worse answers may score.")


class ProbePlan(Part):
    """Questions of the evaluation set that both releases are asked while the rollout is judged."""

    rate: float = Field(1.0, ge=0, le=100, allow_inf_nan=False, description="Questions a second for each; 0 is none.")
    most: int = Field(500, ge=0, le=100_000, description="At most so many questions in all for each release.")


class Webhook(Part):
    """Who is told what happens."""

    url: str = Field(pattern=r"^https?://\S+$", max_length=2000, description="Where it is posted.", repr=False)
    shape: Literal["json", "slack"] = Field("json", description="slack: what Slack, Mattermost and others take.")
    timeout: Length = Field(5.0, description="How long it may take.")

    @property
    def host(self) -> str:
        """Where it goes, without what may be a secret."""
        return urlsplit(self.url).hostname or "?"


def _windows(value: Any) -> Any:
    for window in value if isinstance(value, list | tuple) else ():
        if not isinstance(window, str) or _WINDOW.fullmatch(window) is None:
            raise ValueError(f'{window!r} is no window: write for instance "Fri 16:00 - Mon 08:00"')
    return value


class FreezePlan(Part):
    """When nothing moves forward. A rollback is always allowed."""

    windows: Annotated[tuple[str, ...], BeforeValidator(_windows)] = Field(
        (), max_length=20, description='Each week, for instance "Fri 16:00 - Mon 08:00".'
    )
    timezone: str = Field("UTC", description="Whose clock the windows are read by.")

    @model_validator(mode="after")
    def _the_zone_is_known(self) -> Self:
        if self.timezone not in available_timezones():
            raise ValueError(f"timezone: {self.timezone[:60]!r} is not known; write one such as Europe/Berlin")
        return self


_CANARY: tuple[Step, ...] = tuple(Step(weight=weight) for weight in (0.05, 0.25, 0.5, 1.0))


class Plan(Part):
    """The whole file."""

    strategy: Strategy = Field(Strategy.CANARY, description="canary, blue-green, recreate, shadow or ab.")
    steps: Annotated[tuple[Annotated[Step, BeforeValidator(_step)], ...], Field(max_length=_MOST_STEPS)] = Field(
        (), description='Shares one after another, each "5%" or a table; by default 5, 25, 50, 100 % of a canary.'
    )
    min_time: Length = Field(120.0, description="Least time of each step.")
    min_requests: int = Field(
        100, ge=0, le=10_000_000, description="Fewest requests that the new release answered in each step."
    )
    deadline: Length = Field(3600.0, description="When a step that is not decided holds and tells a person.")
    keep_warm: Length = Field(
        3600.0, description="How long the old release stays loaded after the last step, to be back at once."
    )
    nodes: dict[_Label, _Label] = Field(
        default_factory=dict, max_length=16, description="Labels of the nodes for the new release; by default all."
    )
    sticky: Literal["none", "session", "key"] | None = Field(
        None, description="Who always gets the same release; by default as the traffic is now, and key with ab."
    )
    prepare_timeout: Length = Field(1800.0, description="How long bringing the release onto the nodes may take.")
    shadow: ShadowPlan | None = Field(None, description="Mirror requests first.")
    gates: GatePlan = Field(default_factory=GatePlan, description="What must hold before traffic.")
    judge: JudgePlan = Field(default_factory=JudgePlan, description="The judge's limits.")
    probes: ProbePlan = Field(default_factory=ProbePlan, description="Questions asked meanwhile.")
    freeze: FreezePlan = Field(default_factory=FreezePlan, description="When nothing moves forward.")
    webhooks: tuple[Webhook, ...] = Field((), max_length=10, description="Who is told.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise ValueError("steps: each must have a larger share than the one before")
        if self.strategy is Strategy.CANARY and weights and weights[-1] != 1:
            raise ValueError('steps: the last must be "100%", else the rollout would have no end')
        if self.strategy is Strategy.AB and (len(weights) > 1 or (weights and weights[0] == 1)):
            raise ValueError('steps: ab has one, below "100%"')
        if self.strategy in {Strategy.BLUE_GREEN, Strategy.RECREATE, Strategy.SHADOW} and weights not in ([], [1.0]):
            raise ValueError(f"steps: {self.strategy.value} has none but 100 %")
        return self

    @property
    def path(self) -> tuple[Step, ...]:
        """The steps with everything filled in, in order; none with shadow."""
        if self.strategy is Strategy.SHADOW:
            return ()
        if self.strategy in {Strategy.BLUE_GREEN, Strategy.RECREATE}:
            own = self.steps[0] if self.steps else Step(weight=1.0)
            return (
                Step(
                    weight=1.0,
                    min_time=own.min_time or 0.0,
                    min_requests=own.min_requests or 0,
                    deadline=own.deadline or self.deadline,
                    approval=own.approval,
                ),
            )
        return tuple(self._filled(step) for step in self.steps or self._usual)

    @property
    def _usual(self) -> tuple[Step, ...]:
        return _CANARY if self.strategy is Strategy.CANARY else (Step(weight=0.5),)

    def _filled(self, step: Step) -> Step:
        return Step(
            weight=step.weight,
            min_time=self.min_time if step.min_time is None else step.min_time,
            min_requests=self.min_requests if step.min_requests is None else step.min_requests,
            deadline=self.deadline if step.deadline is None else step.deadline,
            approval=step.approval,
        )

    @property
    def mirror(self) -> ShadowPlan | None:
        """What is mirrored first, if anything."""
        return self.shadow or (ShadowPlan() if self.strategy is Strategy.SHADOW else None)

    @property
    def zone(self) -> ZoneInfo:
        """Of the freeze windows."""
        return ZoneInfo(self.freeze.timezone)


def frozen_by(plan: FreezePlan, weekday: int, minute: int) -> str | None:
    """The window that a moment of the week lies in, by the plan's clock; Monday is 0, `minute` that of the day."""
    at = weekday * 1440 + minute
    for window in plan.windows:
        found = _WINDOW.fullmatch(window)
        if found is None:
            continue  # the plan was checked
        begins = _minute(found["day"], found["hour"], found["minute"])
        ends = _minute(found["to_day"], found["to_hour"], found["to_minute"])
        if begins <= at < ends if begins < ends else (at >= begins or at < ends):
            return window
    return None


def _minute(day: str, hour: str, minute: str) -> int:
    return _DAYS.index(day) * 1440 + int(hour) * 60 + int(minute)


def load(path: Path) -> dict[str, Any]:
    """The file's text as a plan's document. Raises ConfigurationError where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror or error}.") from None
    if len(content) > _MOST_BYTES:
        raise ConfigurationError(f"{path} is larger than {_MOST_BYTES // 1024} KiB: it is no plan.")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from None


def parse(document: dict[str, Any], source: str = FILE) -> Plan:
    """The plan that a document tells. Raises ConfigurationError that names every key that is wrong."""
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        told = [_explain(problem) for problem in error.errors()]
        raise ConfigurationError(
            f"{source}: " + "; ".join(told).removesuffix("?") + ("?" if told[-1].endswith("?") else "."),
            hint="docs/rollouts.md lists every key of a plan.",
        ) from None


def stored(document: dict[str, Any]) -> Plan:
    """A plan that was checked before it was kept; what a newer version of the code added to it is left out."""
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        unknown = [problem["loc"] for problem in error.errors() if problem["type"] == "extra_forbidden"]
        if not unknown:
            raise
        for *where, key in unknown:
            table: Any = document
            for part in where:
                table = table[part]
            del table[key]
        return Plan.model_validate(document)


def _explain(problem: Any) -> str:
    parts = [str(part) for part in problem["loc"]]
    key = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        found = misspelt([problem], Plan, None)
        return f"{key}: there is no such key" + (f"; did you mean {found[1]}?" if found else "")
    reason = str(problem["msg"]).removeprefix("Value error, ")
    return f"{key}: {reason}" if key else reason
