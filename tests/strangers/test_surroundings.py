"""What surrounds our parts: Lightning's other entries, a notebook's variables, a terminal without η, W&B's."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader

from callbacks import NoiseScheduler
from datamodules import Cyclic, DigitsDataModule, NoiseSchedule
from lightning_modules import MLP, VGG11, ResNet56
from reproduce.engine import surroundings
from reproduce.engine.options import Options, parse
from reproduce.engine.wandb_mirror import Mirror

ROOT = Path(__file__).resolve().parents[2]


def digits(batch_size=16, **options):
    return DigitsDataModule(gray=True, train=100, validation=20, test=40, batch_size=batch_size, **options)


class Steps(pl.Callback):
    def __init__(self):
        self.sizes, self.labels = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.sizes.append(len(batch[1]))
        self.labels.append(batch[1].tolist())


def trainer(tmp_path, *callbacks, **options):
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **{"max_epochs": 2} | options,
    )


# -- predict


def test_predict_gives_the_logits_of_the_test_images(tmp_path):
    module, data = MLP(hidden=(4,)), digits()
    logits = torch.cat(trainer(tmp_path).predict(module, data))
    torch.testing.assert_close(logits, module(data.splits["test"][0]).detach())


@pytest.mark.parametrize(
    ("module", "shape"),
    [(lambda: MLP(hidden=(4,)), (1, 28, 28)), (lambda: VGG11(width=1 / 64), (3, 32, 32)), (ResNet56, (3, 8, 8))],
    ids=["MLP", "VGG-11", "ResNet56"],
)
def test_predict_takes_images_without_labels(module, shape, tmp_path):
    module, images = module(), torch.randn(6, *shape)
    logits = torch.cat(trainer(tmp_path).predict(module, DataLoader(images, batch_size=4)))
    module.eval()
    with torch.no_grad():
        expected = [module(part) for part in images.split(4)]
    torch.testing.assert_close(logits, torch.cat(expected))


# -- BatchSizeFinder


@pytest.mark.parametrize(
    ("options", "mode", "found", "how"),
    [
        ({"batch_size": 16}, "power", 100, "callback"),
        ({"batch_size": None}, "power", 100, "callback"),
        ({"batch_size": 7, "max_batch_size": 30}, "power", 30, "tuner"),
        ({"batch_size": 16}, "binsearch", 95, "tuner"),  # 5 % of margin
    ],
)
def test_a_batch_size_finder_ends_at_the_largest_batch_there_is(options, mode, found, how, tmp_path):
    data, steps, finder = digits(**options), Steps(), BatchSizeFinder(mode=mode, init_val=16)
    fitter = trainer(tmp_path, steps, *([finder] if how == "callback" else []))
    if how == "tuner":
        assert Tuner(fitter).scale_batch_size(MLP(hidden=(4,)), datamodule=data, mode=mode, init_val=16) == found
    fitter.fit(MLP(hidden=(4,)), data)
    assert data.batch_size == found
    assert set(steps.sizes) == {found}
    assert fitter.global_step == 2 * (100 // found)
    unsearched = Steps()
    trainer(tmp_path, unsearched).fit(MLP(hidden=(4,)), digits(**options | {"batch_size": found}))
    assert steps.labels == unsearched.labels
    data.batch_size = 1000  # the search is over: what is too large is refused again
    with pytest.raises(ValueError, match="batch_size: 1000 is larger than the training set of 100 examples"):
        trainer(tmp_path).fit(MLP(hidden=(4,)), data)


def test_a_finder_that_is_left_over_does_not_search_in_a_test(tmp_path):
    data, finder = digits(), BatchSizeFinder(init_val=50)
    fitter, module = trainer(tmp_path, finder), MLP(hidden=(4,))
    fitter.fit(module, data)
    assert "test/loss" in fitter.test(module, data, verbose=False)[0]
    assert data.batch_size == 100


@pytest.mark.parametrize(
    ("data", "others", "says"),
    [
        (
            digits(Cyclic(high=24, low=8, period=2)),
            [],
            r"batch_size: Cyclic\(.*\) is a schedule, which a BatchSizeFinder",
        ),
        (digits(None), [NoiseScheduler(NoiseSchedule(0.1, 16))], "what a NoiseScheduler brings is a schedule"),
    ],
    ids=["schedule", "NoiseScheduler"],
)
def test_a_schedule_is_no_batch_size_to_be_found(data, others, says, tmp_path):
    steps = Steps()
    with pytest.raises(ValueError, match=says):
        trainer(tmp_path, BatchSizeFinder(), steps, *others).fit(MLP(hidden=(4,)), data)
    assert not steps.sizes
    assert not list(tmp_path.iterdir())


def test_a_search_in_a_resumed_training_is_refused_since_lightning_would_begin_at_epoch_0(tmp_path):
    fitter = trainer(tmp_path)
    fitter.fit(MLP(hidden=(4,)), digits())
    fitter.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="ckpt_path: a BatchSizeFinder loses what it brings"):
        trainer(tmp_path, BatchSizeFinder(), max_epochs=4).fit(
            MLP(hidden=(4,)), digits(), ckpt_path=tmp_path / "a.ckpt"
        )


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_the_size_that_evaluation_goes_by_is_searched_under_its_own_name(method, tmp_path):
    data = digits()
    search = {"datamodule": data, "method": method, "max_val": 64, "init_val": 32}
    with pytest.raises(ValueError, match="give it batch_arg_name='eval_batch_size'"):
        Tuner(trainer(tmp_path)).scale_batch_size(MLP(hidden=(4,)), **search)
    found = Tuner(trainer(tmp_path)).scale_batch_size(MLP(hidden=(4,)), **search, batch_arg_name="eval_batch_size")
    assert found == data.eval_batch_size == 64


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


def test_the_runs_of_a_figure_are_none_of_the_run_around_it(tmp_path, monkeypatch):
    for name, value in (LEAKING | {"WANDB_PROJECT": "other", "WANDB_ENTITY": "me"}).items():
        monkeypatch.setenv(name, value)
    said = []
    mirror = Mirror("offline", tmp_path, "figure", [], said.append)
    (line,) = said
    assert all(name in line for name in (*LEAKING, "WANDB_PROJECT"))
    assert line.endswith("not used: every run has a name and an id of its own")
    run = mirror._init(name="a", group="figure", config={})
    run.finish()
    assert run.id != "abc"
    assert (run.name, run.group, run.sweep_id, run.project) == ("a", "figure", None, "three-factors")
    assert os.environ["WANDB_ENTITY"] == "me"


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
        "from reproduce.engine import display, options\n"
        "options.parse('', [], options.Options)\n"
        "import reproduce.engine.worker, matplotlib.figure, torchmetrics\n"
        "display.say('\\u03b7/S \\u2264 2')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=kept | hostile, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.splitlines() == [b"W&B: disabled, as WANDB_MODE says (--wandb goes before it)", b"eta/S <= 2"]
