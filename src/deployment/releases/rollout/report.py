"""A rollout as a Markdown report with plots in SVG, to keep or to send. Pure."""

from collections.abc import Sequence
from datetime import datetime
from html import escape

from deployment.releases.rollout.decide import part
from deployment.releases.rollout.figures import Point, Side
from deployment.releases.rollout.model import Rollout
from deployment.releases.rollout.store import Event

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 160, 52, 26, 22
_OLD, _NEW, _LIMIT = "#6b7280", "#2563eb", "#dc2626"


def report(rollout: Rollout, events: Sequence[Event]) -> str:
    """The whole report."""
    parts = [
        f"# {rollout.model}: {rollout.from_release} → {rollout.to_release}",
        _summary(rollout),
        "## Both releases",
        _sides(rollout),
        "## Verdicts",
        _verdicts(rollout),
        *([f"## Gates\n\n{_gates(rollout)}"] if rollout.gates else []),
        *_plots(rollout),
        "## What happened",
        "\n".join(f"- {_time(event.at)} **{event.kind.replace('_', ' ')}** {_line(event.text)}" for event in events),
    ]
    return "\n\n".join(part_ for part_ in parts if part_) + "\n"


def _summary(rollout: Rollout) -> str:
    lines = [
        f"**{rollout.phase.value.replace('_', ' ')}**: {_line(rollout.reason)}",
        "",
        f"- Rollout `{rollout.id}`, {rollout.plan.strategy.value}, by {_line(rollout.started_by)}",
        f"- Started {_time(rollout.started_at)}" + (f", ended {_time(rollout.ended_at)}" if rollout.ended_at else ""),
        f"- Requests harmed: **{rollout.figures.harmed}** "
        f"({rollout.figures.candidate.failed} failed, {rollout.figures.candidate.slow} too slow)",
    ]
    if rollout.note:
        lines.append(f"- Note: {_line(rollout.note)}")
    if rollout.figures.lost:
        lines.append(f"- Outcomes lost while the database was away: {rollout.figures.lost}")
    return "\n".join(lines)


def _sides(rollout: Rollout) -> str:
    figures = rollout.figures
    rows = [
        "| | requests | failed | first token, median / p95 | per token, median | score |",
        "|---|---|---|---|---|---|",
    ]
    for name, side in ((rollout.from_release, figures.stable), (rollout.to_release, figures.candidate)):
        rows.append(
            f"| {name} | {side.requests} | {side.failed} ({_rate(side)}) | "
            f"{_ms(side.ttft.at(0.5))} / {_ms(side.ttft.at(0.95))} | {_ms(side.token.at(0.5))} | {_score(side)} |"
        )
    if figures.mirrored:
        equal = f"{figures.mirrored_equal} of {figures.mirrored_compared} answers equal"
        rows += ["", f"Mirrored: {figures.mirrored} requests, {figures.mirrored_failed} failed, {equal}."]
    return "\n".join(rows)


def _verdicts(rollout: Rollout) -> str:
    if not rollout.verdicts:
        return "None: it was never judged."
    rows = ["| check | verdict | value | limit | samples | why |", "|---|---|---|---|---|---|"]
    for verdict in rollout.verdicts:
        value, limit = (f"{verdict[name]:.4g}" if verdict[name] is not None else "" for name in ("value", "limit"))
        rows.append(
            f"| {verdict['check']} | {verdict['result']} | {value} | {limit} | {verdict['samples']} "
            f"| {_line(verdict['reason'])} |"
        )
    return "\n".join(rows)


def _gates(rollout: Rollout) -> str:
    return "\n".join(f"- {'✓' if gate.passed else '✗'} **{gate.name}** {_line(gate.reason)}" for gate in rollout.gates)


def _plots(rollout: Rollout) -> list[str]:
    points = rollout.figures.points
    if len(points) < 2:
        return []
    rates = [[(p.at, p.failed[side] / p.requests[side]) for p in points if p.requests[side]] for side in (0, 1)]
    steps = [(p.at, p.weight) for p in points]
    evidence = [(p.at, p.evidence) for p in points]
    span = (points[0].at, _end(points, rollout))
    return [
        "## Plots",
        plot("Share of the new release", span, [(_NEW, steps)], stairs=True),
        plot("Failed answers (grey: old, blue: new)", span, [(_OLD, rates[0]), (_NEW, rates[1])]),
        plot("Evidence, as part of the way to the limit", span, [(_LIMIT, evidence)]),
    ]


def _end(points: Sequence[Point], rollout: Rollout) -> float:
    ended = (rollout.ended_at - rollout.started_at).total_seconds() if rollout.ended_at else 0.0
    return max(points[-1].at, min(ended, points[-1].at + rollout.figures.span_s)) or 1.0


def plot(
    title: str,
    span: tuple[float, float],
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    stairs: bool = False,
) -> str:
    """An SVG of lines of shares (0 to 1) over seconds."""
    top = max([0.01, *(value for _, line in lines for _, value in line)])
    begin, end = span
    wide, high = _WIDTH - _LEFT - 8, _HEIGHT - _TOP - _BOTTOM

    def at(seconds: float, value: float) -> tuple[float, float]:
        return _LEFT + (seconds - begin) / ((end - begin) or 1) * wide, _TOP + (1 - value / top) * high

    drawn = []
    for colour, line in lines:
        path, last = [], None
        for seconds, value in line:
            x, y = at(seconds, value)
            if stairs and last is not None:
                path.append(f"{x:.1f},{last:.1f}")
            path.append(f"{x:.1f},{y:.1f}")
            last = y
        if stairs and last is not None:
            path.append(f"{at(end, 0)[0]:.1f},{last:.1f}")
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(path)}"/>')
    floor = _TOP + high
    text = 'font-family="sans-serif" font-size="11" fill="#374151"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>"
        f'<text x="{_LEFT}" y="14" {text} font-weight="bold">{escape(title)}</text>'
        f'<line x1="{_LEFT}" y1="{floor}" x2="{_WIDTH - 8}" y2="{floor}" stroke="#d1d5db"/>'
        f'<text x="4" y="{_TOP + 8}" {text}>{part(top)}</text><text x="4" y="{floor}" {text}>0 %</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}" {text}>{begin:.0f} s</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" {text} text-anchor="end">{end:.0f} s</text>'
        f"{''.join(drawn)}</svg>"
    )


def _line(text: str) -> str:
    """Text that cannot become markup or break a table."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _rate(side: Side) -> str:
    return part(round(side.failed / side.requests, 4)) if side.requests else "–"


def _score(side: Side) -> str:
    return f"{side.score / side.scored:.3f} of {side.scored}" if side.scored else "–"


def _ms(milliseconds: float | None) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds is not None else "–"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
