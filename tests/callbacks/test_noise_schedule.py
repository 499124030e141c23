"""NoiseScheduler drives eta and S in anyone's project; epoch lengths, validation and progress follow."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from three_factors.callbacks import NoiseScheduler
from three_factors.datamodules import (
    Constant,
    Cosine,
    Cyclic,
    DigitsDataModule,
    NoiseSchedule,
    PlannedBatchSampler,
    Triangle,
    exchange,
)
from three_factors.lightning_modules import VGG11


class Watch(pl.Callback):
    """What really happened: (epoch, S, eta) of every step, totals the bar would show, validations."""

    def __init__(self):
        self.steps, self.totals, self.validations = [], [], 0

    def on_train_epoch_start(self, trainer, pl_module):
        self.totals.append(int(trainer.num_training_batches))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append((trainer.current_epoch, len(batch[1]), trainer.optimizers[0].param_groups[0]["lr"]))

    def on_validation_end(self, trainer, pl_module):
        self.validations += 1


class Plain(pl.LightningModule):
    """Somebody else's module, with two parameter groups and a plain DataLoader of its own."""

    def __init__(self, schedule):
        super().__init__()
        self.layer, self.schedule = torch.nn.Linear(4, 3), schedule
        self.dataset = TensorDataset(torch.randn(96, 4), torch.randint(0, 3, (96,)))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD([{"params": [self.layer.weight]}, {"params": [self.layer.bias]}], lr=1.0)

    def train_dataloader(self):
        sampler = PlannedBatchSampler(96, self.schedule.batch_size, epoch=self.trainer.current_epoch)
        return DataLoader(self.dataset, batch_sampler=sampler)


def trainer(*callbacks, **options):
    options = {"max_epochs": 4, "num_sanity_val_steps": 0, "logger": False} | options
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_epoch_lengths_totals_and_validations_are_right_in_both_cycle_orders(phase):
    schedule, watch = NoiseSchedule(0.01, Cyclic(high=160, low=32, period=2, phase=phase)), Watch()
    trainer(NoiseScheduler(schedule), watch).fit(VGG11(width=1 / 32), DigitsDataModule(train=320))
    lengths = [10, 2, 10, 2] if phase else [2, 10, 2, 10]
    assert [sum(e == epoch for e, *_ in watch.steps) for epoch in range(4)] == lengths
    assert watch.totals == lengths
    assert watch.validations == 4


def test_the_batch_size_follows_a_data_modules_schedule_without_any_callback():
    watch = Watch()
    data = DigitsDataModule(train=320, batch_size=Cyclic(high=160, low=32, period=2))
    trainer(watch).fit(VGG11(width=1 / 32, lr=0.01), data)
    assert watch.totals == [2, 10, 2, 10]


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule(0.05, Triangle(high=96, low=16, period=2)),
        exchange(NoiseSchedule(0.05, Triangle(high=96, low=16, period=2))),
        exchange(NoiseSchedule(Cosine(0.1, 0.0, epochs=4), 24)),
        NoiseSchedule(lambda t: 0.1 / (1 + t), lambda t: 16 + 8 * t),
    ],
)
def test_every_step_has_the_noise_ratio_of_its_start(schedule):
    watch = Watch()
    trainer(NoiseScheduler(schedule), watch).fit(VGG11(width=1 / 32), DigitsDataModule(train=256))
    consumed = 0
    for index, (epoch, size, lr) in enumerate(watch.steps):
        if index and watch.steps[index - 1][0] != epoch:
            consumed = 0
        assert lr / size == pytest.approx(schedule.noise_ratio(epoch + consumed / 256), rel=1e-12)
        consumed += size


def test_it_drives_somebody_elses_module_and_dataloader():
    schedule, watch = NoiseSchedule(Constant(0.1), Cyclic(high=48, low=12, period=2)), Watch()
    module, noise = Plain(schedule), NoiseScheduler(schedule)
    run = trainer(noise, watch)
    run.fit(module)
    assert watch.totals == [2, 8, 2, 8]
    assert [group["lr"] for group in run.optimizers[0].param_groups] == [pytest.approx(0.1)] * 2
    assert noise.t_eta == pytest.approx(0.1 * 20)


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "nan"), (-0.1, "-0.1"), (float("inf"), "inf")])
def test_a_learning_rate_that_no_step_can_have_is_named_before_the_step(value, words):
    schedule = NoiseSchedule(lambda t: 0.1 if t < 0.25 else value, 24)
    module, watch = PlainLoader(schedule), Watch()
    with pytest.raises(ValueError, match=f"^lr: {words} at t = 0.25$"):
        trainer(NoiseScheduler(schedule), watch).fit(module)
    assert [lr for *_, lr in watch.steps] == [pytest.approx(0.1)]
    assert module.layer.weight.isfinite().all()


def test_a_data_module_with_another_batch_size_is_refused_before_training():
    noise = NoiseScheduler(NoiseSchedule(0.1, 64))
    with pytest.raises(ValueError, match=r"batch_size: the data module's Constant\(value=32\)"):
        trainer(noise).fit(VGG11(width=1 / 32), DigitsDataModule(train=128, batch_size=32))


def test_the_steps_noise_is_logged_by_the_documented_names(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    noise = NoiseScheduler(NoiseSchedule(0.1, 32))
    trainer(noise, logger=logger, log_every_n_steps=2, max_epochs=1).fit(
        VGG11(width=1 / 32), DigitsDataModule(train=128)
    )
    header = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"noise/lr", "noise/batch_size", "noise/ratio", "noise/t_eta", "noise/epoch"} <= set(header)


def test_a_small_training_set_takes_the_schedules_batch_size_not_the_default():
    watch = Watch()
    trainer(NoiseScheduler(NoiseSchedule(0.1, 25)), watch, max_epochs=1).fit(
        VGG11(width=1 / 32), DigitsDataModule(train=100)
    )
    assert watch.totals == [4]


class PlainLoader(Plain):
    """The same with an ordinary DataLoader."""

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=24)


def test_an_ordinary_dataloader_is_driven_if_its_batch_size_is_the_schedules():
    schedule, watch = NoiseSchedule(Cosine(0.1, 0.0, epochs=4), 24), Watch()
    trainer(NoiseScheduler(schedule), watch).fit(PlainLoader(schedule))
    assert [lr for *_, lr in watch.steps] == pytest.approx([schedule.lr(i / 4) for i in range(16)])
    with pytest.raises(ValueError, match="batch_size: the loader's 24 cannot follow the schedule's 48"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, 48))).fit(PlainLoader(schedule))


def test_accumulated_gradients_are_refused():
    with pytest.raises(ValueError, match="accumulate_grad_batches: 4"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, 32)), accumulate_grad_batches=4).fit(
            VGG11(width=1 / 32), DigitsDataModule(train=128)
        )


def test_a_data_module_can_be_fitted_again_with_the_exchanged_schedule():
    data, schedule = DigitsDataModule(train=320), NoiseSchedule(0.1, Cyclic(high=160, low=32, period=2))
    for s in (schedule, exchange(schedule)):
        trainer(NoiseScheduler(s), max_epochs=1).fit(VGG11(width=1 / 32), data)
    assert data.batch_size is None


def test_t_eta_survives_a_checkpoint():
    noise = NoiseScheduler(NoiseSchedule(0.1, 32))
    noise.t_eta = 1.5
    other = NoiseScheduler(NoiseSchedule(0.1, 32))
    other.load_state_dict(noise.state_dict())
    assert other.t_eta == 1.5
