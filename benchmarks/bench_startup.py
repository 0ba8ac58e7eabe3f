"""How long the command takes to do the least it can, beside its peers.

python benchmarks/bench_startup.py [runs]

Each run is a process of its own, from start to exit, in turns so that a busy moment of the machine meets all alike.
``python -c pass`` is what nothing in Python can be faster than; ``ctr`` is containerd's own client. Fails if the best
run of ``containerd-aio version --client`` took more than its budget: the best is what the code costs, the rest is what
else the machine did.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _table import table

BUDGET_MS = 150.0
OURS = "containerd-aio version --client"


def commands() -> dict[str, list[str]]:
    """Return what is measured, by name."""
    script = Path(sys.executable).with_name("containerd-aio")
    ours = [str(script)] if script.is_file() else [sys.executable, "-m", "containerd_aio"]
    found = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import containerd_aio": [sys.executable, "-c", "import containerd_aio"],
        "from containerd_aio import Client": [sys.executable, "-c", "from containerd_aio import Client"],
        OURS: [*ours, "version", "--client"],
        "containerd-aio --help": [*ours, "--help"],
    }
    ctr = shutil.which("ctr")
    if ctr is not None:
        found["ctr --version"] = [ctr, "--version"]
    return found


def milliseconds(argv: list[str]) -> float:
    """Run a command to its end."""
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def main() -> int:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    wanted = commands()
    taken: dict[str, list[float]] = {name: [] for name in wanted}
    for attempt in range(runs + 1):
        for name, argv in wanted.items():
            value = milliseconds(argv)
            if attempt:  # the first one warms the caches
                taken[name].append(value)
    rows = [
        (name, *(f"{figure:.0f}" for figure in (min(values), statistics.median(values), max(values))))
        for name, values in sorted(taken.items(), key=lambda item: min(item[1]))
    ]
    table(f"From start to exit, {runs} runs", ("command", "best ms", "median ms", "worst ms"), rows)
    best = min(taken[OURS])
    verdict = "within" if best <= BUDGET_MS else "ABOVE"
    print(f"  {OURS}: {best:.0f} ms, {verdict} its budget of {BUDGET_MS:.0f} ms")
    return 0 if best <= BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
