"""Figures on a real SLURM: array tasks, requeueing, cancelling, a killed slurmd; the same numbers as here."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from tests.reproduce.killing import job, on_ranks
from tests.reproduce.leavings import assert_equal, left
from tests.reproduce.script import PATIENCE, ROOT, command, run, until
from tests.slurm_cluster import Cluster, why_not
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule, Triangle
from three_factors.reproduce.engine.contract import provenance
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.folders import PackFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.packs import Pack
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.spec import Data, Item, Keep, RunSpec
from three_factors.reproduce.engine.launch import interrupts, packing, slurm
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.slurm import Allocation, SlurmRunner
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.options import InputError, Options

pytestmark = pytest.mark.slurm
REQUIRED = os.environ.get("THREE_FACTORS_SLURM") == "required"  # in CI a skip is a failure
RUN = RunSpec(
    MLPNetwork(hidden=(16,), in_features=784, batch_norm=True),
    Data("digits28", "-", train=480, validation=50, test=100, subset=100),
    NoiseSchedule(0.05, Triangle(48, 8, 2)),
    epochs=3,
    seed=0,
    momentum=0.9,
    keep=Keep(best=True),
)
LONG = replace(RUN, epochs=60)
FLAGS = ("--slurm", "--partition", "tests", "--time", "10", "--wandb", "disabled")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := why_not():
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    before = {name: os.environ.get(name) for name in cluster.environment}
    try:
        try:
            cluster.start()
        except RuntimeError as error:
            if REQUIRED:
                raise
            pytest.skip(str(error))
        os.environ |= cluster.environment
        yield cluster
    finally:
        cluster.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Watched(Watcher):
    """Keeps what it is told."""

    def __init__(self):
        self.done, self.reasons, self.words = [], {}, []

    def finished(self, task, slot, seconds, result):
        self.done.append(task.item.label)

    def found(self, task, result):
        self.done.append(task.item.label)

    def failed(self, task, slot, reason, again):
        self.reasons[task.item.label] = reason

    def told(self, words):
        self.words.append(words)


def tasks(out, nodes=1, **specs):
    of = job("digits28", every=0.2, made=provenance.bits("-"), num_nodes=nodes)
    return [Task(Item(label, 0, spec), Results(out).folder(spec), of) for label, spec in specs.items()]


class Submission:
    """Tasks submitted and waited for in a thread: each in an array task of its own."""

    def __init__(self, out, nodes=1, packs=False, **specs):
        self.tasks, self.watcher, self.failed = tasks(out, nodes, **specs), Watched(), None
        nodes = self.tasks[0].job.num_nodes
        allocation = Allocation("two" if nodes == 2 else "tests", 10, nodes)
        weights = {task.item.name: slurm.WORTHWHILE for task in self.tasks}
        self.runner = SlurmRunner(out, allocation, weights, packs=packs)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        self.failed = [task.item.label for task in self.runner.run(self.tasks, self.watcher)]

    def end(self):
        self.thread.join(timeout=PATIENCE)
        assert not self.thread.is_alive(), self.watcher.__dict__
        return self.failed

    def element(self, label):
        """The array element that a run is in."""
        task = next(task for task in self.tasks if task.item.label == label)
        file = self.runner.folder / "jobs.json"
        until(file.exists)
        return json.loads(file.read_text())[f"runs/{task.folder.path.name}"]["element"]

    def under_way(self, label, epochs=5):
        folder = next(task.folder for task in self.tasks if task.item.label == label)
        until(lambda: len(folder.rows()) >= epochs)
        return folder


@pytest.fixture(autouse=True)
def _local_file_system(monkeypatch):
    monkeypatch.setattr(slurm, "LINGER", 5.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The long run, uninterrupted and on this machine: what it leaves."""
    from three_factors.reproduce.engine.worker import train as training

    (task,) = tasks(tmp_path_factory.mktemp("whole"), long=LONG)
    task.prepare(print)
    training.train(LONG, Job(prepare("digits28")), task.folder)
    return left(task.folder.path)


def test_a_figure_runs_on_the_cluster_several_short_runs_a_task_and_is_collected_after_detaching(cluster, tmp_path):
    detached = run("fig7", tmp_path, *FLAGS, "--seeds", "1", "--detach")
    assert detached.returncode == 0, detached.stdout + detached.stderr
    assert "detached" in detached.stdout
    assert "3 runs submitted" in detached.stdout
    assert not (tmp_path / "fig7").exists()
    places = json.loads((tmp_path / "slurm" / "jobs.json").read_text())
    assert len(places) == 3
    assert len({place["element"] for place in places.values()}) < 3
    collected = run("fig7", tmp_path, *FLAGS, "--seeds", "1")
    assert collected.returncode == 0, collected.stdout + collected.stderr
    assert "3 runs submitted" not in collected.stdout
    assert json.loads((tmp_path / "slurm" / "jobs.json").read_text()) == places  # nothing submitted twice
    assert (tmp_path / "fig7" / "smoke-digits" / "fig7.png").is_file()
    here = tmp_path / "here"
    assert run("fig7", here, "--wandb", "disabled", "--seeds", "1").returncode == 0
    for file in here.glob("runs/*/metrics.jsonl"):
        assert (tmp_path / "runs" / file.parent.name / "metrics.jsonl").read_text() == file.read_text()


def test_a_requeued_task_goes_on_from_its_checkpoint(cluster, tmp_path, whole):
    submission = Submission(tmp_path, long=LONG)
    folder = submission.under_way("long")
    assert cluster.run("scontrol", "requeue", submission.element("long")).returncode == 0
    assert submission.end() == []
    assert "goes on from epoch" in folder.log.read_text()
    assert_equal(left(folder.path), whole)


def test_a_task_that_reaches_its_time_limit_saves_its_runs_and_goes_on_in_a_next_one(cluster, tmp_path, whole):
    submission = Submission(tmp_path, long=LONG)
    folder = submission.under_way("long")
    # What slurmctld sends a minute before the limit.
    assert cluster.run("scancel", "--signal=USR2", submission.element("long")).returncode == 0
    assert submission.end() == []
    assert "saved after step" in folder.log.read_text()
    assert "goes on from epoch" in folder.log.read_text()
    assert_equal(left(folder.path), whole)


def test_a_pack_is_a_task_that_saves_itself_at_a_time_limit_and_ends_as_one_made_here(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv(packing.ALWAYS, "1")
    specs = {"long": LONG, "other": replace(LONG, seed=1)}
    submission = Submission(tmp_path, packs=True, **specs)
    folder = PackFolder(tmp_path / PackFolder.place / Pack.of(list(specs.values())).key)
    until(lambda: folder.checkpoint.exists() and folder.fraction() > 0.1)
    assert submission.element("long") == submission.element("other")
    assert cluster.run("scancel", "--signal=USR2", submission.element("long")).returncode == 0
    assert submission.end() == []
    assert sorted(submission.watcher.done) == ["long", "other"]
    assert "saved after step" in folder.log.read_text()
    assert "goes on from epoch" in folder.log.read_text()
    here = tasks(tmp_path / "here", **specs)
    assert Runner(Server(), 1).run(packing.formed(here, tmp_path / "here", 1), Watcher()) == []
    for there, own in zip(submission.tasks, here):
        assert_equal(left(there.folder.path), left(own.folder.path))
        assert there.folder.result()["provenance"]["pack"] == 2


def test_a_preempted_task_saves_its_runs_in_its_grace_time_and_goes_on_when_it_is_back(cluster, tmp_path, whole):
    submission = Submission(tmp_path, short=RUN, long=LONG)  # of an array, whose other task has ended
    folder = submission.under_way("long")
    urgent = ["sbatch", "--partition=urgent", "--ntasks=2", f"--output={tmp_path / 'urgent'}", "--wrap=sleep 1"]
    assert subprocess.run(urgent, check=False).returncode == 0
    assert submission.end() == []
    assert "saved after step" in folder.log.read_text()
    assert "goes on from epoch" in folder.log.read_text()
    assert_equal(left(folder.path), whole)


def test_a_run_on_two_nodes_saves_itself_at_a_time_limit_and_is_that_of_two_ranks_here(cluster, tmp_path):
    submission = Submission(tmp_path, nodes=2, long=LONG)
    folder = submission.under_way("long")
    assert cluster.run("scancel", "--signal=USR2", submission.element("long")).returncode == 0
    assert submission.end() == []
    assert "saved after step" in folder.log.read_text()
    assert "goes on from epoch" in folder.log.read_text()
    made = folder.result()["provenance"]
    assert (made["processes"], made["started_by"]) == (2, "SLURMEnvironment")
    (here,) = tasks(tmp_path / "here", long=LONG)
    here = replace(here, job=replace(here.job, devices=2))
    here.prepare(print)
    for rank in on_ranks(Server(), here.folder, 2):
        rank.join()
    assert_equal(left(folder.path), left(here.folder.path))


def test_one_cancelled_task_fails_with_its_reason_and_the_others_are_done(cluster, tmp_path):
    submission = Submission(tmp_path, a=LONG, b=replace(RUN, seed=1))
    submission.under_way("a")
    assert cluster.run("scancel", submission.element("a")).returncode == 0
    assert submission.end() == ["a"]
    assert submission.watcher.done == ["b"]
    assert "cancelled" in submission.watcher.reasons["a"]


def test_runs_survive_a_killed_slurmd(cluster, tmp_path, whole):
    submission = Submission(tmp_path, long=LONG)
    folder = submission.under_way("long")
    cluster.kill_slurmd()
    cluster.start_slurmd()
    assert submission.end() == []
    assert_equal(left(folder.path), whole)


def test_a_figure_inside_an_allocation_does_not_adopt_its_layout(cluster, tmp_path):
    script = " ".join([*command("fig7", tmp_path, "--data", "digits"), "--wandb", "disabled", "--jobs", "1"])
    log = tmp_path / "log.txt"
    done = subprocess.run(
        ["sbatch", "--wait", "--ntasks=2", "--job-name=figures", f"--output={log}", f"--wrap=srun -n1 {script}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr + log.read_text()
    made = [json.loads(file.read_text())["provenance"] for file in tmp_path.glob("runs/*/result.json")]
    assert len(made) == 3
    assert {(m["processes"], m["started_by"]) for m in made} == {(1, "LightningEnvironment")}


def test_ranks_that_srun_has_started_train_together(cluster, tmp_path):
    (task,) = tasks(tmp_path, run=RUN)
    task = replace(task, job=replace(task.job, devices=2))
    task.prepare(print)
    log = tmp_path / "log.txt"
    worker = f"{sys.executable} {ROOT}/reproduce/worker.py {task.folder.path}"
    done = subprocess.run(
        ["sbatch", "--wait", "--ntasks=2", "--ntasks-per-node=2", f"--output={log}", f"--wrap=srun {worker}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr + log.read_text()
    made = task.folder.result()["provenance"]
    assert (made["processes"], made["started_by"]) == (2, "SLURMEnvironment")


def test_what_sbatch_refuses_is_one_line(cluster, tmp_path):
    refused = run("fig7", tmp_path, "--slurm", "--partition", "nowhere", "--wandb", "disabled")
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert line.startswith("error: --slurm: sbatch refused: ")
    assert "partition" in line
    assert not (tmp_path / "fig7").exists()


# -- without a cluster


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--slurm: no sbatch, squeue, srun on this machine"):
        slurm.check()


@pytest.mark.parametrize("flag", ["partition", "time", "gpus", "detach"])
def test_flags_of_slurm_without_slurm_are_refused(flag, tmp_path):
    value = {"partition": "tests", "time": 30}.get(flag, True)
    with pytest.raises(InputError, match=f"--{flag}: goes with --slurm"):
        Options(out=tmp_path, **{flag: value})


def test_a_time_in_which_no_run_could_save_itself_is_refused(tmp_path):
    with pytest.raises(InputError, match="--time: 2 minutes are fewer than 5"):
        Options(out=tmp_path, slurm=True, time=2)


def test_several_nodes_need_slurm(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(InputError, match="--num-nodes: 2 nodes need --slurm"):
        Options(out=tmp_path, num_nodes=2)


@pytest.mark.parametrize("result", [None, {"status": "ok"}])
def test_a_run_that_has_ended_since_the_call_looked_is_not_submitted_again(result, tmp_path, monkeypatch):
    (task,) = tasks(tmp_path, run=RUN)
    (tmp_path / "slurm").mkdir()
    write_json(tmp_path / "slurm" / "jobs.json", {slurm._key(task.folder): {"element": "7", "measured": []}})
    submitted = []
    monkeypatch.setattr(slurm, "queue", dict)  # it has left
    monkeypatch.setattr(SlurmRunner, "_submit", lambda self, groups: submitted.extend(groups) or ["8"])
    monkeypatch.setattr(Task, "complete", lambda self: result)
    with pytest.raises(interrupts.Submitted):
        SlurmRunner(tmp_path, Allocation(), {task.item.name: 200.0}, detach=True).run([task], Watched())
    assert len(submitted) == (result is None)


def test_short_runs_share_an_array_task_and_long_ones_do_not(tmp_path):
    made = tasks(tmp_path, **{str(i): replace(RUN, seed=i) for i in range(7)})
    weights = dict(zip((task.item.name for task in made), (200.0, 200.0, 200.0, 500.0, 200.0, 900.0, 10.0)))
    groups = SlurmRunner(tmp_path, Allocation(), weights)._groups(made)
    assert ["".join(task.item.label for task in group) for group in groups] == ["012", "3", "4", "5", "6"]
    pack = packing.pack_of(made[:2], tmp_path)
    groups = SlurmRunner(tmp_path, Allocation(), weights)._groups([pack, *made[2:]])
    assert [[one.item.label for one in group] for group in groups] == [
        [pack.item.label],
        ["2"],
        ["3"],
        ["4"],
        ["5"],
        ["6"],
    ]
