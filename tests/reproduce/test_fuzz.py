"""Whatever is asked for, it is refused in one line that names the field, or it runs; keys are the same everywhere."""

import json
import os
import random
import shutil
import string
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reproduce.script import ROOT
from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import Cosine, Cyclic, NoiseSchedule, Steps, Triangle, exchange
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import Curvature, Watch
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Keep, RunSpec
from three_factors.reproduce.engine.contract.stored import dumps, loads
from three_factors.reproduce.engine.options import OF_ALL, Options, parse
from three_factors.reproduce.engine.report import ReportOptions
from three_factors.reproduce.engine.worker import train as training

# -- specs

numbers = st.one_of(
    st.integers(-3, 400), st.floats(-2, 400), st.sampled_from([0, 1, float("nan"), float("inf"), 1e300])
)
odd = st.one_of(numbers, st.none(), st.text(max_size=4), st.booleans())
small = st.integers(1, 60)
networks = st.one_of(
    st.builds(
        MLPNetwork,
        hidden=st.lists(st.integers(1, 20), max_size=3).map(tuple),
        in_features=st.just(784),
        batch_norm=st.booleans(),
        ghost_batch_size=st.none() | st.integers(2, 40),
    ),
    st.builds(VGG11Network, width=st.sampled_from([1 / 32, 1 / 64]), dropout=st.sampled_from([0.0, 0.5])),
    st.builds(ResNet56Network, depth=st.sampled_from([8, 14]), width=st.sampled_from([1 / 8, 1 / 4])),
)
rates = st.floats(1e-4, 0.5)
schedules = st.one_of(
    st.builds(NoiseSchedule, rates, st.integers(1, 200)),
    st.builds(
        lambda ends, p: NoiseSchedule(0.05, Cyclic(high=max(ends), low=min(ends), period=p)),
        st.tuples(small, small),
        st.floats(0.5, 2.5),
    ),
    st.builds(lambda h, p: exchange(NoiseSchedule(Triangle(h, 0.0, p), 20)), rates, st.floats(0.5, 3)),
    st.builds(lambda s: NoiseSchedule(Cosine(s, 0.0, 2), 7), rates),
    st.builds(lambda a, b, t: NoiseSchedule(Steps((a, b), (t,)), 16), rates, rates, st.floats(0.1, 1.9)),
)


levels = st.lists(st.floats(0.1, 3), max_size=2).map(tuple)
WATCH = Watch(Curvature(examples=16, batch_size=16, measures=("top_eigenvalue",), max_products=5))
SENSIBLE = {"network", "schedule", "name", "fingerprint"}  # always


@st.composite
def asked(draw):
    """Fields of a run, most of them sensible and some not."""
    network = draw(networks)
    noise = (
        st.none()
        | st.builds(HalfBatchNoise, st.floats(0.1, 2))
        | st.builds(GaussianNoise, st.floats(0.1, 2), st.sampled_from(["covariance", "isotropic"]), st.integers(1, 9))
    )
    data = {
        "name": "digits28" if isinstance(network, MLPNetwork) else "digits",
        "fingerprint": "-",
        "train": draw(st.integers(20, 120)),
        "validation": draw(st.integers(1, 30)),
        "test": draw(st.integers(1, 30)),
        "augment": draw(st.booleans()),
        "subset": draw(st.integers(1, 30)),
        "label_noise": draw(st.none() | st.builds(LabelNoise, st.floats(0, 1), st.sampled_from(["uniform", "other"]))),
    }
    run = {
        "network": network,
        "schedule": draw(schedules),
        "epochs": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 9)),
        "momentum": draw(st.sampled_from([0.0, 0.9])),
        "weight_decay": draw(st.sampled_from([0.0, 5e-4])),
        "sampling": draw(st.sampled_from(["shuffle", "replacement"])),
        "precision": draw(st.sampled_from(["float32", "float64", "bf16"])),
        "keep": draw(st.none() | st.builds(Keep, best=st.booleans(), loss_levels=levels)),
        "watch": draw(st.none() | st.just(WATCH)),
        "noise": draw(noise),
        "stop_at_loss": draw(st.none() | st.floats(0.5, 3)),
        "max_batch_size": draw(st.none() | st.integers(1, 100)),
    }
    for place, chance in ((data, 6), (run, 4)):  # one odd value now and then
        if draw(st.integers(1, chance)) == 1:
            place[draw(st.sampled_from(sorted(set(place) - {"network", "schedule", "name", "fingerprint"})))] = draw(
                odd
            )
    return data, run


def made(data, run):
    """The spec; None if it is refused, which takes one line that names a field."""
    try:
        return RunSpec(data=Data(**data), **run)
    except ValueError as error:
        (line,) = str(error).splitlines()
        assert ":" in line, line
        return None


@settings(max_examples=300)
@given(asked())
def test_a_spec_is_refused_in_one_line_or_round_trips_with_its_key(wanted):
    spec = made(*wanted)
    if spec is not None:
        again = loads(dumps(spec))
        assert again == spec
        assert again.key == spec.key
        shuffled = _shuffled(json.loads(dumps(spec)))
        assert loads(json.dumps(shuffled)).key == spec.key  # whatever the order of its dictionaries


def _shuffled(value):
    if isinstance(value, list):
        return [_shuffled(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = list(value)
    random.Random(len(names)).shuffle(names)
    return {name: _shuffled(value[name]) for name in names}


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(wanted=asked())
def test_a_spec_that_is_not_refused_runs(wanted, tmp_path_factory):
    spec = made(*wanted)
    if spec is None:
        return
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    result = training.train(spec, Job(prepare(spec.data.name)), folder)
    assert result["status"] in ("ok", "diverged")
    assert folder.rows()[-1]["epoch"] == result["final"]["epoch"] <= spec.epochs


KEYS = {  # of specs that stand for all: a change of these numbers orphans every result on disk
    "2de8fb3f63d0563f": RunSpec(
        VGG11Network(width=0.125),
        Data("cifar10", "0123456789abcdef", 3200, 1000, 2000, augment=True),
        exchange(NoiseSchedule(0.1, Cyclic(high=160, low=32, period=6, phase=0.5))),
        epochs=18,
        seed=3,
    ),
}


def test_keys_are_the_same_in_other_processes_and_under_other_hash_seeds():
    place = "three_factors.reproduce.engine.contract.stored"
    code = f"import sys; from {place} import loads; print(loads(sys.stdin.read()).key)"
    for spec in KEYS.values():
        for seed in ("0", "1", "77"):
            answer = subprocess.run(
                [sys.executable, "-c", code],
                cwd=ROOT,
                input=json.dumps(_shuffled(json.loads(dumps(spec)))),
                capture_output=True,
                text=True,
                check=True,
                env={"PYTHONHASHSEED": seed},
            )
            assert answer.stdout.strip() == spec.key


@pytest.mark.parametrize("start", KEYS)
def test_keys_do_not_change_with_the_version_of_this_code(start):
    assert KEYS[start].key.startswith(start)


def other_pythons():
    """version -> interpreter, of the versions besides this one that the project supports and this machine has."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [*map(shutil.which, (f"python3.{minor}" for minor in range(11, 20))), *pyenv.glob("3.*/bin/python3")]
    found = {}
    for place in filter(None, places):
        told = subprocess.run([place, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
        if told.returncode == 0 and (version := tuple(map(int, told.stdout.split()))) >= (3, 11):
            found[version] = place
    found.pop(sys.version_info[:2], None)
    return found


@pytest.mark.slow
def test_keys_are_the_same_in_other_versions_of_python():
    pythons, specs = other_pythons(), list(KEYS.values())
    if not pythons:
        pytest.skip("this machine has no other Python from 3.11 on")

    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(asked())
    def collect(wanted):
        if (spec := made(*wanted)) is not None:
            specs.append(spec)

    collect()
    assert len(specs) > 50
    # A specification needs numpy only where it is carried out; the other Python may lack it.
    code = (
        "import sys, types; sys.modules['numpy'] = types.ModuleType('numpy')\n"
        "from three_factors.reproduce.engine.contract.stored import loads\n"
        "for line in sys.stdin: print(loads(line).key)"
    )
    for version, python in pythons.items():
        answer = subprocess.run(
            [python, "-B", "-c", code],
            cwd=ROOT,
            input="\n".join(map(dumps, specs)),
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": "5", "PYTHONPATH": str(ROOT / "reproduce" / "_name")},
        )
        assert answer.stdout.split() == [spec.key for spec in specs], (version, answer.stderr)


# -- command lines

FLAGS = sorted({"--" + field.name.replace("_", "-") for kind in (Options, ReportOptions) for field in fields(kind)})
words = st.one_of(
    st.sampled_from(FLAGS),
    st.sampled_from([f[:-1] for f in FLAGS]),
    st.text(string.printable, max_size=6),
    st.integers(-5, 5).map(str),
    st.sampled_from(["smoke", "quick", "paper", "epochs", "svag", "offline", "cifar10", "1e3", ""]),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    line=st.lists(words, max_size=5), of=st.sampled_from([(Options, None), (Options, OF_ALL), (ReportOptions, None)])
)
def test_a_command_line_is_refused_in_one_line_with_status_2_or_understood(line, of, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    try:
        options, status = parse("fuzz", list(line), *of), None
    except SystemExit as ended:
        options, status = None, ended.code
    printed = capsys.readouterr()
    if status == 0:
        assert {"-h", "--help"} & set(line)
    elif status is None:
        assert isinstance(options, of[0])
        assert replace(options) == options
    else:
        assert status == 2
        (told,) = printed.err.rstrip("\n").split("\n")
        assert told.startswith("error: ")
    assert not list(tmp_path.iterdir())  # nothing is left behind
