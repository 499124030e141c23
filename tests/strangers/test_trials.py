"""B0: what cannot be measured is found before the first step, and no trial leaves a trace."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.ranks import as_torchrun, on_ranks
from tests.strangers.monitors import KINDS, Named, fit
from tests.strangers.projects import Project, data, network


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_measured_is_said_before_the_first_step(kind):
    project = Named()
    with pytest.raises(ValueError, match=r"batches: a dict is not \(input, target\).*give batch_loss=f"):
        fit(project, KINDS[kind](every_n_epochs=3), epochs=3)
    assert project.steps == 0


class Counted(TensorDataset):
    """Notes what is read of it."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.read = []

    def __getitem__(self, index):
        self.read.append(int(index))
        return super().__getitem__(index)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_from_a_loader_and_no_trace_is_left(kind):
    found = []
    for callbacks in ([], [KINDS[kind]()]):
        project = Project(
            network(
                lambda: nn.Linear(6, 5), lambda: nn.BatchNorm1d(5), lambda: nn.Dropout(0.3), lambda: nn.Linear(5, 3)
            )
        )
        project.pairs = Counted(*data())
        torch.manual_seed(0)
        fit(project, *callbacks, epochs=2)
        found.append((project.pairs.read, {k: v.clone() for k, v in project.state_dict().items()}, torch.rand(1)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(v, found[1][1][k]) for k, v in found[0][1].items())
    assert torch.equal(found[0][2], found[1][2])


class Stream(IterableDataset):
    """A stream that knows where it is, like a socket or a file that is read on."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        x, y = data()
        for _ in range(24):
            self.at += 1
            yield x[self.at % 23], y[self.at % 23]  # read once more it stands elsewhere


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1])
def test_streams_and_persistent_workers_go_on_undisturbed(kind, workers):
    class Streaming(Project):
        def train_dataloader(self):
            self.seen = []
            return DataLoader(Stream(), 8, num_workers=workers, persistent_workers=workers > 0)

        def training_step(self, batch, batch_idx):
            self.seen.append(batch[0].sum().item())
            return super().training_step(batch, batch_idx)

    watched, alone = Streaming(), Streaming()
    fit(watched, KINDS[kind](), epochs=2)
    fit(alone, epochs=2)
    assert watched.seen == alone.seen


class Failing(Project):
    """Its loss breaks, in a measurement and not in training, from the second epoch on."""

    def loss(self, output, target):
        if self.current_epoch == 1 and not self.training_now:
            raise RuntimeError("no more\nof this")
        return super().loss(output, target)

    training_now = False

    def training_step(self, batch, batch_idx):
        self.training_now = True
        try:
            return super().training_step(batch, batch_idx)
        finally:
            self.training_now = False


@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_that_fails_later_warns_and_goes_on_or_ends_it_if_asked(kind):
    watch, project = KINDS[kind](), Failing()
    with pytest.warns(UserWarning, match="epoch 2: not measured: RuntimeError: no more"):
        fit(project, watch, epochs=3)
    assert project.steps == 9
    bad, good = watch.history[1], watch.history[2]
    assert all(math.isnan(v) for k, v in bad.items() if k.startswith(watch.prefix) and "seconds" not in k)
    assert all(math.isfinite(v) for k, v in good.items() if k in bad and "stationarity" not in k)
    with pytest.raises(RuntimeError, match="no more"):
        fit(Failing(), KINDS[kind](on_error="raise"), epochs=3)


def failing_on_one(rank, world_size, kind, epoch):
    class OnOne(Failing):
        def loss(self, output, target):
            if rank == 1 and self.current_epoch == epoch and not self.training_now:
                raise RuntimeError("only here")
            return F.cross_entropy(output, target)

    as_torchrun(rank, world_size)
    project, watch = OnOne(examples=32), KINDS[kind]()
    run = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        precision="64-true",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    said = ""
    try:
        run.fit(project)
    except ValueError as error:
        said = str(error)
    return project.steps, said, [{k: v for k, v in row.items() if "seconds" not in k} for row in watch.history]


@pytest.mark.ddp
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_end_together_where_one_cannot_be_tried(kind):
    for steps, said, _ in on_ranks(2, failing_on_one, kind, 0):
        assert steps == 0
        assert "RuntimeError: only here" in said


@pytest.mark.ddp
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_go_on_together_where_one_fails_later(kind):
    (steps, _, first), (other, _, second) = on_ranks(2, failing_on_one, kind, 1)
    assert steps == other == 4
    assert [row.keys() for row in first] == [row.keys() for row in second]
    assert len(first) == 2
    assert all(math.isnan(v) for row in (first[1], second[1]) for k, v in row.items() if "/" in k)
