"""The steps of a run with a Trainer of its own as CUDA graphs: Lightning's loop and its hooks stay, the GPU repeats.

Within a step the hooks of forward, backward and update are called while it is captured, and not when it is repeated:
those of batches, epochs and of the optimiser's step are called as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.optimization.automatic import ClosureResult
from torch import Tensor

from three_factors.datamodules.batches import plan_of
from three_factors.reproduce.engine.worker.graphs import Repeated

HOOKS = ("training_step", "optimizer_step")  # of the module, which are called in another way


class GraphedSGD(torch.optim.SGD):
    """torch's fused SGD, whose eta and velocities are tensors that stay where they are.

    Attributes:
        made: makes a step in place of `plain`, if it is there.
    """

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        chosen = list(parameters)
        eta = torch.tensor(lr, device=chosen[0].device)
        super().__init__(chosen, lr=eta, momentum=momentum, weight_decay=weight_decay, fused=True)
        self.made: Callable[[Any], Any] | None = None
        if momentum:  # torch's first step takes the gradient itself, as one does that has a velocity of 0
            for parameter in chosen:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def step(self, closure: Any = None) -> Any:
        return self.plain(closure) if self.made is None else self.made(closure)

    def plain(self, closure: Any = None) -> Any:
        """Makes a step as SGD does. Its hooks are those of `step`, so they are left out here."""
        step: Any = torch.optim.SGD.step
        return (step.__wrapped__ if getattr(step, "hooked", False) else step)(self, closure)


def why_not(world_size: int, precision: str, noise: object) -> str:
    """Says why the steps of a run are the host's, though it has a GPU; "" if they are not."""
    if world_size > 1:
        return "several ranks wait for one another within a step"
    if noise is not None:
        return "the host draws its changed gradient noise"
    return "float64 is for tests" if precision == "float64" else ""


class GraphedSteps(pl.Callback):
    """Lets each step of a training be a graph, one of each batch size.

        module.configure_optimizers = steps.optimizer  # before `fit`

    Args:
        module: an `SGDClassifier` without changed gradient noise.
        graphs: without, the host makes the steps, by the same arithmetic.
    """

    def __init__(self, module: Any, *, graphs: bool = True) -> None:
        self.module, self.graphs = module, graphs
        self._held: dict[int, list[Tensor]] = {}  # the batch of each size, where the graph reads it
        self._losses: dict[int, Tensor] = {}  # that of its latest step, where the graph writes it
        self._size, self._epoch = 0, -1
        self._closure: Any = None  # what computes the step's loss and gradients, as the optimiser gets it
        self._whole: Any = None  # and as Lightning has it

    def optimizer(self) -> GraphedSGD:
        """Returns the module's optimiser: what its `configure_optimizers` is to return."""
        module = self.module
        self._optimizer = GraphedSGD(
            module.parameters(), lr=module.lr, momentum=module.momentum, weight_decay=module.weight_decay
        )
        return self._optimizer

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for group in self._optimizer.param_groups:  # a checkpoint brings one of its own
            group["lr"] = torch.as_tensor(group["lr"], device=self.module.device)
        self._held.clear()
        self._epoch = -1
        self.module.epoch_sums = self.module.epoch_sums.to(self.module.device)  # a checkpoint's are elsewhere
        self._repeated = Repeated(self._step, self._written, graphs=self.graphs)
        self._usual = {name: getattr(self.module, name) for name in HOOKS}
        self.module.training_step, self.module.optimizer_step = self._training_step, self._optimizer_step
        self._optimizer.made = self._make

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._leave()

    def _leave(self) -> None:
        for name in HOOKS:
            self.module.__dict__.pop(name, None)
        self._optimizer.made = None
        self._repeated.forget()

    def _plan(self, trainer: pl.Trainer) -> None:
        """Looks at an epoch that begins or, after a resume, goes on."""
        if self._epoch != trainer.current_epoch:
            plan, self._epoch = plan_of(trainer.train_dataloader), trainer.current_epoch
            assert plan is not None
            self._repeated.plan(plan.sizes.tolist())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._plan(trainer)
        self.module.begin_sums(batch_idx)
        self._size = len(batch[0])
        if self._size not in self._held:
            self._held[self._size] = [torch.empty_like(part) for part in batch]
        for place, part in zip(self._held[self._size], batch, strict=True):
            place.copy_(part)

    def _training_step(self, batch: Any, batch_idx: int) -> Any:
        # An epoch's first step is a step like others: what it has more is done before it.
        return self._usual["training_step"](self._held[self._size], max(1, batch_idx))

    def _optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self._whole = optimizer_closure
        self._usual["optimizer_step"](epoch, batch_idx, optimizer, optimizer_closure)
        # Where a graph was repeated nobody has called the closure. The loss is copied: the next step writes over it.
        optimizer_closure._result = ClosureResult(self._losses[self._size])

    def _make(self, closure: Any) -> Tensor:
        """Makes a step, of what computes the loss and the gradients."""
        self._closure = closure
        self._repeated.run([self._size])
        return self._losses[self._size]

    def _step(self, size: int) -> None:
        self._losses[size] = self._optimizer.plain(self._closure)
        self._whole._result = None  # else it keeps the graph of a trial alive, which is of another stream

    def _written(self) -> Iterator[Tensor]:
        yield from self.module.parameters()
        yield from self.module.buffers()
        yield from (state["momentum_buffer"] for state in self._optimizer.state.values() if state)
        yield self.module.epoch_sums
