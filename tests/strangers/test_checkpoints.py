"""Weights come out of whatever people keep beside them, and into modules whose keys differ; nothing else is run."""

import argparse
import collections
import datetime
import enum
import functools
import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from three_factors.callbacks.functional.weights import aligned, load_weights
from three_factors.datamodules import Chain, Constant, Cyclic, LabelNoise, NoiseSchedule, Steps, exchange
from three_factors.lightning_modules import MLP


class Kind(enum.Enum):
    ONE = 1


class Settings(dict):
    pass


class Rows(list):
    pass


class Own:
    """A stranger's class, whose state is set by code of its own."""

    ran = False

    def __setstate__(self, state):
        Own.ran = True


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


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


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


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args, state=None):
        self.made = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.made


class Evil:
    hits = 0


def hit(*args, **kwargs):
    Evil.hits += 1


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", ["beside", "in the state", "within the state"])
@pytest.mark.parametrize(
    "what",
    [
        Call(os.system, "touch hit"),
        Call(eval, "__import__('pathlib').Path('hit').touch()"),
        Call(exec, "open('hit', 'w')"),
        Call(getattr, Call(__import__, "pathlib"), "Path"),
        Call(hit),
        Call(Own, state={"x": 1}),
        Call(collections.OrderedDict, state={"update": hit}),
        Call(functools.partial, hit, state=(hit, (), {}, {})),
    ],
    ids=["os.system", "eval", "exec", "getattr", "function", "setstate", "state of a dictionary", "partial"],
)
def test_a_hostile_file_runs_nothing(what, where, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = dict(net().state_dict())
    Own.ran, Evil.hits = False, 0
    held = {"state_dict": state, "beside": [what] if where == "beside" else None}
    if where == "in the state":
        state["0.weight"] = what
    if where == "within the state":
        state["0.weight"] = {"x": (what,)}
    torch.save(held, "a.ckpt", _use_new_zipfile_serialization=zipped)
    if where == "beside":
        assert "0.weight" in load_weights("a.ckpt")
    elif "OrderedDict" in str(what.made[0]) and where == "in the state":
        with pytest.raises(ValueError, match=r"its '0\.weight' is a OrderedDict, not a dense tensor"):
            load_weights("a.ckpt")
    else:
        with pytest.raises(ValueError, match=r"its '0\.weight' is a .*, not a dense tensor"):
            load_weights("a.ckpt")
    assert not Own.ran
    assert not Evil.hits
    assert not (tmp_path / "hit").exists()


def written(path, code):
    """A file of torch.save whose pickle is `code`."""
    torch.save({"a": torch.zeros(1)}, path)
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, code if name.endswith("data.pkl") else old.read(name))
    path.write_bytes(out.getvalue())


def text(value):
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize(
    "code",
    {
        "attributes of a class": b"ctorch\nTensor\n(N}" + text("hacked") + b"\x88s" + b"tb.",
        "attributes of a function": b"ctorch._utils\n_rebuild_tensor_v2\n(N}" + text("hacked") + b"\x88s" + b"tb.",
        "attributes of a class of ours": b"ccollections\nOrderedDict\n(N}" + text("hacked") + b"\x88s" + b"tb.",
        "old style instance": b"(" + text("touch hit") + b"ios\nsystem\n.",
        "old style object": b"(cos\nsystem\n" + text("touch hit") + b"o.",
        "extension": b"\x82\x01" + b"(" + text("touch hit") + b"tR.",
        "method of a tensor": b"cbuiltins\ngetattr\n(ctorch\nTensor\n" + text("__init__") + b"tR.",
        "dotted name": b"\x8c\x0bcollections\x8c\x12OrderedDict.update\x93(tR.",
    }.values(),
)
def test_hostile_operations_change_nothing(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.ckpt", b"\x80\x04" + code)
    with pytest.raises(ValueError, match=r"not a state dictionary|cannot be read"):
        load_weights(tmp_path / "a.ckpt")
    assert not (tmp_path / "hit").exists()
    for holder in (torch.Tensor, torch._utils._rebuild_tensor_v2, collections.OrderedDict):
        assert not hasattr(holder, "hacked")


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


class Wrapping(pl.LightningModule):
    def __init__(self, network=None, name="network", **hyperparameters):
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        setattr(self, name, network if network is not None else net())
        self.part = name

    def forward(self, x):
        return getattr(self, self.part)(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def within(state, part):
    return {key.replace("2.", f"2.{part}", 1) if key.startswith("2.") else key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "change",
    {
        "as it is": lambda s: s,
        "compiled": lambda s: prefixed(s, "_orig_mod."),
        "compiled part": lambda s: within(s, "_orig_mod."),
        "DDP": lambda s: prefixed(s, "module."),
        "DDP compiled": lambda s: prefixed(s, "module._orig_mod."),
        "compiled DDP": lambda s: prefixed(s, "_orig_mod.module."),
        "Lightning": lambda s: prefixed(s, "network."),
        "averaged": lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)},
        "with more": lambda s: prefixed(s, "model.") | {"criterion.weight": torch.ones(2), "extra": torch.ones(1)},
    }.values(),
)
@pytest.mark.parametrize(
    "module",
    {
        "network": net,
        "compiled": lambda: torch.compile(net()),
        "Lightning": lambda: Wrapping(name="network"),
        "Lightning, other name": lambda: Wrapping(name="body"),
        "compiled part": lambda: Wrapping(torch.compile(net())),
    }.values(),
)
def test_keys_with_a_prefix_are_recognised_on_either_side(change, module):
    module = module()
    given = {key: value + 1 if value.is_floating_point() else value for key, value in net().state_dict().items()}
    found = aligned(change(given), module, "start")
    own = module.state_dict()
    assert found.keys() == own.keys()
    for key, value in found.items():
        plain = key.replace("_orig_mod.", "").removeprefix("network.").removeprefix("body.")
        assert torch.equal(value, given[plain])
    module.load_state_dict(found)


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: without(s, "2.bias"), r"start: has no '2\.bias'; the nearest is '[0-2]\.\w+'"),
        (
            lambda s: without(s, "2.bias") | {"2.bais": s["2.bias"]},
            r"start: has no '2\.bias'; the nearest is '2\.bais'",
        ),
        (lambda s: without(s, "2.bias") | {"3.bias": s["2.bias"]}, r"has no '2\.bias'; the nearest is '[0-3]\.bias'"),
        (lambda s: s | {"2.bias": torch.zeros(3)}, r"start: '2\.bias' has shape \(3,\), the module's '2\.bias' \(2,\)"),
        (
            lambda s: prefixed(s | {"2.bias": torch.zeros(3)}, "net."),
            r"start: 'net\.2\.bias' has shape \(3,\), the module's '2\.bias' \(2,\)",
        ),
        (
            lambda s: prefixed(s, "student.") | prefixed(s, "teacher."),
            r"fits in several ways: '0\.weight' may be 'student\.0\.weight' and 'teacher\.0\.weight'",
        ),
        (
            lambda s: s | {"_orig_mod.0.bias": s["0.bias"]},
            r"has '_orig_mod\.0\.bias' and '0\.bias', which mean the same",
        ),
        (lambda s: s | {"0.bias": s["0.bias"].to(torch.complex64)}, r"'0\.bias' is complex, the module's is real"),
        (lambda s: s | {"0.bias": s["0.bias"].to("meta")}, r"'0\.bias' is a meta tensor, not a dense one"),
        (lambda s: {}, r"start: has no '0\.weight'"),
    ],
)
def test_keys_that_do_not_fit_in_one_way_are_refused_by_name(change, says):
    with pytest.raises(ValueError, match=says) as refusal:
        aligned(change(dict(net().state_dict())), net(), "start")
    assert "\n" not in str(refusal.value)


def test_a_complex_weight_stays_complex_and_a_real_one_for_it_is_refused():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex128))

    given = torch.randn(3, dtype=torch.complex64)
    found = aligned({"weight": given}, Complex(), "end")["weight"]
    assert found.dtype == torch.complex128
    assert torch.equal(found, given.to(torch.complex128))
    with pytest.raises(ValueError, match="end: 'weight' is real, the module's is complex"):
        aligned({"weight": torch.randn(3)}, Complex(), "end")


def test_exactly_matching_keys_win_over_any_prefix():
    state = net().state_dict()
    given = dict(state) | prefixed({key: value + 1 for key, value in state.items()}, "ema.")
    assert equal(aligned(given, net(), "start"), dict(state))


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
