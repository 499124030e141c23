"""Several learning rates under one schedule: their ratios are kept, or all get eta, as the user says; never unsaid."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning

from tests.strangers.tiny import Net, loader, really, trainer
from three_factors.callbacks import NoiseScheduler
from three_factors.datamodules import Cosine, NoiseSchedule

FALLING = Cosine(0.2, 0.0, epochs=2)
ETAS = [FALLING(i / 3) for i in range(6)]


def noise_of(groups):
    return NoiseScheduler(NoiseSchedule(FALLING, 16), groups=groups)


class Layered(Net):
    """Layer-wise learning rates, in one optimiser; with a warm-up that has lowered them before the first step."""

    def __init__(self, *, warm=False, last=0.1):
        super().__init__()
        self.warm, self.own = warm, last

    def configure_optimizers(self):
        groups = [{"params": self.first.parameters(), "lr": 0.001}, {"params": self.last.parameters(), "lr": self.own}]
        optimizer = torch.optim.SGD(groups)
        if not self.warm:
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def test_learning_rates_that_differ_are_refused_with_the_ways_out():
    with (
        really() as real,
        pytest.raises(ValueError, match=r"groups: .* 0.001, 0.1 differ; say groups='proportional' .* groups='same'"),
    ):
        trainer(noise_of(None)).fit(Layered(), loader())
    assert not real.steps


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("groups", "share"), [("proportional", 0.01), ("same", 1.0)])
def test_the_largest_rate_follows_the_schedule_and_the_others_as_it_was_said(groups, share, warm):
    noise = noise_of(groups)
    with really() as real:
        trainer(noise).fit(Layered(warm=warm), loader())
    assert [rates for _, rates in real.steps] == [pytest.approx([share * e, e], rel=1e-12) for e in ETAS]
    assert noise.t_eta == pytest.approx(sum(ETAS), rel=1e-12)


@pytest.mark.parametrize("where", [2, 5, "zero"])
def test_a_resumed_training_keeps_the_ratios_that_the_scaled_rates_no_longer_show(where, tmp_path):
    class Saves(pl.Callback):
        def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
            if run.global_step == (3 if where == "zero" else where):
                run.save_checkpoint(tmp_path / "saved.ckpt")

    def fit(*callbacks, **how):
        lr = (lambda t: 0.0 if 0.6 < t < 0.7 else FALLING(t)) if where == "zero" else FALLING
        noise = NoiseScheduler(NoiseSchedule(lr, 16), groups="proportional")
        with really() as real:
            trainer(noise, *callbacks).fit(Layered(), loader(), **how)
        return [rates for _, rates in real.steps]

    whole = fit(Saves())
    rest = fit(ckpt_path=tmp_path / "saved.ckpt", weights_only=True)
    assert rest == [pytest.approx(rates, rel=1e-12) for rates in whole[-len(rest) :]]
    assert len(rest) == 6 - (3 if where == "zero" else where)


class Unfreezes(BaseFinetuning):
    """Adds the first layer in epoch 1, at a tenth of what the optimiser has then."""

    def freeze_before_training(self, module):
        self.freeze(module.first)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.first, optimizer, initial_denom_lr=10)


class Later(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.last.parameters(), 0.5)


@pytest.mark.parametrize(("groups", "share"), [("proportional", 0.1), ("same", 1.0)])
def test_a_group_that_comes_later_follows_the_same_rule(groups, share):
    with really() as real:
        trainer(noise_of(groups), Unfreezes()).fit(Later(), loader())
    wanted = [[e] for e in ETAS[:3]] + [[e, share * e] for e in ETAS[3:]]
    assert [rates for _, rates in real.steps] == [pytest.approx(rates, rel=1e-12) for rates in wanted]


def test_a_group_that_comes_later_with_another_rate_is_refused_without_a_rule():
    with pytest.raises(ValueError, match=r"groups: the parameter groups' learning rates .* differ"):
        trainer(noise_of(None), Unfreezes()).fit(Later(), loader())


@pytest.mark.parametrize("groups", [None, "proportional"])
def test_a_group_that_comes_later_with_the_optimisers_default_is_as_one_from_the_beginning(groups):
    class Adds(Later):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.trainer.optimizers[0].add_param_group({"params": list(self.first.parameters())})

    with really() as real:
        trainer(noise_of(groups)).fit(Adds(), loader())
    assert [rates for _, rates in real.steps][3:] == [pytest.approx([e, e], rel=1e-12) for e in ETAS[3:]]


def test_another_optimiser_in_the_first_ones_place_is_driven_too():
    class Swaps(Net):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.trainer.optimizers = [torch.optim.SGD(self.parameters(), 7.0)]

    noise = noise_of(None)
    with really() as real:
        trainer(noise).fit(Swaps(), loader())
    assert real.rates == pytest.approx(ETAS, rel=1e-12)
    assert noise.t_eta == pytest.approx(sum(ETAS), rel=1e-12)


def test_a_learning_rate_that_is_a_tensor_stays_one():
    class Capturable(Net):
        def configure_optimizers(self):
            self.rate = torch.tensor(0.3, dtype=torch.float64)
            return torch.optim.Adam(self.parameters(), self.rate)

    module = Capturable()
    with really() as real:
        trainer(noise_of(None)).fit(module, loader())
    assert real.rates == pytest.approx(ETAS, rel=1e-12)
    assert module.trainer.optimizers[0].param_groups[0]["lr"] is module.rate


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="groups: 'equal' is neither 'proportional' nor 'same'"):
        noise_of("equal")
