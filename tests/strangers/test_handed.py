"""Loaders that are handed to `trainer.fit` under a NoiseScheduler: resumed, changed, of kinds of their own."""

import json

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from tests.strangers.tiny import Net, Stream, loader, planned, really, trainer
from three_factors.callbacks import NoiseScheduler, ProgressFile
from three_factors.datamodules import Cosine, Cyclic, NoiseSchedule, PlannedBatchSampler

pytestmark = pytest.mark.filterwarnings("ignore:.*not resumable.*", "ignore:.*seems.*already.*")
VARYING, LR = Cyclic(high=16, low=8, period=2), Cosine(0.1, 0.01, epochs=3)  # epochs of 3, 6 and 3 batches


def noise_of(batch_size):
    return NoiseScheduler(NoiseSchedule(LR, batch_size))


@pytest.mark.parametrize("by", [{"max_epochs": 3}, {"max_steps": 12}], ids=["epochs", "steps"])
@pytest.mark.parametrize("step", [2, 3, 5, 9])
def test_from_any_steps_checkpoint_a_handed_loader_goes_on_with_the_batches_that_it_lacks(step, by, tmp_path):
    writer = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole, whole_noise, rest, noise = Net(), noise_of(VARYING), Net(), noise_of(VARYING)
    trainer(whole_noise, writer, enable_checkpointing=True, **by).fit(whole, planned(VARYING))
    trainer(noise, **by).fit(rest, planned(VARYING), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert len(whole.batches) == 12
    assert rest.batches == whole.batches[step:]
    assert noise.steps == 12
    assert noise.t_eta == pytest.approx(whole_noise.t_eta, rel=1e-12)


@pytest.mark.parametrize(("batch_size", "make"), [(VARYING, planned), (16, loader)])
def test_an_epoch_that_max_steps_has_cut_is_finished_with_a_handed_loader(batch_size, make, tmp_path):
    first, rest = Net(), Net()
    cut = trainer(noise_of(batch_size), max_steps=2)
    cut.fit(first, make(batch_size))
    cut.save_checkpoint(tmp_path / "cut.ckpt")
    trainer(noise_of(batch_size), max_epochs=3).fit(rest, make(batch_size), ckpt_path=tmp_path / "cut.ckpt")
    assert len(first.batches + rest.batches) == (12 if batch_size is VARYING else 9)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alone", "validated", "validated every second epoch", "no limit", "limited"])
@pytest.mark.parametrize(("make", "workers"), [(loader, 0), (planned, 0), (planned, 1)])
def test_after_an_epochs_last_batch_comes_the_next_epochs_first(how, make, workers, tmp_path):
    """Also where no validation is due, after which Lightning would ask for one more batch of the epoch that is over."""
    options = {
        "validated every second epoch": {"check_val_every_n_epoch": 2},
        "no limit": {"max_epochs": -1, "max_steps": 12},
        "limited": {"limit_train_batches": 2},
    }.get(how, {})
    ends = {"max_epochs": 3} | options
    last = 2 if how == "limited" else 3

    def fit(*callbacks, **where):
        net = Net()
        validation = loader(16) if "validated" in how else None
        trainer(noise_of(16), *callbacks, **ends).fit(net, make(16, num_workers=workers), validation, **where)
        return net.batches

    class Saves(pl.Callback):
        def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
            if run.global_step == last:
                run.save_checkpoint(tmp_path / "saved.ckpt")

    whole = fit(Saves())
    rest = fit(ckpt_path=tmp_path / "saved.ckpt")
    assert rest == whole[last:]
    assert [batch[:2] for batch in rest[:2]] == [(1, 0), (1, 1)]


class Twice(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)


class Bare(torch.optim.Optimizer):
    """Wraps an optimiser, as Lookahead does, and does not call torch's __init__."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.defaults, self.state = inner, inner.param_groups, {}, {}

    def step(self, closure=None):
        return self.inner.step(closure)


class With(Net):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def configure_optimizers(self):
        return self.make(torch.optim.SGD(self.parameters(), 1.0))


def test_a_step_that_calls_its_parents_step_is_one():
    noise = noise_of(16)
    trainer(noise, max_epochs=3).fit(With(lambda inner: Twice(inner.param_groups, 1.0)), loader(16))
    assert noise.steps == 9
    assert noise.t_eta == pytest.approx(sum(LR(step / 3) for step in range(9)), rel=1e-12)


def test_an_optimizer_that_cannot_tell_of_its_steps_is_refused_by_name():
    with pytest.raises(ValueError, match=r"optimizer: Bare cannot tell of its steps; call super\(\).__init__"):
        trainer(noise_of(16)).fit(With(Bare), loader(16))


def test_an_iterable_data_set_with_a_length_gives_n():
    class Counted(Stream):
        def __len__(self):
            return self.examples

    noise = noise_of(16)
    trainer(noise, max_epochs=3).fit(Net(), DataLoader(Counted(48), 16))
    assert noise.t_eta == pytest.approx(sum(LR(step / 3) for step in range(9)), rel=1e-12)


def test_a_second_fit_of_one_trainer_counts_its_own_steps():
    noise = noise_of(16)
    run = trainer(noise, max_epochs=1)
    run.fit(Net(), loader(16))
    run.fit_loop.max_epochs = 3
    with really() as real:
        run.fit(Net(), loader(16))
    assert noise.steps == len(real.steps) == 6
    assert noise.t_eta == pytest.approx(sum(real.rates), rel=1e-12)


def test_a_progress_file_of_epochs_without_a_length_ends_at_one(tmp_path):
    trainer(ProgressFile(tmp_path / "p"), max_epochs=2).fit(Net(), DataLoader(Stream(48), 16))
    row = json.loads((tmp_path / "p").read_text())
    assert (row["fraction"], row["epoch"], row["step"]) == (1.0, 2.0, 6)


def test_one_scheduler_in_a_training_within_a_training_is_refused():
    noise = noise_of(16)

    class Inner(pl.Callback):
        def on_train_start(self, outer, module):
            trainer(noise).fit(Net(), loader(16))

    with pytest.raises(ValueError, match="callbacks: a NoiseScheduler is in use by another Trainer; give each"):
        trainer(noise, Inner()).fit(Net(), loader(16))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"examples": 40}, {"batch_size": 8}, {"batch_size": Cyclic(high=24, low=16, period=2)}, {}]
)
def test_an_epoch_is_finished_with_the_plan_that_it_was_begun_with(change, tmp_path):
    """Else some examples are seen twice, others not at all, at another epoch progress than was said."""

    class Saves(pl.Callback):
        def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
            if run.global_step in (2, 3):
                run.save_checkpoint(tmp_path / f"{run.global_step}.ckpt")

    def fit(name=None, batch_size=16, examples=48, seed=0):
        net, noise = Net(), noise_of(batch_size)
        data = loader(1, examples).dataset
        sampler = PlannedBatchSampler(examples, batch_size, seed=seed)
        saved = {} if name is None else {"ckpt_path": tmp_path / name}
        trainer(noise, Saves()).fit(net, DataLoader(data, batch_sampler=sampler), **saved)
        return net.batches

    whole = fit()
    assert fit("3.ckpt", **change)  # between epochs anything may be changed
    if not change:
        assert fit("2.ckpt") == whole[2:]
        return
    with pytest.raises(
        ValueError, match="ckpt_path: it is of the middle of epoch 0, which the loader would have begun"
    ):
        fit("2.ckpt", **change)


@pytest.mark.parametrize("batch_size", [16, VARYING], ids=["constant", "varying"])
@pytest.mark.parametrize("how", [list, lambda loaders: dict(zip("ab", loaders)), CombinedLoader])
def test_a_planned_loader_among_others_is_refused_before_the_first_step(how, batch_size):
    with really() as real, pytest.raises(ValueError, match=r"train_dataloaders: 2, .* build it in train_dataloader"):
        trainer(noise_of(batch_size)).fit(Net(), how([planned(batch_size), loader(16)]))
    assert not real.steps
