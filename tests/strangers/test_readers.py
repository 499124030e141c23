"""What goes by a monitor's values: a checkpoint, a stop, a learning-rate schedule, each seeing every value once."""

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from tests.strangers.tiny import Net, loader, really, trainer
from three_factors.callbacks import HessianMonitor, NoiseOnPlateau
from three_factors.datamodules import NoiseSchedule

VALUE = "hessian/trace"


def hessian(every=1):
    loss = {"batch_loss": lambda module, batch: module.loss(module(batch[0]), batch[1])}
    return HessianMonitor(every_n_epochs=every, measures=("trace",), examples=8, batch_size=8, **loss)


class Stepped(Net):
    def __init__(self, **config):
        super().__init__()
        self.config = config

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        rule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rule, "monitor": VALUE} | self.config}


class Reads(ModelCheckpoint):
    def __init__(self, folder, **options):
        super().__init__(folder, monitor=VALUE, save_top_k=-1, **options)
        self.read = []

    def _save_topk_checkpoint(self, trainer, monitor_candidates):
        self.read.append((trainer.current_epoch + 1, float(monitor_candidates[VALUE])))
        super()._save_topk_checkpoint(trainer, monitor_candidates)


def fit(*callbacks, module=None, validated=False, **options):
    saves = any(isinstance(one, ModelCheckpoint) for one in callbacks)
    options = {"max_epochs": 4, "enable_checkpointing": saves} | options
    trainer(*callbacks, **options).fit(module or Net(), loader(), loader() if validated else None)


@pytest.mark.parametrize(
    ("every", "validated", "options", "way_out"),
    [
        (2, False, {}, r"every second training epoch; give it every_n_epochs=2, or a multiple"),
        (2, False, {"every_n_epochs": 3}, r"every second training epoch; give it every_n_epochs=2"),
        (1, False, {"every_n_train_steps": 5}, r"every training epoch; give it every_n_epochs=1"),
        (1, True, {"save_on_train_epoch_end": False}, r"after the validation; give it save_on_train_epoch_end=True"),
        (
            4,
            True,
            {"every_n_epochs": 4, "save_on_train_epoch_end": False},
            r"every 4th training epoch, after the validation; give it save_on",
        ),
    ],
)
def test_a_checkpoint_that_would_see_an_old_value_or_none_is_refused(every, validated, options, way_out, tmp_path):
    with really() as real, pytest.raises(ValueError, match=f"Reads: HessianMonitor logs 'hessian/trace' .*{way_out}"):
        fit(Reads(tmp_path, **options), hessian(every), validated=validated)
    assert not real.steps


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("validated", [False, True])
def test_as_it_is_told_to_a_checkpoint_sees_each_value_once(every, validated, tmp_path):
    watch = hessian(every)
    reads = Reads(tmp_path, every_n_epochs=every)
    fit(reads, watch, validated=validated)
    assert reads.read == [(row["epoch"], pytest.approx(row[VALUE], rel=1e-6)) for row in watch.history]
    assert len(reads.read) == 4 // every


@pytest.mark.parametrize(
    ("every", "last", "options", "way_out"),
    [
        (2, True, {}, "it looks after each, measure with every_n_epochs=1"),
        (1, True, {"check_on_train_epoch_end": False}, "give it check_on_train_epoch_end=True"),
        (1, False, {}, "put it behind the monitor in callbacks="),
    ],
)
def test_a_stop_that_would_see_an_old_value_or_none_is_refused(every, last, options, way_out):
    stop, watch = EarlyStopping(VALUE, **options), hessian(every)
    with really() as real, pytest.raises(ValueError, match=rf"EarlyStopping: HessianMonitor logs .*{way_out}"):
        fit(*([watch, stop] if last else [stop, watch]), validated=True)
    assert not real.steps
    fit(hessian(), EarlyStopping(VALUE), validated=True, max_epochs=2)  # as it is told to


@pytest.mark.parametrize("config", [{}, {"interval": "step"}, {"frequency": 3}])
def test_a_plateau_that_would_see_an_old_value_or_none_is_refused(config):
    with (
        really() as real,
        pytest.raises(ValueError, match=r'ReduceLROnPlateau: .* give it "interval": "epoch" and "frequency": 2'),
    ):
        fit(hessian(2), module=Stepped(**config))
    assert not real.steps
    fit(hessian(2), module=Stepped(frequency=2))


def test_noise_on_plateau_waits_for_a_monitor_that_measures_seldom():
    noise = NoiseOnPlateau(NoiseSchedule(0.1, 16), VALUE, change="lr", patience=0, threshold=10, threshold_mode="abs")
    fit(hessian(3), noise, max_epochs=7)
    assert noise.reduction == 2  # judged after epochs 3 and 6, and not better by 10


def test_who_reads_something_else_is_none_of_a_monitors_business(tmp_path):
    readers = ModelCheckpoint(tmp_path, monitor="val/loss"), EarlyStopping("val/loss")
    fit(*readers, hessian(2), validated=True, max_epochs=2)
