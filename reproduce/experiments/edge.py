"""Runs whose g is known to be 0: gradient descent on the square loss with all examples a step, half and a quarter.

It sharpens until eta·lambda_max reaches 2 and stays there (Cohen et al. 2021), whatever S is: eta alone decides. The
ruler of `rivals` has to find that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.spec import Keep, RunSpec
from three_factors.reproduce.engine.experiment import Setting
from three_factors.reproduce.engine.judge.table import EIGENVALUE, STABILITY
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments.metrics import end
from three_factors.reproduce.experiments.subset import Part, fitting, subset

EDGE = "edge"  # the factor `network`
EXAMPLES = 256
LRS, SIZES = (0.05, 0.1, 0.2), (256, 128, 64)
# lambda_max is 12 where a run starts, below 2/eta of each eta, and on pilots of seeds 1000 and 1001 it rises until
# eta·lambda_max is within 20 % of 2 (g is 0.07). With Glorot's weights it starts at 110, and eta = 0.1 diverges.
TIME = {"smoke": 4.0, "quick": 40.0, "gpu": 40.0, "paper": 40.0}
EVALUATIONS = 40  # of a run
NETWORK = MLPNetwork(hidden=(64, 64), init_std=0.05)


def settings(scale: Scale, source: Prepared, part: Part) -> dict[str, Setting]:
    """Returns label -> setting: every pair of eta and S, all to the same t_eta."""
    data, network = subset(source, scale, part, train=EXAMPLES, examples=EXAMPLES), fitting(NETWORK, source)
    measured = (Measurement(Curvature(EXAMPLES, EXAMPLES, ("top_eigenvalue",), max_products=200)),)
    found = {}
    for label, of in cells().items():
        epochs = round(TIME[scale] * of["S"] / (of["eta"] * EXAMPLES))
        every = max(k for k in range(1, max(1, epochs // EVALUATIONS) + 1) if epochs % k == 0)
        schedule = NoiseSchedule(of["eta"], of["S"])
        spec = RunSpec(network, data, schedule, epochs, 0, evaluate_every=every, keep=Keep(), loss="square")
        found[label] = Setting(spec, of, measured)
    return found


def cells() -> dict[str, dict[str, Any]]:
    """Returns label -> factors."""
    return {
        f"edge: eta {lr:g}, S {size}": {"network": EDGE, "eta": lr, "S": size, "calibration": 1}
        for lr in LRS
        for size in SIZES
    }


def imagined(seeds: int, random: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Draws eigenvalues at the edge."""
    found = {}
    for label, of in cells().items():
        at = 2 * np.exp(random.normal(0, 0.05, seeds))
        found[label] = {end(EIGENVALUE): at / of["eta"], end(STABILITY): at}
    return found
