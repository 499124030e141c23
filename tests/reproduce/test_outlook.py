"""Hours of all figures and arms, before anything has run."""

import pytest

from three_factors.datamodules.prepared import prepare
from three_factors.reproduce.contents import load
from three_factors.reproduce.engine import outlook as outlooks
from three_factors.reproduce.engine.definition import Contents
from three_factors.reproduce.engine.launch import server as servers
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.engine.outlook import outlook

pytestmark = pytest.mark.slow


class Timed:
    """Takes a millisecond a step, whatever the network."""

    def prepare(self, name, data_dir, download=True):
        return prepare(name)

    def time_steps(self, *arguments, **options):
        return 1e-3, 1e-6


@pytest.fixture
def told(monkeypatch, tmp_path):
    """The lines for some figures: told(names, scale)."""
    monkeypatch.setattr(servers, "Server", Timed)
    monkeypatch.setenv("THREE_FACTORS_CACHE", str(tmp_path / "cache"))

    def asked(*names, scale="quick"):
        lines, found = [], []
        monkeypatch.setattr(outlooks, "_told", lambda hours: found.append(hours) or f"{hours:.6f} h")
        options = Options(scale=scale, out=tmp_path / "out")
        assert outlook(Contents(names, names, load), options, lines.append) == 0
        return lines, found

    return asked


def test_every_arm_has_its_hours_and_runs_of_several_figures_count_once(told):
    (five, fourteen, everything, arms), _ = told("fig5", "fig14")
    assert five.startswith("fig5           96 runs: ")
    hours = five.split(": ")[1].split(" h")[0]
    assert fourteen.split(": ")[1].split(" h")[0] == hours
    assert f"all figures at scale quick: {hours} h" in everything
    for arm in load("fig5").arms:
        assert f"{arm.name} " in five
        assert f"{arm.name} " in arms


def test_theory_is_not_in_it_and_hours_grow_with_the_scale(told):
    _, quick = told("theorem1", "fig1")
    lines, smoke = told("theorem1", "fig1", scale="smoke")
    assert len(lines) == 3
    assert smoke[0] < 0.2 * quick[0]
