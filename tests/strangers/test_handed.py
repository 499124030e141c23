"""Loaders that are handed to `trainer.fit` under a NoiseScheduler: resumed, changed, of kinds of their own."""

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import NoiseScheduler
from datamodules import Cosine, Cyclic, NoiseSchedule
from tests.strangers.tiny import Net, loader, planned, trainer

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
