"""A loader with an epoch plan follows the epochs wherever it comes from, or says in one line that it cannot."""

import pytest
import pytorch_lightning as pl
import torch

from tests.ranks import as_torchrun, on_ranks
from tests.strangers.tiny import Net, dataset, images, loader, planned, really, trainer
from three_factors.callbacks import NoiseScheduler
from three_factors.datamodules import (
    Cyclic,
    NoiseSchedule,
    PlannedBatchSampler,
    PlannedLoader,
    Triangle,
    plan_epoch,
    resumed_at,
)

VARYING = Cyclic(high=16, low=6, period=2)  # epochs of 3 and of 8 batches
WORKERS = {
    "alone": {},
    "two workers": {"num_workers": 2},
    "persistent": {"num_workers": 2, "persistent_workers": True},
}


def batches_of(schedule, epochs, examples=48, rank=0, ranks=1):
    """What the plans say: (epoch, batch, its examples)."""
    found = []
    for epoch in range(epochs):
        plan = plan_epoch(examples, schedule, epoch, world_size=ranks)
        found += [
            (epoch, index, tuple(plan.indices[plan.shard(index, rank, ranks)].tolist())) for index in range(len(plan))
        ]
    return found


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("schedule", [16, VARYING], ids=["constant", "varying"])
def test_a_loader_handed_to_fit_has_every_epochs_own_batches(schedule, workers):
    noise, module = NoiseScheduler(NoiseSchedule(0.1, schedule)), Net()
    with really() as real:
        trainer(noise, max_epochs=4).fit(module, planned(schedule, **WORKERS[workers]))
    assert module.batches == batches_of(schedule, 4)
    assert real.rates == pytest.approx([0.1] * len(module.batches), rel=1e-12)
    assert noise.t_eta == pytest.approx(sum(real.rates))


def test_a_sampler_in_the_place_of_single_indices_is_followed_too():
    class Whole(torch.utils.data.Dataset):
        def __getitem__(self, indices):
            return dataset()[indices]

    noise, module = NoiseScheduler(NoiseSchedule(0.1, VARYING)), Net()
    given = torch.utils.data.DataLoader(Whole(), sampler=PlannedBatchSampler(48, VARYING), batch_size=None)
    trainer(noise, max_epochs=3).fit(module, given)
    assert module.batches == batches_of(VARYING, 3)


def test_a_loader_alone_in_a_dictionary_is_followed_too():
    class Only(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["only"], batch_idx)

    noise, module = NoiseScheduler(NoiseSchedule(0.1, VARYING)), Only()
    trainer(noise, max_epochs=3).fit(module, {"only": planned(VARYING)})
    assert module.batches == batches_of(VARYING, 3)


@pytest.mark.parametrize("workers", WORKERS)
def test_epochs_of_one_length_need_no_callback(workers):
    module = Net()
    trainer(max_epochs=3).fit(module, planned(16, **WORKERS[workers]))
    assert module.batches == batches_of(16, 3)


@pytest.mark.parametrize("reload", [0, 1])
@pytest.mark.parametrize("workers", WORKERS)
def test_epochs_of_other_lengths_without_a_callback_are_refused_at_the_first_batch(workers, reload):
    module = Net()
    run = trainer(max_epochs=3, reload_dataloaders_every_n_epochs=reload)
    with pytest.raises(ValueError, match="epoch: 1 has 8 batches, Lightning counts on the 3 of 0; add a NoiseSched"):
        run.fit(module, planned(VARYING, **WORKERS[workers]))
    assert len(module.batches) == 3


@pytest.mark.parametrize("callbacks", [[], [16]])
def test_a_loader_in_memory_is_of_one_epoch(callbacks):
    inputs, targets, index = dataset().tensors
    given = PlannedLoader(inputs, torch.stack([targets, index], 1), plan_epoch(48, 16, 0))

    class Split(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0], batch[1][:, 0], batch[1][:, 1]), batch_idx)

    module = Split()
    noise = [NoiseScheduler(NoiseSchedule(0.1, size)) for size in callbacks]
    with pytest.raises(
        ValueError,
        match=r"epoch: (a Planned|the )?[lL]oader (has the batches )?of epoch 0 in epoch 1; build it in train",
    ):
        trainer(*noise).fit(module, given)
    assert module.batches == batches_of(16, 1)


class Builds(Net):
    """Makes its loader every epoch, by the README."""

    def __init__(self, schedule, **options):
        super().__init__()
        self.schedule, self.options = schedule, options

    def train_dataloader(self):
        epoch, start = self.trainer.current_epoch, resumed_at(self.trainer)
        return planned(self.schedule, epoch=epoch, start=start, **self.options)


class Forgets(Builds):
    """Makes it without saying for which epoch."""

    def train_dataloader(self):
        return planned(self.schedule, **self.options)


class Saves(pl.Callback):
    """Saves once, where it is told to."""

    def __init__(self, path, where):
        self.path, self.where = path, where

    def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
        if self.where == "within" and (run.current_epoch, batch_idx) == (1, 3):
            run.save_checkpoint(self.path)

    def on_train_epoch_end(self, run, module):
        if self.where == "at the end" and run.current_epoch == 1:
            run.save_checkpoint(self.path)


EPOCHS, STEPS = {"max_epochs": 4}, {"max_steps": 20}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "where", "limit"),
    [
        (kind, where, limit)
        for kind in ("handed", "built")
        for where in ("within", "at the end")
        for limit in (EPOCHS, STEPS)
    ]
    + [("handed to workers", "within", EPOCHS), ("handed to workers", "at the end", STEPS)]
    + [("built with workers", "within", STEPS), ("built with workers", "at the end", STEPS)],
)
def test_a_resumed_training_goes_on_with_the_batches_that_it_lacks(kind, where, limit, tmp_path):
    options = {"num_workers": 1} if "workers" in kind else {}

    def fit(*callbacks, **how):
        pl.seed_everything(0)
        noise = NoiseScheduler(NoiseSchedule(0.1, VARYING))
        module = Builds(VARYING, **options) if kind.startswith("built") else Net()
        given = None if kind.startswith("built") else planned(VARYING, **options)
        trainer(noise, *callbacks, **limit).fit(module, given, **how)
        return module, noise

    path = tmp_path / "saved.ckpt"
    whole, noise = fit(Saves(path, where))
    rest, again = fit(ckpt_path=path, weights_only=False)
    done = 3 + (4 if where == "within" else 8)
    assert rest.batches == whole.batches[done:]
    assert again.state() == pytest.approx(noise.state())
    for one, other in zip(whole.parameters(), rest.parameters()):
        assert torch.equal(one, other)


def test_workers_that_have_read_ahead_in_another_epoch_are_found_out(tmp_path):
    trainer(Saves(tmp_path / "saved.ckpt", "at the end")).fit(Builds(16, num_workers=2))
    with pytest.raises(ValueError, match="epoch: workers have read ahead in epoch 0, not 2; build it in train_datal"):
        trainer(max_epochs=4).fit(
            Net(), planned(16, num_workers=2), ckpt_path=tmp_path / "saved.ckpt", weights_only=False
        )


def test_a_resumed_loader_that_begins_with_the_epochs_first_batch_is_refused(tmp_path):
    schedule = NoiseSchedule(0.1, VARYING)
    trainer(NoiseScheduler(schedule), Saves(tmp_path / "saved.ckpt", "within")).fit(Builds(VARYING))

    class Starts(Builds):
        def train_dataloader(self):
            return planned(self.schedule, epoch=self.trainer.current_epoch)

    with pytest.raises(ValueError, match="start: the training goes on at batch 4, the loader began at 0; build it in"):
        trainer(NoiseScheduler(schedule)).fit(Starts(VARYING), ckpt_path=tmp_path / "saved.ckpt", weights_only=False)


@pytest.mark.parametrize("workers", ["alone", "persistent"])
def test_a_loader_can_be_handed_to_another_trainer(workers):
    noise, given = NoiseScheduler(NoiseSchedule(0.1, VARYING)), planned(VARYING, **WORKERS[workers])
    for _ in range(2):
        module = Net()
        trainer(noise, max_epochs=3).fit(module, given)
        assert module.batches == batches_of(VARYING, 3)
        assert noise.t_eta == pytest.approx(0.1 * len(module.batches))


def test_a_loader_that_was_built_for_no_epoch_is_brought_to_the_one_at_hand():
    module = Forgets(16)
    trainer(NoiseScheduler(NoiseSchedule(0.1, 16)), max_epochs=3).fit(module)
    assert module.batches == batches_of(16, 3)
    with pytest.raises(ValueError, match="epoch: 1 has 8 batches, Lightning counts on 3; build it in train_dataloader"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, VARYING))).fit(Forgets(VARYING))


def test_loaders_without_a_plan_are_not_made_anew_every_epoch():
    class Seeded(Net):
        def train_dataloader(self):
            return loader(16, shuffle=True, generator=torch.Generator().manual_seed(1))

    orders = []
    for callbacks in ([], [NoiseScheduler(NoiseSchedule(0.1, 16))]):
        module = Seeded(lr=0.1)
        trainer(*callbacks, max_epochs=3).fit(module)
        orders.append(module.batches)
    assert orders[0] == orders[1]


def test_a_loader_that_cannot_hear_of_the_epochs_is_refused():
    class Deaf:
        """A wrapper as samplers are often given."""

        def __init__(self, inner):
            self.inner, self.plan = inner, inner.plan

        def __iter__(self):
            return iter(self.inner)

        def __len__(self):
            return len(self.inner)

    deaf = Deaf(PlannedBatchSampler(48, 16))
    with pytest.raises(ValueError, match="epoch: the loader has the batches of epoch 0 in epoch 1; build it in train"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, 16))).fit(Net(), planned(16, sampler=deaf))


def test_a_loader_for_another_number_of_devices_is_refused():
    sampler = PlannedBatchSampler(48, 16, rank=0, world_size=2)
    with pytest.raises(ValueError, match="world_size: the loader is for 2 devices, not 1; say rank= and world_size="):
        trainer(NoiseScheduler(NoiseSchedule(0.1, 16))).fit(Net(), planned(16, sampler=sampler))


def test_a_sampler_in_a_loop_by_hand_may_go_anywhere():
    sampler = PlannedBatchSampler(48, VARYING)
    for epoch in (0, 3, 1, 1):
        sampler.set_epoch(epoch)
        assert len(sampler) == len(plan_epoch(48, VARYING, epoch))
        assert [len(batch) for batch in sampler] == plan_epoch(48, VARYING, epoch).sizes.tolist()


@pytest.mark.filterwarnings("ignore:PlannedBatchSampler")
@pytest.mark.parametrize("kind", ["ours", "handed", "built", "handed to workers"])
def test_overfitting_repeats_the_first_epochs_batches(kind, tmp_path):
    schedule = Triangle(high=24, low=6, period=4)
    noise = NoiseScheduler(NoiseSchedule(0.1, schedule))
    run = trainer(noise, max_epochs=3, overfit_batches=2)
    with really() as real:
        if kind == "ours":
            module = Labels()
            run.fit(module, images(augment=True))
            epochs = [[tuple(x) for e, x in module.seen if e == epoch] for epoch in range(3)]
        else:
            options = {"num_workers": 1} if "workers" in kind else {}
            module = Builds(schedule) if kind == "built" else Net()
            run.fit(module, None if kind == "built" else planned(schedule, **options))
            epochs = [[examples for e, _, examples in module.batches if e == epoch] for epoch in range(3)]
    assert len(epochs[0]) == 2
    assert epochs[0] == epochs[1] == epochs[2]
    sizes, done = [len(batch) for batch in epochs[0]], 0
    for epoch in range(3):
        done = 0
        for index, size in enumerate(sizes):
            n = noise.schedule.noise_ratio(epoch + done / 48)
            assert real.rates[2 * epoch + index] == pytest.approx(n * size, rel=1e-12)
            done += size


class Labels(Net):
    def __init__(self):
        super().__init__()
        self.first, self.seen = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)), []

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def on_train_batch_start(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch[0].sum((1, 2, 3)).tolist()))


def on_rank(rank, ranks, kind):
    as_torchrun(rank, ranks)
    noise, module = NoiseScheduler(NoiseSchedule(0.1, VARYING if kind == "handed" else 16)), Net()
    given = planned(VARYING) if kind == "handed" else loader(8, examples=48 if kind == "plain" else 37)
    run = trainer(
        noise,
        devices=ranks,
        strategy="ddp",
        max_epochs=3,
        use_distributed_sampler=kind != "handed",
        limit_train_batches=9,
    )
    with really() as real:
        run.fit(module, given)
    return module.batches, real.rates, noise.t_eta


def test_what_lightning_would_replace_a_sampler_by_is_not_tried():
    sampler = PlannedBatchSampler(48, 16)
    assert not hasattr(sampler, "batch_size")
    assert not hasattr(sampler, "drop_last")


@pytest.mark.ddp
def test_two_ranks_share_the_batches_of_a_loader_that_was_handed_to_both():
    found = on_ranks(2, on_rank, "handed")
    for rank, (batches, rates, t_eta) in enumerate(found):
        assert batches == batches_of(VARYING, 3, rank=rank, ranks=2)
        assert rates == pytest.approx([0.1] * len(batches), rel=1e-12)
        assert t_eta == pytest.approx(sum(rates))


@pytest.mark.ddp
@pytest.mark.parametrize(("kind", "sizes"), [("plain", [16] * 9), ("with a rest", [16, 16, 6] * 3)])
def test_two_ranks_of_a_plain_loader_get_eta_for_both_their_examples(kind, sizes):
    for _, rates, t_eta in on_ranks(2, on_rank, kind):
        assert rates == pytest.approx([0.1 / 16 * size for size in sizes], rel=1e-12)
        assert t_eta == pytest.approx(sum(rates))
