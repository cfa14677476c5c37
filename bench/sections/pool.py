"""The pool: unequal nodes under conversations that share beginnings; Ramsey's placement beside nginx's."""

import contextlib
import hashlib
import json
import shutil
import struct
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.chats import Spec
from bench.contenders import RAMSEY_PYTHON, Contender, nginx, ramsey
from bench.lab import Lab, measure, say
from bench.machine import PYTHON, ROOT, RUN, Process, cores, free_port
from bench.report import Table, number, times, verdict
from bench.upstream import RELEASE

NODES: dict[str, list[str]] = {  # what each is like; reading 10,000 characters takes 1 s, of the slow ones 3 s
    "slow-1": ["--char-s", "0.0003", "--token-s", "0.03"],
    "slow-2": ["--char-s", "0.0003", "--token-s", "0.03"],
    "cold": ["--load-s", "8"],
    "broken": ["--broken"],
}
SECONDS = 25.0
CONTEXT = 4096  # tokens, where the model was trained for 512: there would be little to read again
_RETRY = "proxy_next_upstream error timeout http_503 non_idempotent;"
MODEL = ROOT / "models/ollama/ramsey-model-v1.1.gguf"


def run(lab: Lab) -> dict[str, Any]:
    """Each balancer gets the same users and nodes that have just begun."""
    balancers: dict[str, Callable[[list[str]], Contender]] = {
        "Ramsey": _ramsey,
        "nginx round robin": lambda urls: nginx(urls, name="nginx round robin"),
        "nginx least_conn": lambda urls: nginx(urls, name="nginx least_conn", balance="least_conn;"),
        "nginx least_conn, retrying 503": lambda urls: nginx(
            urls, name="nginx retrying", balance="least_conn;", more=_RETRY
        ),
    }
    simulated = {}
    for name, make in balancers.items():
        with _nodes() as urls, lab.running(make, urls) as contender:
            if contender is not None:
                simulated[name] = measure(_spec(contender, SECONDS), "bench.chats")
                say(f"  {name}: p99 {simulated[name]['first_ms'].get('p99')} ms, {simulated[name]['failed']} failed")
    return {"simulated": simulated, "engines": _engines(lab)}


def _spec(contender: Contender, seconds: float, **more: Any) -> Spec:
    return Spec(contender.url, contender.headers, seconds=seconds, **more)


def _ramsey(urls: list[str], **variables: str) -> Contender:
    nodes = [{"name": f"node-{number}", "url": url} for number, url in enumerate(urls, 1)]
    return ramsey(urls[0], RAMSEY_POOL__NODES=json.dumps(nodes), RAMSEY_ENGINE__NUM_PARALLEL="4", **variables)


@contextlib.contextmanager
def _nodes() -> Iterator[list[str]]:
    with contextlib.ExitStack() as stack:
        urls = []
        for name, options in NODES.items():
            port = free_port()
            process = Process(f"node {name}", [PYTHON, "-m", "bench.node", "--port", str(port), *options], cores()[1])
            stack.callback(process.stop)
            urls.append(f"http://127.0.0.1:{port}")
            process.wait_until(urls[-1] + "/api/version")
        yield urls


# --- real engines --------------------------------------------------------------------------------------------


def _engines(lab: Lab) -> dict[str, Any]:
    """Two embedded engines with the project's own model, prefix affinity on and off."""
    found = {}
    off = {"RAMSEY_POOL__AFFINITY_BLOCKS": "0", "RAMSEY_POOL__AFFINITY_SECONDS": "0"}
    for name, variables in (("affinity on", {}), ("affinity off", off)):
        try:
            with _embedded(2) as urls, lab.running(_ramsey, urls, **variables) as contender:
                if contender is not None:
                    spec = _spec(
                        contender,
                        15.0,
                        users=4,
                        turns=4,
                        instruction_chars=4000,
                        turn_chars=60,
                        tokens=12,
                        settle_s=3.0,
                    )
                    found[name] = measure(spec, "bench.chats")
                    say(f"  engines, {name}: {found[name]['settled_first_ms']}")
        except RuntimeError as problem:
            lab.missing.add(str(problem))
    return found


@contextlib.contextmanager
def _embedded(count: int) -> Iterator[list[str]]:
    """Embedded engines that hold the release, each with a store of its own."""
    with contextlib.ExitStack() as stack:
        urls = []
        for number in range(count):
            port = free_port()
            command = [RAMSEY_PYTHON, "-m", "deployment.embedded", "--port", str(port), "--threads", "1"]
            store = RUN / f"models-{number}"
            shutil.rmtree(store, ignore_errors=True)
            command += ["--models-dir", str(store)]
            everywhere = set().union(*cores())
            process = Process(f"engine {number}", command, everywhere, {"PYTHONPATH": str(ROOT / "src")})
            stack.callback(process.stop)
            urls.append(f"http://127.0.0.1:{port}")
            process.wait_until(urls[-1] + "/api/version")
            _deploy(urls[-1], MODEL)
        yield urls


def _stretched(model: bytes) -> bytes:
    """The same weights with a longer context: what it says then is nonsense, the time that it takes is not."""
    before, key, after = model.partition(b"llama.context_length" + struct.pack("<I", 4))
    return before + key + struct.pack("<I", CONTEXT) + after[4:]


def _deploy(url: str, model: Path) -> None:
    """Upload the weights and create the release, as the engines' only model."""
    data = _stretched(model.read_bytes())
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    template = (
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    )
    create = {"model": RELEASE, "files": {model.name: digest}, "template": template, "stream": False}
    create["parameters"] = {"num_ctx": CONTEXT, "temperature": 0}
    for path, body in ((f"/api/blobs/{digest}", data), ("/api/create", json.dumps(create).encode())):
        with urllib.request.urlopen(urllib.request.Request(url + path, data=body), timeout=60):
            pass


def tables(figures: dict[str, Any]) -> list[Table]:
    rows = []
    own = figures["simulated"].get("Ramsey")
    for name, one in figures["simulated"].items():
        ratio = one["first_ms"]["p99"] / own["first_ms"]["p99"] if own and one["first_ms"] else None
        rows.append(
            (
                name,
                number(one["first_ms"].get("p50"), 0),
                number(one["first_ms"].get("p99"), 0),
                times(ratio),
                number(one["settled_first_ms"].get("p99"), 0),
                number(one["per_second"], 2),
                number(one["failed"], 0),
            )
        )
    header = ("", "p50 ms", "p99 ms", "of Ramsey's", "p99 settled", "answers/s", "failed")
    found = [Table("Four nodes: two slow, one cold (8 s to load), one that answers 503", header, rows, _note(figures))]
    engines = [
        (
            name,
            number(one["settled_first_ms"].get("p50")),
            number(one["settled_first_ms"].get("p90")),
            number(one["settled_first_ms"].get("p99")),
            number(one["per_second"]),
            number(one["failed"], 0),
        )
        for name, one in figures["engines"].items()
    ]
    if engines:
        header = ("", "p50 ms", "p90 ms", "p99 ms", "answers/s", "failed")
        found.append(Table("Two embedded engines: prefix affinity, time to first token", header, engines))
    return found


def _note(figures: dict[str, Any]) -> str:
    own, others = figures["simulated"].get("Ramsey"), figures["simulated"]
    if not own:
        return ""
    said = []
    for name in ("nginx round robin", "nginx least_conn"):
        if name in others and others[name]["first_ms"]:
            better = others[name]["first_ms"]["p99"] / own["first_ms"]["p99"] >= 3.0
            said.append(f"p99 ≥ 3 × better than {name}: {verdict(better)}")
    said.append(f"no failed request: {verdict(own['failed'] == 0)}")
    return "; ".join(said) + ". Time to first token of users who hold conversations; settled: after 12 s."


def plot(axes: Any, figures: dict[str, Any]) -> None:
    of = figures["simulated"]
    names = list(of)
    values = [of[name]["first_ms"].get("p99", 0) for name in names]
    colours = ["#c2410c" if name == "Ramsey" else "#94a3b8" for name in names]
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(
        bars,
        labels=[f"{value:,.0f} ms, {of[name]['failed']} failed" for value, name in zip(values, names, strict=True)],
    )
    axes.invert_yaxis()
    axes.margins(x=0.5)
    axes.set_title("p99 time to first token, four nodes")
