"""Weights come out of whatever people keep beside them."""

import argparse
import collections
import datetime
import enum
import functools
import pathlib

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import three_factors.datamodules.safe_globals  # noqa: F401  # as every part of ours that trains imports it
from tests.strangers.checkpoints import Own, Wrapping, equal, net
from three_factors.callbacks.functional.weights import load_weights
from three_factors.datamodules import Chain, Constant, Cyclic, LabelNoise, NoiseSchedule, Steps, exchange
from three_factors.lightning_modules import MLP


class Kind(enum.Enum):
    ONE = 1


class Settings(dict):
    pass


class Rows(list):
    pass


def activation(x):
    return x


HYPERPARAMETERS = {
    "namespace": argparse.Namespace(lr=0.1, nested=argparse.Namespace(x=[1, 2])),
    "own class": Own(),
    "function": activation,
    "partial": functools.partial(activation, x=3),
    "path": pathlib.Path("a/b"),
    "numpy scalar": np.float64(3.5),
    "numpy array": np.arange(4),
    "numpy dtype": np.dtype("float32"),
    "enum": Kind.ONE,
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "deque": collections.deque([1, 2]),
    "dict subclass": Settings(a=1),
    "list subclass": Rows([1, 2]),
    "sets": [{1, 2}, frozenset({3})],
    "date": datetime.datetime(2020, 1, 1),
    "bytes": b"abc",
    "long": 10**400,
    "schedule": NoiseSchedule(0.1, Cyclic(high=4, low=2, period=2)),
    "module": nn.Linear(2, 2),
    "bound method": Settings(a=1).get,
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("kind", HYPERPARAMETERS)
def test_the_tensors_are_read_whatever_stands_beside_them(kind, protocol, zipped, tmp_path):
    state = net().state_dict()
    held = {"hyper_parameters": {"x": HYPERPARAMETERS[kind]}, "state_dict": state, "epoch": 3}
    torch.save(held, tmp_path / "a.ckpt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    Own.ran = False
    assert equal(load_weights(tmp_path / "a.ckpt"), state)
    assert not Own.ran


def test_it_reads_what_torch_reads(tmp_path):
    tied, strided = torch.randn(3), torch.randn(4, 5).t()[1:]
    state = {
        "tied": tied,
        "again": tied,
        "strided": strided,
        "half": torch.randn(3).bfloat16(),
        "eight": torch.randn(3).to(torch.float8_e4m3fn),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "imaginary": torch.randn(3, dtype=torch.complex64).conj().imag,
        "integers": torch.arange(3),
        "unsigned": torch.arange(3).to(torch.uint16),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
        "bool": torch.tensor([True]),
        "parameter": nn.Parameter(torch.randn(2)),
        "buffer": nn.Buffer(torch.randn(2)),
    }
    torch.save(state, tmp_path / "a.pt")
    found = load_weights(tmp_path / "a.pt")
    for key, value in state.items():
        assert torch.equal(
            found[key].float() if key == "eight" else found[key], value.float() if key == "eight" else value
        )
        assert found[key].dtype == value.dtype
        assert not found[key].requires_grad
    assert found["tied"].data_ptr() == found["again"].data_ptr()


def damaged(path):
    path.write_bytes(path.read_bytes()[:200])


def whole_module(path):
    torch.save(net(), path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: torch.save({"state_dict": {"w": [1.0]}}, p), r"its 'w' is a list, not a dense tensor"),
        (lambda p: torch.save({"w": torch.zeros(1), "n": 3}, p), r"its 'n' is a int, not a dense tensor"),
        (lambda p: torch.save({"w": torch.zeros(2).to_sparse()}, p), r"its 'w' is a .*sparse.*, not a dense tensor"),
        (
            lambda p: torch.save({"a": {"w": torch.zeros(1)}, "b": {"w": torch.ones(1)}}, p),
            "several .* one of 'a', 'b'",
        ),
        (
            lambda p: torch.save([torch.zeros(1)], p),
            r"is a list, not a state dictionary; save `module\.state_dict\(\)`",
        ),
        (whole_module, r"is a torch\.nn\.modules\.container\.Sequential, not a state dictionary"),
        (lambda p: torch.jit.script(nn.Linear(1, 1)).save(p), "is TorchScript"),
        (lambda p: (whole_module(p), damaged(p)), "cannot be read as a checkpoint"),
        (lambda p: p.write_text("no checkpoint"), "cannot be read as a checkpoint"),
        (lambda p: p.mkdir(), "is a folder"),
    ],
    ids=["list", "number", "sparse", "several", "no dictionary", "module", "script", "damaged", "text", "folder"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*Sparse.*:UserWarning")
def test_what_holds_no_weights_is_refused_in_one_line(make, says, tmp_path):
    make(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=says) as refusal:
        load_weights(tmp_path / "a.ckpt")
    assert "\n" not in str(refusal.value)
    assert "a.ckpt" in str(refusal.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.ckpt")


def test_safetensors_wants_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="needs the package safetensors"):
        load_weights(tmp_path / "a.safetensors")


def test_the_only_state_dictionary_among_other_things_is_it(tmp_path):
    state = net().state_dict()
    optimizer = torch.optim.SGD(net().parameters(), lr=0.1, momentum=0.9).state_dict()
    torch.save({"model": state, "optimizer": optimizer, "best": torch.tensor(0.5), "args": Own()}, tmp_path / "a.pt")
    assert equal(load_weights(tmp_path / "a.pt"), state)


def test_with_torchs_own_reader_forced_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    state = net().state_dict()
    torch.save(state, tmp_path / "a.pt")
    assert equal(load_weights(tmp_path / "a.pt"), state)


def fit(module, tmp_path, *callbacks, epochs=1, **options):
    loader = DataLoader(TensorDataset(torch.randn(8, 3)), batch_size=4)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=epochs,
        callbacks=list(callbacks),
    )
    trainer.fit(module, loader, **options)
    path = tmp_path / f"{epochs}.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_of_an_average_of_the_weights_the_average_is_read(tmp_path):
    class Saved(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "in training.ckpt")

    module = Wrapping()
    fit(module, tmp_path, EMAWeightAveraging(decay=0.5), Saved())
    assert equal(
        load_weights(tmp_path / "in training.ckpt"), dict(module.state_dict())
    )  # which took it over at the end


SCHEDULE = NoiseSchedule(0.1, Chain((Cyclic(high=4, low=2, period=2), Steps((4, 2), (1,))), (2,)))


@pytest.mark.parametrize(
    "value",
    [SCHEDULE, exchange(NoiseSchedule(Cyclic(high=0.4, low=0.2, period=2), 4)), Constant(0.1), LabelNoise(0.5)],
    ids=["schedule", "exchanged", "constant", "label noise"],
)
def test_schedules_among_hyperparameters_break_no_resume(value, tmp_path):
    path = fit(Wrapping(schedule=value), tmp_path)
    module = Wrapping(schedule=value)
    fit(module, tmp_path, epochs=2, ckpt_path=path)
    assert Wrapping.load_from_checkpoint(path).hparams.schedule == value


class Scheduled(MLP):
    def __init__(self, schedule, **options):
        super().__init__(**options)
        self.save_hyperparameters()


def test_a_network_of_ours_is_read_back_with_a_schedule_among_its_hyperparameters(tmp_path):
    module = Scheduled(SCHEDULE, hidden=(4,), in_features=3)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=0)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert Scheduled.load_from_checkpoint(tmp_path / "a.ckpt").hparams.schedule == SCHEDULE
