"""The verbs that ask a gateway: generate, chat, models, doctor."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.stack import ROOT

from deployment.cli.chat import Conversation
from deployment.cli.gateway import Gateway, address
from deployment.errors import ConfigurationError, EngineUnavailable, RamseyError, StreamIncomplete
from deployment.settings import ServerSettings

if TYPE_CHECKING:
    from tests.deployment.cli.conftest import Machine

QUESTION = "What is R(3,3)?"
ANSWER = "R(3,3) = 6. Every red-blue colouring of the edges of K6 contains a red K3 or a blue K3"


@pytest.mark.parametrize("words", [(), ("--no-stream",)])
def test_generate_answers(running: "Machine", words: tuple[str, ...]) -> None:
    result = running.ramsey("generate", QUESTION, "--temperature", "0", *words)
    assert result.returncode == 0
    assert result.stdout.startswith(ANSWER)
    assert result.stdout.endswith(".\n")


def test_generate_reads_standard_input_and_answers_in_json(running: "Machine") -> None:
    result = running.ramsey("generate", "-", "--json", "--max-tokens", "4", "--seed", "1", said=QUESTION)
    answer = json.loads(result.stdout)
    assert answer["release"] == "ramsey-model:v1.1"
    assert (answer["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 4)


def test_what_is_wrong_with_a_prompt_is_told(running: "Machine") -> None:
    empty = running.ramsey("generate", " ")
    assert (empty.returncode, empty.stderr.splitlines()[0]) == (2, "Error: The prompt is empty.")
    unknown = running.ramsey("generate", "x", "--model", "nobody")
    assert unknown.returncode == 1
    assert "nobody" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    as_json = running.ramsey("generate", "x", "--model", "nobody", "--json")
    assert json.loads(as_json.stdout)["error"]["code"] == "model_not_found"


def test_without_a_gateway_the_mend_is_told(machine: "Machine") -> None:
    for words in (("generate", "x"), ("chat",), ("models",)):
        result = machine.ramsey(*words)
        assert result.returncode == 1
        assert result.stderr.splitlines() == [
            f"Error: No gateway answers at {machine.url}.",
            "  Start one: ramsey up",
        ]


def test_models_are_listed(running: "Machine") -> None:
    result = running.ramsey("models")
    assert re.search(r"ramsey-model +\(default\)\n +serves +ramsey-model:v1\.1 +[0-9a-f]{12}", result.stdout)
    assert json.loads(running.ramsey("models", "--json").stdout)["default"] == "ramsey-model"


def test_a_release_that_is_served_is_not_deleted(running: "Machine") -> None:
    result = running.ramsey("models", "delete", "ramsey-model:v1.1")
    assert result.returncode == 1
    assert "is served just now" in result.stderr
    assert running.ramsey("models", "delete", "ramsey-model").returncode == 2
    missing = running.ramsey("models", "delete", "ramsey-model:v9")
    assert missing.returncode == 1
    assert "not found" in missing.stderr


def test_chat_keeps_the_conversation_over_a_pipe(running: "Machine") -> None:
    result = running.ramsey("chat", "--temperature", "0", said=f"{QUESTION}\n/nonsense\n/reset\n/help\n/exit\nnever\n")
    assert result.returncode == 0
    assert result.stdout.startswith(ANSWER)
    assert "There is no /nonsense." in result.stdout
    assert "A new conversation." in result.stdout
    assert "Ctrl-C stops an answer." in result.stdout
    assert result.stdout.count("R(3,3)") == 1


def test_doctor_finds_a_running_machine_well(running: "Machine") -> None:
    result = running.ramsey("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert result.returncode == 0, findings
    assert findings["answer"]["text"] == "ramsey-model:v1.1 answers"
    assert findings["gateway"]["text"] == f"runs at {running.url} and can answer"
    assert findings["llama.cpp"]["state"] == "ok"


# --- against a gateway that does as a test says ----------------------------------------------------------


def event(piece: dict[str, object], name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(piece).encode() + b"\n\n"


def text(content: str) -> bytes:
    return event({"message": {"role": "assistant", "content": content}})


DONE = event({"done": True, "message": {"role": "assistant", "content": ""}})
TOO_LONG: dict[str, object] = {
    "error": {"code": "engine_refused", "message": "the request exceeds the available context size"}
}


class Played(BaseHTTPRequestHandler):
    """Answers each POST with the next of `answers`; keeps the bodies."""

    answers: list[Callable[["Played"], None]]
    bodies: list[dict[str, object]]

    def do_GET(self) -> None:
        self.whole(200, {"models": [{"model": "m", "release": "m:v1"}], "default": "m"})

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.answers.pop(0)(self)

    def whole(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def stream(self, *events: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        for each in events:
            self.wfile.write(each)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def played(*answers: Callable[[Played], None]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    handler = type("Handler", (Played,), {"answers": list(answers), "bodies": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.bodies  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_turns_go_along() -> None:
    with played(lambda x: x.stream(text("Six"), text("."), DONE), lambda x: x.stream(text("Nine."), DONE)) as (
        url,
        bodies,
    ):
        talk = Conversation(Gateway(url), {"temperature": 0}, "Be short.")
        assert list(talk.answer("R(3,3)?")) == ["Six", "."]
        assert list(talk.answer("R(3,4)?")) == ["Nine."]
    assert bodies[1] == {
        "temperature": 0,
        "stream": True,
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "R(3,3)?"},
            {"role": "assistant", "content": "Six."},
            {"role": "user", "content": "R(3,4)?"},
        ],
    }


def test_a_full_context_forgets_the_beginning() -> None:
    refuse: Callable[[Played], None] = lambda x: x.whole(400, TOO_LONG)  # noqa: E731
    answers = (lambda x: x.stream(text("a"), DONE), refuse, lambda x: x.stream(text("b"), DONE), refuse, refuse)
    with played(*answers) as (url, _):
        talk = Conversation(Gateway(url), {}, None)
        assert list(talk.answer("one")) == ["a"]
        assert list(talk.answer("two")) == ["", "b"]
        assert talk.turns == [{"role": "user", "content": "two"}, {"role": "assistant", "content": "b"}]
        with pytest.raises(RamseyError, match="context size"):  # this prompt alone is too long
            list(talk.answer("three"))
        assert talk.turns == []


def test_an_answer_that_is_stopped_stays_as_far_as_it_came() -> None:
    released = threading.Event()

    def slow(x: Played) -> None:
        x.stream(text("half an"))
        released.wait(20)

    with played(slow) as (url, _):
        talk = Conversation(Gateway(url), {}, None)
        answer = talk.answer("go on")
        assert next(answer) == "half an"
        answer.close()
        released.set()
    assert talk.turns[-1] == {"role": "assistant", "content": "half an"}


def test_a_stream_without_its_end_and_one_that_fails_are_errors() -> None:
    failed = event({"error": {"code": "engine_crashed", "message": "The runner died."}}, "error")
    with played(lambda x: x.stream(text("a")), lambda x: x.stream(text("a"), failed)) as (url, _):
        with pytest.raises(StreamIncomplete):
            list(Gateway(url).stream("/chat", {}))
        with pytest.raises(RamseyError, match="The runner died") as caught:
            list(Gateway(url).stream("/chat", {}))
        assert caught.value.code == "engine_crashed"


def test_what_is_no_gateway_is_told() -> None:
    with played(lambda x: x.stream(b"<html>")) as (url, _), pytest.raises(RamseyError, match="no Ramsey gateway"):
        Gateway(url).post("/generate", {})
    with pytest.raises(ConfigurationError, match="no address of a gateway"):
        Gateway("http://:80:80")
    with pytest.raises(EngineUnavailable, match="No gateway answers"):
        Gateway(url).get("/models")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://localhost:8000"),
        ("0.0.0.0", "http://localhost:8000"),
        ("::1", "http://[::1]:8000"),
        ("10.0.0.5", "http://10.0.0.5:8000"),
    ],
)
def test_the_address_at_which_a_listener_is_reached(host: str, url: str) -> None:
    assert address(ServerSettings(host=host)) == url
    assert address(ServerSettings(host=host, tls_cert=Path("crt.pem"))) == url.replace("http:", "https:")


def read_until(master: int, wanted: str, press: bytes = b"") -> str:
    """What the terminal shows until `wanted`. `press` is pressed again while nothing comes, as a person would:
    readline misses a Ctrl-C of the moment in which it shows its prompt."""
    said = b""
    while wanted.encode() not in said:
        if press and not select.select([master], [], [], 1.0)[0]:
            os.write(master, press)
            continue
        said += os.read(master, 4096)
    return said.decode()


@pytest.mark.timeout(60)
def test_ctrl_c_stops_the_answer_and_not_the_chat(machine: "Machine") -> None:
    released = threading.Event()

    def slow(x: Played) -> None:
        x.stream(text("Once upon"))
        released.wait(30)

    with played(slow, lambda x: x.stream(text("Nine."), DONE)) as (url, bodies):
        master, terminal = pty.openpty()
        chat = subprocess.Popen(
            [sys.executable, "-m", "deployment", "chat", "--url", url],
            cwd=ROOT,
            env=machine.environment | {"TERM": "xterm"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=_take_terminal,  # Ctrl-C at it becomes SIGINT
        )
        os.close(terminal)
        try:
            assert "m:v1 at" in read_until(master, "» ")
            os.write(master, b"tell\r")
            read_until(master, "Once upon")
            os.write(master, b"\x03")
            read_until(master, "» ")
            assert "Ctrl-D leaves" in read_until(master, "» ", press=b"\x03")
            os.write(master, b"\x1b[200~line one\nline two\x1b[201~\r")  # as a terminal pastes
            assert "Nine." in read_until(master, "\r\n\r\n» ")
            os.write(master, b"\x04")
            assert chat.wait(20) == 0
        finally:
            released.set()
            chat.kill()
            chat.wait()
            os.close(master)
    assert bodies[1]["messages"] == [
        {"role": "user", "content": "tell"},
        {"role": "assistant", "content": "Once upon"},
        {"role": "user", "content": "line one\nline two"},
    ]


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background may ignore it
