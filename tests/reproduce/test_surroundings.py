"""What surrounds a script: a notebook's variables, a terminal without η, W&B's."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from three_factors.reproduce.engine import surroundings
from three_factors.reproduce.engine.options import Options, parse
from three_factors.reproduce.engine.watch.mirror import Mirror

ROOT = Path(__file__).resolve().parents[2]


# -- a notebook's backend


INLINE = "module://matplotlib_inline.backend_inline"


@pytest.mark.parametrize(
    ("backend", "left"),
    [
        (INLINE, "agg"),
        ("inline", "agg"),
        ("module://none_such", "agg"),
        ("module://json.backend", "module://json.backend"),
        ("TkAgg", "TkAgg"),
    ],
)
def test_a_notebooks_backend_that_is_not_there_is_left_out(backend, left, monkeypatch):
    monkeypatch.setattr(
        surroundings, "find_spec", lambda name: None if name in ("matplotlib_inline", "none_such") else object()
    )
    monkeypatch.setenv("MPLBACKEND", backend)
    surroundings.usable_backend()
    assert os.environ["MPLBACKEND"] == left


def test_a_notebooks_backend_that_is_there_stays(monkeypatch):
    monkeypatch.setattr(surroundings, "find_spec", lambda name: object())
    monkeypatch.setenv("MPLBACKEND", INLINE)
    surroundings.usable_backend()
    assert os.environ["MPLBACKEND"] == INLINE


# -- a terminal


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "eta/S <= 3 x 2, <theta^2> +- sigma, Sigma, |Delta|, naive ?"),
        ("latin-1", "eta/S <= 3 × 2, <theta²> ± sigma, Sigma, |Delta|, naïve ?"),
        ("utf-8", "η/S ≤ 3 × 2, ⟨θ²⟩ ± σ, Σ, |Δ|, naïve 漢"),
    ],
)
def test_what_a_terminal_has_not_got_is_spelt(encoding, shown, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    surroundings.spell_out()
    print("η/S ≤ 3 × 2, ⟨θ²⟩ ± σ, Σ, |Δ|, naïve 漢", flush=True)
    assert raw.getvalue().decode(encoding).strip() == shown


# -- W&B's variables


@pytest.mark.parametrize(
    ("flag", "variable", "mode", "said"),
    [
        ([], None, "offline", ""),
        ([], "disabled", "disabled", "W&B: disabled, as WANDB_MODE says (--wandb goes before it)"),
        ([], "online", "online", "W&B: online, as WANDB_MODE says (--wandb goes before it)"),
        ([], "dryrun", "offline", ""),
        (["--wandb", "offline"], "online", "offline", ""),
        (["--wandb", "disabled"], "nonsense", "disabled", ""),
    ],
)
def test_wandb_mode_is_taken_where_no_flag_goes_before_it(flag, variable, mode, said, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    assert parse("", flag, Options).wandb == mode
    assert capsys.readouterr().out.strip() == said


def test_a_wandb_mode_that_is_none_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(SystemExit) as ending:
        parse("", [], Options)
    assert ending.value.code == 2
    assert "error: WANDB_MODE: 'sometimes' is not one of offline, online, disabled" in capsys.readouterr().err


def test_the_help_names_wandb_mode(capsys):
    with pytest.raises(SystemExit):
        parse("", ["--help"], Options)
    assert "WANDB_MODE" in capsys.readouterr().out


LEAKING = {
    "WANDB_RUN_ID": "abc",
    "WANDB_RUN_GROUP": "group",
    "WANDB_RESUME": "must",
    "WANDB_NAME": "mine",
    "WANDB_TAGS": "a,b",
    "WANDB_SWEEP_ID": "sweep",
    "WANDB_SWEEP_PARAM_PATH": "none.yaml",
    "WANDB_SERVICE": "2-1-tcp-localhost-1",
}


@pytest.mark.slow
def test_the_runs_of_a_figure_are_none_of_the_run_around_it(tmp_path, monkeypatch):
    for name, value in (LEAKING | {"WANDB_PROJECT": "other", "WANDB_ENTITY": "me"}).items():
        monkeypatch.setenv(name, value)
    said = []
    mirror = Mirror("offline", tmp_path, "figure", [], {}, said.append)
    (line,) = said
    assert all(name in line for name in (*LEAKING, "WANDB_PROJECT"))
    assert line.endswith("not used: every run has a name and an id of its own")
    run = mirror._init(name="a", group="figure", config={})
    run.finish()
    assert run.id != "abc"
    assert (run.name, run.group, run.sweep_id, run.project) == ("a", "figure", None, "three-factors")
    assert os.environ["WANDB_ENTITY"] == "me"


@pytest.mark.slow
def test_scripts_and_their_runs_start_in_a_notebooks_environment_on_an_ascii_terminal():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    hostile = {
        "MPLBACKEND": INLINE,
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "WANDB_MODE": "disabled",
    }
    code = (
        "from three_factors.reproduce.engine import console, options\n"
        "options.parse('', [], options.Options)\n"
        "import three_factors.reproduce.engine.worker.process, matplotlib.figure, torchmetrics\n"
        "console.say('\\u03b7/S \\u2264 2')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=kept | hostile, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.splitlines() == [b"W&B: disabled, as WANDB_MODE says (--wandb goes before it)", b"eta/S <= 2"]
