"""A run that is killed at any moment, by kill -9 and more, and started again ends as one that was not, to the bit."""

import json
import os
import signal
from dataclasses import replace

import pytest

from tests.reproduce.killing import begin, end, job, killed
from tests.reproduce.leavings import assert_same, left, repeated
from tests.reproduce.script import until
from tests.reproduce.soak import Soak
from tests.reproduce.specs import EVERYTHING, MEASURED, MLP, SOAK
from three_factors.reproduce.engine.contract.folders import PathFolder
from three_factors.reproduce.engine.contract.job import PREEMPTED
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Keep, PathSpec
from three_factors.reproduce.engine.launch.runner import Server

pytestmark = pytest.mark.slow
STEP = "three_factors.lightning_modules.classifier.SGDClassifier.training_step"
RESULT = "three_factors.reproduce.engine.worker.process.write_json"  # the run's result, then what is measured
MOMENTS = {
    "in a training step": (STEP, 8, "before"),
    "in an epoch's last step": (STEP, None, "before"),
    "after an epoch's last step": (STEP, None, "after"),
    "in the validation": ("three_factors.lightning_modules.classifier.SGDClassifier.validation_step", 4, "before"),
    "while curvature is watched": ("three_factors.callbacks.hessian.HessianMonitor.measure", 2, "before"),
    "before a row is written": ("three_factors.reproduce.engine.worker.members.Member.write", 2, "before"),
    "after a row is written": ("three_factors.reproduce.engine.worker.members.Member.write", 2, "after"),
    "after the last row": ("three_factors.reproduce.engine.worker.recorder.Recorder.on_train_end", 1, "before"),
    "in a checkpoint's writing": ("three_factors.callbacks.exact_resume.torch.save", 7, "before"),
    "between a checkpoint's writing and its renaming": ("three_factors.callbacks.exact_resume.torch.save", 7, "after"),
    "between a file's writing and its renaming": ("pathlib.Path.replace", 19, "before"),
    "after a file's renaming": ("pathlib.Path.replace", 19, "after"),
    "before the result": (RESULT, 1, "before"),
    "between the result and the end of the checkpoint": (RESULT, 1, "after"),
    "in the measurement of the trained": ("three_factors.reproduce.engine.worker.measure.measure", 1, "before"),
    "before what is measured is written": (RESULT, 2, "before"),
}


@pytest.fixture(scope="module")
def server():
    return Server()


@pytest.fixture(scope="module")
def measured(server, tmp_path_factory):
    """The folder of a run of everything that nobody has killed."""
    folder = RunFolder(tmp_path_factory.mktemp("measured") / EVERYTHING.key)
    go_on(server, folder).join()
    assert complete(folder)
    return folder.path


def go_on(server, folder, spec=EVERYTHING, every=0.0):
    """A process that begins the run, or goes on with it, and measures what it has trained."""
    return begin(server, folder, spec, job("digits", every=every), (MEASURED,))


def complete(folder):
    return folder.complete((MEASURED,)) is not None


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_ends_as_the_uninterrupted_one(moment, server, measured, tmp_path):
    name, number, when = MOMENTS[moment]
    if number is None:  # the first epoch's
        number = left(measured)[0][0]["step"]
    folder = RunFolder(tmp_path / EVERYTHING.key)
    folder.prepare(EVERYTHING, job("digits"), (MEASURED,))
    killed(server, folder, name, number, when)
    assert not complete(folder)
    go_on(server, folder).join()
    assert_same(folder.path, measured)
    assert not folder.checkpoint.exists()
    assert not [file for file in folder.path.rglob(".*") if file.is_file()]  # drafts


def test_a_line_killed_between_its_points_ends_as_the_uninterrupted_one(server, tmp_path):
    path = PathSpec(
        replace(MLP, keep=Keep()), replace(MLP, seed=1, keep=Keep()), (-0.5, 0.0, 0.5, 1.0, 1.5), 100, 50, 1, (0.2, 0.5)
    )
    for spec in (path.start, path.end):
        folder = RunFolder(tmp_path / "runs" / spec.key)
        begin(server, folder, spec, job("digits28")).join()
    line = PathFolder(tmp_path / "paths" / path.key)
    line.prepare(path, job("digits28"))
    killed(server, line, "three_factors.callbacks.functional.resumed.Resumed.add", 3)
    assert len(line.points("train").read_text().splitlines()) == 3  # with the header
    begin(server, line, path, job("digits28")).join()
    found = line.result()
    (line.path / "result.json").unlink()
    header, *points = line.points("train").read_text().splitlines()
    other = json.loads(header) | {"start": "of a run that was made again"}
    line.points("train").write_text("\n".join([json.dumps(other), *points]) + "\n")
    begin(server, line, path, job("digits28")).join()
    assert "not the same: start; they are computed again" in line.log.read_text()
    assert repeated(line.result()) == repeated(found)
    line.path.rename(tmp_path / "paths" / "killed")
    begin(server, line, path, job("digits28")).join()
    assert repeated(line.result()) == repeated(found)


def test_lost_weights_are_told_and_made_again(server, measured, tmp_path):
    folder = RunFolder(tmp_path / EVERYTHING.key)
    go_on(server, folder).join()
    folder.weights("end").write_bytes(folder.weights("end").read_bytes()[:1000])
    (folder.path / f"measured-{MEASURED.key}.json").unlink()
    process = go_on(server, folder)
    process.join()
    assert process.exitcode == 1
    assert "end.pt is damaged" in folder.log.read_text()
    go_on(server, folder).join()
    assert_same(folder.path, measured)


def test_rows_that_are_lost_are_told_and_the_run_starts_again(server, measured, tmp_path):
    folder = RunFolder(tmp_path / EVERYTHING.key)
    folder.prepare(EVERYTHING, job("digits"), (MEASURED,))
    killed(server, folder, "three_factors.reproduce.engine.worker.members.Member.write", 3)
    rows = (folder.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert len(rows) == 2
    (folder.path / "metrics.jsonl").write_text(rows[0])
    go_on(server, folder).join()
    assert "it counts 2 rows of metrics.jsonl, where 1 are" in folder.log.read_text()
    assert_same(folder.path, measured)


def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(server, tmp_path, request):
    soak = Soak(server, SOAK, (MEASURED,), job("digits"), tmp_path)
    assert soak.kill(request.config.getoption("--kills")) >= 1


def test_a_run_that_is_asked_to_leave_saves_itself_and_goes_on_later(server, tmp_path):
    whole, asked = RunFolder(tmp_path / "whole" / SOAK.key), RunFolder(tmp_path / "asked" / SOAK.key)
    go_on(server, whole, SOAK).join()
    process = go_on(server, asked, SOAK, every=1000.0)
    until(lambda: len(asked.rows()) >= 4)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == PREEMPTED
    assert asked.checkpoint.is_file()
    assert 4 <= len(asked.rows()) < 10
    process = go_on(server, asked, SOAK, every=1000.0)
    process.join()
    assert process.exitcode == 0
    assert "goes on from epoch" in asked.log.read_text()
    assert not asked.checkpoint.exists()
    assert_same(asked.path, whole.path)


def test_a_damaged_checkpoint_is_told_and_the_run_starts_again(server, tmp_path):
    whole, damaged = RunFolder(tmp_path / "whole" / SOAK.key), RunFolder(tmp_path / "damaged" / SOAK.key)
    go_on(server, whole, SOAK).join()
    process = go_on(server, damaged, SOAK)
    until(lambda: len(damaged.rows()) >= 3)
    end(process)
    content = damaged.checkpoint.read_bytes()
    damaged.checkpoint.write_bytes(content[: len(content) // 2])
    go_on(server, damaged, SOAK).join()
    assert "cannot be read" in damaged.log.read_text()
    assert_same(damaged.path, whole.path)
