"""`python -m bench [SECTION …]`: measure, print, keep. Without sections: all of them, into bench/results/."""

import sys
import time
from datetime import UTC, datetime
from types import ModuleType

from bench import report
from bench.lab import Lab, say
from bench.machine import BENCH, ROOT, cores, describe
from bench.sections import access, faults, memory, pool, requests, stacks, streams

SECTIONS: dict[str, ModuleType] = {
    "requests": requests,
    "streams": streams,
    "memory": memory,
    "pool": pool,
    "faults": faults,
    "access": access,
    "stacks": stacks,
}


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in SECTIONS]:
        print(f"There is no section {unknown[0]}; there are {', '.join(SECTIONS)}.")
        return 2
    whole = not names
    chosen = {name: SECTIONS[name] for name in names or SECTIONS}
    began = time.monotonic()
    machine = describe()
    figures: dict[str, object] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine}
    server, upstream, load = (",".join(map(str, sorted(one))) for one in cores())
    print(
        f"{machine['cpu']}, {machine['cores']} cores. The server under test runs on core {server}, the upstream on "
        f"core {upstream}, the load generator on core {load}; every contender alike.\n"
    )
    done: dict[str, object] = {}
    figures["sections"] = done
    with Lab() as lab:
        for name, section in chosen.items():
            say(f"{name} …")
            done[name] = result = section.run(lab)
            for table in section.tables(result):
                print(table, end="\n\n", flush=True)
        figures["missing"] = sorted(lab.missing)
    figures["seconds"] = round(time.monotonic() - began)
    name = "bench" if whole else "-".join(chosen)
    folder = ROOT / "bench/results" if whole else BENCH / "results"
    written = report.save(folder, name, figures, chosen)
    for problem in sorted(lab.missing):
        print(f"Left out: {problem}")
    print(f"{figures['seconds']} s in all. Kept: {', '.join(str(path.relative_to(ROOT)) for path in written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
