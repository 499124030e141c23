"""One network at two batch sizes, and with the smaller one's noise put back by hand: the runs of `noise_only`.

Fig. 1's MLP on FashionMNIST, or Fig. 4's VGG-11 on CIFAR-10, at equal eta and equal steps. Only the noise differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.networks import MLPNetwork, VGG11Network
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise
from three_factors.reproduce.engine.contract.spec import Curvature, Keep, Measurement, RunSpec
from three_factors.reproduce.engine.experiment import Experiment, Setting
from three_factors.reproduce.engine.judge.table import Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import loss_levels
from three_factors.reproduce.experiments.metrics import END_NORM, LOSS, TEST
from three_factors.reproduce.experiments.noise_grid import SHALLOW
from three_factors.reproduce.experiments.subset import image_size, subset

SGD, QUIET = "S", "4 S"
HALVES = "4 S, noise doubled by half batches"
OF_ITS_SHAPE = "4 S, Gaussian noise of C's shape"
ISOTROPIC = "4 S, isotropic Gaussian noise"
DIALLED = (HALVES, OF_ITS_SHAPE, ISOTROPIC)
RATIO = 4
FACTOR = (RATIO - 1) ** 0.5  # 1 + FACTOR^2 = RATIO


@dataclass(frozen=True)
class Training:
    """Everything that a scale changes, of one network; epochs of the run at S, of which the others take RATIO times."""

    width: float
    train: int
    validation: int
    test: int
    epochs: int
    lr: float
    batch_size: int
    evaluate_every: int = 1
    augment: bool = False


@dataclass(frozen=True)
class Size:
    """Everything that a scale changes.

    Attributes:
        mlp: of images of 28 x 28.
        vgg: of images of 32 x 32.
        measured: training examples whose Hessian is measured.
        seed_sd: assumed for the power, before training; of test accuracy.
        norm_sd: likewise, of a log norm.
        effect: likewise, of 4 times less noise on test accuracy.
    """

    mlp: Training
    vgg: Training
    seeds: int
    measured: int
    seed_sd: float = 0.005
    norm_sd: float = 0.15
    effect: float = 0.02


# Figure 1's cell of most noise, with 4 S in its grid as well; Figure 4's constant pair. 4 S divides every N.
PAPER = Size(
    mlp=Training(1.0, 50_000, 10_000, 10_000, epochs=200, lr=0.1, batch_size=25),
    vgg=Training(1.0, 44_544, 5_000, 10_000, epochs=300, lr=0.005, batch_size=128, augment=True),
    seeds=5,
    measured=2_000,
)
# Their quick cells: Figure 1's runs as they are, Figure 4's constant pair in as many epochs as the time leaves.
QUICK = Size(
    mlp=replace(PAPER.mlp, train=3_000, validation=1_000, test=2_000, epochs=20),
    vgg=Training(1 / 8, 2_400, 500, 2_000, epochs=5, lr=0.01, batch_size=24),
    seeds=3,
    measured=100,
)
GPU = replace(PAPER, vgg=replace(PAPER.vgg, epochs=30), seeds=4)
SMOKE = Size(
    mlp=replace(QUICK.mlp, train=400, validation=100, test=100, epochs=1),
    vgg=replace(QUICK.vgg, width=1 / 32, train=192, validation=100, test=100, epochs=1),
    seeds=1,
    measured=50,
)
REDUCTIONS = [
    ("50 000 and 44 544 training images (MLP, VGG)", "3 000 and 2 400", "time"),
    ("4 hidden layers of 512; VGG-11, width 1", "of 128; width 1/8", "11 and 64 times less arithmetic"),
    ("crop and flip (VGG)", "no augmentation", "otherwise the training loss stays above 1 in this time"),
    ("200 and 300 epochs", "20 and 5 epochs", "time; the VGG ends undertrained at S"),
    ("VGG: eta 0.005, S 128", "eta 0.01, S 24", "trains in 5 epochs"),
    ("5 seeds", "3 seeds", "time"),
    ("Hessian on 2 000 images", "100", "time"),
    ("10 000 test images", "2 000", "time"),
]
GPU_REDUCTIONS = [("VGG: 300 epochs", "30 epochs", "time"), ("5 seeds", "4 seeds", "time")]


class NoiseDial(Experiment):
    """SGD at S, at 4 S, and at 4 S with the missing noise given back in three shapes."""

    scales = {"smoke": SMOKE, "quick": QUICK, "gpu": GPU, "paper": PAPER}
    reductions = {"quick": REDUCTIONS, "gpu": GPU_REDUCTIONS}

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        """Returns the settings of the network that takes the images."""
        size = self.scales[scale]
        network: MLPNetwork | VGG11Network
        if source.size == 28:
            s = size.mlp
            network = replace(SHALLOW[scale], in_features=source.channels * source.size**2, num_classes=source.classes)
        else:
            image_size(source, 32)
            s = size.vgg
            network = VGG11Network(width=s.width, in_channels=source.channels, num_classes=source.classes)
        data = subset(source, scale, train=s.train, validation=s.validation, test=s.test, augment=s.augment)
        # Batch norm over groups of S in every run, so that its own noise is the same; halves and blocks are groups.
        network = replace(network, ghost_batch_size=s.batch_size)
        plain = RunSpec(
            network,
            data,
            NoiseSchedule(s.lr, s.batch_size),
            s.epochs,
            seed=0,
            evaluate_every=s.evaluate_every,
            # The covariance of a batch's gradient is C/S only if its examples are independent. In shuffled epochs the
            # noise of batches cancels over an epoch, and what is given back by hand does not.
            sampling="replacement",
            keep=Keep(end=True, loss_levels=loss_levels.LEVELS),
        )
        longer = {"epochs": RATIO * s.epochs, "evaluate_every": RATIO * s.evaluate_every}
        quiet = replace(plain, schedule=NoiseSchedule(s.lr, RATIO * s.batch_size), **longer)
        specs = {
            SGD: plain,
            QUIET: quiet,
            HALVES: replace(quiet, noise=HalfBatchNoise(FACTOR)),
            OF_ITS_SHAPE: replace(quiet, noise=GaussianNoise(FACTOR, "covariance", block=s.batch_size)),
            ISOTROPIC: replace(quiet, noise=GaussianNoise(FACTOR, "isotropic")),
        }
        end = Curvature(size.measured, 250)
        measurements = (Measurement(end), loss_levels.measurement(end))
        return {label: Setting(spec, measurements=measurements) for label, spec in specs.items()}

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws a world in which only the covariance's size counts, whatever the noise's shape."""
        s = self.scales[scale]
        finals = {}
        for label in (SGD, QUIET, *DIALLED):
            lost, sharper = (s.effect, 0.5) if label == QUIET else (0.0, 0.0)
            finals[label] = {
                TEST: random.normal(0.8 - lost, s.seed_sd, seeds),
                END_NORM: np.exp(random.normal(sharper, s.norm_sd, seeds)),
                LOSS: np.exp(random.normal(-sharper, s.norm_sd, seeds)),
                **loss_levels.imagined(np.exp(random.normal(sharper, s.norm_sd, seeds)), random),
            }
        return SyntheticTable(finals)


NOISE_DIAL = NoiseDial()


def ratio(table: Evidence, label: str, reference: str, metric: str) -> np.ndarray:
    """Returns a metric of one run over that of another, a seed, (seeds,)."""
    values = table.grid([label, reference], metric)
    return values[:, 0] / values[:, 1]
