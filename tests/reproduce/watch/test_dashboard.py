"""The W&B workspace: its panels show what the mirror logs, all of it; its script refuses bad input in one line."""

import os
import subprocess
import sys
import threading

import pytest

from tests.reproduce.script import PATIENCE, ROOT
from tests.reproduce.wandb_stub import ENTITY, KEY, serving
from three_factors.reproduce.engine.watch import dashboard
from three_factors.reproduce.engine.watch import mirror as wandb_mirror

DASHBOARD = [sys.executable, str(ROOT / "reproduce" / "dashboard.py")]


@pytest.fixture(scope="module")
def panels():
    """Section -> its panels as they are sent to W&B."""
    spec = dashboard.build("someone", "three-factors")._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    found = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in found}


def lines(panels):
    """(section, configuration) of each line plot."""
    found = [(name, p["config"]) for name, members in panels.items() for p in members]
    return [(name, config) for name, config in found if "xAxis" in config]


def test_the_sections_are_the_questions(panels):
    assert list(panels) == ["noise and schedules", "curvature", "accuracy and loss", "figures and claims"]


def test_every_metric_of_the_mirror_is_in_a_panel_and_nothing_else_is(panels):
    shown = [(metric, config["xAxis"]) for _, config in lines(panels) for metric in config["metrics"]]
    assert len(shown) == len(set(shown))
    assert {metric for metric, _ in shown} == {*wandb_mirror.METRICS, "step/loss"}


def test_a_panel_has_the_axis_its_metrics_are_logged_with(panels):
    for _, config in lines(panels):
        axes = {"step"} if config["metrics"] == ["step/loss"] else {"epoch", "t_eta"}
        assert config["xAxis"] in axes
    noise = {(config["metrics"][0], config["xAxis"]) for name, config in lines(panels) if name.startswith("noise")}
    assert noise == {(metric, axis) for metric in wandb_mirror.NOISE for axis in ("epoch", "t_eta")}


def test_losses_and_curvature_are_on_log_scales_and_the_rest_is_not(panels):
    for _, config in lines(panels):
        for metric in config["metrics"]:
            wide = metric.startswith(("hessian/", "training_hessian/", "weights/"))
            assert config["yLogScale"] == (wide or metric.endswith("/loss"))


def test_lines_are_settings_of_one_figure_with_the_range_over_seeds(panels):
    section = dashboard.build("someone", "three-factors")._to_model().spec.section
    keys = [(key.section, key.name) for key in section.run_sets[0].grouping]
    assert keys == [("run", "group"), ("config", "label.value")]
    assert section.settings.use_runs_table_grouping_in_panels
    assert {(c["groupAgg"], c["groupArea"]) for _, c in lines(panels)} == {("mean", "minmax")}


def test_a_figures_image_and_tables_have_a_panel_each(panels):
    image, *tables = panels["figures and claims"]
    assert image["config"]["mediaKeys"] == [wandb_mirror.PICTURE]
    for name, table in zip(wandb_mirror.TABLES, tables, strict=True):
        assert f"'val': '{name}'" in str(table["config"])


def call(*flags, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return subprocess.run(
        [*DASHBOARD, *flags], capture_output=True, text=True, check=False, timeout=PATIENCE, env=inherited | environment
    )


@pytest.mark.slow
def test_a_dry_run_prints_every_panel_and_asks_no_server():
    with serving() as stub:
        done = call("--dry-run", WANDB_BASE_URL=stub.url, WANDB_API_KEY=KEY)
        assert stub.requests == 0
    assert (done.returncode, done.stderr) == (0, "")
    assert "ENTITY/three-factors" in done.stdout
    for name in ("curvature:", "figures and claims:", *wandb_mirror.METRICS, "step/loss", *wandb_mirror.TABLES):
        assert name in done.stdout


@pytest.mark.slow
def test_a_workspace_is_saved():
    with serving() as stub:
        done = call("--entity", ENTITY, "--project", "mine", WANDB_BASE_URL=stub.url, WANDB_API_KEY=KEY)
        assert (done.returncode, done.stderr) == (0, "")
        (view,) = stub.views
        assert stub.unknown == []
        assert done.stdout.startswith(f"saved: {stub.url}/{ENTITY}/mine?")
    assert (view["entityName"], view["projectName"], view["displayName"]) == (ENTITY, "mine", dashboard.NAME)
    assert len(view["spec"]["section"]["panelBankConfig"]["sections"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 0], ids=["answers 500", "never answers"])
def test_a_server_that_fails_is_one_line_and_exit_1(status):
    with serving(status) as stub:
        done = call("--entity", ENTITY, WANDB_BASE_URL=stub.url, WANDB_API_KEY=KEY, WANDB_HTTP_TIMEOUT="2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: W&B did not save the workspace (")
    assert done.stderr.count("\n") == 1


def test_a_library_that_never_returns_is_given_up(monkeypatch):
    ended = threading.Event()

    class Stuck:
        def save(self):
            ended.wait(30)  # not for ever, where nobody gives it up

    monkeypatch.setattr(dashboard, "WAIT", 0.05)
    try:
        with pytest.raises(TimeoutError):
            dashboard.save(Stuck())
    finally:
        ended.set()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--entity: '' is no W&B user or team"),
        (["--entity", "a/b"], "--entity: 'a/b' is not a name"),
        (["--entity", "a", "--project", "b c"], "--project: 'b c' is not a name"),
        (["--dry-run", "--project", ""], "--project: '' is not a name"),
        (["--entity", "a"], "--entity: 'a' needs a login"),
        (["--dry-run", "--scale", "quick"], "unrecognized arguments: --scale quick"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(flags, message, tmp_path):
    done = call(*flags, HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_without_the_library_the_command_that_installs_it_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(SystemExit) as ended:
        dashboard.main("", ["--dry-run"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: wandb-workspaces is not installed: pip install -e '.[dashboard]'\n"
