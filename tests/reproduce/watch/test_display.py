"""What a script shows while it runs."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.images import image_folder
from three_factors.datamodules.sources import DataError
from three_factors.reproduce.engine import console, source
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.fig4 import FIGURE


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (2.3026, 2.4118, "diverged: loss 2.41 from 2.3"),
        (2.3, 1.234e10, "diverged: loss 1.23e+10 from 2.3"),
        (2.3, None, "diverged: not finite, epoch 30"),
        (None, 2.4, "diverged: not finite, epoch 30"),
        (2.3, 0.5, "diverged: not finite, epoch 30"),
    ],
    ids=["higher", "far higher", "last loss", "first loss", "weights"],
)
def test_the_line_of_a_diverged_run_says_how(first, last, words, tmp_path):
    result = {"status": "diverged", "first_loss": first, "final": {"epoch": 30, "train/loss": last}}
    assert RunFolder(tmp_path).describe(result) == words


@pytest.mark.parametrize("terminal", [True, False])
def test_a_data_set_of_any_name_is_said_to_be_prepared_on_a_terminal_alone(terminal, tmp_path, monkeypatch):
    monkeypatch.setenv("THREE_FACTORS_CACHE", str(tmp_path / "cache"))
    shown = StringIO()
    monkeypatch.setattr(console, "console", Console(file=shown, force_terminal=terminal, width=200))
    image_folder(tmp_path / "set[v2]" / "a[" / "b]", per_class=2)

    def prepare(name, data_dir):
        raise DataError("enough")

    options = Options(data="set[v2]/a[/b]", data_dir=tmp_path, out=tmp_path / "out")
    with pytest.raises(DataError, match="enough"):
        source.resolve(FIGURE, options, SimpleNamespace(prepare=prepare), console.say)
    assert ("preparing set[v2]/a[/b]" in shown.getvalue()) == terminal
    assert bool(shown.getvalue()) == terminal


def test_a_download_leaves_the_terminal_to_torchvision(tmp_path, monkeypatch):
    said = []

    def prepare(name, data_dir):
        assert said == [f"downloading mnist to {tmp_path}"]
        raise DataError("no network")

    monkeypatch.setattr("three_factors.datamodules.sources.check_reachable", lambda *_: None)
    monkeypatch.setattr(source, "waiting", lambda _: pytest.fail("it would draw over the download's bar"))
    options = Options(data="mnist", data_dir=tmp_path, out=tmp_path / "out")
    with pytest.raises(DataError, match="no network"):
        source.resolve(FIGURE, options, SimpleNamespace(prepare=prepare), said.append)
