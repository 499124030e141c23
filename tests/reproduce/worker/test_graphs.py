"""What a CUDA graph asks of a step, without a GPU: a stand-in repeats the step, and says if anything has moved."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.reproduce.worker.test_pack import HARD, NORMED, PACKS, alone, together
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Steps, Triangle
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import VGG11Network
from three_factors.reproduce.engine.contract.noise import HalfBatchNoise
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Evaluations, Keep, RunSpec
from three_factors.reproduce.engine.worker import graphs
from three_factors.reproduce.engine.worker import train as training
from three_factors.reproduce.engine.worker.graphed import GraphedSteps, why_not
from three_factors.reproduce.engine.worker.graphs import Repeated
from three_factors.reproduce.engine.worker.stacked_steps import StackedSteps
from three_factors.reproduce.engine.worker.train import build_module, build_trainer


class StandIn:
    """Makes the steps that it was given, where all that they read and write is at its place still."""

    def __init__(self, step, size, count, places=lambda: ()):
        self.step, self.size, self.count, self.places = step, size, count, places
        self.captured = list(places())

    def replay(self):
        assert list(self.places()) == self.captured
        for _ in range(self.count):
            self.step(self.size)


class Counter:
    """A training whose step draws on everything that a graph must not lose: weights, a velocity, a count."""

    def __init__(self):
        self.weights, self.count = torch.ones(3), torch.zeros(1, dtype=torch.int64)
        self.sizes = []

    def step(self, size):
        self.sizes.append(size)
        self.count.add_(1)
        self.weights.mul_(1 + self.count / size)

    def written(self):
        return self.weights, self.count


@pytest.fixture
def recorded(monkeypatch):
    """Graphs that were captured, (S, steps)."""
    made = []

    def record(step, size, count, pool):
        made.append((size, count))
        return StandIn(step, size, count)

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "aside", lambda work: work())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    return made


SIZES = [4] * 19 + [6] * 8 + [4] * 2


def test_steps_of_graphs_are_those_of_the_host_and_trials_leave_nothing(recorded):
    ours, theirs = Counter(), Counter()
    Repeated(ours.step, ours.written, graphs=True).run(SIZES)
    Repeated(theirs.step, theirs.written, graphs=False).run(SIZES)
    assert torch.equal(ours.weights, theirs.weights)
    assert torch.equal(ours.count, theirs.count)
    assert theirs.sizes == SIZES
    assert len(ours.sizes) == len(SIZES) + 2 * graphs.TRIALS
    assert recorded == [(4, 8), (4, 1), (6, 8)]


def test_what_has_moved_is_captured_again(recorded):
    ours = Counter()
    repeated = Repeated(ours.step, ours.written, graphs=True)
    repeated.run([4] * 8)
    repeated.run([4] * 8)
    assert recorded == [(4, 8)]
    repeated.forget()
    repeated.run([4] * 8)
    assert recorded == [(4, 8)] * 2


def test_too_many_sizes_are_the_hosts_and_it_says_so_once(recorded):
    ours, said = Counter(), []
    repeated = Repeated(ours.step, ours.written, graphs=True, say=said.append)
    for _ in range(2):
        repeated.plan(range(1, 20))
        repeated.run(range(1, 20))
    assert ours.sizes == [*range(1, 20)] * 2
    assert recorded == []
    assert len(said) == 1
    assert "19 batch sizes" in said[0]


# -- a stack's steps as graphs

SWINGING = [replace(NORMED, seed=seed, schedule=NoiseSchedule(0.1, Cyclic(64, 16, 2))) for seed in range(2)]
SWEEPING = [replace(NORMED, seed=seed, schedule=NoiseSchedule(0.1, Triangle(64, 8, 2))) for seed in range(2)]
SEVERAL = {
    name: PACKS[name]
    for name in ("momentum", "ghost batches", "projections and none", "Gaussian noise", "stops", "epochs")
} | {"a hard case": [replace(HARD, seed=seed) for seed in range(2)], "a cycle in S": SWINGING, "a sweep": SWEEPING}


def test_sizes_that_come_one_an_epoch_are_the_hosts_once_there_are_too_many(recorded):
    ours, said = Counter(), []
    repeated = Repeated(ours.step, ours.written, graphs=True, say=said.append)
    for size in range(1, 21):
        repeated.plan([size])
        repeated.run([size])
    assert len(recorded) == graphs.MOST_SIZES
    assert said == ["no CUDA graphs: 9 batch sizes by now, more than 8; slower, and the same"]


def weights_of(folders):
    return [torch.load(file, weights_only=True) for of in folders for file in sorted(of.path.glob("weights/*.pt"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_a_stack_of_graphs_has_the_bits_of_one_of_the_host(name, recorded, monkeypatch, tmp_path):
    specs, job = SEVERAL[name], Job(prepare("digits28"))
    theirs = together(specs, job, tmp_path / "host")
    made, works = StackedSteps.__init__, []

    def with_graphs(self, *parts, **options):
        made(self, *parts, **options)
        works.append(self)
        self._repeated.graphs = True

    def places():
        """Where everything is that a step reads or writes."""
        (work,) = works
        directions = work.noise._directions
        yield from (t.data_ptr() for t in work._written())
        yield from (t.data_ptr() for t in work._laid.values())
        yield from (getattr(work.data, f"_{name}").data_ptr() for name in ("indices", "labels", "mean", "std"))
        yield from (t.data_ptr() for t in (work.sgd.momentum, work.sgd.weight_decay, work.noise._parted))
        yield 0 if directions is None else directions.data_ptr()

    def record(step, size, count, pool):
        recorded.append((size, count))
        return StandIn(step, size, count, places)

    monkeypatch.setattr(StackedSteps, "__init__", with_graphs)
    monkeypatch.setattr(graphs, "record", record)
    ours = together(specs, job, tmp_path / "graphs")
    assert (recorded == []) == (name == "a sweep")
    assert [folder.rows() for folder in ours] == [folder.rows() for folder in theirs]
    for one, other in zip(weights_of(ours), weights_of(theirs), strict=True):
        assert all(torch.equal(one[key], other[key]) or one[key].isnan().any() for key in other)


# -- a run's steps as graphs

VGG = RunSpec(
    VGG11Network(width=1 / 32),
    Data("digits", "-", train=96, validation=20, test=20, augment=True, subset=20),
    NoiseSchedule(Steps((0.05, 0.02), (1.0,)), Cyclic(32, 16, 2)),
    epochs=3,
    seed=3,
    momentum=0.9,
    weight_decay=1e-3,
    keep=Keep(best=True),
)
MLP_RUN = replace(NORMED, precision="float32", schedule=NoiseSchedule(0.1, 32), evaluations=Evaluations(early=3))


class WithDropout(nn.Module):
    """A network that draws while it trains."""

    def __init__(self, network):
        super().__init__()
        self.network, self.dropout = network, nn.Dropout(0.3)

    def forward(self, inputs):
        return self.network(self.dropout(inputs))


@pytest.fixture
def single(monkeypatch, tmp_path):
    """Trains a run on the CPU as a GPU does: single(spec, name, graphs=, dropout=) -> its folder."""

    def trained(spec, name, *, graphs=True, dropout=False, job=None):
        def build(*arguments):
            module = build_module(*arguments)
            if dropout:
                module.network = WithDropout(module.network)
            return module

        def with_steps(*arguments, **options):
            trainer = build_trainer(*arguments, **options)
            fit = trainer.fit

            def fitted(module, **data):
                steps = GraphedSteps(module, graphs=graphs)
                module.configure_optimizers = steps.optimizer
                trainer.callbacks.append(steps)
                fit(module, **data)
                assert "training_step" not in vars(module)

            trainer.fit = fitted
            return trainer

        monkeypatch.setattr(training, "build_module", build)
        monkeypatch.setattr(training, "build_trainer", with_steps)
        return alone(spec, job or Job(prepare(spec.data.name), every_step=True), tmp_path / name)

    return trained


def assert_same_bits(ours, theirs):
    assert ours.rows() == theirs.rows()
    assert (ours.path / "steps.f32").read_bytes() == (theirs.path / "steps.f32").read_bytes()
    for one, other in zip(weights_of([ours]), weights_of([theirs]), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("spec", [VGG, MLP_RUN], ids=["VGG", "MLP"])
def test_a_run_of_graphs_has_the_bits_of_one_of_the_host(spec, dropout, recorded, single):
    theirs = single(spec, "host", graphs=False, dropout=dropout)
    assert recorded == []
    ours = single(spec, "graphs", dropout=dropout)
    assert {size for size, _ in recorded} == ({32, 16} if spec is VGG else {32})
    assert len(recorded) == len(set(recorded))
    assert_same_bits(ours, theirs)


def test_fused_steps_are_sgds(recorded, single, tmp_path):
    spec = replace(MLP_RUN, momentum=0.9, weight_decay=1e-3)
    theirs = alone(spec, Job(prepare(spec.data.name), every_step=True), tmp_path / "plain")
    ours = single(spec, "graphs")
    for one, other in zip(ours.rows(), theirs.rows(), strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
        assert one["t_eta"] == other["t_eta"]
        assert one["step"] == other["step"]


def test_a_run_of_graphs_that_is_broken_off_goes_on_to_the_same_bits(recorded, single, tmp_path, monkeypatch):
    whole = single(VGG, "whole")
    made, left = GraphedSteps._make, iter(range(7))

    def broken(self, closure):
        if next(left, None) is None:
            raise KeyError("broken off")
        return made(self, closure)

    often = Job(prepare(VGG.data.name), every_step=True, checkpoint_every=0)
    monkeypatch.setattr(GraphedSteps, "_make", broken)
    with pytest.raises(KeyError):
        single(VGG, "broken", job=often)
    monkeypatch.setattr(GraphedSteps, "_make", made)
    folder = RunFolder(tmp_path / "broken" / VGG.key)
    write_json(folder.path / "result.json", {"key": VGG.key} | training.train(VGG, often, folder))
    assert_same_bits(folder, whole)


@pytest.mark.parametrize(
    ("ranks", "precision", "noise", "said"),
    [
        (1, "tf32", None, ""),
        (2, "tf32", None, "several ranks"),
        (1, "bf16", HalfBatchNoise(1.0), "gradient noise"),
        (1, "float64", None, "for tests"),
    ],
)
def test_what_no_graph_can_do_is_said(ranks, precision, noise, said):
    found = why_not(ranks, precision, noise)
    assert said in found
    assert bool(found) == bool(said)
