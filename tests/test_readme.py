"""The README's examples run, and its promises about flags and names hold."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from three_factors import callbacks, datamodules, lightning_modules

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES, OF_CALLBACKS, OF_FIGURES = (
    re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for text in (README, (ROOT / "callbacks" / "README.md").read_text(), (ROOT / "reproduce" / "README.md").read_text())
)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The same names on a small scale: digits for CIFAR-10, a narrow VGG-11, at most ten short epochs.

    Returns what the examples take for granted: a module, a loader, two checkpoints.
    """

    class Trainer(pl.Trainer):
        def __init__(self, **options):
            saves = any(isinstance(callback, Checkpoint) for callback in options["callbacks"])
            quiet = {"logger": False, "enable_checkpointing": saves, "enable_progress_bar": False}
            epochs = min(10, options["max_epochs"])
            super().__init__(**options | quiet | {"max_epochs": epochs, "accelerator": "cpu"})

    def digits(**options):
        return datamodules.DigitsDataModule(train=1280, **options)

    real = lightning_modules.VGG11
    monkeypatch.setattr(pl, "Trainer", Trainer)
    for name in ("HessianMonitor", "InterpolationMonitor"):
        monkeypatch.setattr(callbacks, name, partial(getattr(callbacks, name), examples=50), raising=False)
    monkeypatch.setattr(datamodules, "CIFAR10DataModule", digits, raising=False)
    monkeypatch.setattr(lightning_modules, "VGG11", lambda **options: real(width=1 / 64, **options), raising=False)
    monkeypatch.chdir(tmp_path)
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    for name in ("a.ckpt", "b.ckpt"):
        module[0].reset_parameters()
        torch.save({"state_dict": module.state_dict()}, name)
    return {"module": module, "loader": [(torch.randn(20, 6), torch.randint(0, 3, (20,))) for _ in range(3)]}


@pytest.mark.slow
@pytest.mark.parametrize("example", [*EXAMPLES, *OF_CALLBACKS], ids=lambda text: text.splitlines()[0][:40])
def test_every_python_example_of_the_readmes_runs(example, small):
    exec(compile(example, "README.md", "exec"), small)
    for monitor in small.get("monitors", []):
        assert getattr(monitor, "history", ["Lightning's own"]), f"{monitor} did not measure"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[0][:40])
def test_every_python_example_is_short(example):
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 12


def test_the_batch_sampler_example_gives_a_loader_of_the_planned_length():
    names = {}
    exec(compile(next(e for e in EXAMPLES if "PlannedBatchSampler" in e), "README.md", "exec"), names)

    class Owner:
        dataset = list(range(1000))
        trainer = SimpleNamespace(current_epoch=5, fit_loop=Mock(restarting=False, is_resuming=False))

    loader = names["train_dataloader"](Owner())
    assert len(loader) == len(datamodules.plan_epoch(1000, datamodules.Triangle(640, 128, 10), 5))


def test_every_schedule_named_in_the_readme_exists():
    sentence = re.search(r"Schedules: (.*?), and any function", README, re.DOTALL).group(1)
    for name in re.findall(r"`(\w+)`", sentence):
        assert hasattr(datamodules, name), name


@pytest.mark.slow
def test_a_figure_of_ones_own_takes_forty_lines_and_runs(tmp_path):
    (example,) = OF_FIGURES
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 40
    (tmp_path / "momentum_or_eta.py").write_text(example)
    command = [sys.executable, "momentum_or_eta.py", "--scale", "smoke", "--data", "digits28", "--seeds", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "paper scale: python momentum_or_eta.py --scale paper" in done.stdout
    folder = tmp_path / "results" / "momentum_or_eta" / "smoke-digits28"
    assert (folder / "momentum_or_eta.png").is_file()
    (claim,) = json.loads((folder / "claims.json").read_text())
    assert (claim["id"], claim["n"]) == ("alike", 2)


PAGES = ("README.md", "reproduce/README.md", "callbacks/README.md", "reproduce/gallery/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_between_the_pages_lead_somewhere(page):
    file = ROOT / page
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", file.read_text()):
        place = (file.parent / target).resolve() if target else file
        assert place.exists(), target
        if anchor:
            text = place.read_text()
            headings = {
                re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)
            }
            assert anchor[1:] in headings or f'<a id="{anchor[1:]}">' in text, anchor


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 170
