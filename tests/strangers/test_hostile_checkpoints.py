"""Nothing is run of a checkpoint, whatever stands in it."""

import collections
import functools
import io
import os
import pickle
import struct
import zipfile

import pytest
import torch

from tests.strangers.checkpoints import Own, net
from three_factors.callbacks.functional.weights import load_weights


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
