"""Makes this checkout's packages importable as `three_factors`, before any that are installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

_NAME = str(Path(__file__).resolve().parent / "_name")
if _NAME not in sys.path:
    sys.path.insert(0, _NAME)
if __name__ == "_checkout":  # for a script; the short names of packages come by here too
    needed = ("filelock", "jinja2", "latex2mathml", "matplotlib", "pandas", "platformdirs", "rich", "torch")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        print(f"error: {', '.join(missing)}: not installed; pip install -e '.[reproduce]'", file=sys.stderr)
        raise SystemExit(2)
