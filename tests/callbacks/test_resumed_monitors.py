"""A monitor in a training that was interrupted measures what it would have measured without the interruption."""

import math
import warnings

import pytest
import pytorch_lightning as pl
import torch

from tests.strangers.tiny import Net, loader, planned, trainer
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor, NoiseScheduler, drawn
from three_factors.datamodules import NoiseSchedule

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*not resumable.*", "ignore:.*fewer than.*", "ignore:.*batch norm.*"),
]


def of_triples(module, batch):
    return module.loss(module(batch[0]), batch[1])


KINDS = {
    "hessian": lambda: HessianMonitor(batch_loss=of_triples, measures=("trace",), examples=20, batch_size=8),
    "noise": lambda: GradientNoiseMonitor(batch_loss=of_triples, batches=5),
    "noise of every second epoch": lambda: GradientNoiseMonitor(batch_loss=of_triples, batches=5, every_n_epochs=2),
    "line": lambda: InterpolationMonitor(batch_loss=of_triples, alphas=[0, 1], examples=20, batch_size=8),
}


def fit(kind, *callbacks, **where):
    torch.manual_seed(0)
    watch, noise = KINDS[kind](), NoiseScheduler(NoiseSchedule(0.1, 8))
    trainer(noise, watch, *callbacks, max_epochs=3).fit(Net(), planned(8), **where)
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in watch.history]
    return [{k: "nan" if math.isnan(v) else v for k, v in row.items()} for row in rows]


class Saves(pl.Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, run, *rest):
        if run.global_step == self.step:
            run.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [1, 2, 4, 6, 8, 13])  # of 6 an epoch
@pytest.mark.parametrize("kind", KINDS)
def test_it_measures_on_the_same_examples(kind, step, tmp_path):
    path = tmp_path / "a.ckpt"
    whole = fit(kind, Saves(path, step))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*resumed.*")
        rest = fit(kind, ckpt_path=path, weights_only=True)
    assert rest == whole


@pytest.mark.parametrize(
    ("step", "said"), [(2, "measures on the examples that are left of it"), (6, "left of it"), (8, "other examples")]
)
def test_where_they_are_too_many_for_a_checkpoint_it_says_so(step, said, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "STORED", 100)
    path = tmp_path / "a.ckpt"
    fit("hessian", Saves(path, step))
    with pytest.warns(UserWarning, match=rf"HessianMonitor: .* resumed.*{said}.*give batches="):
        fit("hessian", ckpt_path=path, weights_only=True)


def test_what_is_given_is_not_stored(tmp_path):
    def given():
        watch = HessianMonitor(batch_loss=of_triples, measures=("trace",), batches=list(loader(8)))
        trainer(watch, max_epochs=1).fit(Net(), loader(8))
        return watch.state_dict()

    assert given().keys() == {"history"}
