"""Evaluations within epochs: where they lie, that they are right, and that training does not know of them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reproduce.specs import MLP
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Evaluations, Keep
from three_factors.reproduce.engine.contract.steps import evaluated, lengths, of_plan, planned, whole
from three_factors.reproduce.engine.experiment import AT_THE_END, Setting
from three_factors.reproduce.engine.worker.train import read_weights, train

OFTEN = Evaluations(early=4, until=1, last=3)
SPEC = replace(MLP, schedule=NoiseSchedule(0.1, 24), epochs=4, keep=Keep())
EVALUATED = ("val/loss", "val/accuracy", "test/loss", "test/accuracy", "train_subset/loss", "train_subset/accuracy")


def run(spec, folder):
    found = RunFolder(folder)
    found.path.mkdir()
    result = train(spec, Job(prepare("digits28")), found)
    return found, result


def test_rows_within_epochs_are_those_that_were_asked_for_and_training_is_the_same_to_the_bit(tmp_path):
    plain, _ = run(SPEC, tmp_path / "plain")
    often, result = run(replace(SPEC, evaluations=OFTEN), tmp_path / "often")
    rows = often.rows()
    assert [row["epoch"] for row in rows] == [0.2, 0.5, 0.8, 1, 2, 3, 3.7, 3.9, 4]
    assert [row["step"] for row in rows] == [2, 5, 8, 10, 20, 30, 37, 39, 40]
    assert [row["t_eta"] for row in rows] == pytest.approx([0.1 * row["step"] for row in rows])
    assert whole(rows) == plain.rows()
    for row in rows:
        early = row["epoch"] < 1
        assert set(row) & set(EVALUATED) == {"val/accuracy", "train_subset/accuracy"} if early else set(EVALUATED)
        assert ("weights/norm" in row) is not early
    for name, tensor in read_weights(plain, "end").items():
        assert torch.equal(read_weights(often, "end")[name], tensor)
    assert "between" not in result["final"]


def test_an_evaluation_that_is_not_lightnings_is_what_lightnings_would_have_logged(tmp_path):
    often, _ = run(replace(SPEC, evaluate_every=4, evaluations=Evaluations(early=1, until=3)), tmp_path / "often")
    every, _ = run(SPEC, tmp_path / "every")
    found, regular = often.rows(), every.rows()
    assert [row["epoch"] for row in found if "val/loss" in row] == [1, 2, 3, 4]  # only the last of them by Lightning
    for row, by_lightning in zip(found, regular):
        assert {name: row[name] for name in EVALUATED} == pytest.approx(
            {name: by_lightning[name] for name in EVALUATED}, rel=1e-6
        )


def test_weights_and_distances_are_in_every_row_and_at_milestones(tmp_path):
    spec = replace(SPEC, evaluations=OFTEN, keep=Keep(initial=True, best=True))
    folder, result = run(spec, tmp_path / "run")
    start, end = (read_weights(folder, name) for name in ("initial", "end"))
    named = [name for name in start if name.startswith("network.") and not name.endswith("num_batches_tracked")]
    flat = [torch.cat([of[name].double().flatten() for name in named]) for of in (start, end)]
    reached = result["milestones"]
    assert reached["initial"]["weights/distance"] == 0
    assert reached["initial"]["weights/norm"] == pytest.approx(float(flat[0].norm()))
    assert reached["end"]["weights/norm"] == pytest.approx(float(flat[1].norm()))
    assert reached["end"]["weights/distance"] == pytest.approx(float((flat[1] - flat[0]).norm()))
    distances = [row["weights/distance"] for row in folder.rows() if "weights/distance" in row]
    assert distances[-1] == reached["end"]["weights/distance"]
    assert 0 < distances[0] < distances[-1]


CYCLIC = NoiseSchedule(0.1, Cyclic(high=120, low=24, period=2))


@given(
    epochs=st.integers(1, 60),
    every=st.integers(1, 4),
    early=st.integers(1, 12),
    until=st.integers(0, 12),
    last=st.integers(0, 9),
    cyclic=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_points_lie_within_the_steps_and_never_where_an_epochs_end_is_evaluated_anyway(
    epochs, every, early, until, last, cyclic
):
    spec = replace(
        SPEC,
        schedule=CYCLIC if cyclic else SPEC.schedule,
        epochs=epochs * every,
        evaluate_every=every,
        evaluations=Evaluations(early, until, last),
    )
    counts, points = lengths(spec), evaluated(spec)
    assert counts.sum() == len(planned(spec).lr)
    for epoch, steps in ((epoch, list(found)) for epoch, found in points.items()):
        assert steps == sorted(set(steps))
        assert 1 <= steps[0] <= steps[-1] <= counts[epoch]
        assert steps[-1] < counts[epoch] or (epoch + 1) % every
    rows = of_plan(spec, spec.epochs)
    assert [row["step"] for row in whole(rows)] == counts.cumsum().tolist()
    within = [step for epoch, steps in points.items() for step in steps if step < counts[epoch]]
    assert len(rows) == spec.epochs + len(within)
    assert [row["epoch"] for row in rows] == sorted({row["epoch"] for row in rows})


@pytest.mark.parametrize(("epochs", "every"), [(5, 1), (12, 1), (20, 1), (30, 1), (64, 8), (200, 1), (800, 4), (4, 4)])
@pytest.mark.parametrize("size", [24, 48])
def test_every_run_is_evaluated_five_times_in_the_last_tenth_of_its_steps(epochs, every, size):
    data = replace(SPEC.data, train=2_400)
    spec = replace(SPEC, data=data, schedule=NoiseSchedule(0.1, size), epochs=epochs, evaluate_every=every)
    spec = Setting(spec).of_seed(1)
    points = evaluated(spec)
    steps = [row["step"] for row in of_plan(spec, epochs) if row["epoch"] % every == 0]
    steps += [int(lengths(spec)[:epoch].sum()) + step for epoch, own in points.items() for step in own]
    total = int(lengths(spec).sum())
    assert sum(step > 0.9 * total for step in set(steps)) >= AT_THE_END
    if epochs >= 50 and epochs / every >= 50:
        assert spec.evaluations is None
