"""Packs in the runner: what goes together, and that every run ends as its own whatever becomes of the pack."""

import random
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from filelock import FileLock

from tests.reproduce.killing import end, job
from tests.reproduce.leavings import assert_same
from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.folders import PackFolder
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement
from three_factors.reproduce.engine.contract.networks import MLPNetwork, VGG11Network
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Item, Keep, RunSpec
from three_factors.reproduce.engine.launch.devices import Hardware
from three_factors.reproduce.engine.launch.packing import ALWAYS, PackTask, formed, locked, pack_of
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task, once
from three_factors.reproduce.engine.planning import Stage
from three_factors.reproduce.engine.prospects import Prospects

BASE = RunSpec(
    MLPNetwork(hidden=(12, 12), batch_norm=True),
    Data("digits28", "-", train=320, validation=60, test=120, subset=100, label_noise=LabelNoise(0.25)),
    NoiseSchedule(0.1, 32),
    epochs=4,
    seed=0,
    keep=Keep(best=True, loss_levels=(2.2,)),
)
MEASURED = Measurement(Curvature(40, 40, ("top_eigenvalue",), max_products=20), ("best", "end"))
SPECS = [replace(BASE, seed=seed, epochs=2 + seed % 3) for seed in range(4)]


@pytest.fixture(scope="module")
def server():
    return Server()


@pytest.fixture(autouse=True)
def packs_everywhere(monkeypatch):
    monkeypatch.setenv(ALWAYS, "1")


def tasks(out, specs=SPECS, every=0.0):
    work = job("digits28", every=every)
    return [
        Task(Item(f"setting {s.key[:4]}", s.seed, s, (MEASURED,)), RunFolder(out / "runs" / s.key), work) for s in specs
    ]


class Told(Watcher):
    def __init__(self):
        self.said = []

    def started(self, task, slot, attempt):
        self.said.append(f"started {len(task.members)}" if isinstance(task, PackTask) else "started 1")

    def finished(self, task, slot, seconds, result):
        self.said.append(f"finished {task.item.seed}")

    def found(self, task, result):
        self.said.append(f"found {task.item.seed}")

    def failed(self, task, slot, reason, again):
        self.said.append(f"failed {len(task.members)}" if isinstance(task, PackTask) else "failed 1")


def run(server, work, watcher=None):
    return Runner(server, 1).run(work, watcher or Told())


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """Folders of the runs of one pack that nobody has disturbed."""
    out = tmp_path_factory.mktemp("whole")
    own = tasks(out)
    assert run(server, [pack_of(own, out)]) == []
    return [task.folder for task in own]


def done(own):
    return all(task.complete() is not None for task in own)


def test_what_shares_a_step_goes_together_and_nothing_else(tmp_path):
    other_size = replace(BASE, schedule=NoiseSchedule(0.2, 16))
    convolutions = replace(
        BASE, network=VGG11Network(width=1 / 32), data=replace(BASE.data, name="digits", label_noise=None)
    )
    together = [replace(BASE, seed=1), replace(BASE, schedule=NoiseSchedule(0.3, 32), momentum=0.9, epochs=7)]
    own = tasks(tmp_path, [convolutions, BASE, other_size, *together])
    found = formed(own, tmp_path, 1)
    assert [len(one.members) if isinstance(one, PackTask) else one for one in found] == [own[0], 3, own[2]]
    assert len(formed(own, tmp_path, 2)) == 3  # two of them would wait for the third
    four = tasks(tmp_path, SPECS)
    assert [len(one.members) for one in formed(four, tmp_path, 2)] == [2, 2]


def test_on_a_processor_wide_networks_do_not_go_together(tmp_path, monkeypatch):
    monkeypatch.delenv(ALWAYS)
    wide = [replace(BASE, network=MLPNetwork(hidden=(256, 512)), seed=seed) for seed in range(2)]
    narrow = [replace(BASE, network=MLPNetwork(hidden=(256, 256)), seed=seed) for seed in range(2)]
    own = tasks(tmp_path, [*wide, *narrow])
    found = formed(own, tmp_path, 1)
    assert found[:2] == own[:2]
    assert [task.item.spec for task in found[2].members] == sorted(narrow, key=lambda spec: spec.key)


def test_a_pack_is_expected_to_take_as_long_as_its_longest_member_in_a_stack(tmp_path):
    items = [task.item for task in tasks(tmp_path)]
    asked = []

    def seconds(spec, measurements, members=1):
        asked.append((spec.epochs, measurements, members))
        return 10.0 * spec.epochs

    for packs, wanted in ((None, sum(10.0 * item.spec.epochs for item in items)), (1, 40.0)):
        prospects = Prospects(None, Results(tmp_path), Hardware("cpu", 2, "-"), 1, lambda _: job("digits28"), packs)
        prospects.forecast = SimpleNamespace(seconds=seconds)
        assert prospects.wall_seconds(Stage(items), items) == wanted
    assert asked[-1] == (4, (MEASURED,), 4)


def test_a_run_that_two_labels_name_is_one_task_with_the_measurements_of_both(tmp_path):
    first, second = (task.item for task in tasks(tmp_path, SPECS[:2]))
    other = Measurement(Curvature(20, 20, ("trace",), max_products=20), ("end",))
    again = replace(first, label="another name", measurements=(MEASURED, other), every_step=True)
    assert once([first, second, again]) == [replace(first, measurements=(MEASURED, other), every_step=True), second]
    assert once([first, second]) == [first, second]
    prospects = Prospects(None, Results(tmp_path), Hardware("cpu", 1, "-"), 1, lambda _: job("digits28"))
    prospects.forecast = SimpleNamespace(seconds=lambda spec, measurements: 10.0)
    assert prospects.wall_seconds(Stage([first, again]), [first, again]) == 10.0
    work = [Task(item, RunFolder(tmp_path / item.spec.key), job("digits28")) for item in once([first, second, again])]
    (pack,) = formed([replace(task, item=replace(task.item, every_step=False)) for task in work], tmp_path, 1)
    held = locked(pack)
    assert held is not None
    held.release()


def test_steps_of_a_stack_are_timed(server):
    alone, together = (server.time_steps(BASE.network, job("digits28"), members) for members in (1, 64))
    assert together[1] > alone[1]  # an example of each of 64
    assert all(value > 0 for value in together)


def test_a_pack_leaves_every_run_done_and_measured_and_itself_almost_nothing(server, tmp_path):
    own, told = tasks(tmp_path), Told()
    pack = pack_of(own, tmp_path)
    assert run(server, [pack], told) == []
    assert done(own)
    assert sorted(told.said) == [*(f"finished {seed}" for seed in range(4)), "started 4"]
    left = {file.name for file in pack.folder.path.iterdir()}
    assert left == {"spec.json", "job.json", "measurements.json", "log.txt", "progress.json", "result.json"}
    assert all(task.item.name in pack.folder.log.read_text() for task in own)
    told = Told()
    assert run(server, formed(own, tmp_path, 1), told) == []
    assert sorted(told.said) == [f"found {seed}" for seed in range(4)]


@pytest.mark.slow
def test_a_pack_killed_at_random_moments_ends_as_an_undisturbed_one(server, whole, tmp_path, request):
    moments, killed, ended = random.Random(0), 0, 0
    start = time.monotonic()
    assert run(server, [pack_of(tasks(tmp_path / "timed"), tmp_path / "timed")]) == []
    seconds, times = time.monotonic() - start, request.config.getoption("--kills")
    while killed < times:
        out = tmp_path / f"soaked {ended}"
        own = tasks(out)
        pack = pack_of(own, out)
        while not done(own):
            pack.prepare(print)
            process = server.start("serve_run", str(pack.folder.path), None)
            process.join(timeout=300 if killed >= times else moments.uniform(0.05, 0.6) * seconds)
            if process.exitcode is None:
                end(process)
                killed += 1
            assert process.exitcode in (0, -signal.SIGKILL), pack.folder.log.read_text()[-2000:]
        for task, folder in zip(own, whole):
            assert_same(task.folder.path, folder.path)
        ended += 1


@pytest.mark.slow
def test_a_pack_that_is_begun_is_gone_on_with_and_the_rest_is_packed(server, whole, tmp_path):
    own = tasks(tmp_path)
    pack = pack_of(own, tmp_path)
    pack.prepare(print)
    process = server.start("serve_run", str(pack.folder.path), None)
    while not pack.folder.checkpoint.exists():
        time.sleep(0.01)
    end(process)
    more = [*own, *tasks(tmp_path, [replace(BASE, seed=seed) for seed in (10, 11)])]
    found = formed(more, tmp_path, 1)
    assert [one.folder.path.name == pack.folder.path.name for one in found] == [True, False]
    assert run(server, found) == []
    assert "goes on from" in pack.folder.log.read_text()
    assert done(more)
    for task, folder in zip(own, whole):
        assert_same(task.folder.path, folder.path)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_pack_starts_again(server, whole, tmp_path):
    own = tasks(tmp_path)
    pack = pack_of(own, tmp_path)
    pack.prepare(print)
    pack.folder.checkpoint.write_bytes(b"no checkpoint")
    assert run(server, [pack]) == []
    assert "cannot be read" in pack.folder.log.read_text()
    for task, folder in zip(own, whole):
        assert_same(task.folder.path, folder.path)


@pytest.mark.slow
def test_a_member_that_is_done_elsewhere_or_locked_is_left_out(server, tmp_path):
    own = tasks(tmp_path)
    assert run(server, [own[0]]) == []
    before = own[0].folder.path.joinpath("result.json").read_bytes()
    held = own[1].folder.try_lock()
    assert isinstance(held, FileLock)
    told = Told()
    told.polled = lambda active: held.release() if len(told.said) > 3 else None
    assert run(server, [pack_of(own, tmp_path)], told) == []
    assert done(own)
    assert own[0].folder.path.joinpath("result.json").read_bytes() == before
    assert told.said[0] == "started 3"
    assert told.said[-2:] == ["started 1", "finished 1"]


@pytest.mark.slow
def test_a_member_that_always_fails_ends_up_alone_and_the_others_are_done(server, tmp_path):
    own, told = tasks(tmp_path), Told()
    bad = own[2]
    bad.folder.path.mkdir(parents=True)
    (bad.folder.path / "weights").write_text("where a folder should be")
    assert run(server, [pack_of(own, tmp_path)], told) == [bad]
    assert [task.complete() is not None for task in own] == [True, True, False, True]
    assert told.said.count("failed 1") == 2
    assert not PackFolder(tmp_path / "packs" / "none").resumable_files()
