"""Where a run ends: in its last tenth; of a cycle at low noise, in the same epochs whichever of eta and S cycles."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reproduce.figures import figure, source
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.spec import Evaluations
from three_factors.reproduce.engine.contract.steps import evaluated, of_plan, of_what, planned
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


PAIRS = [  # a cycle of S and its exchange
    (name, arm, scale, a, b)
    for name, a, b in (("fig4", "cyclic S", "cyclic eta"), ("fig16", "discrete S", "discrete eta"))
    for scale in ("quick", "gpu", "paper")
    for arm in ("epochs", "quench")
]


@pytest.mark.parametrize(("name", "arm", "scale", "a", "b"), PAIRS)
def test_a_cycle_and_its_exchange_end_in_the_same_epochs_and_the_same_t_eta(name, arm, scale, a, b):
    settings = figure(name).experiment.runs(scale, source("cifar10"))
    change = figure(name).arm(arm).change
    settings = settings if change is None else change(settings)
    ends = []
    for label in (a, b):
        spec = settings[label].of_seed(100)
        rows = pd.DataFrame(of_plan(spec, spec.epochs)).set_index("epoch")
        at = (rows.index % spec.evaluate_every == 0) | (rows.index % 1 > 0)
        rows.loc[at, "test/accuracy"] = rows.index[at] / spec.epochs
        rows.loc[at, "test/loss"] = rows.t_eta[at] / rows.t_eta.iloc[-1]
        ends.append(endpoint(rows, spec))
    # half a step of the larger S, of the five evaluations each
    step = 1 / len(planned(settings[a].of_seed(100)).lr)
    assert ends[0]["test/accuracy"] == pytest.approx(ends[1]["test/accuracy"], abs=step)
    assert ends[0]["test/loss"] == pytest.approx(ends[1]["test/loss"], abs=step)


@given(size=st.integers(1, 100), epochs=st.integers(1, 60), last=st.integers(1, 7), train=st.integers(100, 3_000))
def test_the_last_tenth_of_steps_and_of_epochs_are_one_where_s_stands(size, epochs, last, train):
    spec = figure("fig4").experiment.runs("quick", source("cifar10"))["constant, small S"].spec
    schedule, data = NoiseSchedule(0.1, size), replace(spec.data, train=train)
    of = (
        evaluated(
            replace(spec, schedule=schedule, data=data, epochs=epochs, evaluations=Evaluations(last=last, tenth=tenth))
        )
        for tenth in ("steps", "epochs")
    )
    assert next(of) == next(of)


def test_where_s_is_switched_the_last_tenth_is_of_steps():
    for setting in figure("when").experiment.runs("quick", source("cifar10")).values():
        assert of_what(setting.spec) == "steps"
