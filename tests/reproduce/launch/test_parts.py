"""A figure's runs in parts: each in one of them, packs as a whole, whatever is done already."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reproduce import script
from tests.reproduce.figures import plan
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.packs import same_stack
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.steps import cost_of
from three_factors.reproduce.engine.launch.devices import Hardware
from three_factors.reproduce.engine.launch.parts import part_of
from three_factors.reproduce.engine.options import InputError, Options
from three_factors.reproduce.engine.prospects import Prospects, announce

ITEMS = {(name, scale): plan(name, scale).runs() for name, scale in (("fig5", "paper"), ("fig4", "quick"))}


def keys(items):
    return [item.spec.key for item in items]


@pytest.mark.parametrize("of", ITEMS, ids=" ".join)
@pytest.mark.parametrize("count", [*range(1, 17), 23, 60])
def test_every_run_is_in_one_part_and_in_its_order(of, count):
    items = ITEMS[of]
    parts = [keys(part_of(items, (k, count))) for k in range(1, count + 1)]
    assert sorted(key for part in parts for key in part) == sorted(keys(items))
    place = {key: i for i, key in enumerate(keys(items))}
    assert all([place[key] for key in part] == sorted(place[key] for key in part) for part in parts)


@given(count=st.integers(1, 12))
def test_what_is_stacked_stays_together(count):
    items = ITEMS["fig5", "paper"]
    homes = {}
    for k in range(1, count + 1):
        for item in part_of(items, (k, count)):
            homes.setdefault(same_stack(item.spec), set()).add(k)
    assert len(homes) == 5  # batch sizes
    assert all(len(of) == 1 for of in homes.values())


def test_parts_take_about_as_long():
    items = ITEMS["fig4", "quick"]
    costs = [sum(cost_of(item.spec) for item in part_of(items, (k, 4))) for k in range(1, 5)]
    assert max(costs) < 1.5 * min(costs)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/", "a/b", "-1/2", "1/2/3", "1/1001", "1/9999999999"])
def test_what_is_no_part_is_refused(part):
    with pytest.raises(InputError, match=f"--part: '{part}' is not K/N"):
        Options(part=part)


def test_what_a_part_without_a_run_of_the_tuning_takes_is_told(tmp_path):
    """Part 18 of 40 of Table 1 has a final run alone."""
    told, call = [], plan("table1", "quick")
    prospects = Prospects(None, Results(tmp_path), Hardware("cpu", 2, "-"), 1, lambda _: Job(None, "cpu"))
    prospects.forecast = SimpleNamespace(seconds=lambda spec, measurements: 80.0)

    def only(stage):
        return replace(stage, items=[] if stage.alone else part_of(stage.items, (18, 40)))

    announce(call, prospects, told.append, dry_run=True, plot_only=False, only=only)
    assert told[0].startswith("runs: 1 = 0 settings x 0 seeds to tune, then 1 settings x 1 seed; 0 cached in ")
    assert told[-1] == "expected time: 88 s"


@pytest.mark.slow
def test_parts_made_one_after_another_are_the_figure(tmp_path):
    scale = ("--wandb", "disabled")
    for k in (1, 2):
        done = script.run("fig1", tmp_path, *scale, "--part", f"{k}/2", data="digits28")
        assert f"part {k}/2: " in done.stdout
        assert not (tmp_path / "fig1").exists()
    made = len(list((tmp_path / "runs").glob("*/result.json")))
    whole = script.run("fig1", tmp_path, *scale, data="digits28")
    assert f"{made} cached" in whole.stdout
    told = json.loads((tmp_path / "fig1" / "smoke-digits28" / "provenance.json").read_text())
    assert len(told["runs"]) == made
    assert told["missing"] == []
