"""A callback that is used again begins anew: after any sequence of trainings it holds what a fresh one holds.

A new subject is a line in SUBJECTS; what it holds is its state dictionary, its `history` and its public numbers.
"""

from collections.abc import Callable
from contextlib import suppress
from numbers import Number
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.strangers.tiny import Net, loader, planned, trainer
from three_factors.callbacks import (
    GradientNoiseMonitor,
    HessianMonitor,
    InterpolationMonitor,
    KeepWeights,
    NoiseOnPlateau,
    NoiseScheduler,
    ProgressFile,
)
from three_factors.datamodules import Cosine, NoiseSchedule, Triangle

pytestmark = pytest.mark.slow

FALLING = NoiseSchedule(Cosine(0.2, 0.01, epochs=3), Triangle(high=12, low=6, period=4))
CONSTANT = NoiseSchedule(0.2, 8)


def plateau(change):
    """One whose metric never improves, judged twice an epoch."""
    return NoiseOnPlateau(
        CONSTANT, "val/loss", change=change, factor=1.5, patience=0, threshold=9, threshold_mode="abs"
    )


def of_triples(module, batch):
    return module.loss(module(batch[0]), batch[1])


SUBJECTS: dict[str, Callable[[Path], pl.Callback]] = {
    "NoiseScheduler": lambda folder: NoiseScheduler(FALLING),
    "NoiseScheduler by groups": lambda folder: NoiseScheduler(FALLING, groups="proportional"),
    "NoiseOnPlateau in S": lambda folder: plateau("batch_size"),
    "NoiseOnPlateau in eta": lambda folder: plateau("lr"),
    "ProgressFile": lambda folder: ProgressFile(folder / "progress.json", interval=0),
    "KeepWeights": lambda folder: KeepWeights(
        initial=True, best=True, best_of="val/loss", mode="min", loss_levels=(0.9,), loss_of="val/loss"
    ),
    "HessianMonitor": lambda folder: HessianMonitor(
        batch_loss=of_triples, measures=("top_eigenvalue",), examples=12, batch_size=6
    ),
    "GradientNoiseMonitor": lambda folder: GradientNoiseMonitor(batch_loss=of_triples, batches=5),
    "InterpolationMonitor": lambda folder: InterpolationMonitor(
        batch_loss=of_triples, alphas=[0, 1], examples=12, batch_size=6
    ),
}
TRAININGS = ("fit", "fit wider", "fit longer", "resume an epoch", "resume within one", "broken fit")
OTHERS = ("test", "test a checkpoint", "validate")


def held(callback: pl.Callback) -> dict[str, Any]:
    """What a callback has to show for a training, but for the seconds that it took."""
    numbers = {
        name: value for name, value in vars(callback).items() if isinstance(value, Number) and not name.startswith("_")
    }
    file = getattr(callback, "path", Path())
    text = file.read_text() if file.suffix == ".json" and file.exists() else None
    found = {"state": callback.state_dict(), "history": getattr(callback, "history", None), "numbers": numbers}
    return without_seconds(found | {"file": text})


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_seconds(part) for name, part in value.items() if "seconds" not in str(name)}
    if isinstance(value, list | tuple):
        return [without_seconds(part) for part in value]
    if isinstance(value, torch.Tensor):
        return without_seconds(value.tolist())
    return "nan" if value != value else value  # so that it equals itself


class Broken(Exception):
    """A training that came to a bad end."""


class Breaks(pl.Callback):
    """Ends the training in the middle of its second epoch."""

    def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
        if (run.current_epoch, batch_idx) == (1, 1):
            raise Broken


class Saves(pl.Callback):
    """Saves in the middle of the second epoch and at its end."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
        if (run.current_epoch, batch_idx) == (1, 2):
            run.save_checkpoint(self.folder / "resume within one.ckpt")

    def on_train_epoch_end(self, run, module):
        if run.current_epoch == 1:
            run.save_checkpoint(self.folder / "resume an epoch.ckpt")


class Layered(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(
            [{"params": self.first.parameters(), "lr": 0.1}, {"params": self.last.parameters(), "lr": 0.4}]
        )


def use(callback: pl.Callback, what: str, folder: Path, *others: pl.Callback) -> None:
    """Uses a callback in a Trainer of its own."""
    pl.seed_everything(0)
    kind = Layered if getattr(callback, "groups", None) else Net
    module = kind(width=7 if what == "fit wider" else 4)
    if what in ("fit wider", "fit", "fit longer", "broken fit", "resume an epoch", "resume within one"):
        schedule = getattr(callback, "schedule", CONSTANT)
        epochs = 4 if what == "fit longer" else 3
        breaks = [Breaks()] if what == "broken fit" else []
        resume = {"ckpt_path": folder / f"{what}.ckpt", "weights_only": True} if what.startswith("resume") else {}
        run = trainer(callback, *others, *breaks, max_epochs=epochs, val_check_interval=0.5)
        with suppress(Broken):
            run.fit(module, planned(schedule.batch_size, largest=20), loader(16, examples=16), **resume)
    elif what == "validate":
        trainer(callback).validate(module, loader(16, examples=16), verbose=False)
    else:
        checkpoint = folder / "resume an epoch.ckpt" if what == "test a checkpoint" else None
        trainer(callback).test(module, loader(16), ckpt_path=checkpoint, weights_only=True, verbose=False)


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request, tmp_path_factory):
    """(how to make the callback, what a fresh one holds after each training, a folder with two checkpoints)."""
    folder = tmp_path_factory.mktemp("anew")

    def make():
        return SUBJECTS[request.param](folder)

    use(make(), "fit", folder, Saves(folder))
    fresh = {}
    for what in TRAININGS:
        callback = make()
        use(callback, what, folder)
        fresh[what] = held(callback)
    return make, fresh, folder


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(uses=st.lists(st.sampled_from(TRAININGS + OTHERS), min_size=2, max_size=5))
@example(uses=["fit longer", "fit", "test a checkpoint", "resume within one", "validate"])
@example(uses=["broken fit", "resume an epoch", "fit wider"])
def test_a_callback_used_again_holds_what_a_fresh_one_holds(subject, uses):
    make, fresh, folder = subject
    callback = make()
    before = held(callback)
    for what in uses:
        use(callback, what, folder)
        before = fresh[what] if what in TRAININGS else before
        assert held(callback) == before, what


def test_the_trainings_are_different_for_each_subject(subject):
    _, fresh, _ = subject
    assert fresh["fit"] != fresh["fit longer"]
    assert fresh["fit"] != fresh["broken fit"]
