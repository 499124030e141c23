"""One rank and several follow the same trajectory, whoever starts them; in float64 to rounding."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.ranks import as_torchrun, on_ranks
from tests.reproduce.leavings import left
from tests.reproduce.script import PATIENCE, ROOT
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Triangle
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import Curvature, Watch
from three_factors.reproduce.engine.contract.networks import MLPNetwork, VGG11Network
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Item, Keep, RunSpec
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.worker import train as training

pytestmark = pytest.mark.ddp
CYCLE = NoiseSchedule(0.02, Cyclic(high=81, low=22, period=2, phase=0.5))  # neither is divisible by 2 and by 3
VGG = RunSpec(
    VGG11Network(width=1 / 32),
    Data("digits", "-", train=240, validation=51, test=101, augment=True),
    CYCLE,
    epochs=2,
    seed=0,
    precision="float64",
    momentum=0.5,
    keep=Keep(best=True, loss_levels=(2.4,)),
)
MLP = replace(
    VGG, network=MLPNetwork(hidden=(16, 16), in_features=784), data=replace(VGG.data, name="digits28", augment=False)
)
NETWORKS = {
    "VGG, batch norm": VGG,
    "VGG": replace(VGG, network=replace(VGG.network, batch_norm=False)),
    "MLP": MLP,
    "MLP, batch norm": replace(MLP, network=replace(MLP.network, batch_norm=True)),
}
SCHEDULES = {
    "constant": NoiseSchedule(0.02, 25),
    "cyclic": CYCLE,
    "triangle": NoiseSchedule(0.02, Triangle(high=61, low=23, period=2)),
}
SPECS = {
    f"{network}, {schedule}": replace(spec, schedule=of)
    for network, spec in NETWORKS.items()
    for schedule, of in SCHEDULES.items()
} | {
    "measured": replace(
        NETWORKS["MLP, batch norm"],
        watch=Watch(Curvature(examples=100, batch_size=25, measures=("top_eigenvalue", "trace"), tol=1e-6)),
    ),
    "half batches": replace(VGG, schedule=NoiseSchedule(0.02, 26), noise=HalfBatchNoise(3**0.5)),
    "Gaussian of C's shape": replace(VGG, schedule=NoiseSchedule(0.02, 26), noise=GaussianNoise(3**0.5, "covariance")),
    "isotropic": replace(VGG, schedule=NoiseSchedule(0.02, 26), noise=GaussianNoise(3**0.5, "isotropic")),
    "three steps, float32": replace(
        VGG, precision="float32", schedule=NoiseSchedule(0.02, 80), epochs=1, data=replace(VGG.data, augment=False)
    ),
}


def on_rank(rank, world_size, specs):
    """name -> rows and end weights, of one of several ranks that train all specs one after another."""
    as_torchrun(rank, world_size)
    found = {}
    for name, spec in specs.items():
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder))
            result = training.train(spec, Job(prepare(spec.data.name), devices=world_size), run)
            if rank == 0:
                found[name] = (*left(run.path), result)
    return found


@pytest.fixture(scope="module")
def trained():
    """ranks -> name -> what the runs left."""
    for name in ("digits", "digits28"):
        prepare(name)
    return {ranks: on_ranks(ranks, on_rank, SPECS)[0] for ranks in (1, 2, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", SPECS)
def test_several_ranks_follow_the_same_trajectory_as_one(name, ranks, trained):
    (rows, weights, result), (others, their, found) = trained[1][name], trained[ranks][name]
    tolerance = 1e-6 if "float32" in name else 1e-10
    assert len(rows) == len(others) == SPECS[name].epochs
    for a, b in zip(rows, others):
        assert a["noise/batch_size"] == b["noise/batch_size"]
        metrics = [key for key, value in a.items() if isinstance(value, float) and not key.endswith("seconds")]
        assert len(metrics) > 5
        for key in metrics:
            assert b[key] == pytest.approx(a[key], rel=1e-6, abs=10 * tolerance), key
    assert weights.keys() == their.keys() >= {"best", "end", "loss 2.4"}
    for milestone, state in weights.items():
        for key, tensor in state.items():
            torch.testing.assert_close(their[milestone][key], tensor, rtol=0, atol=tolerance)
    assert result["milestones"].keys() == found["milestones"].keys()
    if name == "measured":
        assert {"hessian/top_eigenvalue", "hessian/trace"} <= rows[-1].keys()


# -- whoever starts them


def prepared(spec, out, devices, nodes=1):
    """A task whose folder is ready."""
    job = Job(prepare(spec.data.name), devices=devices, num_nodes=nodes)
    task = Task(Item("run", 0, spec), RunFolder(out / f"{nodes} x {devices}" / spec.key), job)
    task.prepare(print)
    return task


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun(task, devices, *flags):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={devices}", *flags]
    return subprocess.Popen(
        [*command, "reproduce/worker.py", str(task.folder.path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(*processes):
    for process in processes:
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, printed


def test_lightning_torchrun_and_torchrun_on_two_nodes_start_the_same_run(tmp_path, trained):
    spec = SPECS["MLP, batch norm, cyclic"]
    by_lightning, by_torchrun = prepared(spec, tmp_path, 2), prepared(spec, tmp_path / "torchrun", 2)
    assert not Runner(Server(), jobs=1, devices=2).run([by_lightning], Watcher())
    ended(torchrun(by_torchrun, 2, "--standalone"))
    on_two_nodes = prepared(spec, tmp_path, 1, nodes=2)
    rendezvous = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}")
    ended(*(torchrun(on_two_nodes, 1, *rendezvous) for _ in range(2)))
    rows, weights, _ = trained[2]["MLP, batch norm, cyclic"]
    for task in (by_lightning, by_torchrun, on_two_nodes):
        assert task.folder.result()["status"] == "ok"
        found, states = left(task.folder.path)
        assert [row["train/step_variance"] for row in found] == [row["train/step_variance"] for row in rows]
        assert all(torch.equal(states["end"][key], tensor) for key, tensor in weights["end"].items())
    made = json.loads((on_two_nodes.folder.path / "result.json").read_text())["provenance"]
    assert (made["devices"], made["num_nodes"]) == (1, 2)
    assert (made["processes"], made["started_by"]) == (2, "TorchElasticEnvironment")


def test_a_run_on_one_device_does_not_adopt_the_layout_of_the_allocation_around_it(tmp_path):
    around = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "figures",
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "3",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_TASKS": "4",
    }
    folder = prepared(MLP, tmp_path, 1).folder
    command = [sys.executable, "reproduce/worker.py", str(folder.path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | around, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert folder.result()["status"] == "ok"
