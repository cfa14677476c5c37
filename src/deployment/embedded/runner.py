"""The child: llama.cpp's own server for one model, in a process of its own so that its crash is only its own.

Reads one JSON line from standard input (`Start` in runners.py), loads, prints `{"url": …}` and serves until
standard input ends: that is how its parent stops it, and what happens when the parent dies in whatever way.
Signals for the whole group are left to the parent, which drains first. Imports nothing of the project: a
start costs 0.1 s.
"""

import json
import os
import signal
import sys
from typing import Any

import xllamacpp


def parameters(start: dict[str, Any]) -> Any:
    """llama.cpp's parameters for what the parent asked."""
    params = xllamacpp.CommonParams()
    params.model.path = start["path"]
    params.model_alias = {"model"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [start["api_key"]]
    params.n_parallel = start["slots"]
    params.n_ctx = start["slots"] * start["context"]  # shared: every slot gets n_ctx / n_parallel
    params.n_batch = params.n_ubatch = start["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = start["threads"]
    params.n_gpu_layers = start["gpu_layers"]
    params.main_gpu = start["main_gpu"]
    params.ctx_shift = start["shift"]
    if start["mmap"] is not None:
        modes = xllamacpp.llama_load_mode
        params.load_mode = modes.LLAMA_LOAD_MODE_MMAP if start["mmap"] else modes.LLAMA_LOAD_MODE_NONE
    params.fit_params = False
    params.ui = False
    params.cache_ram_mib = start["cache_ram_mib"]  # llama.cpp's default is 8 GiB of host memory
    params.endpoint_slots = True  # the parent asks it whether the serving thread still turns
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def main() -> None:
    """Load, serve, leave when standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    start = json.loads(sys.stdin.readline())
    try:
        server = xllamacpp.Server(parameters(start))
    except RuntimeError as error:  # the cause is on standard error, which the parent reads
        sys.stderr.write(f"cannot load the model: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    while sys.stdin.read(4096):
        pass
    # Not `del server`: with a request in flight its destructor never returns.
    os._exit(0)


if __name__ == "__main__":
    main()
