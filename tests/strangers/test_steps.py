"""Steps that Lightning takes, or does not: accumulated, averaged, skipped ones; counted as torch takes them."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from tests.strangers.test_steps_by_hand import AddsUp
from tests.strangers.tiny import Net, images, loader, planned, really, trainer
from three_factors.callbacks import NoiseScheduler
from three_factors.datamodules import Cosine, NoiseSchedule, Steps

FALLING = Cosine(0.1, 0.01, epochs=4)


def noise_of(batch_size, lr=FALLING, **options):
    return NoiseScheduler(NoiseSchedule(lr, batch_size), **options)


@pytest.mark.parametrize(
    ("module", "batches", "schedule", "options", "words"),
    [
        (AddsUp, lambda: planned(8), 8, {}, "accumulate_grad_batches: a step over 2 planned batches"),
        (AddsUp, lambda: loader(8), 8, {}, "batch_size: the loader's 16 cannot follow the schedule's 8"),
        (Net, lambda: planned(8), 8, {"accumulate_grad_batches": 2}, "accumulate_grad_batches: 2 multiplies S"),
        (Net, lambda: loader(8), 8, {"accumulate_grad_batches": 2}, "the loader's 16 cannot follow the schedule's 8"),
        (Net, lambda: loader(8), Steps((8, 16), (1,)), {}, "the loader's 8 cannot follow the schedule's 16"),
    ],
)
def test_what_would_multiply_or_change_s_is_refused_before_the_first_step(module, batches, schedule, options, words):
    with really() as real, pytest.raises(ValueError, match=words):
        trainer(noise_of(schedule), **options).fit(module(), batches())
    assert not real.steps


@pytest.mark.parametrize("handed", [True, False])
def test_a_scheduler_of_accumulation_is_refused_over_planned_batches(handed, tmp_path):
    noise = noise_of(16)
    run = trainer(noise, GradientAccumulationScheduler({0: 4}))
    with pytest.raises(ValueError, match=r"accumulate_grad_batches: GradientAccumulationScheduler\({0: 4}\) multi"):
        run.fit(Net(), planned(16)) if handed else run.fit(Net(), images())


def test_accumulated_batches_of_a_plain_loader_are_one_step():
    noise, seen = noise_of(16), []
    with really() as real:
        trainer(noise, Before(seen), accumulate_grad_batches=2).fit(Net(), loader(8))
    assert real.rates == pytest.approx([noise.schedule.lr(i / 3) for i in range(6)], rel=1e-12)
    assert noise.t_eta == pytest.approx(sum(real.rates), rel=1e-12)
    assert seen == pytest.approx(
        [rate for rate in real.rates for _ in range(2)], rel=1e-12
    )  # no rate is shown that is not used


def test_the_last_of_accumulated_batches_may_be_fewer_and_gets_eta_for_those():
    noise = noise_of(24)
    with really() as real:
        trainer(noise, accumulate_grad_batches=3, max_epochs=1).fit(Net(), loader(8, examples=36))
    n = noise.schedule.noise_ratio
    assert real.rates == pytest.approx([n(0) * 24, n(24 / 36) * 12], rel=1e-12)
    assert noise.state()["noise/batch_size"] == 12


def test_accumulation_may_follow_the_schedule_of_s():
    noise = noise_of(Steps((8, 24), (1,)), lr=0.1)
    with really() as real:
        trainer(noise, GradientAccumulationScheduler({1: 3})).fit(Net(), loader(8))
    assert real.rates == pytest.approx([0.1] * 8, rel=1e-12)
    assert noise.state()["noise/batch_size"] == 24


def test_batches_that_a_module_adds_up_unseen_are_refused():
    class Unseen(Net):
        every = 1

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            if batch_idx % 2:
                optimizer.step(closure=closure)
            else:
                closure()

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            if batch_idx % self.every == 0:
                optimizer.zero_grad()

    noise = noise_of(8, lr=0.1)
    trainer(noise).fit(Unseen(), loader(8))  # leaves every other batch out
    assert noise.t_eta == pytest.approx(0.1 * 6, rel=1e-12)
    module = Unseen()
    module.every = 2
    with really() as real, pytest.raises(ValueError, match="optimizer_zero_grad: it adds batches up unseen; say accu"):
        trainer(noise).fit(module, loader(8))
    assert not real.steps


class Before(pl.Callback):
    """Notes the learning rate at every batch's start, as LearningRateMonitor does."""

    def __init__(self, seen):
        self.seen = seen

    def on_train_batch_start(self, run, module, batch, batch_idx):
        self.seen.append(run.optimizers[0].param_groups[0]["lr"])


class Normed(Net):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


@pytest.mark.parametrize("make", [lambda: loader(16), lambda: planned(16)], ids=["plain", "planned"])
def test_the_pass_of_weight_averaging_counts_only_what_its_optimiser_does(make):
    noise, module = noise_of(16, lr=0.1), Normed()
    with really() as real:
        trainer(noise, StochasticWeightAveraging(0.05, swa_epoch_start=1), max_epochs=3).fit(module, make())
    assert len(module.batches) == 12
    assert len(real.steps) < 12
    assert set(real.rates) == {0.1}
    assert noise.t_eta == pytest.approx(0.1 * len(real.steps), rel=1e-12)
    assert noise.state()["noise/ratio"] == pytest.approx(0.1 / 16, rel=1e-12)


class Nothing(Net):
    """Leaves every other batch out, as people do with a loss that is not finite."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 2 else loss


def test_a_training_step_that_returns_nothing_is_no_step():
    noise = noise_of(8, lr=0.1)
    trainer(noise).fit(Nothing(), loader(8))
    assert noise.t_eta == pytest.approx(0.1 * 6, rel=1e-12)
    assert noise.steps == 6


class Quasi(Net):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=1.0, max_iter=2)


def test_an_optimiser_that_reads_eta_before_its_closure_gets_the_steps_own():
    noise = noise_of(16)
    with really() as real:
        trainer(noise).fit(Quasi(), loader(16))
    assert real.rates == pytest.approx([noise.schedule.lr(i / 3) for i in range(6)], rel=1e-12)
    assert noise.t_eta == pytest.approx(sum(real.rates), rel=1e-12)


class Draws(Net):
    def training_step(self, dataloader_iter):
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


def test_a_training_step_that_draws_its_own_batches_is_refused():
    with pytest.raises(ValueError, match="training_step: with dataloader_iter it draws batches itself"):
        trainer(noise_of(16)).fit(Draws(), loader(16))


def test_an_optimiser_without_a_learning_rate_is_refused():
    class Relative(torch.optim.Optimizer):
        """Chooses its rates itself."""

        def __init__(self, parameters):
            super().__init__(parameters, {"lr": None})

    class Own(Net):
        def configure_optimizers(self):
            return Relative(self.parameters())

    with pytest.raises(ValueError, match="optimizer: a parameter group has no learning rate to set"):
        trainer(noise_of(16)).fit(Own(), loader(16))


def test_a_training_without_an_optimiser_makes_no_steps():
    class Frozen(Net):
        def configure_optimizers(self):
            return None

    noise = noise_of(16)
    trainer(noise).fit(Frozen(), loader(16))
    assert (noise.t_eta, noise.steps, noise.state()["noise/ratio"]) == (0, 0, 0)
