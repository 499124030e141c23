"""Where a run ends: in the last tenth of its steps; of a cycle at low noise, whichever of eta and S cycles."""

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.figures import figure, source
from three_factors.reproduce.engine.contract.steps import of_plan
from three_factors.reproduce.engine.evidence import NEAR, endpoint

CYCLES = [
    (name, scale, label)
    for name in ("fig4", "fig16")
    for scale in ("quick", "gpu", "paper")
    for label in figure(name).experiment.runs(scale, source("cifar10"))
    if any(word in label for word in ("cyclic", "discrete", "triangle"))
]


@pytest.mark.parametrize(("name", "scale", "label"), CYCLES)
def test_a_cycle_and_its_exchange_end_at_low_noise(name, scale, label):
    setting = figure(name).experiment.runs(scale, source("cifar10"))[label]
    spec = setting.of_seed(100)
    rows = pd.DataFrame(of_plan(spec, spec.epochs)).set_index("epoch")
    noise = np.array([spec.schedule.noise_ratio(max(0.0, epoch - 1e-6)) for epoch in rows.index])
    assert noise.max() > NEAR * noise.min()
    rows["test/accuracy"] = np.where(noise <= NEAR * noise.min(), 0.9, 0.8)
    assert endpoint(rows, spec)["test/accuracy"] == pytest.approx(0.9)


def test_a_cycle_that_was_not_evaluated_there_has_no_end():
    setting = figure("fig4").experiment.runs("quick", source("cifar10"))["cyclic eta"]
    spec = setting.of_seed(100)
    rows = pd.DataFrame(of_plan(spec, spec.epochs)).set_index("epoch")
    rows["test/accuracy"] = np.where(np.arange(len(rows)) == 0, 0.8, np.nan)
    assert endpoint(rows, spec) == {}
