"""KeepWeights keeps the weights that were evaluated, in the direction that was asked for, of this fit alone."""

import copy
import math
import re

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from three_factors.callbacks import KeepWeights

INPUTS = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS[:, 0] + INPUTS[:, 1] > 0).long()


class Classifier(pl.LightningModule):
    def __init__(self, batch_norm=False, values=None):
        super().__init__()
        torch.manual_seed(1)
        layers = [torch.nn.Linear(4, 8), *([torch.nn.BatchNorm1d(8)] if batch_norm else []), torch.nn.ReLU()]
        self.network = torch.nn.Sequential(*layers, torch.nn.Linear(8, 2))
        self.values, self.count = values, 0

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self.network(batch[0]), batch[1]), batch_size=len(batch[1]))

    def on_validation_epoch_end(self):
        if self.values is not None and self.values[self.count] is not None:
            self.log("val/given", self.values[self.count])
        self.count += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def loader(inputs=INPUTS):
    return DataLoader(TensorDataset(inputs, TARGETS[: len(inputs)]), batch_size=8)


def fit(module, *callbacks, ckpt_path=None, trainer=None, validation=..., **options):
    trainer = trainer or pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"max_epochs": 4, "num_sanity_val_steps": 0} | options,
    )
    trainer.fit(module, loader(), loader() if validation is ... else validation, ckpt_path=ckpt_path)
    return trainer


def loss_of(module, weights):
    held = copy.deepcopy(module)
    held.load_state_dict(weights)
    held.eval()
    with torch.no_grad():
        return float(F.cross_entropy(held.network(INPUTS), TARGETS))


class Behind(pl.Callback):
    """A stranger's average: it is put in before a validation's epoch, and out after it."""

    def on_validation_start(self, trainer, module):
        self.state = copy.deepcopy(module.state_dict())
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(0.5)

    def on_validation_end(self, trainer, module):
        module.load_state_dict(self.state)


AVERAGES = {
    "EMA": lambda: EMAWeightAveraging(decay=0.9),
    "mean of all": WeightAveraging,
    "SWA": lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2),
    "own": Behind,
    "none": pl.Callback,
}


@pytest.mark.parametrize("first", [True, False], ids=["kept first", "averaged first"])
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_what_is_kept_has_the_loss_that_was_recorded(average, first, batch_norm):
    keep = KeepWeights(
        best=True, best_of="val/loss", mode="min", loss_levels=(0.65, 0.5), loss_of="val/loss", initial=True
    )
    module = Classifier(batch_norm)
    callbacks = [keep, AVERAGES[average]()]
    fit(module, *(callbacks if first else callbacks[::-1]))
    assert {"initial", "best", "end", "loss 0.65"} <= set(keep.weights)
    for milestone, weights in keep.weights.items():
        if "val/loss" in keep.reached[milestone]:
            assert loss_of(module, weights) == pytest.approx(keep.reached[milestone]["val/loss"], abs=1e-6), milestone
    assert "val/loss" in keep.reached["best"]
    ended = module.state_dict()  # an average, where one is taken over
    assert all(torch.equal(keep.weights["end"][name], ended[name]) for name in ended)
    evaluated_last = loss_of(module, ended) == pytest.approx(keep._last["val/loss"], abs=1e-6)
    assert ("val/loss" in keep.reached["end"]) == evaluated_last


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.2, 0.9, 0.9, 0.1], 2),
        ("min", [0.2, 0.05, 0.05, 0.1], 2),
        ("max", [math.nan, 0.3, math.nan, 0.2], 2),
        ("min", [math.nan, 0.3, math.nan, 0.2], 4),
        ("max", [0.3, None, 0.9, None], 3),
    ],
)
def test_best_is_the_first_of_the_best_in_the_direction_asked_for(mode, values, best):
    keep = KeepWeights(best=True, best_of="val/given", mode=mode)
    fit(Classifier(values=values), keep)
    assert keep.reached["best"]["epoch"] == best
    assert keep.reached["best"]["val/given"] == pytest.approx(values[best - 1])


def test_a_direction_that_is_none_is_refused():
    with pytest.raises(ValueError, match="mode: 'lowest' is neither 'max' nor 'min'"):
        KeepWeights(best=True, mode="lowest")


def test_a_metric_of_other_weights_is_refused():
    keep = KeepWeights(best=True, best_of="train/loss", mode="min")  # of the step before
    with pytest.raises(ValueError, match=r"'train/loss' is logged before the validation, of other weights; .* val"):
        fit(Classifier(), keep)


@pytest.mark.parametrize("again", ["another Trainer", "the same Trainer"])
def test_a_second_fit_begins_anew(again):
    keep = KeepWeights(initial=True, best=True, best_of="val/given", loss_levels=(10.0,), loss_of="val/loss")
    first = Classifier(values=[9.0, 8.0, 7.0, 6.0])
    trainer = fit(first, keep)
    other = Classifier(values=[1.0, 2.0, 3.0, 4.0])
    with torch.no_grad():
        other.network[0].weight.mul_(2)
    start = copy.deepcopy(other.state_dict())
    if again == "the same Trainer":
        trainer.fit_loop.epoch_progress.reset()
        fit(other, trainer=trainer)
    else:
        fit(other, keep)
    assert torch.equal(keep.weights["initial"]["network.0.weight"], start["network.0.weight"])
    assert keep.reached["best"]["val/given"] == 4.0
    assert keep.reached["loss 10"]["epoch"] == 1


def test_a_resumed_fit_goes_on_with_what_was_kept(tmp_path):
    make = lambda: KeepWeights(initial=True, best=True, best_of="val/given")  # noqa: E731
    values = [0.1, 0.9, 0.2, 0.3]
    whole = make()
    fit(Classifier(values=values), whole)
    trainer = fit(Classifier(values=values), make(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = make()
    fit(Classifier(values=values[2:]), resumed, ckpt_path=tmp_path / "two.ckpt")
    for milestone in ("initial", "best", "end"):
        assert resumed.reached[milestone] == whole.reached[milestone]
        for name, value in whole.weights[milestone].items():
            assert torch.equal(resumed.weights[milestone][name], value)


def test_where_a_fit_goes_on_that_had_kept_nothing_its_start_is_said_with_its_epoch(tmp_path):
    trainer = fit(Classifier(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    keep = KeepWeights(initial=True)
    fit(Classifier(), keep, ckpt_path=tmp_path / "two.ckpt")
    assert keep.reached["initial"] == {"epoch": 2}


def test_two_in_one_trainer_have_names(tmp_path):
    make = lambda: (  # noqa: E731
        KeepWeights(best=True, best_of="val/given"),
        KeepWeights(best=True, best_of="val/loss", mode="min", name="loss"),
    )
    values = [0.9, 0.1, 0.2, 0.3]
    whole = make()
    fit(Classifier(values=values), *whole)
    trainer = fit(Classifier(values=values), *make(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = make()
    fit(Classifier(values=values[2:]), *resumed, ckpt_path=tmp_path / "two.ckpt")
    for one, other in zip(resumed, whole):
        assert one.reached == other.reached
    assert whole[0].reached["best"]["epoch"] == 1
    assert whole[1].reached["best"]["epoch"] > 1


def test_it_changes_no_weight():
    plain, kept = Classifier(), Classifier()
    fit(plain)
    fit(kept, KeepWeights(initial=True, best=True, best_of="val/loss", loss_levels=(0.1,), loss_of="val/loss"))
    for one, other in zip(plain.parameters(), kept.parameters()):
        assert torch.equal(one, other)


class Unvalidated(Classifier):
    validation_step = pl.LightningModule.validation_step


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize(
    ("module", "validation", "options", "why"),
    [
        (Classifier, None, {}, "without a validation loader"),
        (Unvalidated, loader, {}, "without a validation loader"),
        (Classifier, list, {}, "over a loader without a batch"),
        (Classifier, lambda: loader(INPUTS[:0]), {}, "over a loader without a batch"),
        (Classifier, loader, {"limit_val_batches": 0}, "with limit_val_batches=0"),
        (Classifier, loader, {"check_val_every_n_epoch": 5}, "with check_val_every_n_epoch=5 in max_epochs=4"),
    ],
)
@pytest.mark.parametrize(
    ("asked", "said"), [({"best": True}, "best=True"), ({"loss_levels": (0.1,)}, "loss_levels=(0.1,)")]
)
@pytest.mark.filterwarnings("ignore:.*(val_dataloader|validation_step|otal length).*")
def test_what_only_a_validation_reaches_is_refused_before_the_first_step_where_none_will_run(
    asked, said, module, validation, options, why, sanity
):
    module, validation = module(), validation and validation()
    start = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=f"^{re.escape(said)}: no validation runs {re.escape(why)}.*alone$"):
        fit(module, KeepWeights(**asked), validation=validation, num_sanity_val_steps=sanity, **options)
    assert all(torch.equal(value, start[name]) for name, value in module.state_dict().items())
    keep = KeepWeights(initial=True)  # which wants none
    fit(module, keep, validation=validation, **options)
    assert set(keep.weights) == {"initial", "end"}


@pytest.mark.parametrize(
    "options", [{"max_steps": 2, "max_epochs": -1}, {"check_val_every_n_epoch": 3, "max_steps": 4}]
)
def test_a_fit_that_ended_before_its_first_validation_says_so_and_has_kept_its_end(options):
    keep = KeepWeights(best=True, best_of="val/loss", mode="min")
    with pytest.raises(ValueError, match=r"^best=True: the fit ended before its first validation"):
        fit(Classifier(), keep, limit_train_batches=3, val_check_interval=1.0, **options)
    assert set(keep.weights) == {"end"}


class WithExtraState(Classifier):
    def get_extra_state(self):
        return {"vocabulary": 7}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize("options", [{"initial": True}, {"best": True, "best_of": "val/loss", "mode": "min"}])
def test_extra_state_beside_the_weights_is_left_out(options):
    keep = KeepWeights(**options)
    fit(WithExtraState(), keep, max_epochs=1)
    tensors = Classifier().state_dict().keys()
    assert keep.weights.keys() == {"end", "initial" if "initial" in options else "best"}
    assert all(state.keys() == tensors for state in keep.weights.values())
