"""Runs that several of the tests take: small ones, of everything that a run may hold."""

from dataclasses import replace

from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Triangle, exchange
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement, Watch
from three_factors.reproduce.engine.contract.networks import MLPNetwork, VGG11Network
from three_factors.reproduce.engine.contract.spec import Data, Evaluations, Keep, RunSpec
from three_factors.reproduce.engine.experiment import Experiment

# Like a figure's, for what trains nothing.
SPEC = RunSpec(
    VGG11Network(width=0.125),
    Data("cifar10", "0123456789abcdef", 3200, 1000, 2000, augment=True),
    exchange(NoiseSchedule(0.1, Cyclic(high=160, low=32, period=6, phase=0.5))),
    epochs=18,
    seed=3,
)
SMALL = Curvature(examples=32, batch_size=32, measures=("top_eigenvalue",))
MLP = RunSpec(
    MLPNetwork(hidden=(16,), in_features=784),
    Data("digits28", "-", train=240, validation=50, test=100, subset=100),
    NoiseSchedule(0.1, Cyclic(high=80, low=24, period=2)),
    epochs=3,
    seed=0,
    momentum=0.9,
    keep=Keep(initial=True, best=True, loss_levels=(2.0,)),
)
EVERYTHING = replace(
    MLP,
    network=VGG11Network(width=1 / 32, dropout=0.3),
    schedule=NoiseSchedule(0.05, Triangle(64, 16, 2)),
    data=replace(MLP.data, name="digits", augment=True, label_noise=LabelNoise(0.25)),
    watch=Watch(SMALL),
    evaluations=Evaluations(early=3, until=2, last=4),
)
SOAK = replace(EVERYTHING, epochs=10, keep=Keep(best=True))
MEASURED = Measurement(SMALL, at=("best", "end"))


class NoRuns(Experiment):
    """An experiment that runs nothing, for what is asked of others."""

    def runs(self, scale, source):
        return {}
