"""The report's command line: what it runs, what it takes from the archive, what it refuses."""

import json
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.reproduce.figures import source
from tests.reproduce.publish.pages import CLAIM, arm, current, halve, report, results
from tests.reproduce.script import ROOT
from three_factors.reproduce.contents import CONTENTS
from three_factors.reproduce.engine import report as command_line
from three_factors.reproduce.engine.launch.scripts import Ended
from three_factors.reproduce.engine.options import EPOCHS, Options, parse
from three_factors.reproduce.engine.planning import FigurePlan
from three_factors.reproduce.engine.publish.page import write
from three_factors.reproduce.engine.report import ReportOptions, _command, _complete, _run_missing


def test_figures_that_are_incomplete_outdated_or_have_too_few_seeds_are_made_again(tmp_path, monkeypatch):
    folder = results(tmp_path, "fig1", CLAIM)
    told = json.loads((folder / "provenance.json").read_text())

    def complete(told=told, **options):
        return _complete(CONTENTS.load("fig1"), folder, told, ReportOptions(out=tmp_path, **options))

    assert not complete()  # of other settings
    current(monkeypatch)
    assert complete()
    assert not complete(seeds=8)
    assert not complete(told | {"missing": ["a run"]})


def test_a_script_with_several_data_sets_is_run_on_and_shown_for_each(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("three_factors.reproduce.engine.report._run", lambda command: commands.append(command) or 0)
    current(monkeypatch)
    results(tmp_path, "noise_only", CLAIM | {"data": "fashionmnist"})
    _run_missing(CONTENTS, ReportOptions(out=tmp_path))
    (again,) = [command for command in commands if command[0].endswith("noise_only.py")]
    assert again[again.index("--data") + 1] == "cifar10"
    results(tmp_path, "noise_only", CLAIM | {"data": "cifar10"}, scale="quick-cifar10")
    page, entries, _ = write(CONTENTS, ReportOptions(out=tmp_path))
    assert [entry.name for entry in entries] == ["noise_only-fashionmnist", "noise_only-cifar10"]
    assert page.read_text().count('<section id="noise_only-') == 2


def test_what_is_asked_for_is_passed_on_to_the_scripts_that_know_it(tmp_path):
    options = ReportOptions(out=tmp_path, slurm=True, partition="long", no_packs=True, archive=True, seeds=7)
    command = _command(CONTENTS.load("fig1"), "digits", EPOCHS, options)[1:]
    assert {"--slurm", "--no-packs", "--archive"} <= set(command)
    assert not {"--gpus", "--detach", "--time", "--run"} & set(command)
    pairs = {flag: command[command.index(flag) + 1] for flag in ("--partition", "--seeds", "--data")}
    assert pairs == {"--partition": "long", "--seeds": "7", "--data": "digits"}
    assert not {"--slurm", "--partition", "--data"} & set(_command(CONTENTS.load("theorem1"), None, EPOCHS, options))


def test_flags_of_a_single_figure_are_refused(tmp_path):
    with pytest.raises(SystemExit) as ended:
        parse("", ["--plot-only", "--out", str(tmp_path)], ReportOptions)
    assert ended.value.code == 2


def test_damaged_figures_are_made_again(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("three_factors.reproduce.engine.report._run", lambda command: commands.append(command) or 0)
    current(monkeypatch)
    results(tmp_path, "fig1", CLAIM)
    halve(results(tmp_path, "fig4", CLAIM) / "provenance.json")
    _run_missing(CONTENTS, ReportOptions(out=tmp_path))
    again = [Path(command[0]).stem for command in commands]
    assert "fig4" in again
    assert "fig1" not in again


def test_an_empty_folder_is_one_line_and_exit_2(tmp_path):
    done = report(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --out: ")
    assert "holds no figure at scale quick" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_the_archive_has_is_drawn_first(tmp_path, monkeypatch, capsys):
    current(monkeypatch)
    results(tmp_path, "fig1", CLAIM)
    block = SimpleNamespace(told={"scale": "quick"})
    archive = SimpleNamespace(
        index={"blocks": {"one": {}}}, block=lambda name: block, sources=lambda names: []
    )  # no arm
    monkeypatch.setattr(command_line, "Archive", lambda: archive)
    ran = {}

    def run(commands, at_once):
        ran.update((Path(command[0]).stem, command) for command in commands)
        return [Ended(of, {"fig2": 1, "fig3": 2}.get(name, 0), "", "error: why") for name, of in ran.items()]

    monkeypatch.setattr(command_line, "run_scripts", run)
    assert command_line._draw_archived(CONTENTS, ReportOptions(out=tmp_path)) == []
    assert command_line._draw_archived(CONTENTS, ReportOptions(out=tmp_path, archive=True, scale="smoke")) == []
    assert not ran
    assert command_line._draw_archived(CONTENTS, ReportOptions(out=tmp_path, archive=True)) == ["fig3"]
    assert "error: why" in capsys.readouterr().out
    assert {"fig2", "fig3", "noise_only"} < ran.keys()
    assert not ran.keys() & {"fig1", "theorem1"}  # which is there; which has no archive
    assert all({"--plot-only", "--archive"} < set(command) and "--run" not in command for command in ran.values())


def test_the_arms_whose_runs_the_archive_has_are_drawn_too_whether_they_were_given_a_word_or_not(tmp_path, monkeypatch):
    current(monkeypatch)
    arm(tmp_path / "out", "time", CLAIM | {"data": "fashionmnist"})  # of fig1, which is there
    kept = [("fig1", "fashionmnist", "time"), ("fig6", "cifar10", "no-bn"), ("fig5", "mnist", "loss")]
    kept += [("noise_only", name, "quench") for name in ("cifar10", "fashionmnist")]
    keys, of = dict[str, list[str]](), {name: source(name) for name in ("cifar10", "mnist", "fashionmnist")}
    for name, data, changed in kept:
        figure = CONTENTS.load(name)
        runs = FigurePlan(figure, Options(scale="quick"), of[data], figure.arm(changed)).runs()
        keys |= {run.spec.key: [name] for run in runs[: -1 if name == "fig5" else None]}  # of fig5 one is lost
    archive = SimpleNamespace(index={"keys": keys}, sources=lambda names: [of[name] for name in names])

    def arms(name, **options):
        asked = ReportOptions(out=tmp_path / "out", **options)
        return [(data, arm) for _, data, arm in command_line._missing_arms(CONTENTS.load(name), asked, archive)]

    assert arms("fig1") == []
    assert arms("fig5") == []
    assert arms("fig6") == [(None, "no-bn")]
    assert arms("fig6", scale="paper") == []
    assert arms("noise_only") == [(None, "quench"), ("cifar10", "quench")]
    assert arms("noise_only", data="cifar10") == [("cifar10", "quench")]
    assert arms("theorem1") == []
    command = _command(CONTENTS.load("noise_only"), "cifar10", "quench", ReportOptions(out=tmp_path))
    assert {("--arm", "quench"), ("--data", "cifar10")} <= set(pairwise(command))


def test_the_report_knows_every_figure_script():
    texts = {path.stem: path.read_text() for path in (ROOT / "reproduce").glob("*.py")}
    makers = {name for name, text in texts.items() if re.search("^(FIGURE|THEORY) = (Figure|Theory)", text, re.M)}
    assert set(CONTENTS.page) == makers == set(CONTENTS.running)
