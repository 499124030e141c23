"""Steps that a project takes by hand: each gets eta for the examples whose gradient it saw, and is counted."""

import pytest
import pytorch_lightning as pl
import torch

from tests.strangers.tiny import Net, loader, planned, really, trainer
from three_factors.callbacks import NoiseScheduler
from three_factors.datamodules import Cosine, NoiseSchedule

FALLING = Cosine(0.1, 0.01, epochs=4)


def noise_of(batch_size, lr=FALLING, **options):
    return NoiseScheduler(NoiseSchedule(lr, batch_size), **options)


class Saw(Net):
    """Notes before each batch which examples an optimiser's step would see, as the loop below decides it."""

    automatic_optimization = False

    def __init__(self, **options):
        super().__init__(**options)
        self.saw = []  # (t, examples) of every step

    def on_train_start(self):
        self.consumed, self.window = 0, []

    def seen(self, batch):
        """The batch's examples are in the gradient of the next step."""
        epoch, size = self.current_epoch, len(batch[1])
        self.window.append((epoch + self.consumed % 48 / 48, size))

    def stepped(self):
        self.saw.append((self.window[0][0], sum(size for _, size in self.window)))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.consumed += len(batch[1])


class Manual(Saw):
    """The plainest loop by hand."""

    raw = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=not self.raw)
        optimizer.zero_grad()
        self.window = []
        self.seen(batch)
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
        self.stepped()


class Raw(Manual):
    """The same, with torch's optimiser instead of Lightning's, so that Lightning counts no steps."""

    raw = True


class AddsUp(Saw):
    """Adds the gradients of two batches up."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.seen(batch)
        self.manual_backward(super().training_step(batch, batch_idx) / 2)
        if batch_idx % 2:
            optimizer.step()
            self.stepped()
            optimizer.zero_grad()
            self.window = []


class Skips(Saw):
    """Throws the gradient of every other batch away."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.window = []
        self.seen(batch)
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx % 2:
            optimizer.step()
            self.stepped()


class Twice(Saw):
    """Takes two steps with each batch."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            self.window = []
            self.seen(batch)
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()
            self.stepped()


class Scaled(Saw):
    """A gradient scaler of its own, which refuses the steps of the first two batches."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        if not hasattr(self, "scaler"):
            self.scaler = torch.amp.GradScaler("cpu")
        optimizer.zero_grad()
        self.window = []
        self.seen(batch)
        loss = super().training_step(batch, batch_idx)
        broken = self.current_epoch == 0 and batch_idx < 2
        self.scaler.scale(loss * (float("inf") if broken else 1)).backward()
        self.scaler.step(optimizer)
        self.scaler.update()
        if not broken:
            self.stepped()


class Overflows(Net):
    """Half precision whose scaler refuses the steps of two batches."""

    fused = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("inf") if self.trainer.current_epoch == 0 and batch_idx in (0, 2) else loss

    def configure_optimizers(self):
        if self.fused:
            return torch.optim.Adam(self.parameters(), self.lr, fused=True)
        return torch.optim.SGD(self.parameters(), self.lr)


class OverflowsFused(Overflows):
    """The same with an optimiser that is called all the same, and refuses itself."""

    fused = True


class OverflowsByHand(Overflows):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


@pytest.mark.parametrize("kind", [Overflows, OverflowsFused, OverflowsByHand])
@pytest.mark.parametrize("make", [lambda: loader(8), lambda: planned(8)], ids=["plain", "planned"])
def test_the_steps_that_a_gradient_scaler_refuses_are_none(kind, make):
    noise, module = noise_of(8), kind()
    half = pl.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    trainer(noise, plugins=[half]).fit(module, make())
    made = [i for i in range(12) if i not in (0, 2)]
    assert noise.t_eta == pytest.approx(sum(noise.schedule.lr(i / 6) for i in made), rel=1e-12)
    assert noise.steps == len(made)


@pytest.mark.parametrize("kind", [Manual, Raw, Skips, Twice, Scaled])
@pytest.mark.parametrize("make", [lambda: loader(8), lambda: planned(8)], ids=["plain", "planned"])
def test_whoever_steps_by_hand_gets_eta_for_what_each_step_saw(kind, make):
    noise, module = noise_of(8), kind()
    with really() as real:
        trainer(noise).fit(module, make())
    n = noise.schedule.noise_ratio
    assert len(real.rates) == len(module.saw) > 0
    assert real.rates == pytest.approx([n(t) * size for t, size in module.saw], rel=1e-12)
    assert {size for _, size in module.saw} == {8}
    assert noise.t_eta == pytest.approx(sum(real.rates), rel=1e-12)
    assert noise.steps == len(real.rates)


def test_gradients_added_up_by_hand_count_as_one_step():
    noise, module = noise_of(16), AddsUp()
    with really() as real:
        trainer(noise).fit(module, loader(8))
    assert [size for _, size in module.saw] == [16] * 6
    assert real.rates == pytest.approx([noise.schedule.lr(t) for t, _ in module.saw], rel=1e-12)
    assert noise.t_eta == pytest.approx(sum(real.rates), rel=1e-12)


class Adversaries(Saw):
    """Two optimisers: one steps with every batch, the other with every third, as generators do."""

    def configure_optimizers(self):
        return [torch.optim.SGD(self.first.parameters(), 0.01), torch.optim.SGD(self.last.parameters(), 0.04)]

    def training_step(self, batch, batch_idx):
        critic, generator = self.optimizers()
        for optimizer in (critic, generator) if batch_idx % 3 == 0 else (critic,):
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()


def test_two_optimisers_are_both_driven_and_t_eta_is_of_the_first():
    noise = noise_of(8, groups="proportional")
    module = Adversaries()
    with really() as real:
        trainer(noise).fit(module, loader(8))
    first, second = module.trainer.optimizers
    etas = [noise.schedule.lr(i / 6) for i in range(12)]
    assert [rates[0] for one, rates in real.steps if one is first] == pytest.approx([e / 4 for e in etas], rel=1e-12)
    assert [rates[0] for one, rates in real.steps if one is second] == pytest.approx(etas[::3], rel=1e-12)
    assert noise.t_eta == pytest.approx(sum(etas), rel=1e-12)
