"""Recorder: the record of a run that has a Trainer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from three_factors.callbacks import HessianMonitor, NoiseScheduler
from three_factors.reproduce.engine.worker.lengths import lengths
from three_factors.reproduce.engine.worker.members import Member


class Recorder(Checkpoint):
    """Appends a row an epoch: evaluations, t_eta, |θ|, |θ - θ0|, eta and S of the last step, variance of step losses.

    Losses stay tensors until the epoch ends, so a GPU is not waited for. A loss that is not finite ends the run, as
    does an evaluation that the spec stops at. As one of Lightning's checkpoint callbacks it comes after the module has
    logged an epoch's means.

    Args:
        member: the record.
        watch: whose measurements are rows' as well.
        start: θ0, a tensor a parameter, from which distances are taken; none are without it.
    """

    def __init__(
        self, member: Member, noise: NoiseScheduler, watch: HessianMonitor | None = None, start: Sequence[Tensor] = ()
    ) -> None:
        self.member, self.noise, self.watch, self.start = member, noise, watch, start
        self._earlier: list[float] = []  # losses of this epoch before the training was resumed
        self._losses: list[Tensor] = []
        self._last = 0.0, 0  # eta and S of the last step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs.get("mean", outputs["loss"]))
        self._last = self.noise.lr, self.noise.batch_size
        share = self.member.points.get(trainer.current_epoch, {}).get(batch_idx + 1)
        if share is not None:
            self._evaluate(trainer, pl_module, share)

    def _evaluate(self, trainer: pl.Trainer, module: Any, share: float) -> None:
        """Evaluates when a share of the epoch is over."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        parts = self.member.parts(trainer.current_epoch, share)
        with trainer.precision_plugin.forward_context():
            found = module.evaluate(data.val_dataloader(), *(() if parts is None else (parts,)))
        self.member.between(self._place(trainer, trainer.current_epoch + share), found, self.weights(module))

    def _place(self, trainer: pl.Trainer, epoch: float) -> dict[str, Any]:
        return {"epoch": epoch, "step": trainer.global_step, "t_eta": self.noise.t_eta}

    def weights(self, module: pl.LightningModule) -> dict[str, float]:
        """Returns |θ| and the distance from the start."""
        own = [p.detach() for p in module.parameters()]
        self.start = [begun.to(now.device) for begun, now in zip(self.start, own)]
        return lengths([p[None] for p in own], [p[None] for p in self.start])[0]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        recent = torch.stack(self._losses).double()
        losses = torch.cat([recent.new_tensor(self._earlier), recent])
        if trainer.world_size > 1:  # each rank's loss is scaled so that the mean over ranks is the global batch's
            torch.distributed.all_reduce(losses)
            losses /= trainer.world_size
        place = self._place(trainer, trainer.current_epoch + 1)
        found = self.weights(pl_module), self._metrics(trainer, place["epoch"])
        self.member.close(place, losses.tolist(), self._last, *found, write=trainer.is_global_zero)
        trainer.should_stop = trainer.should_stop or self.member.stopped
        self._earlier, self._losses = [], []

    def _metrics(self, trainer: pl.Trainer, epoch: int) -> dict[str, float]:
        """Returns what is logged of an epoch; evaluations and curvature may be of an earlier one."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}  # every rank: it may reduce
        fresh = epoch % (trainer.check_val_every_n_epoch or 1) == 0
        names = [name for name in logged if fresh or name.startswith("train/")]
        metrics = {name: logged[name] for name in names if not (self.watch and self.watch.logs(name))}
        if self.watch and self.watch.history and self.watch.history[-1]["epoch"] == epoch:
            metrics |= {k: v for k, v in self.watch.history[-1].items() if self.watch.logs(k)}
        return metrics

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.member.end()

    def state_dict(self) -> dict[str, Any]:
        """Returns the record's state, and what of every rank is not in it yet."""
        own = self._earlier + [float(loss) for loss in self._losses]
        losses: list[list[float]] = [own]
        if torch.distributed.is_initialized():
            losses = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(losses, own)
        return self.member.state_dict() | {"losses": losses, "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self._earlier, self._last = state_dict["losses"][rank], tuple(state_dict["last"])
        self.member.load_state_dict(state_dict, read=rank == 0)
