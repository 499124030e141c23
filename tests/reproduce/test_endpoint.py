"""Where a run ends: in its last tenth; of a cycle at low noise, in the same epochs whichever of eta and S cycles."""

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.figures import figure, source
from three_factors.reproduce.engine.contract.ends import NEAR, ends_from, of_what
from three_factors.reproduce.engine.contract.steps import evaluated, lengths, of_plan, planned
from three_factors.reproduce.engine.evidence import endpoint
from three_factors.reproduce.engine.experiment import AT_THE_END

CYCLES = [
    (name, scale, label)
    for name in ("fig4", "fig16", "table1")
    for scale in ("quick", "gpu", "paper")
    for label in figure(name).experiment.runs(scale, source("cifar10"))
    if any(word in label for word in ("cyclic", "discrete", "triangle")) and (name != "table1" or "eta 0.005" in label)
]


def evaluated_in(rows, spec):
    """Tells of each row whether it has an evaluation."""
    starts, points = lengths(spec).cumsum() - lengths(spec), evaluated(spec)
    within = [starts[epoch] + step for epoch, steps in points.items() for step in steps]
    return (rows.index % spec.evaluate_every == 0) | rows.step.isin(within)


def ended(spec):
    """Returns the endpoint of a run whose accuracy is 1 where its last step was at low noise, and how many tell it."""
    rows = pd.DataFrame(of_plan(spec, spec.epochs)).set_index("epoch")
    steps = planned(spec)
    noise = (steps.lr / steps.batch_size)[rows.step - 1]
    tenth = noise[rows.index > 0.9 * spec.epochs]
    assert noise.max() > NEAR * noise.min()
    there = evaluated_in(rows, spec)
    rows["test/accuracy"] = np.where(there, noise <= 1.01 * NEAR * tenth.min(), np.nan)
    rows["test/loss"] = np.where(there, np.arange(len(rows)), np.nan)
    found = endpoint(rows, spec)
    chosen = rows["test/loss"][rows.index > ends_from(spec)].dropna()
    assert found["test/loss"] == chosen.mean()
    return found["test/accuracy"], len(chosen)


@pytest.mark.parametrize(("name", "scale", "label"), CYCLES)
def test_a_cycle_and_its_exchange_end_at_low_noise_of_which_five_evaluations_tell(name, scale, label):
    """Also where S switches within an epoch, as a cycle of 5 epochs does."""
    accuracy, count = ended(figure(name).experiment.runs(scale, source("cifar10"))[label].of_seed(100))
    assert accuracy == 1
    assert count >= AT_THE_END


def test_a_cycle_that_was_not_evaluated_there_has_no_end():
    setting = figure("fig4").experiment.runs("quick", source("cifar10"))["cyclic eta"]
    spec = setting.of_seed(100)
    rows = pd.DataFrame(of_plan(spec, spec.epochs)).set_index("epoch")
    rows["test/accuracy"] = np.where(np.arange(len(rows)) == 0, 0.8, np.nan)
    assert endpoint(rows, spec) == {}


TUNED = (5, 10)  # epochs of a cycle
PAIRS = [  # a cycle of S and its exchange
    (name, arm, scale, a, b)
    for name, a, b in (
        ("fig4", "cyclic S", "cyclic eta"),
        ("fig16", "discrete S", "discrete eta"),
        *(
            ("table1", *(f"tuning: {of}, eta 0.005, cycle {n}" for of in ("discrete S", "discrete eta")))
            for n in (5, 10)
        ),
    )
    for scale in ("quick", "gpu", "paper")
    for arm in ("epochs", "quench")
    if name != "table1" or (scale, arm) == ("gpu", "epochs")
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
        at = evaluated_in(rows, spec)
        rows.loc[at, "test/accuracy"] = rows.index[at] / spec.epochs
        rows.loc[at, "test/loss"] = rows.t_eta[at] / rows.t_eta.iloc[-1]
        ends.append(endpoint(rows, spec))
    # half a step of the larger S, of the five evaluations each
    step = 1 / len(planned(settings[a].of_seed(100)).lr)
    assert ends[0]["test/accuracy"] == pytest.approx(ends[1]["test/accuracy"], abs=step)
    assert ends[0]["test/loss"] == pytest.approx(ends[1]["test/loss"], abs=step)


def test_where_s_is_switched_the_last_tenth_is_of_steps():
    for setting in figure("when").experiment.runs("quick", source("cifar10")).values():
        assert of_what(setting.spec) == "steps"
