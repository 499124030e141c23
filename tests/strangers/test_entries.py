"""Lightning's other entries: predict, and the search for a batch size."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader

from tests.strangers.tiny import images
from three_factors.callbacks import NoiseScheduler
from three_factors.datamodules import Cyclic, NoiseSchedule
from three_factors.lightning_modules import MLP, VGG11, ResNet56


def noise(batch_size=16, **options):
    options = {"eval_batch_size": 500, "batch_size": batch_size} | options
    return images(train=120, test=40, size=28, validation=20, **options)


class Steps(pl.Callback):
    def __init__(self):
        self.sizes, self.labels = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.sizes.append(len(batch[1]))
        self.labels.append(batch[1].tolist())


def trainer(tmp_path, *callbacks, **options):
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **{"max_epochs": 2} | options,
    )


# -- predict


def test_predict_gives_the_logits_of_the_test_images(tmp_path):
    module, data = MLP(hidden=(4,)), noise()
    logits = torch.cat(trainer(tmp_path).predict(module, data))
    torch.testing.assert_close(logits, module(data.splits["test"][0]).detach())


@pytest.mark.parametrize(
    ("module", "shape"),
    [(lambda: MLP(hidden=(4,)), (1, 28, 28)), (lambda: VGG11(width=1 / 64), (3, 32, 32)), (ResNet56, (3, 8, 8))],
    ids=["MLP", "VGG-11", "ResNet56"],
)
def test_predict_takes_images_without_labels(module, shape, tmp_path):
    module, images = module(), torch.randn(6, *shape)
    logits = torch.cat(trainer(tmp_path).predict(module, DataLoader(images, batch_size=4)))
    module.eval()
    with torch.no_grad():
        expected = [module(part) for part in images.split(4)]
    torch.testing.assert_close(logits, torch.cat(expected))


# -- BatchSizeFinder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "mode", "found", "how"),
    [
        ({"batch_size": 16}, "power", 100, "callback"),
        ({"batch_size": None}, "power", 100, "callback"),
        ({"batch_size": 7, "max_batch_size": 30}, "power", 30, "tuner"),
        ({"batch_size": 16}, "binsearch", 95, "tuner"),  # 5 % of margin
    ],
)
def test_a_batch_size_finder_ends_at_the_largest_batch_there_is(options, mode, found, how, tmp_path):
    data, steps, finder = noise(**options), Steps(), BatchSizeFinder(mode=mode, init_val=16)
    fitter = trainer(tmp_path, steps, *([finder] if how == "callback" else []))
    if how == "tuner":
        assert Tuner(fitter).scale_batch_size(MLP(hidden=(4,)), datamodule=data, mode=mode, init_val=16) == found
    fitter.fit(MLP(hidden=(4,)), data)
    assert data.batch_size == found
    assert set(steps.sizes) == {found}
    assert fitter.global_step == 2 * (100 // found)
    unsearched = Steps()
    trainer(tmp_path, unsearched).fit(MLP(hidden=(4,)), noise(**options | {"batch_size": found}))
    assert steps.labels == unsearched.labels
    data.batch_size = 1000  # the search is over: what is too large is refused again
    with pytest.raises(ValueError, match="batch_size: 1000 is larger than the training set of 100 examples"):
        trainer(tmp_path).fit(MLP(hidden=(4,)), data)


@pytest.mark.slow
def test_a_finder_that_is_left_over_does_not_search_in_a_test(tmp_path):
    data, finder = noise(), BatchSizeFinder(init_val=50)
    fitter, module = trainer(tmp_path, finder), MLP(hidden=(4,))
    fitter.fit(module, data)
    assert "test/loss" in fitter.test(module, data, verbose=False)[0]
    assert data.batch_size == 100


@pytest.mark.parametrize(
    ("data", "others", "says"),
    [
        (
            noise(Cyclic(high=24, low=8, period=2)),
            [],
            r"batch_size: Cyclic\(.*\) is a schedule, which a BatchSizeFinder",
        ),
        (noise(None), [NoiseScheduler(NoiseSchedule(0.1, 16))], "what a NoiseScheduler brings is a schedule"),
    ],
    ids=["schedule", "NoiseScheduler"],
)
def test_a_schedule_is_no_batch_size_to_be_found(data, others, says, tmp_path):
    steps = Steps()
    with pytest.raises(ValueError, match=says):
        trainer(tmp_path, BatchSizeFinder(), steps, *others).fit(MLP(hidden=(4,)), data)
    assert not steps.sizes
    assert not list(tmp_path.iterdir())


def test_a_search_in_a_resumed_training_is_refused_since_lightning_would_begin_at_epoch_0(tmp_path):
    fitter = trainer(tmp_path)
    fitter.fit(MLP(hidden=(4,)), noise())
    fitter.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="ckpt_path: a BatchSizeFinder loses what it brings"):
        trainer(tmp_path, BatchSizeFinder(), max_epochs=4).fit(MLP(hidden=(4,)), noise(), ckpt_path=tmp_path / "a.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_the_size_that_evaluation_goes_by_is_searched_under_its_own_name(method, tmp_path):
    data = noise()
    search = {"datamodule": data, "method": method, "max_val": 64, "init_val": 32}
    with pytest.raises(ValueError, match="give it batch_arg_name='eval_batch_size'"):
        Tuner(trainer(tmp_path)).scale_batch_size(MLP(hidden=(4,)), **search)
    found = Tuner(trainer(tmp_path)).scale_batch_size(MLP(hidden=(4,)), **search, batch_arg_name="eval_batch_size")
    assert found == data.eval_batch_size == 64
