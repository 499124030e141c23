"""What callbacks write: nothing in a trial, into a folder made for it, and a word where nothing would come."""

import itertools
import math
import os
import signal
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.strangers.tiny import Net, dataset, loader, planned
from three_factors.callbacks import ExactResume, NoiseScheduler, ProgressFile
from three_factors.callbacks.exact_resume import Preempted
from three_factors.datamodules import NoiseSchedule

pytestmark = pytest.mark.filterwarnings("ignore:.*not resumable.*")


def fit(*callbacks, data=None, **options):
    torch.manual_seed(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"max_epochs": 3} | options,
    )
    trainer.fit(Net(), loader() if data is None else data)
    return trainer


@pytest.mark.parametrize("trial", [3, True])
def test_a_trial_leaves_the_checkpoint_of_a_real_training_alone(trial, tmp_path):
    exact = ExactResume(tmp_path / "t.ckpt", every=0)
    fit(exact)
    written, where = exact.path.read_bytes(), exact.where()
    data = loader()
    data.state_dict = dict  # begins anywhere: saved after every step
    trainer = fit(exact, data=data, fast_dev_run=trial)
    exact.save(trainer)
    assert exact.path.read_bytes() == written
    assert exact.where() == where != {}
    assert [file.name for file in tmp_path.iterdir()] == ["t.ckpt"]


def test_a_trial_leaves_the_progress_of_a_real_training_alone(tmp_path):
    fit(ProgressFile(tmp_path / "own" / "progress.json"), fast_dev_run=2)
    assert not list(tmp_path.iterdir())


def test_a_trial_that_is_asked_to_leave_says_that_nothing_is_saved(tmp_path):
    class Ask(pl.Callback):
        def on_train_batch_start(self, *rest):
            os.kill(os.getpid(), signal.SIGUSR1)

    data = loader()
    data.state_dict, data.load_state_dict = dict, dict
    exact = ExactResume(tmp_path / "t.ckpt", leave_on=signal.SIGUSR1)
    with pytest.raises(Preempted, match="nothing is saved under fast_dev_run, left after step 1"):
        fit(Ask(), exact, data=data, fast_dev_run=3)
    assert exact.where() == {}


@pytest.mark.parametrize("make", [ExactResume, ProgressFile])
def test_the_folder_of_a_file_is_made_when_a_fit_begins(make, tmp_path):
    path = tmp_path / "missing" / "folder" / "file"
    callback = make(path)
    assert not path.parent.exists()
    fit(callback)
    assert make is ExactResume or path.is_file()
    assert path.parent.is_dir()


@pytest.mark.parametrize("value", [-1, math.nan, "a"])
@pytest.mark.parametrize(("make", "field"), [(ExactResume, "every"), (ProgressFile, "interval")])
def test_what_is_no_number_of_seconds_is_refused(make, field, value, tmp_path):
    with pytest.raises(ValueError, match=f"^{field}: {value!r} is not a number of seconds$"):
        make(tmp_path / "file", **{field: value})


@pytest.mark.parametrize("make", [ExactResume, ProgressFile])
def test_a_path_where_no_file_can_be_is_refused_before_the_first_step(make, tmp_path):
    said = f"^path: '{tmp_path}' is a folder; name a file in it$"
    with pytest.raises(ValueError, match=said):
        make(str(tmp_path))
    callback = make(tmp_path / "later")
    (tmp_path / "later").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        fit(callback)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^path: the folder of '{tmp_path}/file/t' cannot be made .*$"):
        fit(make(tmp_path / "file" / "t"))


class Endless(IterableDataset):
    def __iter__(self):
        return itertools.cycle(dataset())


def endless():
    return DataLoader(Endless(), 16)


ALONE = "ExactResume: with this loader it saves between two epochs alone, and "


@pytest.mark.parametrize(
    ("make", "options", "why"),
    [
        (endless, {"max_steps": 7, "max_epochs": -1}, "the loader has no length, and perhaps no end"),
        (loader, {"max_steps": 2, "max_epochs": -1}, "max_steps=2 are over within the first"),
        (loader, {"max_epochs": 1}, "there is one epoch alone"),
    ],
)
def test_a_training_in_which_nothing_would_be_saved_begins_with_a_warning(make, options, why, tmp_path):
    exact = ExactResume(tmp_path / "t.ckpt", every=0)
    with pytest.warns(match=f"^{ALONE}{why}: nothing may be saved at all; give .* limit_train_batches"):
        fit(exact, data=make(), **options)
    assert exact.where() == {}


def test_the_way_out_of_that_warning_leads_out(tmp_path):
    exact = ExactResume(tmp_path / "t.ckpt", every=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "ExactResume")
        fit(exact, data=endless(), max_steps=7, max_epochs=-1, limit_train_batches=3)
    assert exact.where()


class Saved(ExactResume):
    def save(self, trainer):
        super().save(trainer)
        self.at = [*getattr(self, "at", []), trainer.global_step]


@pytest.mark.parametrize(("scheduled", "saved"), [(False, [3, 6]), (True, [1, 2, 3, 4, 5, 6, 7, 8])])
def test_a_planned_sampler_that_was_handed_to_fit_begins_in_mid_epoch_with_a_noise_scheduler_alone(
    scheduled, saved, tmp_path
):
    exact = Saved(tmp_path / "t.ckpt", every=0)
    fit(*([NoiseScheduler(NoiseSchedule(0.1, 16))] if scheduled else []), exact, data=planned(16))
    assert exact.at == saved


class Mine:
    """A class that torch does not know."""


class WithMine(Net):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["hyper_parameters"] = {"mine": Mine()}


def trained(module, *callbacks, epochs, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=list(callbacks),
        max_epochs=epochs,
    )
    trainer.fit(module, loader(), **options)
    return trainer.global_step


def test_a_checkpoint_with_a_class_of_its_own_is_told_when_it_is_written_and_refused_when_it_is_read(tmp_path):
    exact = ExactResume(tmp_path / "t.ckpt", every=0)
    with pytest.warns(UserWarning, match=r"holds an object of .*test_files\.Mine, and .*trusted=True"):
        trained(WithMine(), exact, epochs=3)
    with pytest.raises(ValueError, match=r"^resume: .*t\.ckpt' holds an object of .*Mine, and .*where\(trusted=True\)"):
        exact.where()
    assert trained(WithMine(), epochs=4, **exact.where(trusted=True)) == 4 * len(loader())
    with torch.serialization.safe_globals([Mine]):
        assert trained(WithMine(), epochs=4, **exact.where()) == 4 * len(loader())


def test_a_checkpoint_that_would_run_something_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    exact = ExactResume(tmp_path / "t.ckpt", every=0)
    fit(exact)
    torch.save(torch.load(exact.path, weights_only=True) | {"more": Hostile()}, exact.path)
    with pytest.raises(ValueError, match=r"holds an object of posix\.mkdir"):
        exact.where()
    assert not (tmp_path / "made").exists()
