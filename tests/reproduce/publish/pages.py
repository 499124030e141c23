"""Folders of results as a script leaves them, for what reads them."""

import json
import subprocess
import sys

from tests.reproduce.script import ROOT
from three_factors.reproduce.contents import CONTENTS

CLAIM = {
    "id": "wider",
    "claim": "higher is <wider>",
    "statistic": "rho",
    "value": 0.5,
    "low": 0.2,
    "high": 0.8,
    "n": 4,
    "primary": True,
    "look": 1,
    "confidence": 0.95,
    "rule": {"kind": "direction", "sign": 1, "smallest": 0.1, "null": 0.0},
    "paper": "by eye",
    "data": "cifar10",
    "arm": "epochs",
    "verdict": "supported",
    "note": "",
    "unit": "",
    "control_of": "",
}
NONE = {"primary": False}
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


WITH_BESIDE = ("quick", "quick-cifar10", "paper", "paper-float32")  # folders of the paper's own arm


def results(out, name, *claims, scale="quick"):
    folder = out / name / scale
    folder.mkdir(parents=True)
    beside = CONTENTS.load(name).beside is not None and scale in WITH_BESIDE
    for picture in (name, f"{name}-controls") if beside else (name,):
        (folder / f"{picture}.svg").write_bytes(SVG)
    (folder / "table.csv").write_text("label,seed\na,100\n")
    (folder / "claims.json").write_text(json.dumps(claims))
    provenance = {
        "command": f"python {name}.py",
        "commit": None,
        "uncommitted_changes": False,
        "hardware": "x",
        "data": {"name": claims[0]["data"], "own": True},
        "reductions": [["5 seeds", "4 seeds", "time"]],
        "runs": {},
        "missing": [],
        "seconds": 1.0,
        "seeds": 4,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def current(monkeypatch):
    """Results as if of the settings that the code has."""
    for place in ("publish.page", "report"):
        monkeypatch.setattr(f"three_factors.reproduce.engine.{place}.is_current", lambda *_: True)


def arm(out, name, *claims):
    folder = results(out, "fig1", *claims, scale=f"quick-{name}")
    file = folder / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"arm": name}))
    return folder


def report(out):
    command = [sys.executable, str(ROOT / "reproduce" / "report.py"), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
