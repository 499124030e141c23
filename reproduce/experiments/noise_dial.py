"""The noise of the gradient turned by hand, at equal eta and equal steps: the runs of noise_only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.networks import Network, VGG11Network
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise, Renewal
from three_factors.reproduce.engine.contract.spec import Data, Keep, RunSpec
from three_factors.reproduce.engine.experiment import Experiment, Setting
from three_factors.reproduce.engine.judge.table import NORMALISED, Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import arms, loss_levels
from three_factors.reproduce.experiments.measured import LIGHTER, measurements
from three_factors.reproduce.experiments.metrics import END_NORM, LOSS, TEST, end
from three_factors.reproduce.experiments.mlp_grids import SHALLOW
from three_factors.reproduce.experiments.subset import fitting, subset

SGD, QUIET = "S", "4 S"
HALVES = "4 S, noise doubled by half batches"
OF_ITS_SHAPE = "4 S, Gaussian noise of C's shape"
ISOTROPIC = "4 S, isotropic Gaussian noise"
CURVED = "4 S, isotropic Gaussian noise of equal tr(HC)"
TOP, REST = "4 S, noise along 10 eigenvectors", "4 S, noise off 10 eigenvectors"
WAYS = (SGD, QUIET, HALVES, OF_ITS_SHAPE, ISOTROPIC, CURVED, TOP, REST)
RATIO = 4
FACTOR = (RATIO - 1) ** 0.5  # 1 + FACTOR^2 = RATIO
PLAIN, BATCH_NORM, VGG = "mlp", "mlp_bn", "vgg"  # the factor `network`
SUFFIX = {PLAIN: "", BATCH_NORM: ", batch norm", VGG: ""}  # of a label
DIAL, EXPONENTS = "dial", "exponents"  # the factor `part`
SHARPNESS = {PLAIN: END_NORM, BATCH_NORM: end(NORMALISED), VGG: end(NORMALISED)}  # with batch norm H ∝ 1/|θ|²


@dataclass(frozen=True)
class Training:
    """Holds what a scale changes of one network; epochs of the run at S, the others take RATIO times as many."""

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
class Grid:
    """Runs at every eta, S and covariance, to the same t_eta: eta, S and C/S each have an exponent of their own.

    Attributes:
        covariances: 1 + a², over that of SGD at S.
        t_eta: at which all of them end, within 5 %; where whole epochs do not allow it, the nearest that does.
        evaluations: about how many, evenly spaced.
    """

    lrs: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    covariances: tuple[int, ...]
    t_eta: float
    evaluations: int = 40

    def epochs(self, cells: Sequence[Mapping[str, Any]], train: int) -> list[dict[str, int]]:
        """Returns `epochs` and `evaluate_every` of each cell."""
        wanted = {str(i): self.t_eta * of["S"] / (of["eta"] * train) for i, of in enumerate(cells)}
        every = {i: max(1, max(1, round(epochs)) // self.evaluations) for i, epochs in wanted.items()}
        return [*arms.lengths(wanted, every).values()]


@dataclass(frozen=True)
class Size:
    """Holds everything that a scale changes.

    Attributes:
        mlp: of images of 28 x 28.
        vgg: of images of 32 x 32.
        grid: of the three exponents, of the MLP.
        measured: training examples whose Hessian is measured.
        renewal: how eigenvectors and tr(HC) are renewed.
        networks: of the MLPs, with and without batch norm.
        seed_sd: assumed for the power, before training; of test accuracy.
        norm_sd: likewise, of a log norm.
        effect: likewise, of 4 times less noise on test accuracy.
    """

    mlp: Training
    vgg: Training
    grid: Grid
    seeds: int
    measured: int
    renewal: Renewal
    networks: tuple[str, ...] = (PLAIN, BATCH_NORM)
    seed_sd: float = 0.005
    norm_sd: float = 0.15
    effect: float = 0.02


# Figure 1's cell of most noise, with 4 S in its grid as well; Figure 4's constant pair. 4 S divides every N.
PAPER = Size(
    mlp=Training(1.0, 50_000, 10_000, 10_000, epochs=200, lr=0.1, batch_size=25),
    vgg=Training(1.0, 44_544, 5_000, 10_000, epochs=300, lr=0.005, batch_size=128, augment=True),
    grid=Grid((0.025, 0.1), (50, 200, 400), (1, 4, 16), t_eta=4_000),
    seeds=5,
    measured=2_000,
    renewal=Renewal(),
)
# Their quick cells, Figure 1's without batch norm, in as many epochs as the time leaves.
QUICK = Size(
    mlp=replace(PAPER.mlp, train=3_000, validation=1_000, test=2_000, epochs=8),
    vgg=Training(1 / 8, 2_400, 500, 2_000, epochs=5, lr=0.01, batch_size=24),
    grid=Grid((0.025, 0.1), (50, 200), (1, 4), t_eta=20, evaluations=10),
    seeds=4,
    measured=100,
    renewal=Renewal(examples=200, until=1),
    networks=(PLAIN,),
)
GPU = replace(PAPER, vgg=replace(PAPER.vgg, epochs=30), seeds=4)
SMOKE = Size(
    mlp=replace(QUICK.mlp, train=400, validation=100, test=100, epochs=1),
    vgg=replace(QUICK.vgg, width=1 / 32, train=96, validation=100, test=100, epochs=1),
    grid=Grid((0.05, 0.1), (50, 100), (1, 4), t_eta=0.8),
    seeds=1,
    measured=50,
    renewal=Renewal(examples=50, until=1, every=100, eigenvectors=2),
)
REDUCTIONS = [
    ("50 000 and 44 544 training images (MLP, VGG)", "3 000 and 2 400", "time"),
    ("4 hidden layers of 512; VGG-11, width 1", "of 128; width 1/8", "11 and 64 times less arithmetic"),
    ("crop and flip (VGG)", "no augmentation", "otherwise the training loss stays above 1 in this time"),
    ("MLP with batch norm as well", "without", "time"),
    ("200 and 300 epochs", "8 and 5 epochs", "time; the VGG ends undertrained at S"),
    ("VGG: eta 0.005, S 128", "eta 0.01, S 24", "trains in 5 epochs"),
    ("exponents: S 50, 200, 400, 1 + a² 1, 4, 16, t_eta 4 000", "50 and 200, 1 and 4, 20", "time"),
    ("eigenvectors of 2 000 images, renewed until epoch 10", "200, every tenth epoch", "time"),
    ("5 seeds", "4 seeds", "time"),
    ("Hessian on 2 000 images", "100", "time"),
    LIGHTER,
    ("10 000 test images", "2 000", "time"),
]
GPU_REDUCTIONS = [("VGG: 300 epochs", "30 epochs", "time"), ("5 seeds", "4 seeds", "time")]


class NoiseDial(Experiment):
    """SGD at S, at 4 S, and at 4 S with the missing noise given back in several shapes; and the three exponents."""

    scales = {"smoke": SMOKE, "quick": QUICK, "gpu": GPU, "paper": PAPER}
    reductions = {"quick": REDUCTIONS, "gpu": GPU_REDUCTIONS}

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        """Returns the settings of the networks that take the images."""
        size, found = self.scales[scale], dict[str, Setting]()
        if source.size != 28:
            s = size.vgg
            vgg = fitting(VGG11Network(width=s.width), source)
            return self._dial(scale, VGG, vgg, subset(source, scale, s, augment=s.augment), s)
        s = size.mlp
        data = subset(source, scale, s, augment=s.augment)
        for name in size.networks:
            network = replace(fitting(SHALLOW[scale], source), batch_norm=name == BATCH_NORM)
            found |= self._dial(scale, name, network, data, s)
            found |= self._exponents(scale, name, network, data)
        return found

    def _dial(self, scale: Scale, name: str, network: Any, data: Data, s: Training) -> dict[str, Setting]:
        size = self.scales[scale]
        plain = _run(_with_ghosts(network, s.batch_size), data, s.lr, s.batch_size, s.epochs, s.evaluate_every)
        quiet = replace(
            plain,
            schedule=NoiseSchedule(s.lr, RATIO * s.batch_size),
            epochs=RATIO * s.epochs,
            evaluate_every=RATIO * s.evaluate_every,
        )
        renewal = replace(size.renewal, batch_size=RATIO * s.batch_size)
        noises: dict[str, HalfBatchNoise | GaussianNoise] = {
            HALVES: HalfBatchNoise(FACTOR),
            OF_ITS_SHAPE: GaussianNoise(FACTOR, "covariance", block=s.batch_size),
            ISOTROPIC: GaussianNoise(FACTOR, "isotropic"),
            CURVED: GaussianNoise(FACTOR, "isotropic", equal="curvature", renewal=renewal),
            TOP: HalfBatchNoise(FACTOR, "top", renewal),
            REST: HalfBatchNoise(FACTOR, "rest", renewal),
        }
        specs = {SGD: plain, QUIET: quiet} | {way: replace(quiet, noise=noise) for way, noise in noises.items()}
        return {
            way + SUFFIX[name]: self._setting(spec, scale, {"network": name, "part": DIAL, "way": way})
            for way, spec in specs.items()
        }

    def _exponents(self, scale: Scale, name: str, network: Any, data: Data) -> dict[str, Setting]:
        size, found = self.scales[scale], {}
        ghosts = _with_ghosts(network, min(size.grid.batch_sizes) // 2)  # a half of the smallest batch is one
        cells = _cells(size.grid, name)
        for of, length in zip(cells, size.grid.epochs(cells, data.train)):
            c = of["C"]
            spec = _run(ghosts, data, of["eta"], of["S"], *length.values())
            spec = spec if c == 1 else replace(spec, noise=HalfBatchNoise((c - 1) ** 0.5))
            found[_label(of)] = self._setting(spec, scale, of)
        return found

    def _setting(self, spec: RunSpec, scale: Scale, factors: dict[str, Any]) -> Setting:
        examples, levels = self.scales[scale].measured, loss_levels.MILESTONES
        return Setting(spec, factors, measurements(spec, scale, examples, levels=levels, noise=True))

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws a world in which only eta times the covariance's size counts, whatever the noise's shape."""
        s = self.scales[scale]
        finals, factors = {}, dict[str, Any]()

        def drawn(lost: float, sharper: float) -> dict[str, np.ndarray]:
            return {
                TEST: random.normal(0.8 - lost, s.seed_sd, seeds),
                **{
                    metric: np.exp(random.normal(sharper, s.norm_sd, seeds))
                    for metric in dict.fromkeys((END_NORM, *SHARPNESS.values()))
                },
                LOSS: np.exp(random.normal(-2 * sharper, s.norm_sd, seeds)),
                **loss_levels.imagined(np.exp(random.normal(sharper, s.norm_sd, seeds)), random),
            }

        for name in s.networks:
            for way in WAYS:
                label = way + SUFFIX[name]
                factors[label] = {"network": name, "part": DIAL, "way": way}
                finals[label] = drawn(s.effect, 0.5) if way in (QUIET, TOP, REST) else drawn(0.0, 0.0)
            for of in _cells(s.grid, name):
                factors[_label(of)] = of
                finals[_label(of)] = drawn(0.0, -0.5 * float(np.log(of["eta"] * of["C"] / of["S"])))
        return SyntheticTable(finals, factors=factors)


def _run(network: Network, data: Data, lr: float, batch_size: int, epochs: int, every: int) -> RunSpec:
    return RunSpec(
        network,
        data,
        NoiseSchedule(lr, batch_size),
        epochs,
        seed=0,
        evaluate_every=every,
        # The covariance of a batch's gradient is C/S only if its examples are independent. In shuffled epochs the noise
        # of batches cancels over an epoch, and what is given back by hand does not.
        sampling="replacement",
        keep=Keep(end=True, loss_levels=loss_levels.LEVELS),
    )


def _with_ghosts(network: Any, size: int) -> Any:
    """Takes batch norm over groups of one size in every run, so that its own noise is the same.

    Halves and blocks of batches are whole groups.
    """
    return replace(network, ghost_batch_size=size) if network.batch_norm else network


def _cells(grid: Grid, name: str) -> list[dict[str, Any]]:
    return [
        {"network": name, "part": EXPONENTS, "eta": lr, "S": size, "C": c}
        for lr in grid.lrs
        for size in grid.batch_sizes
        for c in grid.covariances
    ]


def _label(of: dict[str, Any]) -> str:
    return f"eta {of['eta']:g}, S {of['S']}, covariance x {of['C']}{SUFFIX[of['network']]}"


NOISE_DIAL = NoiseDial()


def exponents(table: Evidence, network: str, metric: str) -> np.ndarray:
    """Returns p_eta, p_S, p_C of log y = c - p_eta log eta + p_S log S - p_C log(1 + a²), (seeds, 3).

    Least squares a seed, over the cells that it has; NaN with too few of them.
    """
    labels = table.select(network=network, part=EXPONENTS)
    if not labels:
        return np.full((1, 3), np.nan)
    logs = [np.log(table.column(labels, factor).astype(float)) for factor in ("eta", "S", "C")]
    design = np.column_stack([np.ones(len(labels)), -logs[0], logs[1], -logs[2]])
    found = []
    for row in np.log(table.grid(labels, metric)):
        there = np.isfinite(row)
        whole = np.linalg.matrix_rank(design[there]) == design.shape[1] and there.sum() > design.shape[1]
        found.append(np.linalg.lstsq(design[there], row[there])[0][1:] if whole else np.full(3, np.nan))
    return np.array(found)
