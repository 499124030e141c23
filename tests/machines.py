"""Whether words hang on the machine: the same commit and seeds, from initial weights one rounding apart.

    python reproduce/fig4.py --out A
    THREE_FACTORS_ROUNDED=1 python reproduce/fig4.py --out B
    python tests/machines.py A B fig4

No word may jump between seen and not seen, and two estimates differ by at most two standard errors, all but one in
twenty. A standard error is the larger of both, from the interval; estimates without one are counted apart. Beside it
how many are apart by two standard errors of their difference, as if both calls were independent.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from scipy import stats

JUMPS = {"supported", "not supported"}


def error(claim: dict[str, Any]) -> float | None:
    """Returns the standard error of a stored estimate on the scale that it is averaged on; None if it has none."""
    if claim["low"] is None or claim["high"] is None or claim["n"] < 2:
        return None
    low, high = (on_scale(claim, claim[end]) for end in ("low", "high"))
    return (high - low) / 2 / float(stats.t.ppf((1 + claim["confidence"]) / 2, claim["n"] - 1))


def on_scale(claim: dict[str, Any], value: float) -> float:
    """Returns a value on that scale."""
    return math.log(value) if claim.get("scale") == "log" else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=Path)
    parser.add_argument("figures", nargs="+")
    parser.add_argument("--scale", default="quick")
    options = parser.parse_args()
    apart, compared, without, jumps, differing = list[str](), 0, 0, list[str](), 0
    for name in options.figures:
        files = [folder / name / options.scale / "claims.json" for folder in options.folders]
        first, second = ({claim["id"]: claim for claim in json.loads(file.read_text())} for file in files)
        if first.keys() != second.keys():
            raise SystemExit(f"{name}: not the same claims")
        for key, one in first.items():
            other = second[key]
            if one["primary"]:
                told = f"{name}.{key}: {one['word']} {one['value']}, {other['word']} {other['value']}"
                print(told)
                if one["verdict"] != other["verdict"] and {one["verdict"], other["verdict"]} == JUMPS:
                    jumps.append(told)
            first_error, second_error = error(one), error(other)
            if first_error is None or second_error is None or None in (one["value"], other["value"]):
                without += 1
                continue
            compared += 1
            gap = abs(on_scale(one, one["value"]) - on_scale(other, other["value"]))
            differing += gap > 2 * math.hypot(first_error, second_error)
            if gap > 2 * max(first_error, second_error):
                apart.append(f"{name}.{key}: {one['value']:.4g} and {other['value']:.4g}")
    print(f"{compared} estimates compared, {without} without an interval")
    print(f"{len(apart)} more than two standard errors apart: {'; '.join(apart) or '-'}")
    print(f"{differing} more than two standard errors of their difference")
    print(f"{len(jumps)} words jumped: {'; '.join(jumps) or '-'}")
    raise SystemExit(bool(jumps) or 20 * len(apart) > compared)


if __name__ == "__main__":
    main()
