"""What is known of a run's steps: from its spec, from its file, from a row of an older edition."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.reproduce.specs import SPEC
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Triangle, exchange
from three_factors.reproduce.engine.contract.files import digest
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.contract.steps import DTYPE, STEP_LOSSES, first_lr, planned, variance

CYCLIC = NoiseSchedule(0.1, Cyclic(high=160, low=32, period=4, phase=0.5))
SCHEDULES = {
    "constant": NoiseSchedule(0.1, 32),
    "cyclic S": CYCLIC,
    "cyclic eta": exchange(CYCLIC),
    "triangle": NoiseSchedule(Triangle(high=0.1, low=0.02, period=4), 32),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_plan_has_eta_over_s_of_the_schedule_at_every_steps_start(name):
    spec = replace(SPEC, schedule=SCHEDULES[name], epochs=5)
    steps, n = planned(spec), spec.data.train
    assert first_lr(spec) == steps.lr[0]
    for epoch in range(1, 6):
        here = steps.epoch == epoch
        sizes = steps.batch_size[here]
        starts = epoch - 1 + (np.cumsum(sizes) - sizes) / n
        assert 0 <= n - sizes.sum() < sizes.max()
        wanted = [spec.schedule.noise_ratio(float(t)) for t in starts]
        assert steps.lr[here] / sizes == pytest.approx(wanted, rel=1e-12)
    shorter = planned(spec, 2)
    assert np.array_equal(shorter.lr, steps.lr[steps.epoch <= 2])


@pytest.fixture
def old(tmp_path):
    """The files of a run as they were until 0.1: rows hold their steps."""
    folder = RunFolder(tmp_path / SPEC.key)
    folder.path.mkdir()
    losses = [[2.0, 1.5, 1.7, 1.1, None], [1.0, 0.7, 0.8, 0.5, 0.4]]
    rows = [
        {
            "epoch": i + 1,
            "step": 5 * (i + 1),
            "t_eta": 0.5,
            "steps": {"loss": loss, "lr": [0.1] * 4 + [0.2], "batch_size": [32] * 4 + [64]},
        }
        for i, loss in enumerate(losses)
    ]
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    final = {k: v for k, v in rows[-1].items() if k != "steps"}
    (folder.path / "result.json").write_text(json.dumps({"key": SPEC.key, "status": "ok", "final": final}))
    return folder


def test_rows_of_an_older_edition_are_read_as_the_new_ones(old):
    first, last = old.rows()
    assert first["train/step_variance"] is None
    assert last == {
        "epoch": 2,
        "step": 10,
        "t_eta": 0.5,
        "train/step_variance": pytest.approx(variance([1.0, 0.7, 0.8, 0.5, 0.4])),
        "noise/lr": 0.2,
        "noise/batch_size": 64,
    }
    assert old.step_losses() == pytest.approx([2, 1.5, 1.7, 1.1, np.nan, 1, 0.7, 0.8, 0.5, 0.4], nan_ok=True)
    assert old.complete(every_step=True)["status"] == "ok"


def finished(folder, *, every_step, hashed=False):
    """Writes a run of two epochs and three steps."""
    folder.path.mkdir(parents=True)
    row = {"epoch": 1, "step": 1, "t_eta": 0.5, "train/step_variance": None, "noise/lr": 0.1, "noise/batch_size": 9}
    last = row | {"epoch": 2, "step": 3}
    file = folder.path / "metrics.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps(last) + "\n")
    if every_step:
        np.array([3, 2, 1], DTYPE).tofile(folder.path / STEP_LOSSES)
    result = {"key": folder.path.name, "status": "ok", "final": last, "bytes": file.stat().st_size}
    if hashed:
        result["sha256"] = {name: digest(folder.path / name) for name in ("metrics.jsonl", STEP_LOSSES)}
    (folder.path / "result.json").write_text(json.dumps(result))
    return folder


def test_a_finished_run_without_its_steps_is_trained_again_where_they_are_asked_for(tmp_path):
    spec = replace(SPEC, epochs=1)
    folder = finished(RunFolder(tmp_path / spec.key), every_step=False)
    assert folder.complete() is not None
    assert folder.complete(every_step=True) is None
    folder.prepare(spec, Job())
    assert folder.result() is not None
    folder.prepare(spec, Job(every_step=True))
    assert folder.result() is None


@pytest.mark.parametrize("name", ["metrics.jsonl", STEP_LOSSES])
def test_whether_a_run_is_whole_is_known_without_parsing_its_files(name, tmp_path, monkeypatch):
    folder = finished(RunFolder(tmp_path / SPEC.key), every_step=True)
    monkeypatch.setattr(folder.__class__, "rows", lambda self: pytest.fail("was parsed"))
    assert folder.complete(every_step=True)["status"] == "ok"
    content = (folder.path / name).read_bytes()
    (folder.path / name).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=name):
        folder.result()


def blank(file, start, stop=None):
    """Leaves zeros where a power loss came before the disk had what was appended."""
    content = bytearray(file.read_bytes())
    content[start:stop] = bytes(len(content[start:stop]))
    file.write_bytes(content)


DAMAGE = {  # file, from, to, whether the result has hashes
    "the last row": ("metrics.jsonl", -20, None, False),
    "all rows": ("metrics.jsonl", 0, None, False),
    "a row before the last": ("metrics.jsonl", 10, 30, False),
    "the last row, with hashes": ("metrics.jsonl", -20, None, True),
    "the last steps": (STEP_LOSSES, -4, None, True),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_a_power_loss_has_left_blank_is_set_aside_by_name(what, tmp_path):
    name, start, stop, hashed = DAMAGE[what]
    item, results, said = Item("cyclic S", 3, SPEC, every_step=True), Results(tmp_path), []
    folder = finished(results.folder(SPEC), every_step=True, hashed=hashed)
    assert Results(tmp_path).finished(item, said.append) is not None
    blank(folder.path / name, start, stop)
    assert results.finished(item, said.append) is None
    (line,) = said
    assert f"{folder.path}/result.json is damaged ({name}" in line
    assert "set aside as" in line
    assert not folder.path.exists()


def test_steps_that_are_thrown_away_are_no_damage_where_none_are_asked_for(tmp_path):
    folder = finished(RunFolder(tmp_path / SPEC.key), every_step=True, hashed=True)
    (folder.path / STEP_LOSSES).unlink()
    assert folder.complete()["status"] == "ok"
    assert folder.complete(every_step=True) is None
