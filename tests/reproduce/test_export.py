"""Finished runs become blocks of an archive, are taken into another, or become a tidy table."""

import subprocess
import sys

import pandas as pd
import pytest

from tests.reproduce import script

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
