"""Imports point down only, and the figure's process stays free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from three_factors.reproduce.engine import provenance

ROOT = Path(__file__).resolve().parents[2]
OURS = ("lightning_modules", "datamodules", "callbacks", "reproduce")
FIGURES = sorted(p.stem for p in (ROOT / "reproduce").glob("*.py") if p.stem[0] != "_")
FILES = [p.relative_to(ROOT) for top in OURS for p in (ROOT / top).rglob("*.py")]


def imported(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(path, name):
    top, folder = name.split(".")[0], path.parts[0]
    if top in OURS:
        return False  # the short name, which may be a stranger's
    if top != "three_factors":
        return True
    name = name.removeprefix("three_factors").removeprefix(".")
    top = name.split(".")[0]
    if folder in ("datamodules", "lightning_modules") or path.parts[:2] == ("callbacks", "functional"):
        return name.startswith(".".join(path.parent.parts))
    if folder == "callbacks":
        # Schedules, and where a resumed training goes on; loaders are known by the shape of their plans.
        return top == "callbacks" or name.split(".")[1] in ("schedules", "resuming", "safe_globals")
    if path.parts[:2] == ("reproduce", "theory"):
        return name.startswith("reproduce.theory")
    if path.parts[:2] == ("reproduce", "engine"):
        return top != "reproduce" or name.startswith(("reproduce.engine", "reproduce.theory"))
    return top != "reproduce" or name.split(".")[1] in ("engine", "experiments", "theory")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down_only(path):
    assert [name for name in imported(path) if not allowed(path, name)] == []


@pytest.mark.parametrize(
    ("needle", "home"),
    [("pl.Trainer(", "reproduce/engine/train.py"), ("import wandb", "reproduce/engine/wandb_mirror.py")],
)
def test_one_file_builds_a_trainer_and_one_touches_wandb(needle, home):
    users = [str(p) for p in FILES if any(needle in line for line in code_lines(p))]
    assert users == [home]


def code_lines(path):
    """Lines of a file without docstrings and comments."""
    tree = ast.parse((ROOT / path).read_text())
    return ast.unparse(_Bare().visit(tree)).splitlines()


class _Bare(ast.NodeTransformer):
    def visit_Expr(self, node):
        return ast.Pass() if isinstance(node.value, ast.Constant) else node


def test_importing_what_the_figures_process_uses_imports_no_torch():
    engine = (f"reproduce.engine.{name}" for name in ("figure", "outputs", "runner", "slurm"))
    scripts = (f"reproduce.{name}" for name in FIGURES if name != "worker")
    modules = [f"three_factors.{name}" for name in (*OURS, *scripts, *engine)]
    code = (  # one after the other, so that the first that brings it is named
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
        "    if 'torch' in sys.modules or 'pytorch_lightning' in sys.modules: sys.exit(module)"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_code_that_a_checkpoint_belongs_to_is_what_a_worker_imports():
    code = "import sys, three_factors.reproduce.engine.worker; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    engine = {name.rpartition(".")[2] for name in done.stdout.split() if ".reproduce.engine." in name}
    assert engine == set(provenance.ENGINE)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_script_holds_no_argparse_trainer_or_wandb(figure):
    names = set(imported(Path("reproduce") / f"{figure}.py"))
    assert not any(name.split(".")[0] in ("argparse", "torch", "pytorch_lightning", "wandb") for name in names)
