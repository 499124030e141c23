"""A schedule in somebody's own loop: eta/S = n(t) for the examples that a step really saw, or a refusal in one line."""

import pickle

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from callbacks import NoiseOnPlateau, NoiseScheduler
from datamodules import Cosine, NoiseSchedule, PlannedBatchSampler, Steps
from tests.strangers.tiny import Net, images, loader, planned, really, trainer

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
        run.fit(Net(), planned(16)) if handed else run.fit(Net(), images(tmp_path))


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


@pytest.mark.parametrize("limit", [1.0, 0.5, 8])
def test_a_last_batch_that_is_smaller_gets_eta_for_its_examples(limit):
    noise, module = noise_of(16), Net()
    with really() as real:
        trainer(noise, limit_train_batches=limit).fit(module, loader(16, examples=241))
    n, sizes = noise.schedule.noise_ratio, [len(examples) for *_, examples in module.batches]
    assert sizes[: len(sizes) // 2] == [16] * 15 + [1] if limit == 1.0 else [16] * 8
    starts = [epoch + 16 * index / 241 for epoch, index, _ in module.batches]
    assert real.rates == pytest.approx([n(t) * size for t, size in zip(starts, sizes)], rel=1e-12)
    assert noise.t_eta == pytest.approx(sum(real.rates), rel=1e-12)


@pytest.mark.parametrize("limit", [2, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["plain", "planned", "own"])
def test_a_limit_moves_t_alike_for_every_loader(kind, limit):
    noise = noise_of(12)
    with really() as real:
        run = trainer(noise, limit_train_batches=limit)
        if kind == "own":
            run.fit(Owner(list(loader(12))))
        else:
            run.fit(Net(), loader(12) if kind == "plain" else planned(12))
    made = 4 if limit == 1.0 else 2
    starts = [epoch + index / 4 for epoch in range(2) for index in range(made)]
    assert real.rates == pytest.approx([noise.schedule.lr(t) for t in starts], rel=1e-12)


class Owner(Net):
    """Has a loader of a kind that Lightning knows nothing of, but for its length."""

    def __init__(self, batches):
        super().__init__()
        self.own = batches

    def train_dataloader(self):
        return Iterated(self.own)


class Iterated:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def test_a_loader_of_a_batch_size_that_it_does_not_keep_is_refused():
    class Dropping:
        """A collation that leaves broken examples out."""

        def __call__(self, rows):
            return torch.utils.data.default_collate([row for row in rows if row[2] != 20])

    with pytest.raises(ValueError, match="batch_size: the loader's 7 cannot follow the schedule's 8"):
        trainer(noise_of(8)).fit(Net(), loader(8, collate_fn=Dropping()))


def test_examples_that_are_not_in_the_first_place_of_a_tensor_need_a_size():
    batches = [tuple(part.T if part.dim() > 1 else part for part in batch) for batch in loader(16)]

    class Turned(Owner):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0].T, *batch[1:]), batch_idx)

    with pytest.raises(ValueError, match="batch_size: the loader's 4 cannot follow the schedule's 16"):
        trainer(noise_of(16)).fit(Turned(batches))
    noise = noise_of(16, size=lambda batch: len(batch[1]))
    trainer(noise).fit(Turned(batches))
    assert noise.state()["noise/batch_size"] == 16


@pytest.mark.parametrize("first", [NoiseScheduler, None])
def test_a_second_schedule_in_one_trainer_is_refused(first):
    plateau = NoiseOnPlateau(NoiseSchedule(0.1, 16), "val/loss")
    pair = [noise_of(16), plateau] if first else [plateau, noise_of(16)]
    with pytest.raises(ValueError, match=r"callbacks: Noise.* and Noise.*; one Trainer follows one schedule"):
        trainer(*pair).fit(Net(), loader(16))


def test_every_logger_gets_the_noise(tmp_path):
    loggers = [pl.loggers.CSVLogger(tmp_path, name=name) for name in ("a", "b")]
    trainer(noise_of(16), logger=loggers, log_every_n_steps=1).fit(Net(), loader(16))
    for logger in loggers:
        text = (tmp_path / logger.name / "version_0" / "metrics.csv").read_text()
        assert "noise/t_eta" in text.splitlines()[0]


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_monitor_of_the_learning_rate_sees_rates_that_are_used(place, tmp_path):
    monitor, noise = pl.callbacks.LearningRateMonitor("step"), noise_of(16)
    callbacks = [monitor, noise] if place == "before" else [noise, monitor]
    logger = pl.loggers.CSVLogger(tmp_path)
    run = trainer(*callbacks, logger=logger, log_every_n_steps=1, enable_checkpointing=True)
    with really() as real:
        run.fit(Net(lr=5.0), loader(16))
    assert monitor.lrs["lr-SGD"] == pytest.approx(real.rates, rel=1e-12)
    assert isinstance(run.callbacks[-1], pl.callbacks.Checkpoint)
    assert [type(one) for one in run.callbacks].count(NoiseScheduler) == 1


@pytest.mark.parametrize("make", [lambda: loader(16), lambda: planned(16)], ids=["plain", "planned"])
def test_the_rate_at_an_epochs_start_is_that_of_its_first_step(make, tmp_path):
    monitor, noise = pl.callbacks.LearningRateMonitor("epoch"), noise_of(16)
    with really() as real:
        trainer(monitor, noise, logger=pl.loggers.CSVLogger(tmp_path)).fit(Net(lr=5.0), make())
    assert monitor.lrs["lr-SGD"] == pytest.approx(real.rates[::3], rel=1e-12)


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


@pytest.mark.parametrize("make", [lambda: loader(16), lambda: planned(16)], ids=["plain", "planned"])
def test_nothing_of_a_training_is_held_afterwards(make):
    noise = noise_of(16)
    trainer(noise).fit(Net(), make())
    copy = pickle.loads(pickle.dumps(noise))
    assert copy.state_dict() == noise.state_dict()
    assert noise.t_eta > 0


def test_the_size_is_that_of_the_first_tensor_wherever_it_is():
    class Named(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["fields"], batch_idx)

    batches = [{"names": ["a"] * 16, "scale": torch.tensor(2.0), "fields": batch} for batch in loader(16)]
    noise = noise_of(16)
    trainer(noise).fit(Named(), Iterated(batches))
    assert noise.state()["noise/batch_size"] == 16


def test_a_batch_that_is_no_tensor_needs_a_size():
    class Graph:
        def __init__(self, batch):
            self.batch = batch

    class Graphs(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch.batch, batch_idx)

    batches = Iterated([Graph(batch) for batch in loader(16)])
    with pytest.raises(ValueError, match=r"size: no tensor in a Graph; say size=f\(batch\)"):
        trainer(noise_of(16)).fit(Graphs(), batches)
    trainer(noise_of(16, size=lambda graph: len(graph.batch[1]))).fit(Graphs(), batches)


def test_the_samplers_of_a_schedule_can_be_sent_to_other_processes():
    sampler = PlannedBatchSampler(48, Steps((16, 8), (1,)), seed=3)
    copy = pickle.loads(pickle.dumps(sampler))
    for epoch in range(2):
        for one in (sampler, copy):
            one.set_epoch(epoch)
        assert list(copy) == list(sampler)
