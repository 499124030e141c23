"""What a figure leaves behind when some of its runs diverged or are missing."""

import json
import re
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from filelock import Timeout

from tests.reproduce.figures import source
from tests.reproduce.script import ROOT
from tests.reproduce.specs import SPEC
from three_factors.reproduce.engine import judging
from three_factors.reproduce.engine.contract.files import lock, write_json
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.contract.steps import OF_STEPS
from three_factors.reproduce.engine.definition import Context
from three_factors.reproduce.engine.evidence import table_of
from three_factors.reproduce.engine.judge.claims import Finding, Statement
from three_factors.reproduce.engine.judge.estimates import OverSeeds
from three_factors.reproduce.engine.judge.rules import Direction
from three_factors.reproduce.engine.judge.table import SyntheticTable, Table
from three_factors.reproduce.engine.launch.devices import Hardware
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.engine.planning import Stage
from three_factors.reproduce.engine.prospects import Prospects
from three_factors.reproduce.engine.publish import ledger, outputs
from three_factors.reproduce.engine.publish.picture import save
from three_factors.reproduce.fig4 import FIGURE, panels

CIFAR10 = source("cifar10")
CONTEXT = Context(FIGURE, Options(), CIFAR10, 4, "")


FOLDER = "SCALE[-DATA][-ARM][-PRECISION]"  # as it is told


def test_a_results_folder_is_named_by_what_is_not_the_figures_first_choice():
    assert CONTEXT.folder == "quick"
    options = Options(arm="no-bn", precision="tf32")
    other = replace(CONTEXT, options=options, source=source("mnist"), arm=FIGURE.arm("no-bn"))
    assert other.folder == "quick-mnist-no-bn-tf32"


@pytest.mark.parametrize("told", ["README.md", "engine/publish/outputs.py", "engine/publish/stored.py"])
def test_a_results_folder_is_told_by_its_whole_name(told):
    text = (ROOT / "reproduce" / told).read_text()
    assert set(re.findall(r"/NAME/(SCALE[-\w\[\]]*)", text)) == {FOLDER}


def write(results, run, status, losses):
    folder = results.folder(run.spec).path
    folder.mkdir(parents=True)
    rows = [
        {
            "epoch": i + 1,
            "step": i + 1,
            "t_eta": 0.1 * i,
            "train/loss": loss,
            "train/accuracy": 0.5,
            "test/accuracy": 0.4,
            "noise/lr": 0.1,
            "noise/batch_size": 32,
        }
        for i, loss in enumerate(losses)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    final = {k: v for k, v in rows[-1].items() if k not in OF_STEPS}
    result = {"key": run.spec.key, "status": status, "final": final, "provenance": {"seconds": 1.0}}
    result["bytes"] = (folder / "metrics.jsonl").stat().st_size
    (folder / "result.json").write_text(json.dumps(result))


def test_a_diverged_run_is_a_row_and_no_curve_and_a_missing_one_is_named(tmp_path):
    results = Results(tmp_path)
    planned = [Item("constant, small S", seed, replace(SPEC, seed=seed)) for seed in range(3)]
    write(results, planned[0], "ok", [2.0, 1.0])
    write(results, planned[1], "diverged", [2.0, None])
    table, missing = table_of(FIGURE.experiment, planned, results, print), results.missing(planned, print)
    assert table.frame[["seed", "status"]].to_numpy().tolist() == [[0, "ok"], [1, "diverged"]]
    assert table.seeds("constant, small S") == [0]
    assert [item.name for item in missing] == ["constant, small S seed 2"]
    assert table.diverged("constant, small S") == 1
    assert table.values("constant, small S", "test/accuracy") == pytest.approx([0.4], abs=1e-4)


def test_a_figure_with_missing_arms_is_drawn_with_what_is_there(tmp_path):
    results = Results(tmp_path)
    planned = [Item("cyclic S", seed, replace(SPEC, seed=seed)) for seed in range(2)]
    for run in planned:
        write(results, run, "ok", [2.0, 1.5, 1.0])
    table = table_of(FIGURE.experiment, planned, results, print)
    save(FIGURE.draw, table, tmp_path, "fig4", footer="", watermark=None)
    assert (tmp_path / "fig4.png").read_bytes()[:4] == b"\x89PNG"
    first = (tmp_path / "fig4.svg").read_bytes()
    save(FIGURE.draw, table, tmp_path, "fig4", footer="", watermark=None)
    assert (tmp_path / "fig4.svg").read_bytes() == first  # equal results give equal files
    judged = judging.judge(CONTEXT, table, {})
    assert {claim.verdict for claim in judged} == {"not judged", "estimated"}
    assert isinstance(table.frame, pd.DataFrame)


def conclude(context, items, seconds=0.0):
    """Judges and publishes a figure that has no table."""
    table = Table(pd.DataFrame(columns=["label", "seed", "status"]), {})
    judged = judging.looked_at(context, items, table, [], {})
    return outputs.publish(context, items, table, [], judged, seconds)


def publish(out, items, seconds, draw=lambda table, axes: axes(1, 1)):
    """Publishes a figure without claims, and no run of it."""
    context = replace(CONTEXT, definition=replace(FIGURE, check=lambda table: [], draw=draw), options=Options(out=out))
    return conclude(context, items, seconds).folder


def test_the_time_of_several_calls_is_added_up_until_the_settings_change(tmp_path):
    def told(seeds, seconds):
        folder = publish(tmp_path, [Item("a", seed, replace(SPEC, seed=seed)) for seed in seeds], seconds)
        return json.loads((folder / "provenance.json").read_text())["seconds"]

    times = [told((0, 1), 100.0), told((0, 1, 2), 50.0), told((0, 1, 2), 0.0), told((3, 4), 30.0)]
    assert times == [100.0, 150.0, 150.0, 30.0]


def test_seeds_of_other_calls_are_named(tmp_path, capsys):
    context = replace(CONTEXT, options=Options(out=tmp_path))
    item = Item("constant, small S", 3, SPEC)
    for seeds, told in (((3,), ""), ((100, 101), "seeds 3 are"), ((100,), "seeds 3, 101 are")):
        items = [replace(item, seed=seed) for seed in seeds]
        conclude(context, items)
        assert (told in capsys.readouterr().out) == bool(told) or not told
    told = json.loads((tmp_path / "fig4" / "quick" / "provenance.json").read_text())
    assert told["other_seeds"] == [3, 101]


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_results_say_their_precision(precision, tmp_path):
    options = Options(out=tmp_path, precision=precision)
    context = replace(CONTEXT, definition=replace(FIGURE, check=lambda table: []), options=options)
    folder = conclude(context, [Item("constant, small S", 3, SPEC)]).folder
    assert json.loads((folder / "provenance.json").read_text())["precision"] == (precision or "float32")


def test_other_copies_of_a_data_set_have_looks_of_their_own():
    assert CONTEXT.place.startswith("quick cifar10-")
    assert replace(CONTEXT, source=replace(CIFAR10, fingerprint="0" * 16)).place != CONTEXT.place


def test_two_calls_write_a_figure_one_after_the_other(tmp_path):
    folder, drawn, items = tmp_path / "fig4" / "quick", [], [Item("a", 0, SPEC)]

    def draw(table, axes):
        axes(1, 1)
        with pytest.raises(Timeout):
            lock(folder, "lock", patience=0).acquire()
        drawn.append(table)

    folder.mkdir(parents=True)
    (folder / ".fig4.png.123").write_text("of a call that was killed")
    (folder / ".gitignore").write_text("the user's own")
    (folder / ".ipynb_checkpoints").mkdir()  # Jupyter's
    threads = [Thread(target=publish, args=(tmp_path, items, 1.0, draw)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 2
    assert json.loads((folder / "provenance.json").read_text())["seconds"] == 2.0  # neither call's is lost
    own = {".gitignore", ".ipynb_checkpoints"}
    assert {file.name for file in folder.iterdir()} == {"fig4.png", "fig4.svg", *outputs.FILES, *own}


def look_at(tmp_path, value, draw=lambda table, axes: axes(1, 1)):
    """Publishes a figure whose one claim has four seeds about a value."""
    about, rule = Statement("cyclic.share", "a claim", "mean"), Direction(1, smallest=0.1)
    found = Finding(about, rule, OverSeeds(value + np.array([0.0, 0.1, -0.1, 0.05])))
    definition = replace(FIGURE, check=lambda table: [found], primary=("cyclic.share",), draw=draw)
    context = replace(CONTEXT, definition=definition, options=Options(out=tmp_path))
    items = [Item("constant, small S", seed, replace(SPEC, seed=seed)) for seed in range(4)]
    return conclude(context, items)


def test_a_look_is_spent_before_its_word_is_published(tmp_path):
    """A kill between the two must not give the same runs another look."""

    def killed(table, axes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_at(tmp_path, 1.0, killed)
    (spent,) = ledger.read(tmp_path).of(
        "fig4.cyclic.share", replace(CONTEXT, options=Options()).place, FIGURE.rules("epochs")
    )
    assert (spent.look, spent.verdict) == (1, "supported")
    (claim,) = look_at(tmp_path, -1.0).claims
    assert claim["verdict"] == "supported"
    assert claim["note"].startswith("decided at look 1; now -0.98")


def test_an_undecided_claim_says_in_the_terminal_what_it_lacked(tmp_path, capsys):
    look_at(tmp_path, 0.08)
    assert " · look 1 · support: p 0.059, at most 0.025 needed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_every_setting_that_is_trained_is_drawn_and_judged(scale):
    random = np.random.default_rng(0)
    table = FIGURE.experiment.imagined(scale, 4, random)
    settings = set(FIGURE.experiment.runs(scale, CIFAR10))
    drawn = {label for panel in panels(table).values() for label in panel}
    judged = {label for finding in FIGURE.check(table) for label in finding.labels}
    assert settings == drawn
    assert judged == settings - {"root rule, equal epochs"}  # shown only


def test_the_stability_of_a_milestone_takes_the_eta_of_the_step_before_it(tmp_path):
    """eta of the rows falls from 0.4 to 0.1 after the second epoch; before the first step it is the spec's, 0.1."""
    results, run = Results(tmp_path), Item("cyclic S", 0, SPEC)
    write(results, run, "ok", [2.0, 1.5, 1.0])
    folder = results.folder(run.spec).path
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row, lr in zip(rows, (0.4, 0.4, 0.1)):
        row["noise/lr"] = lr
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = json.loads((folder / "result.json").read_text())
    result["bytes"] = (folder / "metrics.jsonl").stat().st_size
    top = {"hessian/top_eigenvalue": 10.0}
    result["milestones"] = {name: {"epoch": epoch, **top} for name, epoch in (("initial", 0), ("best", 2), ("end", 3))}
    (folder / "result.json").write_text(json.dumps(result))
    table = table_of(FIGURE.experiment, [run], results, print)
    found = [float(table.values("cyclic S", f"{at} hessian/lr_top_eigenvalue")[0]) for at in ("initial", "best", "end")]
    assert found == pytest.approx([1.0, 4.0, 1.0])


def test_a_run_that_is_half_done_is_expected_to_take_what_is_left_of_it(tmp_path):
    run, results = Item("cyclic S", 0, SPEC), Results(tmp_path)
    prospects = Prospects(None, results, Hardware("cpu", 2, "-"), 1, lambda threads: None)
    prospects.forecast = SimpleNamespace(seconds=lambda spec, measurements: 80.0)
    folder = results.folder(run.spec)
    folder.path.mkdir(parents=True)
    write_json(folder.path / "progress.json", {"fraction": 0.75})
    assert prospects.wall_seconds(Stage([run]), [run]) == 80  # without a checkpoint it begins again
    folder.checkpoint.write_bytes(b"-")
    assert prospects.wall_seconds(Stage([run]), [run]) == 20


def test_a_claim_says_which_of_its_runs_diverged():
    class OneLost(SyntheticTable):
        def diverged(self, label):
            return int(label == "constant, large S")

    drawn = FIGURE.experiment.imagined("quick", 4, np.random.default_rng(0))
    table = OneLost(drawn.finals, drawn.series)
    notes = {claim.claim: claim.note for claim in judging.judge(CONTEXT, table, {})}
    touched = notes["constant pair: end test accuracies within 0.5 points"]
    assert "1 run of 'constant, large S' diverged" in touched
    assert "diverged" not in notes["cyclic pair: end test accuracies within 0.5 points"]
