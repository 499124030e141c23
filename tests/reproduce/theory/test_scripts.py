"""The theory scripts as a user runs them: files, exit codes, kills; and the chains that their claims are about."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from tests.reproduce.script import PATIENCE, ROOT, alive, descendants, kill, run, start, until
from three_factors.reproduce import finite_step
from three_factors.reproduce.engine import judging
from three_factors.reproduce.engine.definition import Context
from three_factors.reproduce.engine.judge.chains import Chains
from three_factors.reproduce.engine.judge.claims import Finding, Statement
from three_factors.reproduce.engine.judge.estimates import OverSeeds
from three_factors.reproduce.engine.judge.looks import ONLY
from three_factors.reproduce.engine.judge.rules import Range
from three_factors.reproduce.engine.judge.verdicts import judge
from three_factors.reproduce.engine.options import SCALES, Options
from three_factors.reproduce.theory.simulate import simulate
from three_factors.reproduce.theory.simulation import Simulation

SCRIPTS = ("anisotropic", "finite_step", "momentum", "sampling", "theorem1", "theorem2", "time_rescaling")
FLAGS = ("--jobs", "1", "--wandb", "disabled")


def finished(out):
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("simulations/*/result.json")}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One results folder for all of them."""
    return tmp_path_factory.mktemp("theory")


def test_these_are_all_the_scripts_that_simulate():
    named = {p.stem for p in (ROOT / "reproduce").glob("*.py") if "THEORY = Theory(" in p.read_text()}
    assert named == {*SCRIPTS, "bridge"}  # which needs data: test_bridge


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
def test_every_setting_is_a_simulation_of_its_own(name, scale):
    theory = import_module(f"three_factors.reproduce.{name}").THEORY
    assert theory.name == name
    specs = theory.simulations(scale)
    assert all(isinstance(spec, Simulation) and spec.seed == 0 for spec in specs.values())
    assert len({spec.key for spec in specs.values()}) == len(specs)
    assert theory.seeds[scale] >= 1


@pytest.mark.parametrize("name", [*SCRIPTS, "bridge"])
@pytest.mark.parametrize("scale", SCALES)
def test_every_theory_is_looked_at_once_at_every_scale(name, scale):
    theory = import_module(f"three_factors.reproduce.{name}").THEORY
    assert theory.only_at(scale) == theory.seeds["quick" if scale == "gpu" else scale]


@pytest.mark.slow
def test_at_gpu_scale_the_simulations_of_quick_are_judged(out):
    done = run("finite_step", out, *FLAGS, "--scale", "gpu", data="")
    assert done.returncode == 0, done.stdout + done.stderr
    claims = json.loads((out / "finite_step" / "gpu" / "claims.json").read_text())
    assert claims
    assert "not judged" not in {claim["verdict"] for claim in claims}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_at_smoke_scale_leaves_its_files_and_a_second_call_simulates_nothing(name, out):
    done = run(name, out, *FLAGS, data="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    folder = out / name / "smoke"
    assert {p.name for p in folder.iterdir()} == {
        f"{name}.png",
        f"{name}.svg",
        "table.csv",
        "claims.json",
        "provenance.json",
    }
    claims = json.loads((folder / "claims.json").read_text())
    assert claims
    assert {claim["verdict"] for claim in claims} == {"not judged"}
    assert all("smoke scale" in claim["note"].split("; ") for claim in claims)
    keys = set(json.loads((folder / "provenance.json").read_text())["runs"].values())
    logs = [(out / "simulations" / key / "log.txt").read_text() for key in keys]
    assert not any("Warning" in log for log in logs)
    before, table = finished(out), (folder / "table.csv").read_bytes()
    again = run(name, out, *FLAGS, data="")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(keys)} cached" in again.stdout
    assert finished(out) == before
    assert (folder / "table.csv").read_bytes() == table


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", "0"), "error: --seeds: 0 is less than 1"),
        (("--seeds", "9" * 20), f"error: --seeds: {'9' * 20} is more than 100, the seeds of one edition of claims"),
        (("--scale", "huge"), "error: --scale: 'huge' is not one of smoke, quick, gpu, paper"),
        (("--seeds", "two"), "error: --seeds: invalid int value: 'two'"),
        (("--data", "cifar10"), "error: unrecognized arguments: --data cifar10"),
    ],
    ids=["no seeds", "seeds without end", "no such scale", "no number", "a data set"],
)
def test_bad_input_is_refused_in_one_line(flags, message, tmp_path):
    refused = run("theorem1", tmp_path, *flags, data="")
    assert (refused.returncode, refused.stderr) == (2, message + "\n")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_simulates_nothing(tmp_path):
    done = run("theorem2", tmp_path, "--dry-run", data="")
    assert done.returncode == 0
    assert "simulations: 6 = 6 settings x 1 seed; 0 cached" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_after_a_kill_every_sample_is_whole_and_the_next_call_simulates_the_rest(tmp_path):
    process = start("finite_step", tmp_path, *FLAGS, "--seeds", "4", data="", own=True)
    until(lambda: len(finished(tmp_path)) >= 3)
    family = descendants(process.pid)
    family += [p for child in family for p in descendants(child.pid)]
    kill(process.pid)
    process.communicate(timeout=PATIENCE)
    until(lambda: not alive(family), seconds=20)
    kept = finished(tmp_path)
    assert 3 <= len(kept) < 48
    for file in tmp_path.glob("simulations/*/samples.npy"):
        assert np.load(file).shape == (2, 500, 1)
    later = run("finite_step", tmp_path, *FLAGS, "--seeds", "4", data="")
    assert later.returncode == 0, later.stdout + later.stderr
    assert f"{len(kept)} cached" in later.stdout
    after = finished(tmp_path)
    assert len(after) == 48
    assert {key: after[key] for key in kept} == kept
    assert not list(tmp_path.glob("simulations/*.damaged-*"))


@pytest.mark.slow
def test_a_sample_that_was_cut_short_is_told_set_aside_and_simulated_again(out):
    assert run("anisotropic", out, *FLAGS, data="").returncode == 0
    runs = json.loads((out / "anisotropic" / "smoke" / "provenance.json").read_text())["runs"]
    file = out / "simulations" / min(runs.values()) / "samples.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    again = run("anisotropic", out, *FLAGS, data="")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 cached" in again.stdout
    assert "damaged result" in again.stdout
    assert file.read_bytes() == whole
    assert len(list(out.glob("simulations/*.damaged-*"))) == 1


def test_chains_beyond_the_edge_of_stability_are_seen_to_diverge_as_they_are_stored(monkeypatch):
    monkeypatch.setitem(finite_step.CHAINS, "quick", 300)
    specs = finite_step.simulations("quick")
    samples = {label: simulate(spec).astype(np.float32).astype(float) for label, spec in specs.items()}
    found = judge(finite_step.check(Chains(specs, samples)), ONLY)
    claims = [c for c in found if c.claim.startswith("divergence")]
    assert [claim.verdict for claim in claims] == ["supported", "supported"]
    for claim, (beta, edge) in zip(claims, finite_step.BEYOND.items()):
        step = np.array([[1 - edge * finite_step.H, -edge * beta], [finite_step.H, beta]])
        growth = np.log(np.abs(np.linalg.eigvals(step)).max())
        assert claim.value == pytest.approx(growth, rel=0.05)


def test_a_theory_is_looked_at_once_at_the_scales_number_of_seeds():
    """More chains after a look are another look."""
    found = Finding(Statement("mean", "a claim", ""), Range(0.9, 1.1), OverSeeds(np.array([1, 1.01, 0.99])))
    theory = replace(finite_step.THEORY, check=lambda chains: [found])
    seeds = theory.seeds["quick"]
    chains = Chains({}, {}, None)
    words = [
        judging.judge(Context(theory, Options(scale="quick"), None, n, ""), chains, {})[0].verdict
        for n in (seeds, seeds + 1)
    ]
    assert words == ["supported", "not judged"]
