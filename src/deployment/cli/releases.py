"""`ramsey release`, `ramsey releases` and `ramsey evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deployment.cli.admin import plain, segment, shown_time
from deployment.cli.output import Json, Phases, console, print_json, table
from deployment.cli.releases_access import Url, Works, releases_of
from deployment.errors import RamseyError

app = typer.Typer(
    help="Create, restore, list, show, distribute, prune and delete releases.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="v1.1, or ramsey-model:v1.1.", metavar="RELEASE")]
Model = Annotated[str | None, typer.Option(help="The model; by default the settings' own.")]
_MB = 1e6


@app.command()
def create(
    context: typer.Context,
    modelfile: Annotated[Path, typer.Argument(help="The Modelfile; FROM names a GGUF file.", metavar="MODELFILE")],
    version: Annotated[str | None, typer.Option(help="For instance v1.1; by default the weights' own.")] = None,
    notes: Annotated[str, typer.Option(help="What is new in it.")] = "",
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Keep a release: its weights, template, system and parameters, once and for ever."""
    phases = Phases(silent=as_json)
    with phases.phase("Keep") as phase:
        made = releases_of(context, url).create(modelfile, model, version, notes)
        phase.detail = f"{made['name']}, {made['weights_bytes'] / _MB:.1f} MB, sha256 {made['weights_sha256'][:12]}"
    if as_json:
        print_json(made)
        return
    phases.say(f"\nNext: ramsey deploy {made['version']}")


@app.command()
def restore(
    context: typer.Context,
    modelfile: Annotated[Path, typer.Argument(help="The Modelfile that the release was made of.", metavar="MODELFILE")],
    version: Annotated[str | None, typer.Option(help="The release's; by default the weights' own.")] = None,
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give the weights of a release once more: to a gateway that lacks them, or over corrupt ones."""
    phases = Phases(silent=as_json)
    with phases.phase("Restore") as phase:
        made = releases_of(context, url).create(modelfile, model, version, again=True)
        phase.detail = f"{made['name']}, sha256 {made['weights_sha256'][:12]}"
    if as_json:
        print_json(made)


@app.command("list")
def list_releases(context: typer.Context, model: Model = None, url: Url = None, as_json: Json = False) -> None:
    """List the releases, the newest first."""
    query = f"?model={segment(model)}" if model else ""
    found = releases_of(context, url).items(f"/admin/releases{query}")
    if as_json:
        print_json(found)
        return
    rows = table("release", "created (UTC)", "traffic", "score", "nodes", "by", "notes")
    for one in found:
        on = [node for node in one["nodes"] if node["present"]]
        nodes = f"{len(on)} of {len(one['nodes'])}" if one["nodes"] else "-"
        rows.add_row(
            one["name"],
            shown_time(one["created_at"])[:16],
            _traffic(one),
            _score(one["evaluation"]),
            "deleted" if one["deleted_at"] else "pruned" if one["pruned_at"] and not on else nodes,
            plain(one["created_by"]),
            plain(one["notes"].partition("\n")[0][:40]),
        )
    for column in rows.columns[:5]:
        column.min_width = max(len(str(cell)) for cell in (column.header, *column.cells))  # notes and names may be cut
    if found:
        console().print(rows)
    else:
        typer.echo("There is none yet: ramsey release create models/ollama/Modelfile --version v1.1")


@app.command()
def show(context: typer.Context, release: Name, url: Url = None, as_json: Json = False) -> None:
    """Show what a release is made of, and where it is."""
    one = releases_of(context, url).get(f"/admin/releases/{segment(release)}")
    if as_json:
        print_json(one)
        return
    say = console().print
    say(f"[bold]{one['name']}[/bold]  created {shown_time(one['created_at'])} UTC by {plain(one['created_by'])}")
    if one["deleted_at"]:
        say(f"  [red]deleted {shown_time(one['deleted_at'])} UTC[/red]: its weights are gone, its version stays taken")
    if one["notes"]:
        say(f"  notes       {plain(one['notes'])}")
    say(f"  weights     sha256 {one['weights_sha256']}, {one['weights_bytes'] / _MB:.1f} MB")
    say(f"  digest      {one['digest'] or '- (it was on no node yet)'}")
    say(f"  traffic     {_traffic(one)}")
    say(f"  system      {plain(one['system'] or '-')}")
    for title, values in (("parameters", one["parameters"]), ("load", one["load_options"])):
        say(f"  {title:<11} {plain(', '.join(_value(*each) for each in values.items()) or '-')}")
    say(f"  evaluation  {_score(one['evaluation'])}")
    for node in one["nodes"]:
        state = node["step"] or ("loaded" if node["loaded"] else "there" if node["present"] else "not there")
        say(f"  node        {plain(node['node'])}: {state}")


@app.command()
def distribute(
    context: typer.Context,
    release: Name,
    node: Annotated[list[str] | None, typer.Option(help="Name of a node; repeatable. By default all.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Bring a release onto the nodes; `ramsey deploy` does it too. It gets no traffic by this."""
    works = releases_of(context, url, nodes=True)
    with _Moving(f"Bringing {release}", as_json) as told:
        done = works.follow(f"/admin/releases/{segment(release)}/distribute", {"nodes": node}, told.steps)
    reports = done["reports"]
    if as_json:
        print_json(reports)
    for report in () if as_json else reports:
        mark = "[green]there[/green]" if report["ok"] else "[red]not there[/red]"
        console().print(f"  {plain(report['node'])}: {mark}  {(report['digest'] or '')[:12]}")
        if report["problem"]:
            console().print(f"    {plain(report['problem'])}")
    if not reports:
        raise RamseyError("There is no such node.", hint="`ramsey nodes list` lists them.")
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)


@app.command()
def prune(
    context: typer.Context,
    keep: Annotated[int | None, typer.Option(help="So many of the newest stay; by default releases.keep.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Take old releases off the nodes, never one with traffic or kept warm. They can come back."""
    gone = releases_of(context, url, nodes=True).post_items("/admin/releases/prune", {"keep": keep})
    if as_json:
        print_json(gone)
    for one in () if as_json else gone:
        typer.echo(
            f"{one['release']} {'stays' if one['problem'] else 'went'} on {one['node']}. {one['problem'] or ''}".strip()
        )
    if not gone and not as_json:
        typer.echo("There was nothing to take off.")
    if any(one["problem"] for one in gone):
        raise typer.Exit(1)


@app.command()
def delete(context: typer.Context, release: Name, url: Url = None) -> None:
    """Give a release up: off every node, its weights gone. Its version stays taken."""
    releases_of(context, url, nodes=True).delete(f"/admin/releases/{segment(release)}")
    typer.echo(f"Deleted {release}.")


def evaluate(
    context: typer.Context,
    release: Annotated[
        str | None, typer.Argument(help="v1.1; by default the one with most traffic.", metavar="RELEASE")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="One JSON object a line, with prompt and expect; by default releases.questions.")
    ] = None,
    least: Annotated[
        float | None, typer.Option("--min", help="Fail below this share of right answers.", min=0, max=1)
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Ask a release questions with known answers, and keep the score. It needs no traffic."""
    works = releases_of(context, url, nodes=True)
    name = release or _main(works)
    body = {"questions": _text(questions) if questions is not None else None}
    with _Moving(f"Asking {name}", as_json) as told:
        found = works.follow(f"/admin/releases/{segment(name)}/evaluate", body, told.asked)["evaluation"]
    if as_json:
        print_json({"release": name, **found})
    else:
        _show_scores(name, found)
    if least is not None and found["accuracy"] < least:
        if not as_json:
            typer.echo(f"That is below --min {least:g}.", err=True)
        raise typer.Exit(1)


def _show_scores(name: str, found: dict[str, Any]) -> None:
    say = console().print
    share, spent = f"{found['accuracy']:.1%}", f"{found['seconds']:.1f} s"
    say(f"[bold]{name}[/bold]: {found['right']} of {found['of']} right ({share}), {spent}")
    say("  " + ", ".join(f"{plain(category)} {score}" for category, score in found["by_category"].items()))
    for wrong in found["wrong"]:
        say(f"  [red]wrong[/red] {plain(wrong['id'])}: {plain(wrong['prompt'])}")
        say(f"    said:     {plain(wrong['said'])}")
        say(f"    expected: {plain(wrong['expected'])}")


def _main(works: Works) -> str:
    """The release with most traffic."""
    found = [one for one in works.items("/admin/releases") if one["traffic"]]
    if not found:
        raise RamseyError("No kept release has traffic.", hint="Name one: ramsey evaluate v1.1.")
    return str(max(found, key=lambda one: float(one["traffic"]))["name"])


def _text(path: Path) -> str:
    from deployment.releases.catalogue import read_questions

    read_questions(path)  # what is wrong is told here, by its line
    return path.read_text("utf-8")


def _value(key: str, value: Any) -> str:
    return f"{key} {' '.join(value) if isinstance(value, list) else value}"


def _traffic(one: dict[str, Any]) -> str:
    if one["traffic"] is None:
        return "-"
    return f"{one['traffic']:.0%}" if one["traffic"] else "warm"


def _score(evaluation: dict[str, Any] | None) -> str:
    return f"{evaluation['right']}/{evaluation['of']}" if evaluation else "-"


class _Told:
    """Progress on a terminal; nothing elsewhere."""

    def __init__(self, title: str, status: Any) -> None:
        self._title, self._status = title, status

    def steps(self, piece: dict[str, Any]) -> None:
        """Of a distribution."""
        parts = [
            f"{step['node']} {step['step']}" + (f" {step['done'] / step['size']:.0%}" if step["size"] else "")
            for step in piece.get("steps", ())
        ]
        self._say(", ".join(parts))

    def asked(self, piece: dict[str, Any]) -> None:
        """Of an evaluation."""
        if piece.get("of"):
            self._say(f"{piece['asked']} of {piece['of']}, {piece['right']} right")

    def _say(self, text: str) -> None:
        if self._status is not None and text:
            self._status.update(f"{self._title}: {plain(text)} …")


class _Moving:
    def __init__(self, title: str, as_json: bool) -> None:
        self._title = title
        out = console(stderr=True)
        self._status = out.status(f"{title} …") if out.is_terminal and not as_json else None

    def __enter__(self) -> _Told:
        if self._status is not None:
            self._status.start()
        return _Told(self._title, self._status)

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
