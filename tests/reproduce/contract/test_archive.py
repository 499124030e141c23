"""What is exported comes back: ends and measurements to the bit, curves to four digits; damage is refused by name."""

import math
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.images import image_folder
from tests.reproduce.archived import TOLD, exported, item, write
from tests.reproduce.script import PATIENCE, ROOT
from tests.reproduce.specs import MEASURED, NoRuns
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.sources import DataError
from three_factors.reproduce.bridge import THEORY
from three_factors.reproduce.engine.contract.archive import Archive
from three_factors.reproduce.engine.contract.block import DamagedArchive
from three_factors.reproduce.engine.contract.compact import MEANS, four_digits
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.evidence import table_of
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.engine.source import resolve
from three_factors.reproduce.fig4 import FIGURE


@given(st.one_of(st.floats(-1e300, 1e300), st.just(math.nan)))
def test_four_digits_are_near_and_rounding_again_changes_nothing(value):
    found = four_digits(np.array([value]))
    assert np.array_equal(four_digits(found), found, equal_nan=True)
    assert np.isnan(value) or abs(found[0] - value) <= 1.3e-4 * abs(value) + 1e-300


@pytest.fixture
def made(tmp_path):
    """Five runs: whole, stopped early, diverged, without its steps, whole; and an archive of them."""
    results = Results(tmp_path / "out")
    items = [item(seed, every_step=seed != 3) for seed in range(5)]
    for one, how in zip(items, ({}, {"epochs": 11}, {"status": "diverged", "measured": False}, {}, {})):
        write(results, one, **how)
    archive = Archive(tmp_path / "archive")
    archive.add("fig4-paper-cifar10-seeds-0-4", TOLD, [(one, results.folder(one.spec)) for one in items])
    return items, results, tmp_path


def from_archive(tmp_path):
    return Results(tmp_path / "elsewhere", Archive(tmp_path / "archive"))


def test_the_table_of_the_archive_is_that_of_the_results_folder(made):
    items, results, tmp_path = made
    kept = from_archive(tmp_path)
    assert kept.missing(items, print) == []
    assert kept.archived == 5
    here, there = (table_of(NoRuns(), items, of, print) for of in (results, kept))
    assert here.frame.to_csv() == there.frame.to_csv()
    assert here.rows.keys() == there.rows.keys()
    for place, rows in here.rows.items():
        pd.testing.assert_frame_equal(rows, there.rows[place], check_exact=True, check_like=True, check_dtype=False)
        steps, means = here.steps[place], there.steps[place]
        assert steps[["epoch", "lr", "batch_size"]].equals(means[["epoch", "lr", "batch_size"]])
        if place[1] == 3:
            assert means["loss"].isna().all()
        else:
            assert len(means) < MEANS  # so few steps are kept as they are
            assert steps["loss"].to_numpy() == pytest.approx(means["loss"].to_numpy(), rel=1e-6)
    results_of = [{k: v for k, v in results.finished(one, print).items() if k != "bytes"} for one in items]
    found = [{k: v for k, v in kept.finished(one, print).items() if k != "archive"} for one in items]
    for a, b in zip(results_of, found):
        a["final"] = {k: v for k, v in a["final"].items() if v is not None}
        assert a == b


def test_means_of_many_steps_have_their_mean(tmp_path):
    results = Results(tmp_path / "out")
    one = item(0, epochs=300)
    write(results, one)
    archive = Archive(tmp_path / "archive")
    archive.add("a", TOLD, [(one, results.folder(one.spec))])
    kept, real = archive.folder_of(one.spec).step_losses(), results.folder(one.spec).step_losses()
    assert len(kept) == len(real) > MEANS
    assert len(set(kept.tolist())) <= MEANS
    assert kept.mean() == pytest.approx(real.mean(), rel=1e-5)


def test_what_lacks_a_measurement_or_its_steps_is_not_taken_from_the_archive(made):
    items, _, tmp_path = made
    kept = from_archive(tmp_path)
    other = replace(MEASURED, at=("end",))
    assert kept.finished(replace(items[0], measurements=(MEASURED, other)), print) is None
    assert kept.finished(replace(items[3], every_step=True), print) is None
    assert kept.finished(items[3], print) is not None
    assert kept.finished(item(9), print) is None


def test_a_block_more_is_a_file_of_its_own_and_none_is_written_again(made):
    _, results, tmp_path = made
    before = {file.name: file.read_bytes() for file in (tmp_path / "archive").glob("fig4*")}
    more = item(5)
    write(results, more)
    archive = Archive(tmp_path / "archive")
    with pytest.raises(ValueError, match="fig4-paper-cifar10-seeds-0-4: is a block already"):
        archive.add("fig4-paper-cifar10-seeds-0-4", TOLD, [(more, results.folder(more.spec))])
    archive.add("fig4-paper-cifar10-seeds-5-5", TOLD, [(more, results.folder(more.spec))])
    assert {name: (tmp_path / "archive" / name).read_bytes() for name in before} == before
    assert from_archive(tmp_path).finished(more, print) is not None


def test_blocks_made_elsewhere_are_taken_once_and_get_names_of_their_own(made):
    _, results, tmp_path = made
    here, there = Archive(tmp_path / "archive"), Archive(tmp_path / "there")
    more, name = item(5), "fig4-paper-cifar10-seeds-0-4"
    write(results, more)
    there.add(name, TOLD, [(more, results.folder(more.spec))])
    assert here.take(there, "fig1") == []
    assert here.take(there, TOLD["figure"]) == [f"{name}-2"]
    assert from_archive(tmp_path).finished(more, print) is not None
    assert Archive(tmp_path / "archive").take(there, TOLD["figure"]) == []
    assert from_archive(tmp_path).missing(made[0], print) == []


def test_a_block_that_was_damaged_on_its_way_is_not_taken(made):
    _, results, tmp_path = made
    more = item(5)
    write(results, more)
    there = Archive(tmp_path / "there")
    there.add("elsewhere", TOLD, [(more, results.folder(more.spec))])
    (tmp_path / "there" / "elsewhere.npz").write_bytes(b"")
    before = (tmp_path / "archive" / "index.json").read_bytes()
    with pytest.raises(DamagedArchive, match=r"elsewhere\.npz: is not what the archive's index says"):
        Archive(tmp_path / "archive").take(Archive(tmp_path / "there"), TOLD["figure"])
    assert (tmp_path / "archive" / "index.json").read_bytes() == before


AT_THE_END = replace(MEASURED, at=("end",))


def joined(archive, other):
    """Writes the blocks of another archive beside those of one, as if no run were looked at; returns the archive."""
    for name, hashes in other.index["blocks"].items():
        block = other.block(name)
        assert hashes
        archive._write(name, block.files(), [*block.told["runs"], *block.told["lines"]])
    return Archive(archive.folder)


def test_a_row_is_of_one_training_where_a_run_was_made_twice(tmp_path):
    plain, both = item(0, every_step=False), replace(item(0), measurements=(MEASURED, AT_THE_END))
    here, archive = exported(tmp_path / "here", plain)
    _, other = exported(tmp_path / "there", both, elsewhere=True)
    assert here.folder(plain.spec).result()["final"] != other.folder_of(plain.spec).result()["final"]
    kept = Results(tmp_path / "nothing", joined(archive, other))
    assert kept.finished(plain, print)["final"] == archive.folder_of(plain.spec).result()["final"]
    assert kept.place(plain).measured(AT_THE_END) is None
    assert kept.place(plain).step_losses() is None
    assert kept.finished(both, print) is None
    assert kept.finished(item(0), print) is None  # with its steps


def test_what_is_measured_or_kept_later_of_the_same_training_counts(tmp_path):
    plain, both = item(0, every_step=False), replace(item(0), measurements=(MEASURED, AT_THE_END))
    _, archive = exported(tmp_path / "here", plain)
    results = Results(tmp_path / "again")
    write(results, both, seconds=7.5)  # repeated to the bit, in its own time
    archive.add("later", TOLD, [(both, results.folder(both.spec))])
    kept = Results(tmp_path / "nothing", Archive(archive.folder))
    assert kept.finished(both, print)["provenance"]["seconds"] == 1.25
    trace = [of.measured(AT_THE_END)["end"]["hessian/trace"] for of in (kept.place(both), results.folder(both.spec))]
    assert trace[0] == trace[1]
    assert kept.place(both).step_losses() == pytest.approx(results.folder(both.spec).step_losses(), rel=1e-6)


def test_another_training_of_an_archived_run_is_not_added(tmp_path):
    _, archive = exported(tmp_path / "here", item(0))
    results = Results(tmp_path / "there")
    again, new = item(0), item(1)
    for one in (again, new):
        write(results, one, elsewhere=True)
    with pytest.raises(ValueError, match="more: the archive has another training of cyclic S seed 0"):
        archive.add("more", TOLD, [(one, results.folder(one.spec)) for one in (again, new)])
    archive.add("more", TOLD, [(new, results.folder(new.spec))])


def test_of_a_block_made_elsewhere_other_trainings_are_left_out_and_so_are_lines_between_them(tmp_path):
    _, archive = exported(tmp_path / "here", item(0))
    results, other = Results(tmp_path / "there"), Archive(tmp_path / "other")
    for one in (item(0), item(1)):
        write(results, one, elsewhere=True)
    lines = {"to 0": {"key": "to 0"}, "to 1": {"key": "to 1"}}
    ends = {"to 0": [item(1).spec.key, item(0).spec.key], "to 1": [item(1).spec.key, item(1).spec.key]}
    runs = [(one, results.folder(one.spec)) for one in (item(0), item(1))]
    other.add("made elsewhere", TOLD | {"lines": lines, "ends": ends}, runs)
    said = []
    assert archive.take(other, TOLD["figure"], said.append) == ["made elsewhere"]
    (line,) = said
    assert line.endswith(f"other trainings of these runs: {item(0).spec.key}, to 0")
    keys = Archive(archive.folder).index["keys"]
    assert keys == {
        item(0).spec.key: ["of here"],
        item(1).spec.key: ["made elsewhere"],
        "to 1": ["made elsewhere"],
    }


def test_where_nothing_is_left_of_a_block_it_is_not_taken(tmp_path):
    _, archive = exported(tmp_path / "here", item(0))
    _, other = exported(tmp_path / "there", item(0), elsewhere=True)
    before, said = (archive.folder / "index.json").read_bytes(), []
    assert archive.take(other, TOLD["figure"], said.append) == []
    assert len(said) == 1
    assert (archive.folder / "index.json").read_bytes() == before


@pytest.mark.parametrize("ending", ["npz", "json"])
@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b" ", None])
def test_a_damaged_block_is_refused_by_name(ending, damage, made):
    items, _, tmp_path = made
    file = tmp_path / "archive" / f"fig4-paper-cifar10-seeds-0-4.{ending}"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DamagedArchive, match=file.name):
        from_archive(tmp_path).finished(items[0], print)


def test_the_data_set_is_described_without_its_images(made):
    *_, tmp_path = made
    (source,) = Archive(tmp_path / "archive").sources(["cifar10"])
    assert (source.fingerprint, source.train, source.classes, source.folder) == ("0123", 50_000, 10, "")
    assert Archive(tmp_path / "archive").sources(["mnist"]) == []


def test_for_a_picture_of_what_is_archived_nothing_is_downloaded(made):
    *_, tmp_path = made
    archive, said = Archive(tmp_path / "archive"), []
    options = Options(plot_only=True, archive=True, data="cifar10", data_dir=tmp_path)
    source = resolve(FIGURE, options, None, lambda *words, **_: said.append(words[0]), archive)  # no server to ask
    assert (source.name, source.folder) == ("cifar10", "")
    assert said == ["data: cifar10 as in the archive, without images"]


def test_theory_takes_images_or_a_substitute_since_nothing_of_it_is_archived(made):
    *_, tmp_path = made
    archive, said, digits = Archive(tmp_path / "archive"), [], prepare("digits28")
    server = SimpleNamespace(prepare=lambda name, _: digits if name == "digits28" else prepare(name, tmp_path))
    of_cifar = replace(THEORY, data=("cifar10",))
    source = resolve(of_cifar, Options(data_dir=tmp_path), server, lambda *words, **_: said.append(words[0]), archive)
    assert (source, "NOT CIFAR10" in " ".join(said)) == (digits, True)
    (described,) = archive.sources(["cifar10"])
    with pytest.raises(DataError, match="data: the images of 'cifar10' are not here"):
        described.arrays()


def call(clone, *words):
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=clone, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_figure_is_drawn_and_judged_from_the_archive_in_a_clone_without_its_data(tmp_path, monkeypatch):
    clone, data = tmp_path / "clone", tmp_path / "data"
    left_out = shutil.ignore_patterns(".git", "results", "build", "tests", "*.egg-info", "__pycache__", "*.png")
    shutil.copytree(ROOT, clone, ignore=left_out)
    image_folder(data / "pets", per_class=60)
    flags = ("--scale", "smoke", "--data", "pets", "--data-dir", data)
    monkeypatch.setenv("THREE_FACTORS_CACHE", str(tmp_path / "cache"))
    ended, printed = call(clone, "reproduce/fig3.py", *flags, "--wandb", "disabled")
    assert ended == 0, printed
    ended, printed = call(clone, "reproduce/export.py", "fig3", *flags)
    assert ended == 0, printed
    assert "(3 runs, 2 lines" in printed
    assert "all of it is in the archive" in call(clone, "reproduce/export.py", "fig3", *flags)[1]
    table = tmp_path / "fig3.csv"
    assert call(clone, "reproduce/export.py", "fig3", *flags, "--csv", table)[0] == 0
    tidy = pd.read_csv(table)
    assert {"label", "seed", "epoch", "metric", "value"} <= set(tidy)
    assert tidy["label"].nunique() == 5
    before = {name: (clone / f"results/fig3/smoke-pets/{name}").read_text() for name in ("table.csv", "claims.json")}
    shutil.rmtree(clone / "results")
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(data / "pets")
    ended, printed = call(clone, "reproduce/fig3.py", *flags, "--archive")
    assert ended == 0, printed
    assert "pets as in the archive, without images" in printed
    assert "0 to train" in printed
    for name, text in before.items():
        assert (clone / f"results/fig3/smoke-pets/{name}").read_text() == text
    ended, printed = call(clone, "reproduce/fig3.py", *flags, "--archive", "--seeds", "2")
    assert ended == 2
    assert "are not in the archive, and need the images of pets" in printed
    (block,) = (clone / "reproduce/gallery/archive").glob("fig3-smoke-pets*.npz")
    block.write_bytes(b"")
    ended, printed = call(clone, "reproduce/fig3.py", *flags, "--archive")
    assert (ended, block.name in printed.splitlines()[-1]) == (2, True)
