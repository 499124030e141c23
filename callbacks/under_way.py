"""What a training holds at a step beside weights, optimisers and counts: Lightning's checkpoints have none of it.

These are the sums behind `self.log(..., on_epoch=True)`, the states of torchmetrics, the latest logged values, and
gradients that a step to come may find.
"""

from __future__ import annotations

import builtins
import hashlib
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torchmetrics import Metric, MetricCollection

_META = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "dataloader_idx",
    "metric_attribute",
)
Kept = dict[str, Any]


def why_not_kept(trainer: pl.Trainer) -> str:
    """Says what of an epoch that is under way a checkpoint could not have; else nothing."""
    for result in trainer.fit_loop.epoch_loop._results.values():
        if result.meta.sync.group is not None:
            return f"{result.meta.name!r} is logged with a sync_dist_group"
    return ""


def keep(trainer: pl.Trainer) -> Kept:
    """Returns it for a checkpoint, of tensors and plain values; every rank comes here."""
    return {"logged": _of_ranks(trainer, _logged(trainer)), "gradients": _gradients(trainer)}


def put_back(trainer: pl.Trainer, kept: Kept) -> None:
    """Puts it back where a fit begins that goes on from there."""
    logged, gradients = kept["logged"], kept["gradients"]
    if len(logged) == trainer.world_size:
        _put_logged_back(trainer, logged[trainer.global_rank])
    elif any(rank["results"] or rank["metrics"] for rank in logged):
        rank_zero_warn(
            f"ExactResume: the epoch was begun on {len(logged)} devices and goes on on {trainer.world_size}: what is "
            "logged as its mean is that of the rest of it"
        )
    if gradients:
        own = gradients[trainer.global_rank if len(gradients) == trainer.world_size else 0]
        for name, parameter in trainer.lightning_module.named_parameters():
            if name in own:
                parameter.grad = own[name].to(parameter.device)


def _of_ranks(trainer: pl.Trainer, own: Any) -> list[Any]:
    every: list[Any] = [own] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(every, own)
    return every


# -- gradients


def _gradients(trainer: pl.Trainer) -> list[dict[str, Tensor]]:
    """Returns the gradients of every rank, or those of all where they are the same ones.

    Of none where Lightning sets them to zero before it adds any up: then no step to come finds them.
    """
    module = trainer.lightning_module
    if module.automatic_optimization and not is_overridden("optimizer_zero_grad", module):
        return []
    own = {name: p.grad.detach().cpu().clone() for name, p in module.named_parameters() if p.grad is not None}
    if trainer.world_size > 1:
        digests = _of_ranks(trainer, {name: _digest(value) for name, value in own.items()})
        if any(each != digests[0] for each in digests):
            return _of_ranks(trainer, own)
    return [own] if own else []


def _digest(value: Tensor) -> str:
    return hashlib.sha256(value.to_dense().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


# -- what is logged


def _logged(trainer: pl.Trainer) -> dict[str, Any]:
    connector, module = trainer._logger_connector, trainer.lightning_module
    for part in module.modules():
        if isinstance(part, MetricCollection):
            part.values(copy_state=False)  # those of a group are told the states that one of them has computed for all
    return {
        "results": {key: _result(one) for key, one in trainer.fit_loop.epoch_loop._results.items()},
        "metrics": {
            name: {"states": apply_to_collection(one.metric_state, Tensor, _copy), "updates": one.update_count}
            for name, one in module.named_modules()
            if isinstance(one, Metric) and one.update_called
        },
        # Which hook has logged last, and whether the epoch's first batch was the last one: a new epoch's first value
        # of a hook puts the sums back to zero.
        "hook": connector._current_fx,
        "first": connector._first_loop_iter,
        "latest": {name: _values(getattr(connector, name)) for name in _LATEST},
    }


_LATEST = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")


def _put_logged_back(trainer: pl.Trainer, own: dict[str, Any]) -> None:
    connector, module = trainer._logger_connector, trainer.lightning_module
    parts = dict(module.named_modules())
    for name, held in own["metrics"].items():
        metric: Any = parts.get(name)
        if not isinstance(metric, Metric):
            raise ValueError(f"ckpt_path: it has the state of a metric {name!r}, which the module has not")
        for state, value in apply_to_collection(held["states"], Tensor, Tensor.to, metric.device).items():
            setattr(metric, state, value)
        metric._update_count, metric._computed = held["updates"], None
    for key, held in own["results"].items():
        trainer.fit_loop.epoch_loop._results[key] = _result_of(trainer, parts, held)
    connector._current_fx, connector._first_loop_iter = own["hook"], own["first"]
    for name, values in own["latest"].items():
        getattr(connector, name).update({key: _placed(value, trainer) for key, value in values.items()})


def _result(result: _ResultMetric) -> dict[str, Any]:
    """Returns one value that is logged over an epoch, with all that `self.log` was told of it."""
    meta, states = result.meta, result.metric_state
    reduce = meta.reduce_fx.__name__
    return {
        "meta": {name: getattr(meta, name) for name in _META},
        "reduce": reduce,
        "builtin": meta.reduce_fx is getattr(builtins, reduce, None),  # `max`, not torch.max
        "sync": {"_should": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only, "_op": meta.sync.op},
        "tensor": result.is_tensor,
        "states": {name: _held(value) for name, value in states.items()},
        "updates": result.update_count,
        "reset": result.has_reset,
        "latest": _held(result._forward_cache) if isinstance(result._forward_cache, Tensor) else None,
    }


def _result_of(trainer: pl.Trainer, parts: dict[str, Any], held: dict[str, Any]) -> _ResultMetric:
    reduce = getattr(builtins if held["builtin"] else torch, held["reduce"])
    meta = _Metadata(**held["meta"], reduce_fx=reduce)
    meta.sync = _Sync(fn=trainer.strategy.reduce, **held["sync"])
    result = _ResultMetric(meta, held["tensor"])
    for name, value in held["states"].items():
        setattr(result, name, _placed(value, trainer))
    if not held["tensor"]:
        result.value = parts[held["meta"]["metric_attribute"]]
    result._update_count, result.has_reset = held["updates"], held["reset"]
    result._forward_cache = None if held["latest"] is None else _placed(held["latest"], trainer)
    return result


def _values(latest: dict[str, Any]) -> dict[str, Any]:
    return {key: _held(value) for key, value in latest.items() if isinstance(value, Tensor | int | float)}


def _held(value: Any) -> Any:
    """Returns a value for a checkpoint, a tensor with the kind of its device: all come back on the CPU."""
    return {"value": _copy(value), "device": value.device.type} if isinstance(value, Tensor) else value


def _placed(held: Any, trainer: pl.Trainer) -> Any:
    if not isinstance(held, dict):
        return held
    return held["value"] if held["device"] == "cpu" else held["value"].to(trainer.strategy.root_device)


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()
