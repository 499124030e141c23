"""Every benchmark runs, at its smallest setting: a new one needs such a setting, and its rows below."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.reproduce.warm import script

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.name.startswith(("_", "test_")))
ROWS = {  # what lines of the printed table begin with
    "checkpoints": ("│ MLP 784-8-10", "│ ResNet8"),
    "curvature": ("product / PyHessian", "time / curvlinops", "our products for 19 of 20", "peak MB, curvlinops"),
    "deterministic": ("│ MLP", "│ VGG-11", "│ ResNet8"),
    "finite_difference_step": ("1e-05 ", "0.001 ", "1 "),
    "monitors": (
        "VGG-11 1/8  HessianMonitor",
        "MLP         InterpolationMonitor",
        "MLP         all on     bare Trainer",
    ),
    "products": ("oneDNN is ", "step of  1, 256 x 256, S 50", "one vector "),
    "records": ("fig1 ", "fig13 ", "fig5 in the archive"),
    "scaling": ("members  ", "width  ", "S  ", "runs at a time  "),
    "simulation": ("quartic, q = 1 ", "double well, q = 2", "softmax regression, S = 32"),
    "startup": ("first line", "cached call"),
    "sweeps": ("fig1 ",),
    "training": ("loader", "VGG-11 1/8", "MLP"),
}
OPTIONS = {"deterministic": ("--device", "cpu")}


def tree() -> dict[Path, int]:
    """When each file of the checkout was last written, without what Python and tools keep beside them."""
    parts = ("callbacks", "datamodules", "lightning_modules", "reproduce", "tests")
    files = [path for part in parts for path in (ROOT / part).rglob("*") if "__pycache__" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in [*ROOT.glob("*.*"), *files] if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_prints_its_rows_at_its_smallest_setting_and_writes_nowhere(name, tmp_path):
    before = tree()
    code, printed, complaint = script(FOLDER / f"{name}.py", "--smallest", *OPTIONS.get(name, ()), cwd=tmp_path)
    assert code == 0, complaint
    lines = printed.splitlines()
    assert [row for row in ROWS[name] if not any(line.startswith(row) for line in lines)] == [], printed
    assert tree() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--no-such-option", 2)])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_says_what_it_takes_and_refuses_what_it_does_not(name, argument, code, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [name, argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert ended.value.code == code
    told = capsys.readouterr()
    assert "--smallest" in (told.err if code else told.out)


SERVER = """
from _code import ROOT
from _elsewhere import serve

def run():
    print("a line of some library")
    return float((ROOT / "seconds").read_text())

serve(run)
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A script that serves the number in its checkout's file `seconds`, and two checkouts, of 2 and of 4 seconds."""
    monkeypatch.syspath_prepend(FOLDER)
    script = tmp_path / "server.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n{SERVER}")
    folders = [tmp_path / "two", tmp_path / "four"]
    for folder, seconds in zip(folders, (2, 4)):
        (folder / "callbacks").mkdir(parents=True)
        (folder / "callbacks" / "__init__.py").touch()
        (folder / "seconds").write_text(str(seconds))
    return script, folders


def test_processes_that_take_turns_measure_each_its_own_checkout(served):
    from _elsewhere import Elsewhere
    from _timing import interleaved, ratio

    script, (two, four) = served
    with Elsewhere(two, str(script)) as a, Elsewhere(four, str(script)) as b:
        times = interleaved({"a": a, "b": b}, 3)
    assert times == {"a": [2.0] * 3, "b": [4.0] * 3}
    assert ratio(times, "a", "b") == 0.5


def test_a_process_that_ends_in_the_middle_is_named_with_its_exit_code(served):
    from _elsewhere import Elsewhere

    script, (two, _) = served
    with Elsewhere(two, str(script)) as process:
        assert process() == 2.0
        (two / "seconds").unlink()
        with pytest.raises(SystemExit, match="two: its process has ended with 1"):
            process()
