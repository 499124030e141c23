"""Weights out of any checkpoint, and into any module: what else a file holds is neither built nor run."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from three_factors.callbacks.functional import tensors_only

Weights = Mapping[str, Tensor] | str | Path


def load_weights(weights: Weights) -> Mapping[str, Tensor]:
    """Reads the tensors of a state dictionary, onto the CPU.

    Args:
        weights: a state dictionary, or a file that torch.save or Lightning has written: a state dictionary, or a
            dictionary that holds one as "state_dict" (Lightning) or as its only entry of tensors alone. Of a training
            with an average of the weights (EMA) Lightning keeps that average as "state_dict".

    Hyperparameters, callbacks' states and whatever else a file holds may be of any class: they are passed over, and
    nothing of them is imported or called.

    Raises:
        ValueError: the file cannot be read, holds no state dictionary or several, or an entry that is not a tensor.
    """
    if isinstance(weights, Mapping):
        return _state(weights, "weights")
    path = Path(weights)
    if path.is_dir():
        raise ValueError(f"weights: {str(path)!r} is a folder; make one file of a sharded checkpoint first")
    try:
        found = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    except (OSError, ValueError):
        raise
    except Exception as error:  # whatever unpickling a file of another kind raises
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"weights: {str(path)!r} cannot be read as a checkpoint ({why})") from error
    return _state(found, f"weights: {str(path)!r}")


def aligned(weights: Mapping[str, Tensor], module: nn.Module, name: str) -> dict[str, Tensor]:
    """Returns the tensors of the module's state under its own keys, on its device and in its dtypes.

    A key may differ by what `torch.compile` and DistributedDataParallel put in, and by one prefix (see `matched`);
    further entries of `weights` are left out.

    Raises:
        ValueError: a key is missing or means several, a shape differs, one of two is complex, or an entry has no values
            (meta) or is sparse; begins with `name`.
    """
    keys, found = matched(weights, module, name), {}
    for key, own in module.state_dict().items():
        if key not in keys:
            continue
        given = weights[keys[key]]
        if given.is_complex() != own.is_complex():
            kinds = ["complex" if value.is_complex() else "real" for value in (given, own)]
            raise ValueError(f"{name}: {keys[key]!r} is {kinds[0]}, the module's is {kinds[1]}")
        if given.layout is not torch.strided or given.is_meta:
            kind = "a meta tensor" if given.is_meta else f"a tensor of {given.layout}"
            raise ValueError(f"{name}: {keys[key]!r} is {kind}, not a dense one")
        found[key] = given.detach().to(own)
    return found


def matched(weights: Mapping[str, Tensor], module: nn.Module, name: str) -> dict[str, str]:
    """Returns for every tensor of the module's state the key that holds it in `weights`.

    `_orig_mod.` (torch.compile) counts for nothing on either side. Where the keys are not the same then, one prefix is
    taken off, put on or exchanged (`module.`, `network.`, `model.`, …), if that gives every tensor its shape in one
    way only.

    Raises:
        ValueError: no prefix fits, or several do.
    """
    state = {key: own for key, own in module.state_dict().items() if isinstance(own, Tensor)}
    wanted = {_plain(key): key for key in state}
    given: dict[str, str] = {}
    for key in weights:
        if _plain(key) in given:
            raise ValueError(f"{name}: has {key!r} and {given[_plain(key)]!r}, which mean the same")
        given[_plain(key)] = key
    if wanted.keys() <= given.keys():
        fits = [{plain: plain for plain in wanted}]
    else:
        first = next(iter(wanted))
        pairs = [(off, on) for off in _common(wanted) for on in _before(first[len(off) :], given)]
        tried = {on + first[len(off) :]: {plain: on + plain[len(off) :] for plain in wanted} for off, on in pairs}
        fits = [keys for keys in tried.values() if given.keys() >= set(keys.values())]
    found = [{wanted[plain]: given[key] for plain, key in keys.items()} for keys in fits]
    exact = [keys for keys in found if all(weights[there].shape == state[key].shape for key, there in keys.items())]
    if len(exact) == 1:
        return exact[0]
    if exact:
        several = " and ".join(repr(next(iter(keys.values()))) for keys in exact)
        raise ValueError(f"{name}: fits in several ways: {next(iter(state))!r} may be {several}")
    if found:
        key, there = next((k, t) for k, t in found[0].items() if weights[t].shape != state[k].shape)
        own = tuple(state[key].shape)
        raise ValueError(f"{name}: {there!r} has shape {tuple(weights[there].shape)}, the module's {key!r} {own}")
    missing = next(key for key in wanted if key not in given)
    near = get_close_matches(missing, given, n=1, cutoff=0.4)
    raise ValueError(f"{name}: has no {missing!r}" + (f"; the nearest is {given[near[0]]!r}" if near else ""))


def _plain(key: str) -> str:
    return ".".join(part for part in key.split(".") if part != "_orig_mod")


def _common(keys: Mapping[str, str]) -> list[str]:
    """Returns the prefixes that all keys share, "" first."""
    shared = [""]
    for level in zip(*(key.split(".")[:-1] for key in keys)):
        if len(set(level)) > 1:
            break
        shared.append(f"{shared[-1]}{level[0]}.")
    return shared


def _before(rest: str, given: Mapping[str, str]) -> list[str]:
    """Returns what stands before `rest` in the keys that end with it."""
    return [key[: len(key) - len(rest)] for key in given if key == rest or key.endswith("." + rest)]


def _state(found: Any, where: str) -> Mapping[str, Tensor]:
    """Returns the state dictionary in what a file holds."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{where}: is a {_kind(found)}, not a state dictionary; save `module.state_dict()`")
    states = {
        key: value for key, value in found.items() if isinstance(value, Mapping) and value and not _strange(value)
    }
    if isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    elif len(states) == 1:
        found = next(iter(states.values()))
    elif states:
        raise ValueError(f"{where}: holds several state dictionaries, pass one of {', '.join(map(repr, states))}")
    strange = _strange(found)
    if strange:
        key, value = next(iter(strange.items()))
        raise ValueError(f"{where}: its {key!r} is a {_kind(value)}, not a dense tensor")
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def _strange(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns the entries of a state dictionary that are none of tensors; a module's extra state may be anything."""
    return {
        key: value
        for key, value in state.items()
        if not (isinstance(key, str) and (isinstance(value, Tensor) or key.endswith("_extra_state")))
    }


def _kind(value: Any) -> str:
    return value.origin if isinstance(value, tensors_only.Unknown) else type(value).__name__


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"weights: {str(path)!r} needs the package safetensors (pip install safetensors)") from error
    return load_file(path)


def _torch(path: Path) -> Any:
    with path.open("rb") as file:  # as torch.load goes by it, which would hand such a file over to torch.jit
        archive = file.read(4) == b"PK\x03\x04"
    if archive and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise ValueError(f"weights: {str(path)!r} is TorchScript; save its `state_dict()` with torch.save")
    if not archive and tarfile.is_tarfile(path):
        raise ValueError(f"weights: {str(path)!r} is of torch's oldest format; read and save it with torch once")
    if os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0").lower() in ("1", "y", "yes", "true"):
        return torch.load(path, map_location="cpu", weights_only=True)  # torch takes no reader of ours then
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=tensors_only)
