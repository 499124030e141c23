"""One module object under two names: `three_factors.callbacks` everywhere, `callbacks` in a checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("callbacks", "datamodules", "lightning_modules", "reproduce")
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in OURS
    for file in sorted((ROOT / package).rglob("*.py"))
    if "_name" not in file.parts and file.name != "_checkout.py"
]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
BOTH = """
import importlib, sys
first, second, *modules = sys.argv[1:]
full = lambda name, of: f"three_factors.{name}" if of == "full" else name
one = {name: importlib.import_module(full(name, first)) for name in modules}
two = {name: importlib.import_module(full(name, second)) for name in modules}
print([name for name in modules if one[name] is not two[name] or one[name].__name__ != f"three_factors.{name}"])
"""


def python(code: str, *arguments: str, cwd: Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that finds modules in `path` before those that are installed."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout beside this one, of which nothing is installed."""
    checkout = tmp_path_factory.mktemp("bare")
    for package in OURS:
        unwanted = shutil.ignore_patterns("__pycache__", "*.png", "*.svg", "*.md")
        shutil.copytree(ROOT / package, checkout / package, ignore=unwanted)
    return checkout


@pytest.mark.slow
@pytest.mark.parametrize("order", [("short", "full"), ("full", "short")], ids=" first, ".join)
def test_every_module_is_one_object_under_both_names(order, bare):
    answer = python(BOTH, *order, *MODULES, cwd=bare, path=[bare, bare / "reproduce" / "_name"])
    assert answer.stdout.strip() == "[]", answer.stdout + answer.stderr
    assert len(MODULES) > 150


@pytest.mark.slow
@pytest.mark.parametrize("name", ["callbacks", "datamodules.schedules", "reproduce.engine.contract.spec"])
def test_the_short_name_alone_makes_the_canonical_one(name, bare):
    """And that of its own checkout, where another one is installed."""
    code = f"import {name}, sys; print({name}.__name__, {name}.__file__)"
    answer = python(code, cwd=bare, path=[])
    full, file = answer.stdout.split()
    assert full == f"three_factors.{name}"
    assert Path(file).is_relative_to(bare)


def test_two_checkouts_in_one_process_are_refused(bare):
    code = "import sys, three_factors; sys.path.insert(0, sys.argv[1]); import callbacks"
    answer = python(code, str(bare), cwd=ROOT / "tests", path=[ROOT / "reproduce" / "_name"])
    assert (
        f"ImportError: callbacks: is imported from {bare / 'callbacks'}, but three_factors from {ROOT}" in answer.stderr
    )


@pytest.mark.parametrize("module", ["reproduce.fig4", "three_factors.reproduce.fig4"])
def test_a_script_runs_by_either_name(module, bare):
    answer = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=bare,
        env=os.environ | {"PYTHONPATH": str(bare / "reproduce" / "_name")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "Figure 4." in answer.stdout


@pytest.mark.slow
def test_a_script_of_a_bare_checkout_runs_that_checkouts_code(bare, tmp_path):
    """In the figure's process and in those of its runs, whatever is installed."""
    train = bare / "reproduce" / "engine" / "worker" / "train.py"
    line = "from __future__ import annotations\n"
    mark = f"from pathlib import Path as _P; _P({str(tmp_path / 'trained by')!r}).write_text(__file__)\n"
    train.write_text(train.read_text().replace(line, line + mark))
    assert mark in train.read_text()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(bare / "reproduce" / "fig7.py"), "--scale", "smoke", "--data", "digits"]
    answer = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--wandb", "disabled"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert (tmp_path / "trained by").read_text() == str(train)


STRANGER = """
import callbacks, datamodules, utils
from three_factors.callbacks import HessianMonitor
from three_factors.datamodules import NoiseSchedule, Triangle
import three_factors.callbacks.functional

print(callbacks.OWN, datamodules.OWN, utils.OWN)
print(HessianMonitor.__module__, NoiseSchedule(0.1, Triangle(8, 4, 2)).noise_ratio(0) > 0)
import callbacks.helpers
print(callbacks.helpers.OWN)
"""


@pytest.mark.slow
def test_a_strangers_own_packages_stay_his_and_ours_work_beside_them(tmp_path):
    for package in ("callbacks", "datamodules"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("OWN = 'his'\n")
    (tmp_path / "callbacks" / "helpers.py").write_text("OWN = 'helpers'\n")
    (tmp_path / "utils.py").write_text("OWN = 'his'\n")
    answer = python(STRANGER, cwd=tmp_path, path=[ROOT / "reproduce" / "_name"])
    assert answer.stdout.splitlines() == ["his his his", "three_factors.callbacks.hessian True", "helpers"], (
        answer.stderr
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (found,) = folder.glob("three_factors-*.whl")
    return found


def environment(folder: Path, wheel: Path, borrowed: str | Path) -> tuple[Path, Path]:
    """An environment with this project's wheel, all else borrowed from a folder: its Python and its own folder."""
    done(sys.executable, "-m", "venv", "--without-pip", folder)
    done(*PIP, "--python", folder / "bin" / "python", "install", "--no-deps", wheel)
    (place,) = (folder / "lib").glob("python*/site-packages")
    (place / "borrowed.pth").write_text(f"{borrowed}\n")
    return folder / "bin" / "python", place


def done(*command: object, cwd: Path | None = None) -> str:
    """What a command prints; it must succeed, without what the tests' own processes are given."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PYTEST"))}
    answer = subprocess.run(
        list(map(str, command)), cwd=cwd, env=own, capture_output=True, text=True, timeout=400, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.mark.slow
def test_a_wheel_runs_the_readmes_examples_beside_a_strangers_own_packages(wheel, tmp_path):
    own, place = environment(tmp_path / "env", wheel, sysconfig.get_path("purelib"))
    project = tmp_path / "project"
    for package in ("callbacks", "datamodules", "tests"):
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").write_text("OWN = 'his'\n")
    (project / "utils.py").write_text("OWN = 'his'\n")
    shutil.copy(ROOT / "tests" / "test_readme.py", project / "tests")
    for page in ("README.md", "callbacks/README.md", "reproduce/README.md"):
        (project / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, project / page)
    where = "import callbacks, utils, three_factors.callbacks as ours; print(callbacks.OWN, ours.__file__)"
    assert done(own, "-c", where, cwd=project).split() == ["his", str(place / "three_factors/callbacks/__init__.py")]
    wanted = ["-k", "test_every_python_example_of_the_readmes_runs", "-p", "no:cacheprovider", "-p", "no:xdist"]
    ran = done(own, "-m", "pytest", "tests/test_readme.py", "-c", os.devnull, "--rootdir", ".", *wanted, cwd=project)
    assert int(re.search(r"(\d+) passed", ran)[1]) >= 5


NEEDED = {"torch", "pytorch-lightning", "torchmetrics", "numpy", "scipy"}
ALONE = """
import torch, pytorch_lightning as pl
from torch.utils.data import DataLoader, TensorDataset
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor, NoiseScheduler
from three_factors.datamodules import Cyclic, NoiseSchedule, PlannedBatchSampler
from three_factors.lightning_modules import MLP, ResNet56, VGG11
from three_factors.callbacks.functional import HessianOperator, top_eigenvalues

data = TensorDataset(torch.randn(64, 784), torch.randint(0, 10, (64,)))
schedule = NoiseSchedule(0.05, Cyclic(32, 8, 2))
monitors = [HessianMonitor(), GradientNoiseMonitor(stationarity=False), InterpolationMonitor()]
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False,
                     callbacks=[NoiseScheduler(schedule), *monitors])
sampler = PlannedBatchSampler(len(data), schedule.batch_size)
trainer.fit(MLP(lr=0.05), DataLoader(data, batch_sampler=sampler))
print([len(monitor.history) for monitor in monitors])
try:
    from three_factors.datamodules import CIFAR10DataModule
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_library_alone_needs_torch_lightning_torchmetrics_numpy_and_scipy(wheel, tmp_path):
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.match(r"[\w-]+", line)[0] for line in listed} == NEEDED
    (tmp_path / "few").mkdir()
    for distribution in closure(NEEDED):
        for top in {file.parts[0] for file in distribution.files or ()} - {".."}:
            link = tmp_path / "few" / top
            if not link.exists():
                link.symlink_to(Path(distribution.locate_file(top)))
    assert not (tmp_path / "few" / "torchvision").exists()
    own, _ = environment(tmp_path / "env", wheel, tmp_path / "few")
    lengths, refusal = done(own, "-c", ALONE, cwd=tmp_path).splitlines()[-2:]
    assert lengths == "[2, 2, 2]"
    assert refusal == "CIFAR10DataModule: needs platformdirs; pip install 'three-factors[reproduce]'"


def closure(names: set[str]) -> list[metadata.Distribution]:
    """The distributions of these names and of all that they need."""
    found: dict[str, metadata.Distribution] = {}
    left = [*names, "setuptools"]  # which torch has by way of an extra marker on some systems
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        wanted = [line for line in found[name].requires or () if "extra ==" not in line]
        left += [re.match(r"[\w.-]+", line)[0] for line in wanted]
    return list(found.values())


@pytest.mark.slow
def test_a_type_checker_sees_a_wrong_call_from_one_package_into_another(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "planted.py").write_text(
        "from three_factors.callbacks import HessianMonitor\n"
        "from three_factors.datamodules import Cyclic\n"
        "from three_factors.reproduce.engine.contract.spec import Keep\n"
        "HessianMonitor(every=5)\n"
        "Cyclic(high='1', low=2, period=3)\n"
        "Keep(best=3.5)\n"
        "HessianMonitor(every_n_epochs=5)\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path / "planted.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    ).stdout
    lines = {int(line.split(":")[1]) for line in found.splitlines() if "planted.py" in line and "error" in line}
    assert lines == {4, 5, 6}, found
