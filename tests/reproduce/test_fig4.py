"""`python reproduce/fig4.py` from outside: files, cache, seeds, substitution, and what bad input gets."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tests.images import image_folder
from tests.reproduce.script import PATIENCE, ROOT, run
from three_factors.reproduce.engine.contract.folders import FOLDERS
from three_factors.reproduce.engine.options import PLACES, InputError, Options

FILES = {"fig4.png", "fig4.svg", "table.csv", "claims.json", "provenance.json"}
KEYS = {"id", "claim", "statistic", "value", "low", "high", "n", "look", "paper", "data", "arm", "verdict", "primary"}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """One smoke run on the digits: (its OUT folder, what it printed)."""
    out = tmp_path_factory.mktemp("first")
    return out, run("fig4", out)


def results(out):
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("runs/*/result.json")}


@pytest.mark.slow
def test_it_writes_the_promised_files_and_says_what_it_did(first):
    out, done = first
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name for p in (out / "fig4" / "smoke-digits").iterdir()} == FILES
    lines = done.stdout.splitlines()
    assert lines[0].startswith("fig4: A learning-rate schedule")
    before_runs = done.stdout[: done.stdout.index("1/5")]
    for words in ("NOT CIFAR10", "data: digits", "device: ", "runs: 5 = 5 settings x 1 seed;", "expected time: "):
        assert words in before_runs
    assert re.search(r"paper scale: python reproduce/fig4.py --scale paper .* about [\d,]+ h", done.stdout)


@pytest.mark.slow
def test_every_run_says_where_it_was_made(first):
    files = list(first[0].glob("runs/*/result.json"))
    assert len(files) == 5
    for file in files:
        made = json.loads(file.read_text())["provenance"]
        assert {"seconds", "device", "threads", "versions", "data_origin"} <= made.keys()


@pytest.mark.slow
def test_claims_on_substituted_data_at_smoke_scale_are_not_judged(first):
    claims = json.loads((first[0] / "fig4" / "smoke-digits" / "claims.json").read_text())
    assert all(set(claim) >= KEYS for claim in claims)
    words = {claim["id"]: claim["verdict"] for claim in claims}
    assert len(words) == len(claims)
    assert {"cyclic.ends", "constant.ends", "constant.g", "noise"} <= words.keys()
    assert {name for name, word in words.items() if word == "not judged"} == {"cyclic.share", "constant.share"}
    assert set(words.values()) == {"not judged", "estimated"}
    assert {claim["data"] for claim in claims} == {"digits"}


@pytest.mark.slow
def test_a_second_call_trains_nothing_imports_no_torch_and_says_what_was_cached(first):
    out, _ = first
    before = results(out)
    code = (
        f"import sys, runpy; sys.argv = ['fig4.py', '--out', {str(out)!r}, '--scale', 'smoke', '--data', 'digits']\n"
        f"sys.path.insert(0, {str(ROOT / 'reproduce')!r})\n"
        f"try: runpy.run_path({str(ROOT / 'reproduce' / 'fig4.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: print('status', end.code)\n"
        "print('heavy:', [m for m in ('torch', 'pytorch_lightning') if m in sys.modules])"
    )

    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert "status 0" in again.stdout, again.stdout + again.stderr
    assert "5 cached" in again.stdout
    assert "heavy: []" in again.stdout
    assert results(out) == before


@pytest.mark.slow
def test_plot_only_draws_without_training(first, tmp_path):
    out, _ = first
    picture = out / "fig4" / "smoke-digits" / "fig4.png"
    before, old = results(out), picture.stat().st_mtime_ns
    assert run("fig4", out, "--plot-only").returncode == 0
    assert results(out) == before
    assert picture.stat().st_mtime_ns > old
    empty = run("fig4", tmp_path / "empty", "--plot-only")
    assert empty.returncode == 1
    assert "0 cached" in empty.stdout
    assert "nothing to draw" in empty.stdout
    assert not (tmp_path / "empty").exists()


@pytest.mark.slow
def test_a_further_seed_trains_that_seed_alone(first):
    out, _ = first
    before = results(out)
    more = run("fig4", out, "--seeds", "2", "--wandb", "disabled")
    assert "5 cached" in more.stdout
    assert "5 to train" in more.stdout
    after = results(out)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 5


@pytest.mark.slow
def test_dry_run_trains_nothing_and_gives_steps_and_hours(tmp_path):
    done = run("fig4", tmp_path, "--dry-run")
    assert done.returncode == 0
    assert re.search(r"noise control +10 epochs +20 steps", done.stdout)
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
def test_a_damaged_result_is_told_set_aside_and_trained_again(first):
    out, _ = first
    runs = json.loads((out / "fig4" / "smoke-digits" / "provenance.json").read_text())["runs"]
    victim = out / "runs" / runs["cyclic S seed 0"] / "result.json"
    victim.write_text(victim.read_text()[:40])
    again = run("fig4", out, "--wandb", "disabled")
    assert again.returncode == 0
    assert f"{victim} is damaged" in again.stdout
    assert json.loads(victim.read_text())["status"] in ("ok", "diverged")
    assert list((out / "runs").glob(f"{victim.parent.name}.damaged-*"))


def test_help_names_every_flag():
    text = run("fig4", Path("unused"), "--help", data="").stdout
    for field in fields(Options):
        assert f"--{field.name.replace('_', '-')} " in text, field.name
    assert "epochs, ghost, no-bn, l2, quench (default" in " ".join(text.split())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("data") / "pets").parent


@pytest.mark.slow
def test_the_same_figure_on_an_image_folder_is_another_experiment(first, folders):
    out, _ = first
    before = results(out)
    done = run("fig4", out, "--wandb", "disabled", "--data-dir", str(folders), data="pets")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results(out)) == len(before) + 5
    assert "NOT CIFAR10" in done.stdout
    assert (out / "fig4" / "smoke-pets" / "claims.json").is_file()


def test_naming_cifar10_never_falls_back(tmp_path):
    done = run("fig4", tmp_path / "out", "--data-dir", str(tmp_path), data="cifar10")
    assert done.returncode == 2
    assert one_line(done).startswith("error: data: cifar10 is not in")


@pytest.mark.slow
def test_the_figures_own_data_fall_back_loudly_if_none_were_named(tmp_path):
    done = run("fig4", tmp_path / "out", "--dry-run", data="", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT CIFAR10" in done.stdout
    assert "data: digits" in done.stdout


def one_line(done):
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "data", "words"),
    [
        (["--scale", "huge"], "digits", "--scale: 'huge'"),
        (["--seeds", "0"], "digits", "--seeds: 0"),
        (["--seeds", "three"], "digits", "--seeds: invalid int value: 'three'"),
        (["--devices", "4096"], "digits", "--devices: 4096"),
        (["--wandb", "maybe"], "digits", "--wandb: 'maybe'"),
        (["--wandb", "online"], "digits", "--wandb: 'online' needs a login"),
        (["--colour"], "digits", "--colour"),
        ([], "imagenet", "data: 'imagenet'"),
        (["--data-dir", "nowhere"], "cifar10", "--data-dir: no folder 'nowhere'"),
        ([], "mnist", "data: mnist is not in"),
    ],
)
def test_bad_input_gets_one_line_that_names_it_exit_2_and_nothing_written(flags, data, words, tmp_path):
    done = run("fig4", tmp_path / "out", *flags, data=data, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)})
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in one_line(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_damaged_images_are_named_and_end_in_exit_2(tmp_path):
    victim = image_folder(tmp_path / "pets", per_class=2) / "train" / "dog" / "3.png"
    victim.write_bytes(victim.read_bytes()[:100])
    done = run("fig4", tmp_path / "out", "--data-dir", str(tmp_path), data="pets")
    assert done.returncode == 2
    assert str(victim) in one_line(done)
    assert not (tmp_path / "out").exists()


def test_an_out_folder_that_cannot_be_written_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    link, loop = tmp_path / "link", tmp_path / "loop"
    link.symlink_to(tmp_path / "nothing")
    loop.symlink_to(loop)
    for out in (file, file / "below", Path("/proc/out"), tmp_path / ("x" * 300), link, link / "below", loop):
        done = run("fig4", out)
        assert done.returncode == 2
        assert "--out: " in one_line(done)


@pytest.mark.parametrize("place", [*PLACES, "fig4", "fig4/smoke-digits"])
def test_a_file_in_the_place_of_a_folder_of_results_is_refused_before_anything_is_run(place, tmp_path):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("of somebody else")
    done = run("fig4", tmp_path, "--wandb", "disabled")
    assert done.returncode == 2
    assert one_line(done) == f"error: --out: '{tmp_path / place}' is no folder, and in the way of one"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / place]


def test_a_file_in_the_place_of_slurms_folder_is_refused_where_that_is_used(tmp_path):
    (tmp_path / "slurm").write_text("")
    Options(out=tmp_path)
    with pytest.raises(InputError, match="slurm' is no folder"):
        Options(out=tmp_path, slurm=True)


def test_every_folder_of_runs_is_looked_at():
    assert set(PLACES) == {kind.place for kind in FOLDERS.values()}
