"""`ramsey chat`: a conversation in the terminal."""

import contextlib
import select
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from deployment.cli.context import Url, gateway_of, settings_of
from deployment.cli.gateway import Gateway
from deployment.errors import RamseyError

_HELP = """\
/reset   begin anew
/help    this
/exit    leave (Ctrl-D too)
Ctrl-C stops an answer. Pasted lines stay together; a line that begins with \"\"\" goes on until the next \"\"\"."""
_PASTE_S = 0.03  # lines that come faster than this were pasted


def chat(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Model or release; by default the gateway's.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt, in the place of the release's own.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.", min=0)] = None,
    url: Url = None,
) -> None:
    """Talk with the model. /help shows what else it understands."""
    gateway = gateway_of(context, url)
    wishes = {"model": model, "temperature": temperature}
    talk = Conversation(gateway, {name: value for name, value in wishes.items() if value is not None}, system)
    release = _release(gateway, model)
    if sys.stdin.isatty():
        typer.secho(f"{release} at {gateway.url}. /help for help, Ctrl-D to leave.", dim=True)
    with _history(settings_of(context).data_dir / "chat_history"):
        _converse(talk)
    if sys.stdin.isatty():
        typer.echo()


def _converse(talk: "Conversation") -> None:
    while True:
        try:
            if (said := _ask()) is None:
                return
            _obey(talk, said.strip())
        except KeyboardInterrupt:
            typer.secho("\n/exit or Ctrl-D leaves.", dim=True)


class Conversation:
    """The turns so far, and how to go on."""

    def __init__(self, gateway: Gateway, wishes: dict[str, Any], system: str | None) -> None:
        self._gateway = gateway
        self._wishes = wishes
        self._system = [{"role": "system", "content": system}] if system else []
        self.turns: list[dict[str, str]] = []

    def reset(self) -> None:
        """Begin anew."""
        self.turns.clear()

    def answer(self, said: str) -> Generator[str, None, None]:
        """The answer, a piece at a time. What came before an interruption stays in the conversation.

        When the model's context is full, the oldest turns are forgotten, and an empty piece tells of it.
        """
        self.turns.append({"role": "user", "content": said})
        got, told = "", False
        try:
            while True:
                try:
                    for piece in self._gateway.stream("/chat", self._body()):
                        got += (text := piece.get("message", {}).get("content", ""))
                        if text:
                            yield text
                    return
                except RamseyError as error:
                    if got or len(self.turns) < 3 or not _is_too_long(error):
                        raise
                    del self.turns[:2]
                    if not told:
                        told = True
                        yield ""
        finally:
            if got:
                self.turns.append({"role": "assistant", "content": got})
            else:
                self.turns.pop()

    def _body(self) -> dict[str, Any]:
        return {**self._wishes, "messages": [*self._system, *self.turns]}


def _is_too_long(error: RamseyError) -> bool:
    return "context" in error.message and error.code in {"engine_refused", "invalid_request", "payload_too_large"}


def _release(gateway: Gateway, model: str | None) -> str:
    """Whom one talks with. Raises when the gateway cannot be reached or serves nothing."""
    served = gateway.get("/models")
    default = model or served.get("default")
    rows = {row["model"]: row["release"] for row in served.get("models", [])}
    return str(rows.get(default, default))


def _obey(talk: Conversation, said: str) -> None:
    match said:
        case "":
            return
        case "/exit" | "/quit" | "/bye":
            raise typer.Exit
        case "/help" | "/?":
            typer.echo(_HELP)
        case "/reset" | "/clear":
            talk.reset()
            typer.secho("A new conversation.", dim=True)
        case _ if said.startswith("/") and " " not in said and said.isascii():
            typer.secho(f"There is no {said}. /help shows what there is.", dim=True)
        case _:
            _show_answer(talk, said)


def _show_answer(talk: Conversation, said: str) -> None:
    from deployment.cli.wrapping import WordWrap  # it needs Rich, which costs other verbs their quick start

    answer = talk.answer(said)
    wrap = WordWrap(shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
    try:
        for text in answer:
            if not text:
                typer.secho(
                    "(The conversation is longer than the model's context: its beginning is forgotten.)", dim=True
                )
            typer.echo(wrap.feed(text) if wrap else text, nl=False)
            sys.stdout.flush()
        typer.echo((wrap.rest() if wrap else "") + "\n")
    except KeyboardInterrupt:
        answer.close()  # closes the connection, which stops the model
        typer.echo(wrap.rest() if wrap else "", nl=False)
        typer.secho(" (stopped)\n", dim=True)
    except RamseyError as error:
        typer.echo(wrap.rest() if wrap else "")
        typer.secho(f"{error.message} {error.hint or ''}".strip() + "\n", fg="red", err=True)


def _ask() -> str | None:
    """The next thing that the person says; None at the end of the input."""
    try:
        said = _line("» ")
        if said.lstrip().startswith('"""'):
            said = said.lstrip()[3:]
            while not said.rstrip().endswith('"""'):
                said += "\n" + _line("… ")
            return said.rstrip()[:-3]
        # readline keeps a pasted text together by itself; without it, what comes at once was pasted.
        while "readline" not in sys.modules and sys.stdin.isatty() and select.select([sys.stdin], [], [], _PASTE_S)[0]:
            said += "\n" + _line("")
        return said
    except EOFError:
        return None


def _line(prompt: str) -> str:
    return input(prompt if sys.stdin.isatty() else "")


@contextlib.contextmanager
def _history(path: Path) -> Iterator[None]:
    """What was typed, with the arrow keys, over sessions too; where this Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
            path.chmod(0o600)  # what was asked may be private
