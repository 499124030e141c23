"""A plateau found within an epoch changes the next one; and it is found wherever the metric is logged."""

import pytest
import pytorch_lightning as pl
import torch

from tests.strangers.tiny import Net, images, loader, planned, really, trainer
from three_factors.callbacks import NoiseOnPlateau
from three_factors.datamodules import NoiseSchedule

LOSSES = [1.0, 2.0, 3.0, 0.5, 2.0, 2.0, 2.0, 2.0]  # of the validations, two an epoch


class Scripted(Net):
    """Logs given losses, one a validation, whatever they are."""

    def __init__(self):
        super().__init__()
        self.validations = 0

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log("scripted", LOSSES[self.validations])
        self.validations += 1

    def on_save_checkpoint(self, checkpoint):
        checkpoint["validations"] = self.validations

    def on_load_checkpoint(self, checkpoint):
        self.validations = checkpoint["validations"]


def plateau(change, **options):
    return NoiseOnPlateau(NoiseSchedule(0.1, 6), "scripted", change=change, factor=2, patience=0, **options)


def fit(callback, *others, epochs=4, module=None, **how):
    module = module or Scripted()
    with really() as real:
        trainer(callback, *others, max_epochs=epochs, val_check_interval=0.5).fit(
            module, planned(callback.schedule.batch_size, largest=24), loader(16, examples=16), **how
        )
    return [(epoch, len(examples), rate) for (epoch, _, examples), rate in zip(module.batches, real.rates)]


# by the losses: no improvement at validation 2, hence a half from epoch 1 on; none at 3, one at 4; none at 5 and 6
FACTORS = [1, 2, 4, 16]


@pytest.mark.parametrize("change", ["batch_size", "lr"])
def test_what_is_decided_within_an_epoch_holds_from_the_next_one_on(change):
    steps = fit(plateau(change))
    for epoch, factor in enumerate(FACTORS):
        ratios = {round(rate / size, 12) for at, size, rate in steps if at == epoch}
        assert ratios == {round(0.1 / 6 / factor, 12)}
        sizes = {size for at, size, _ in steps if at == epoch}
        assert sizes == ({min(24, 6 * factor)} if change == "batch_size" else {6})


class Saves(pl.Callback):
    """Saves after the validation in the middle of an epoch, which has decided on another setting."""

    def __init__(self, path):
        self.path = path

    def on_validation_end(self, run, module):
        if not run.sanity_checking and module.validations == 3 and self.path is not None:
            run.save_checkpoint(self.path)


@pytest.mark.parametrize("change", ["batch_size", "lr"])
def test_a_training_resumed_between_the_decision_and_its_epoch_keeps_both(change, tmp_path):
    path = tmp_path / "saved.ckpt"
    whole = fit(plateau(change), Saves(path))
    saved = torch.load(path, weights_only=True)["callbacks"]["NoiseOnPlateau"]
    assert (saved["reduction"], 1 / saved["share"]) == (2.0, 4.0)
    rest = fit(plateau(change), ckpt_path=path, weights_only=True)
    assert rest == [pytest.approx(step) for step in whole[-len(rest) :]]
    assert rest[0][0] == 1
    assert len(rest) == sum(epoch > 1 for epoch, *_ in whole) + sum(epoch == 1 for epoch, *_ in whole) // 2


def test_a_second_trainer_begins_with_the_schedule_that_was_given():
    callback = plateau("batch_size")
    first = fit(callback)
    assert callback.reduction == callback.pending > 1
    assert fit(callback) == first


class Measures(pl.Callback):
    """Logs at an epoch's end, as our monitors do."""

    def on_train_epoch_end(self, run, module):
        module.log("measured", LOSSES[2 * run.current_epoch])


@pytest.mark.parametrize("stop", [None, "broken"])
def test_a_metric_of_a_callback_before_it_is_judged_in_the_same_epoch(stop):
    class Breaks(pl.Callback):
        def on_train_epoch_start(self, run, module):
            if stop and run.current_epoch == 3:
                raise RuntimeError(stop)

    callback = NoiseOnPlateau(NoiseSchedule(0.1, 16), "measured", change="lr", factor=2, patience=0)
    before, after = Measures(), Breaks()
    run = trainer(before, callback, after, max_epochs=4)
    with really() as real:
        if stop:
            with pytest.raises(RuntimeError, match="broken"):
                run.fit(Net(), loader())
        else:
            run.fit(Net(), loader())
    wanted = [0.1 / factor for factor in (1, 1, 2, 4) for _ in range(3)]
    assert real.rates == pytest.approx(wanted[: len(real.rates)], rel=1e-12)
    assert run.callbacks == [before, callback, after]


SELDOM = [1.0, None, 1.0, None, 2.0, None, 2.0, None]  # by epochs; three times no better than before


@pytest.mark.parametrize(
    ("who", "factors"), [("before", [1, 1, 1, 2, 2, 4, 4, 8]), ("module", [1, 1, 1, 1, 2, 2, 4, 4])]
)
def test_a_metric_of_every_second_epoch_is_judged_as_often(who, factors):
    class Seldom(pl.Callback):
        def on_train_epoch_end(self, run, module):
            if who == "before" and SELDOM[run.current_epoch] is not None:
                module.log("measured", SELDOM[run.current_epoch])

    class Module(Net):
        def on_train_epoch_end(self):
            if who == "module" and SELDOM[self.current_epoch] is not None:
                self.log("measured", SELDOM[self.current_epoch])

    callback = NoiseOnPlateau(NoiseSchedule(0.1, 16), "measured", change="lr", factor=2, patience=0)
    with really() as real:
        trainer(Seldom(), callback, max_epochs=8).fit(Module(), loader())
    assert real.rates == pytest.approx([0.1 / factor for factor in factors for _ in range(3)], rel=1e-12)


def test_a_loader_that_keeps_its_batch_size_is_refused_before_the_first_step():
    with really() as real, pytest.raises(ValueError, match="change: a loader without an epoch plan keeps its S"):
        trainer(plateau("batch_size")).fit(Scripted(), loader(6))
    assert not real.steps


def test_our_data_modules_follow_a_plateau(tmp_path):
    class Flat(Scripted):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))

        def training_step(self, batch, batch_idx):
            self.batches.append((self.current_epoch, batch_idx, batch[1].tolist()))
            return self.loss(self(batch[0]), batch[1])

    module = Flat()
    run = trainer(plateau("batch_size"), max_epochs=4, val_check_interval=0.5)
    run.fit(module, images(max_batch_size=24))
    sizes = [{len(labels) for at, _, labels in module.batches if at == epoch} for epoch in range(4)]
    assert sizes == [{6}, {12}, {24}, {24}]
