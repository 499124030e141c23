"""How long a user waits: seconds to the first line, and for a call in which everything is cached.

    python tests/benchmarks/startup.py [--json FILE] [--rounds 5]

Runs Figure 4 at smoke scale on the digits once, then times cached calls of the same command.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "reproduce" / "fig4.py"


def call(out: str) -> tuple[float, float]:
    """(seconds to the first line, seconds in all)."""
    command = [sys.executable, str(SCRIPT), "--scale", "smoke", "--data", "digits", "--out", out]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        call(out)
        first, total = zip(*(call(out) for _ in range(options.rounds)))
    rows = {"first line": (statistics.median(first), 0.5), "cached call": (statistics.median(total), 3.0)}
    print(f"{'what':<14}{'seconds':>9}{'bound':>8}")
    for name, (seconds, bound) in rows.items():
        print(f"{name:<14}{seconds:>9.2f}{bound:>8}")
    if options.json:
        options.json.write_text(json.dumps({name: seconds for name, (seconds, _) in rows.items()}, indent=1))


if __name__ == "__main__":
    main()
