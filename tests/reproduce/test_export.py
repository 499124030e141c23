"""Finished runs become blocks of an archive, are taken into another, or become a tidy table."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from tests.reproduce import figures, script
from tests.reproduce.archived import exported, item, write
from tests.reproduce.specs import MEASURED, MLP
from three_factors.datamodules.prepared import prepare
from three_factors.reproduce.engine.contract.archive import Archive
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.spec import Item, Keep, PathSpec
from three_factors.reproduce.engine.export import _add
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.engine.planning import FigurePlan

BLOCK = "fig1-smoke-digits28-seeds-0-0"


def export(*flags):
    command = [sys.executable, str(script.ROOT / "reproduce" / "export.py"), "fig1", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=script.PATIENCE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    assert script.run("fig1", out, "--wandb", "disabled", data="digits28").returncode == 0
    return out


@pytest.mark.slow
def test_runs_are_exported_once_and_taken_once(made, tmp_path):
    where = ("--scale", "smoke", "--data", "digits28", "--out", made, "--to", tmp_path / "there")
    assert f"written: {tmp_path}/there/{BLOCK}" in export(*where).stdout
    assert "all of it is in the archive" in export(*where).stdout
    take = ("--take", tmp_path / "there", "--to", tmp_path / "home")
    assert f"taken: {BLOCK}" in export(*take).stdout
    assert "nothing of fig1" in export(*take).stdout
    (tmp_path / "there" / f"{BLOCK}.npz").write_bytes(b"")
    refused = export("--take", tmp_path / "there", "--to", tmp_path / "other")
    assert refused.returncode == 2
    assert f"error: --take: {tmp_path}/there/{BLOCK}.npz: is not what the archive's index says" in refused.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_tidy_table_has_a_row_a_value(made, tmp_path):
    file = tmp_path / "fig1.csv"
    assert export("--scale", "smoke", "--data", "digits28", "--out", made, "--csv", file).returncode == 0
    table = pd.read_csv(file)
    assert set(table["label"]) == set(pd.read_csv(made / "fig1" / "smoke-digits28" / "table.csv")["label"])
    assert table["value"].notna().all()
    assert {"train/loss", "end hessian/frobenius"} <= set(table["metric"])


@pytest.fixture
def added(tmp_path, capsys):
    """Adds finished items of a results folder to an archive; returns what is said."""

    def added(results, archive, *done):
        _add(figures.figure("fig4"), Options(out=results.out), figures.source("cifar10"), archive, done, results)
        return capsys.readouterr().out

    return added


def test_what_is_of_another_training_than_the_archives_is_left_out_and_named(tmp_path, added):
    _, archive = exported(tmp_path / "here", replace(item(0), measurements=()))
    results = Results(tmp_path / "there")
    runs = [item(0), item(1)]
    for one in runs:
        write(results, one, elsewhere=True)
    said = added(results, archive, *runs)
    assert "left out, since the archive has other trainings of these runs: cyclic S seed 0" in said
    assert "(1 runs, 0 lines" in said
    again = added(results, Archive(archive.folder), *runs)
    assert "cyclic S seed 0" in again
    assert "nothing else is to be added" in again
    assert len(Archive(archive.folder).index["blocks"]) == 2


def test_what_a_later_block_has_of_a_run_is_exported_once(tmp_path, added):
    results, archive = exported(tmp_path / "here", replace(item(0), measurements=(), every_step=False))
    write(results, item(0))  # measured later, and with its steps
    assert "(1 runs, 0 lines" in added(results, archive, item(0))
    assert Results(tmp_path / "nothing", Archive(archive.folder)).finished(item(0), print) is not None
    assert "all of it is in the archive" in added(results, Archive(archive.folder), item(0))


def test_a_line_that_ends_in_another_training_is_left_out(tmp_path, added):
    runs = [Item(f"end {seed}", 0, replace(MLP, seed=seed, keep=Keep()), (MEASURED,)) for seed in range(3)]
    _, archive = exported(tmp_path / "here", runs[0])
    results = Results(tmp_path / "there")
    for run in runs:
        write(results, run, elsewhere=True)
    lines = [Item(f"to {run.label}", 0, PathSpec(runs[1].spec, run.spec)) for run in (runs[0], runs[2])]
    for line in lines:
        folder = results.folder(line.spec).path
        folder.mkdir(parents=True)
        write_json(
            folder / "result.json", {"key": line.spec.key, "status": "ok", "final": {"a": 1}, "profiles": {"b": 1}}
        )
    said = added(results, archive, *runs[1:], *lines)
    assert "other trainings of these runs: to end 0 seed 0" in said
    assert "(2 runs, 1 lines" in said
    (block,) = (
        of for of in map(Archive(archive.folder).block, Archive(archive.folder).index["blocks"]) if of.told["lines"]
    )
    assert block.told["ends"] == {lines[1].spec.key: [runs[1].spec.key, runs[2].spec.key]}


def test_runs_in_another_precision_than_the_scales_are_exported_where_they_are_asked_for(tmp_path):
    source, defined = prepare("digits28"), figures.figure("fig1")
    where = ("--scale", "smoke", "--data", "digits28", "--out", tmp_path, "--to", tmp_path / "archive")
    options = Options(scale="smoke", precision="tf32")
    run = FigurePlan(defined, options, source, defined.arm("epochs")).runs()[0]
    write(Results(tmp_path), run)
    assert "holds no finished run of fig1" in export(*where).stderr
    assert (
        f"written: {tmp_path}/archive/fig1-smoke-digits28-tf32-seeds-0-0"
        in export(*where, "--precision", "tf32").stdout
    )
    (block,) = (tmp_path / "archive").glob("*.npz")
    assert Archive(tmp_path / "archive").block(block.stem).spec(run.spec.key).precision == "tf32"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--take", "/nowhere"), "--take: no folder '/nowhere'"),
        (("--out", "/proc/nothing/here"), "--out: "),
        (("--to", __file__), f"--to: {__file__!r} is not a folder"),
    ],
)
def test_bad_input_is_one_line(flags, told):
    done = export(*flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {told}")
    assert done.stderr.count("\n") == 1
