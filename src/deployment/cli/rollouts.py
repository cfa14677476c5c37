"""`ramsey deploy`, `ramsey rollback`, `ramsey rollout`: move a model's traffic to another release."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployment.cli.context import Url, gateway_of
from deployment.cli.gateway import Gateway
from deployment.cli.output import Json, console, print_json
from deployment.errors import RamseyError

app = typer.Typer(help="Watch, steer and look back at rollouts.", no_args_is_help=True, rich_markup_mode=None)

_POLL_S = 0.5
_PLAN = "rollout.toml"
_BAD = {"rolled_back", "aborted", "refused"}

Model = Annotated[str | None, typer.Option("--model", help="The model; by default the gateway's.")]
Id = Annotated[str, typer.Argument(help="The rollout's id; by default the one that runs, else the newest.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; for the record and for who is told.")]


def deploy(
    context: typer.Context,
    release: Annotated[str, typer.Argument(help="The release, for instance v1.1.")],
    plan: Annotated[
        Path | None, typer.Option("--plan", help=f"The plan; by default {_PLAN}, where there is one.", metavar="FILE")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="canary, blue-green, recreate, shadow or ab; over the plan's.")
    ] = None,
    note: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Also within a freeze window.")] = False,
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Watch it to its end.")] = False,
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Move the traffic to another release, by the plan, judged on the way."""
    document = _document(plan)
    if strategy is not None:
        document["strategy"] = strategy
    gateway = gateway_of(context, url)
    body = {"release": release, "plan": document, "note": note, "force": force}
    made = gateway.post(f"/admin/rollouts{_of(model)}", body)
    if as_json and not watching:
        print_json(made)
        return
    if not as_json:
        typer.echo(f"{made['id']}: {made['reason']}")
    if watching:
        _watch(gateway, made["id"], as_json)
    else:
        typer.echo("`ramsey rollout watch` shows how it goes; `ramsey rollback` takes it back.")


def rollback(
    context: typer.Context,
    release: Annotated[str | None, typer.Argument(help="Where to; by default the release before.")] = None,
    reason: Reason = "",
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Take the traffic back: at once while the old release is warm, else as soon as it is loaded."""
    body = {"release": release, "reason": reason}
    _tell(gateway_of(context, url).post(f"/admin/rollouts/rollback{_of(model)}", body), as_json)


@app.command()
def watch(
    context: typer.Context, rollout: Id = "current", model: Model = None, url: Url = None, as_json: Json = False
) -> None:
    """Watch a rollout to its end. Exit status 1 when it went back. With --json one object a change."""
    gateway = gateway_of(context, url)
    _watch(gateway, gateway.get(f"/admin/rollouts/{quote(rollout, safe='')}{_of(model)}")["id"], as_json)


@app.command()
def show(
    context: typer.Context,
    rollout: Id = "current",
    report: Annotated[bool, typer.Option("--report", help="The whole report, in Markdown with plots.")] = False,
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show a rollout: where it is, both releases' figures, verdicts, what happened."""
    gateway, name = gateway_of(context, url), quote(rollout, safe="")
    shown = gateway.get(f"/admin/rollouts/{name}{_of(model)}")
    if report:
        typer.echo(gateway.text(f"/admin/rollouts/{shown['id']}/report"), nl=False)
    elif as_json:
        print_json(shown | {"events": gateway.items(f"/admin/rollouts/{shown['id']}/events")})
    else:
        from deployment.cli.rollout_view import screen

        console().print(screen(shown))
        for event in gateway.items(f"/admin/rollouts/{shown['id']}/events"):
            typer.echo(f"{_clock(event['at'])}  {event['actor']}: {event['text']}")


@app.command()
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--lines", "-n", help="How many of the newest.", min=1, max=200)] = 20,
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the rollouts, the newest first."""
    query = f"?limit={limit}" + (f"&model={quote(model, safe='')}" if model else "")
    rollouts = gateway_of(context, url).items(f"/admin/rollouts{query}")
    if as_json:
        print_json(rollouts)
        return
    from deployment.cli.admin import plain
    from deployment.cli.output import table

    rows = table("rollout", "from", "to", "strategy", "came to", "harmed", "by")
    for each in rollouts:
        where = each["phase"].replace("_", " ") + (f" ({each['stop']})" if each["stop"] else "")
        tags = (each[name].partition(":")[2] for name in ("from_release", "to_release"))
        told = (each["id"], *tags, each["strategy"], where, str(each["harmed"]))
        rows.add_row(*told, plain(each["started_by"]))
    console().print(rows)


def _verb(name: str, help_: str) -> None:
    def say(
        context: typer.Context,
        rollout: Id = "current",
        reason: Reason = "",
        model: Model = None,
        url: Url = None,
        as_json: Json = False,
    ) -> None:
        path = f"/admin/rollouts/{quote(rollout, safe='')}/{name}{_of(model)}"
        _tell(gateway_of(context, url).post(path, {"reason": reason}), as_json)

    app.command(name, help=help_)(say)


_verb("pause", "Stand still at the share of now; what fails still goes back.")
_verb("resume", "Go on; the step's time begins anew.")
_verb("approve", "Let the step begin that waits for it.")
_verb("abort", "End it; the old release has all traffic again.")


@app.command()
def promote(
    context: typer.Context,
    rollout: Id = "current",
    full: Annotated[bool, typer.Option("--full", help="All traffic at once, not only the next step.")] = False,
    reason: Reason = "",
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Go to the next step now, whatever the evidence."""
    path = f"/admin/rollouts/{quote(rollout, safe='')}/promote{_of(model)}"
    _tell(gateway_of(context, url).post(path, {"reason": reason, "full": full}), as_json)


@app.command()
def lock(
    context: typer.Context,
    message: Annotated[str, typer.Argument(help="Why; everybody who is refused reads it.")],
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let nothing move forward until `unlock`; a rollback is always allowed."""
    made = gateway_of(context, url).put(f"/admin/rollouts/lock{_of(model)}", {"message": message})
    if as_json:
        print_json(made)
    else:
        typer.echo(f"Locked {made['model']}: {made['message']}")


@app.command()
def unlock(context: typer.Context, model: Model = None, url: Url = None) -> None:
    """Take the lock away."""
    gateway_of(context, url).delete(f"/admin/rollouts/lock{_of(model)}")
    typer.echo("Unlocked.")


def _watch(gateway: Gateway, rollout: str, as_json: bool) -> None:
    from deployment.cli.rollout_view import follow

    last = follow(_states(gateway, rollout), as_json=as_json, live=sys.stdout.isatty() and not as_json)
    raise typer.Exit(1 if last is not None and last["phase"] in _BAD else 0)


def _states(gateway: Gateway, rollout: str) -> Any:
    """The rollout some times a second, to its end. A gateway that is away for a while is asked again."""
    silent = 0
    while True:
        try:
            shown = gateway.get(f"/admin/rollouts/{rollout}")
        except RamseyError as error:
            silent += 1
            if error.code not in {"engine_unavailable", "database_unavailable"} or silent > 60:
                raise
        else:
            silent = 0
            yield shown
            if shown["phase"] in {"done", *_BAD}:
                return
        time.sleep(_POLL_S)


def _document(path: Path | None) -> dict[str, Any]:
    """The plan's text; read here, judged by the gateway."""
    from deployment.releases.rollout.plan import load, parse

    if path is None and not Path(_PLAN).is_file():
        return {}
    document = load(path or Path(_PLAN))
    parse(document, str(path or _PLAN))
    return document


def _of(model: str | None) -> str:
    return f"?model={quote(model, safe='')}" if model else ""


def _tell(rollout: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(rollout)
    else:
        typer.echo(f"{rollout['id']} ({rollout['phase'].replace('_', ' ')}): {rollout['reason']}")


def _clock(at: str) -> str:
    return at[11:19]
