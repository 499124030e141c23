"""NoiseOnPlateau follows torch's rule, in S or in eta, and through a checkpoint."""

import pytest
import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from three_factors.callbacks.plateau import NoiseOnPlateau
from three_factors.datamodules import DigitsDataModule, NoiseSchedule
from three_factors.lightning_modules import MLP

LOSSES = [1.0, 0.9, 0.95, 0.93, 0.92, 0.5, 0.6, 0.7, 0.8, 0.9]


class Scripted(MLP):
    """Logs a given validation loss, and notes what each epoch trained with."""

    def __init__(self):
        super().__init__(in_features=784, hidden=(8,), num_classes=10, lr=0.1)
        self.seen = []

    def on_validation_epoch_end(self):
        self.log("val/scripted", torch.tensor(LOSSES[self.current_epoch]))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx == 0:
            self.seen.append((len(batch[1]), self.optimizers().param_groups[0]["lr"]))


def fit(callback, module, epochs=10, data=DigitsDataModule, **options):
    data = data(gray=True, train=320, max_batch_size=160)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[callback],
    )
    trainer.fit(module, data, **options)
    return trainer


def torchs_own(factor, patience):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    rule, rates = ReduceLROnPlateau(optimizer, factor=1 / factor, patience=patience), []
    for loss in LOSSES:
        rates.append(optimizer.param_groups[0]["lr"])
        rule.step(loss)
    return rates


@pytest.mark.slow
@pytest.mark.parametrize("change", ["batch_size", "lr"])
def test_the_noise_falls_when_torchs_rule_would_lower_the_learning_rate(change):
    module = Scripted()
    schedule = NoiseSchedule(lr=0.1, batch_size=32)
    fit(NoiseOnPlateau(schedule, "val/scripted", change=change, factor=2, patience=1), module)
    wanted = [rate / 32 for rate in torchs_own(2, 1)]
    assert len(set(wanted)) == 3
    assert [lr / size for size, lr in module.seen] == pytest.approx(wanted, rel=1e-12)
    assert len({lr if change == "batch_size" else size for size, lr in module.seen[:8]}) == 1


def test_past_the_largest_batch_the_learning_rate_takes_over():
    module = Scripted()
    fit(NoiseOnPlateau(NoiseSchedule(0.1, 64), "val/scripted", factor=4, patience=1), module)
    assert module.seen[-1][0] == 160
    assert module.seen[-1][1] == pytest.approx(torchs_own(4, 1)[-1] / 64 * 160, rel=1e-12)


def test_a_resumed_training_goes_on_with_the_noise_it_had(tmp_path):
    whole, first, second = Scripted(), Scripted(), Scripted()
    schedule = NoiseSchedule(lr=0.1, batch_size=32)

    def plateau():
        return NoiseOnPlateau(schedule, "val/scripted", factor=2, patience=1)

    fit(plateau(), whole)
    fit(plateau(), first, epochs=6).save_checkpoint(tmp_path / "6.ckpt")
    fit(plateau(), second, ckpt_path=tmp_path / "6.ckpt", weights_only=False)
    assert first.seen + second.seen == whole.seen


class Unvalidated(Scripted):
    """No validation: the training step logs the metric."""

    def training_step(self, batch, batch_idx):
        self.log("scripted", LOSSES[self.current_epoch], on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


class WithoutValidation(DigitsDataModule):
    val_dataloader = None


@pytest.mark.parametrize("validated", [True, False])
def test_a_metric_of_the_training_step_counts_with_and_without_a_validation(validated):
    module = Unvalidated()
    kind = DigitsDataModule if validated else WithoutValidation
    fit(NoiseOnPlateau(NoiseSchedule(0.1, 32), "scripted", factor=2, patience=1), module, data=kind)
    assert [lr / size for size, lr in module.seen] == pytest.approx([r / 32 for r in torchs_own(2, 1)], rel=1e-12)


def test_a_metric_that_nobody_logs_is_named():
    with pytest.raises(ValueError, match=r"monitor: 'val/nothing' was not logged; .*val/scripted"):
        fit(NoiseOnPlateau(NoiseSchedule(0.1, 32), "val/nothing"), Scripted(), epochs=2)


@pytest.mark.parametrize(("field", "value"), [("factor", 1.0), ("change", "momentum")])
def test_bad_arguments_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        NoiseOnPlateau(NoiseSchedule(0.1, 32), "val/loss", **{field: value})
