"""How long a user waits: seconds to the first line, and for a call in which everything is cached.

    python tests/benchmarks/startup.py [--json FILE] [--rounds 5]

Runs Figure 4 at smoke scale on the digits once, then times cached calls of the same command.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time

from _code import ROOT
from _timing import command_line, parsed

FIGURE = ("fig4.py", "--data", "digits")
SMALLEST = ("momentum.py", "--dry-run")


def call(script: str, *arguments: str) -> tuple[float, float]:
    """Returns the seconds to the first line, and the seconds in all."""
    command = [sys.executable, str(ROOT / "reproduce" / script), "--scale", "smoke", *arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return first, time.perf_counter() - start


def main() -> None:
    what = "a dry run of a figure without networks in place of cached calls"
    options = parsed(command_line(__doc__, smallest=what, rounds=5, json=True))
    with tempfile.TemporaryDirectory() as out:
        command = (*(SMALLEST if options.smallest else FIGURE), "--out", out)
        if not options.smallest:
            call(*command)
        first, total = zip(*(call(*command) for _ in range(options.rounds)))
    rows = {"first line": (statistics.median(first), 0.5), "cached call": (statistics.median(total), 3.0)}
    print(f"{'what':<14}{'seconds':>9}{'bound':>8}")
    for name, (seconds, bound) in rows.items():
        print(f"{name:<14}{seconds:>9.2f}{bound:>8}")
    if options.json:
        options.json.write_text(json.dumps({name: seconds for name, (seconds, _) in rows.items()}, indent=1))


if __name__ == "__main__":
    main()
