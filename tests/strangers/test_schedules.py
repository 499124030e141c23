"""A schedule in somebody's own project: S and t of any loader, what is logged, what is refused in one line."""

import csv
import pickle

import pytest
import pytorch_lightning as pl
import torch

from tests.strangers.tiny import Net, dataset, loader, planned, really, trainer
from three_factors.callbacks import NoiseOnPlateau, NoiseScheduler
from three_factors.datamodules import Cosine, NoiseSchedule, PlannedBatchSampler, Steps

FALLING = Cosine(0.1, 0.01, epochs=4)


def noise_of(batch_size, lr=FALLING, **options):
    return NoiseScheduler(NoiseSchedule(lr, batch_size), **options)


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


@pytest.mark.parametrize(
    "make", [lambda: loader(16, shuffle=True), lambda: loader(20, shuffle=True), lambda: planned(16)]
)
def test_a_schedule_of_the_same_rate_leaves_a_training_as_it_is_to_the_bit(make):
    weights = []
    for callbacks in ([], [noise_of(20 if make().batch_size == 20 else 16, lr=0.3)]):
        pl.seed_everything(1)
        module = Net(lr=0.3)
        trainer(*callbacks, max_epochs=3, limit_train_batches=2).fit(module, make())
        weights.append([parameter.detach().clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights))


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


class Buckets(torch.utils.data.Sampler):
    """A stranger's batch sampler, whose batches are as long as its buckets."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __iter__(self):
        examples = iter(range(48))
        return iter([[next(examples) for _ in range(size)] for size in self.sizes])


def bucketed(*sizes):
    return torch.utils.data.DataLoader(dataset(), batch_sampler=Buckets(sizes))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_where_a_batch_sampler_has_sizes_of_its_own_eta_follows_them(accumulate):
    noise = NoiseScheduler(NoiseSchedule(0.1, 16 * accumulate))
    with really() as real:
        trainer(noise, max_epochs=1, accumulate_grad_batches=accumulate).fit(Net(), bucketed(16, 16, 12, 4))
    seen = [16, 16, 12, 4] if accumulate == 1 else [32, 16]
    assert real.rates == pytest.approx([0.1 / 16 / accumulate * size for size in seen], rel=1e-12)


@pytest.mark.parametrize(("schedule", "sizes"), [(32, (16, 16, 16)), (Cosine(32, 16, epochs=1), (32, 8, 8))])
def test_sizes_that_are_not_the_schedules_are_refused_at_the_first_batch_or_where_the_schedule_varies(schedule, sizes):
    with really() as real, pytest.raises(ValueError, match=r"batch_size: the loader's (16|8) cannot follow"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, schedule)), max_epochs=1).fit(Net(), bucketed(*sizes))
    assert len(real.steps) == (0 if schedule == 32 else 1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_noise_is_logged_at_the_steps_of_what_the_module_logs(accumulate, tmp_path):
    class Logs(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("train/loss", loss)
            return loss

    logger = pl.loggers.CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    options = {"log_every_n_steps": 2, "max_epochs": 4, "accumulate_grad_batches": accumulate}
    trainer(NoiseScheduler(NoiseSchedule(0.1, 16 * accumulate)), logger=logger, **options).fit(Logs(), loader(16))
    with open(tmp_path / "lightning_logs" / "version_0" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    steps = {name: [row["step"] for row in rows if row[name]] for name in ("train/loss", "noise/lr")}
    assert steps["noise/lr"] == steps["train/loss"] != []
