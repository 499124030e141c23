"""The README's examples run, and its promises about flags and names hold."""

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl

import datamodules
import lightning_modules

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def small(monkeypatch):
    """The same names on a small scale: digits for CIFAR-10, a narrow VGG-11, two short epochs."""

    class Trainer(pl.Trainer):
        def __init__(self, **options):
            quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
            super().__init__(**options | quiet | {"max_epochs": 2, "accelerator": "cpu"})

    def digits(max_batch_size):
        return datamodules.DigitsDataModule(train=640, max_batch_size=max_batch_size)

    real = lightning_modules.VGG11
    monkeypatch.setattr(pl, "Trainer", Trainer)
    monkeypatch.setattr(datamodules, "CIFAR10DataModule", digits, raising=False)
    monkeypatch.setattr(lightning_modules, "VGG11", lambda: real(width=1 / 32), raising=False)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[0][:40])
def test_every_python_example_of_the_readme_runs(example, small):
    exec(compile(example, "README.md", "exec"), {})


def test_the_batch_sampler_example_gives_a_loader_of_the_planned_length():
    names = {}
    exec(compile(next(e for e in EXAMPLES if "PlannedBatchSampler" in e), "README.md", "exec"), names)

    class Owner:
        dataset = list(range(1000))
        trainer = type("T", (), {"current_epoch": 5})

    loader = names["train_dataloader"](Owner())
    assert len(loader) == len(datamodules.plan_epoch(1000, datamodules.Triangle(640, 128, 10), 5))


def test_every_schedule_named_in_the_readme_exists():
    sentence = re.search(r"Schedules: (.*?), and any function", README, re.DOTALL).group(1)
    for name in re.findall(r"`(\w+)`", sentence):
        assert hasattr(datamodules, name), name
