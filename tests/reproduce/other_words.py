"""Judges every figure and theory on made-up evidence, and prints what became of each claim, as JSON.

With "reworded" as its argument, every text in the code of the experiments, of the scripts and of the judging is other
words: labels, claims, notes, whatever is not an identifier. In a process of its own, because modules are loaded anew.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import json
import re
import sys
from typing import Any, get_args

import numpy as np

PLACES = re.compile(
    r"three_factors\.reproduce\.(experiments\.\w+|fig\d+|table1|noise_only|theorem\d|time_rescaling|finite_step|"
    r"momentum|anisotropic|sampling|engine\.judge\.(claims|verdicts|stored_claims|seedwise|chainwise|power|table))$"
)
KEPT = {"not supported", "not judged"}  # verdicts
WORDS = re.compile(r"[^\W\d_]")
METRIC = re.compile(r"(hessian|train|train_subset|train_wrong|val|test)/")
LABELS = {"baseline"}  # of one word


class Reword(ast.NodeTransformer):
    """Turns texts around; equal ones stay equal. Names of metrics, ids and identifiers are none."""

    def __init__(self) -> None:
        self.count = 0

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        text = node.value
        if not isinstance(text, str) or METRIC.search(text) or text in KEPT or not WORDS.search(text):
            return node
        if " " in text or text in LABELS or not text.isascii():
            self.count += 1
            return ast.copy_location(ast.Constant(WORDS.sub(lambda letter: TURNED[letter.group()], text)), node)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.FormattedValue:
        node.value = self.visit(node.value)  # its format is no text
        return node


class Turned(dict[str, str]):
    """Another letter for every letter."""

    def __missing__(self, letter: str) -> str:
        return "abcdefghijklmnopqrstuvwxyz"[(ord(letter) * 7 + 3) % 26]


TURNED = Turned()


class Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = ast.parse(data)
        for node in ast.walk(tree):  # docstrings are no part of what runs
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body[0] = ast.copy_location(ast.Expr(ast.Constant("words")), node.body[0])
        reworded = ast.fix_missing_locations(Reword().visit(tree))
        return compile(reworded, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_code(self, fullname: str) -> Any:  # never the compiled file of the true text
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not PLACES.match(name):
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        assert found is not None
        assert found.origin is not None
        found.loader = Loader(name, found.origin)
        return found


def of_figures() -> dict[str, Any]:
    from three_factors.reproduce.engine.judge.looks import look
    from three_factors.reproduce.engine.judge.table import SyntheticTable
    from three_factors.reproduce.engine.judge.verdicts import judge

    class Lacking(SyntheticTable):
        """Some runs have not trained."""

        def values(self, label: str, metric: str) -> np.ndarray:
            there = self.finals[label][metric]
            return there[~np.isnan(there)]

    found = {}
    for name in (*(f"fig{i}" for i in range(1, 17)), "table1", "noise_only"):
        figure = importlib.import_module(f"three_factors.reproduce.{name}").FIGURE
        for scale, seed in (("quick", 0), ("quick", 1), ("paper", 2)):
            drawn = figure.experiment.imagined(scale, 5, np.random.default_rng(seed))
            holes = np.random.default_rng(seed)
            lacking = {
                k: {m: np.where(holes.random(5) < 0.1, np.nan, v) for m, v in of.items()}
                for k, of in drawn.finals.items()
            }
            for which, finals in (("whole", drawn.finals), ("lacking", lacking)):
                table = Lacking(finals, drawn.series, drawn.factors)
                found[f"{name} {scale} {seed} {which}"] = told(
                    judge(figure.check(table), look(5, 5), figure.primary), table.labels
                )
    return found


def of_theories() -> dict[str, Any]:
    from three_factors.reproduce.engine.judge.chains import Chains
    from three_factors.reproduce.engine.judge.looks import ONLY
    from three_factors.reproduce.engine.judge.verdicts import judge

    found = {}
    for name in ("theorem1", "theorem2", "time_rescaling", "finite_step", "momentum", "anisotropic", "sampling"):
        theory = importlib.import_module(f"three_factors.reproduce.{name}").THEORY
        specs, random = theory.simulations("quick"), np.random.default_rng(0)
        samples = {
            label: random.normal(size=(len(spec.record), 40, spec.potential.dim)) * (1 + spec.lr)
            for label, spec in specs.items()
        }
        found[name] = told(judge(theory.check(Chains(specs, samples)), ONLY), list(specs))
    return found


def told(claims: Any, labels: list[str]) -> dict[str, Any]:
    judged = [
        [c.id, c.verdict, c.value, c.low, c.high, c.n, c.holm_support, c.holm_refute, c.control_of, c.rule]
        for c in claims
    ]
    return {"judged": judged, "words": [[c.claim, c.note] for c in claims], "labels": labels}


if __name__ == "__main__":
    if sys.argv[1] == "reworded":
        sys.meta_path.insert(0, Finder())
    from three_factors.reproduce.engine.judge.rules import Verdict

    assert {verdict for verdict in get_args(Verdict) if " " in verdict} <= KEPT
    print(json.dumps({"figures": of_figures(), "theories": of_theories()}))
