"""What is measured and evaluated where, and which arms there are, at gpu and paper scale; nothing is trained."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.reproduce.figures import SCRIPTS, figure, pair, plan, source, specs
from tests.reproduce.specs import SMALL, SPEC
from three_factors.datamodules.schedules import as_schedule
from three_factors.reproduce.engine.contract.ends import ends_from, of_what
from three_factors.reproduce.engine.contract.measurements import Measurement, NoiseMeasurement
from three_factors.reproduce.engine.contract.spec import Keep
from three_factors.reproduce.engine.contract.steps import evaluated, lengths
from three_factors.reproduce.engine.experiment import Setting
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.engine.planning import FigurePlan

# at which milestones what is measured, at gpu and paper scale
LEVELS = ("loss 0.3", "loss 0.1", "loss 0.03", "loss 0.01")
MEASURED = {
    "fig1": (("end",), LEVELS, True),
    "fig9": (("end",), LEVELS, True),
    "fig5": (("best", "end"), LEVELS, True),
    "noise_only": (("end",), LEVELS, True),
    **dict.fromkeys(("fig2", "fig3", "fig4", "fig16", "table1", "when"), (("end",), (), False)),
}


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("scale", ["gpu", "paper"])
def test_what_is_measured_at_which_milestones(name, scale):
    at, levels, noise = MEASURED[name]
    for item in plan(name, scale)._of_claims():
        keep = item.spec.keep
        assert keep.end
        assert set(levels) <= {f"loss {level:g}" for level in keep.loss_levels}
        assert "best" not in at or keep.best
        there, own = set[tuple[str, str]](), round(as_schedule(item.spec.schedule.batch_size)(item.spec.epochs - 1e-9))
        for m in item.measurements:
            if isinstance(m, NoiseMeasurement):
                there |= {(where, "noise") for where in m.at}
                assert m.batch_size == own
                continue
            kind = "training " if m.curvature.training else ""
            there |= {(where, kind + measure) for where in m.at for measure in m.curvature.measures}
            assert not kind or m.curvature.batch_size == own
            assert not kind or m.curvature.batches == 8
            assert kind or m.curvature.examples == (500 if name in ("fig16", "table1") else 2_000)
        in_eval = ("top_eigenvalue", "trace", "frobenius", "normalized_sharpness")
        wanted = {(where, measure) for where in (*at, *levels) for measure in in_eval}
        wanted |= {(where, "finite_difference") for where in at}
        wanted |= {(where, f"training {m}") for where in (*at, *levels) for m in ("top_eigenvalue", "batch_sharpness")}
        wanted |= {(where, "noise") for where in (*at, *levels)} if noise else set()
        assert there == wanted


@pytest.mark.parametrize(
    ("keep", "at"),
    [
        (None, "end"),
        (Keep(end=False), "end"),
        (Keep(), "initial"),
        (Keep(), "best"),
        (Keep(loss_levels=(0.1,)), "loss 0.3"),
    ],
)
def test_a_measurement_where_a_run_keeps_no_weights_is_refused_by_its_milestone(keep, at):
    with pytest.raises(ValueError, match=f"measurements: '{at}' is no milestone"):
        Setting(replace(SPEC, keep=keep), measurements=(Measurement(SMALL, (at,)),))


@pytest.mark.parametrize("of", [Measurement(SMALL), NoiseMeasurement(8, 5, 20)], ids=lambda of: type(of).__name__)
def test_a_measurement_is_taken_at_every_milestone_that_a_run_keeps(of):
    everywhere = replace(of, at=("initial", "best", "end", "loss 0.1", "loss 2"))
    keep = Keep(initial=True, best=True, loss_levels=(0.1, 2.0))
    assert Setting(replace(SPEC, keep=keep), measurements=(everywhere,)).measurements == (everywhere,)


def test_figure_6_follows_batch_sharpness_in_train_mode_where_all_data_are_used():
    for item in plan("fig6", "paper").runs():
        watch = item.spec.watch
        assert (watch is None) == (item.factors["panel"] != "c")
        if watch is not None:
            _, size = pair(item.spec)
            assert watch.curvature.training
            assert (watch.curvature.batch_size, watch.curvature.batches) == (size, 8)
            assert watch.curvature.measures == ("batch_sharpness",)


def test_memorisation_is_evaluated_ten_times_an_epoch_until_epoch_ten():
    for spec in specs("fig5", "paper").values():
        points = evaluated(spec)
        assert sorted(points) == list(range(10))
        assert {len(steps) for steps in points.values()} == {9}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("scale", ["smoke", "quick", "gpu", "paper"])
def test_every_run_is_evaluated_five_times_in_its_last_tenth_as_far_as_it_has_steps(name, scale):
    if scale == "paper" and name in ("fig4", "fig13", "fig16", "table1"):
        return  # epochs of changing lengths take seconds to plan, and 300 epochs are evaluated at their ends
    for label, spec in specs(name, scale).items():
        counts, points = lengths(spec), evaluated(spec)
        ends = counts.cumsum()
        steps = {int(end) for i, end in enumerate(ends, 1) if i % spec.evaluate_every == 0}
        steps |= {int(ends[epoch] - counts[epoch]) + step for epoch, own in points.items() for step in own}
        start = math.floor(0.9 * ends[-1])
        if of_what(spec) != "steps":
            start = math.floor(np.interp(ends_from(spec), range(spec.epochs + 1), [0, *ends]))
        there = sum(step > start for step in steps)
        assert there >= min(5, ends[-1] - start), label


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("scale", ["gpu", "paper"])
def test_every_arm_has_runs(name, scale):
    defined = figure(name)
    for arm in defined.arms:
        items = FigurePlan(defined, Options(scale=scale), source(defined.data[0]), arm)._of_claims()
        assert items, arm.name
        assert len({item.spec.key for item in items}) == len(items)


ARMS = {  # which arms a figure has at least
    "time": {"fig1", "fig5"},  # not Figure 15: its norm is of the best epoch, which does not move
    "no-bn": set(SCRIPTS) - {"fig5", "fig9", "fig14", "fig15", "fingerprint", "rivals"},  # Figure 9 has it in one cell
    "ghost": {"fig2", "fig3", "fig4", "fig10", "fig11", "fig12", "fig13"},
    "quench": {"noise_only", "fig4", "fig2", "fig3", "fig16"},
    "memorised": {"fig5"},
}


@pytest.mark.parametrize("arm", ARMS)
def test_the_arms_of_the_figures(arm):
    there = {name for name in SCRIPTS if arm in {of.name for of in figure(name).arms}}
    assert ARMS[arm] <= there
