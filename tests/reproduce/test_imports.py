"""Imports point down only, and the figure's process stays free of torch."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("lightning_modules", "datamodules", "callbacks", "reproduce")
FIGURES = sorted(p.stem for p in (ROOT / "reproduce").glob("*.py") if p.stem[0] != "_")
FILES = [p.relative_to(ROOT) for top in OURS for p in (ROOT / top).rglob("*.py")]


@cache
def imported(path):
    return list(_imported(path))


def _imported(path):
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
    return top != "reproduce" or name.split(".")[1] in ("engine", "experiments", "theory", "contents")


ENGINE = "three_factors.reproduce.engine."
ROOMS = {  # of the engine, and which others each may see; what stands outside of the rooms sees them all
    "contract": (),
    "worker": ("contract",),
    "launch": ("contract", "worker"),
    "watch": ("contract", "launch"),
    "judge": (),
    "publish": ("contract", "judge"),
}
GROUND = ("console", "options", "surroundings")  # files that every room but the worker's may see
PLANS = ("definition", "planning", "source")  # what publishing may see besides


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_the_engine_see_only_what_they_may(room):
    ground = () if room in ("contract", "worker") else GROUND + PLANS * (room == "publish")
    allowed = (room, *ROOMS[room], *ground)
    files = [path for path in FILES if path.parts[:3] == ("reproduce", "engine", room)]
    seen = {name.removeprefix(ENGINE).split(".")[0] for path in files for name in imported(path) if ENGINE in name}
    assert seen <= set(allowed)


def test_torch_is_imported_in_the_workers_room_alone():
    users = {
        path.parts[2]
        for path in FILES
        if path.parts[:2] == ("reproduce", "engine")
        for name in imported(path)
        if name.split(".")[0] in ("torch", "pytorch_lightning")
    }
    assert users == {"worker"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down_only(path):
    assert [name for name in imported(path) if not allowed(path, name)] == []


@pytest.mark.parametrize(
    ("needle", "home"),
    [("pl.Trainer(", "reproduce/engine/worker/train.py"), ("import wandb", "reproduce/engine/watch/mirror.py")],
)
def test_one_file_builds_a_trainer_and_one_touches_wandb(needle, home):
    users = [str(p) for p in FILES if any(needle in line for line in code_lines(p))]
    assert users == [home]


@cache
def code_lines(path):
    """Lines of a file without docstrings and comments."""
    tree = ast.parse((ROOT / path).read_text())
    return ast.unparse(_Bare().visit(tree)).splitlines()


class _Bare(ast.NodeTransformer):
    def visit_Expr(self, node):
        return ast.Pass() if isinstance(node.value, ast.Constant) else node


def test_importing_what_the_figures_process_uses_imports_no_torch():
    files = [path.with_suffix("") for path in FILES if path.parts[:2] == ("reproduce", "engine")]
    engine = sorted(".".join(path.parts) for path in files if "worker" not in path.parts and path.stem != "__init__")
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


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_script_holds_no_argparse_trainer_or_wandb(figure):
    names = set(imported(Path("reproduce") / f"{figure}.py"))
    assert not any(name.split(".")[0] in ("argparse", "torch", "pytorch_lightning", "wandb") for name in names)
