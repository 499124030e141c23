"""What optimisers really do: the learning rates of their parameter groups, and the steps that they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

Rule = Literal["proportional", "same"] | None


class Rates:
    """Gives every parameter group its share of one learning rate eta.

    The shares are 1 by the rule "same". By "proportional" they are what the groups' own learning rates are to the
    largest of them: `initial_lr` where a scheduler has noted it, else `lr`. Without a rule there must be nothing to
    decide. A group that is added later counts by its learning rate at that time, against those then in force; or as
    one from the beginning, if it has the optimiser's default.

    Attributes:
        own: the learning rates that each optimiser's groups had of their own. A checkpoint has to keep them, and
            `largest`: the optimisers in it have the scaled ones.
        largest: of those at the beginning.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.own: list[list[float]] = []
        self.largest = 0.0
        self._optimizers: list[Optimizer] = []
        self._shares: list[list[float]] = []

    def begin(self, optimizers: Iterable[Optimizer]) -> None:
        """Takes the optimisers over; `own` may have been brought by a checkpoint.

        Raises:
            ValueError: there is no rule and the groups' learning rates differ.
        """
        self._optimizers = list(optimizers)
        if len(self.own) != len(self._optimizers):
            self.own = [[_rate(group, "initial_lr") for group in one.param_groups] for one in self._optimizers]
            self.largest = max((rate for rates in self.own for rate in rates), default=0.0)
        known = sorted({rate for rates in self.own for rate in rates})
        if self.rule is None and len(known) > 1:
            raise _undecided(known)
        self._shares = [[self._share(rate) for rate in rates] for rates in self.own]

    def release(self) -> None:
        """Lets the optimisers go; what a checkpoint has to keep stays."""
        self._optimizers, self._shares = [], []

    def set(self, lr: float) -> None:
        """Sets eta: each group gets its share of `lr`."""
        for index, (optimizer, shares) in enumerate(zip(self._optimizers, self._shares)):
            if len(optimizer.param_groups) != len(shares):
                self._admit(index, optimizer, shares)
            for group, share in zip(optimizer.param_groups, shares):
                if isinstance(group["lr"], Tensor):  # of a capturable optimiser, which keeps the tensor
                    group["lr"].fill_(lr * share)
                else:
                    group["lr"] = lr * share

    def _share(self, rate: float) -> float:
        return rate / self.largest if self.rule == "proportional" and self.largest else 1.0

    def _admit(self, index: int, optimizer: Optimizer, shares: list[float]) -> None:
        groups, own = optimizer.param_groups, self.own[index]
        del shares[len(groups) :], own[len(groups) :]
        now = max((_rate(group) / share for group, share in zip(groups, shares) if share), default=0.0)
        for group in groups[len(shares) :]:
            rate = _rate(group)
            if now and rate != optimizer.defaults.get("lr"):
                rate *= self.largest / now
            if math.isclose(rate, self.largest):
                rate = self.largest
            elif self.rule is None:
                raise _undecided([_rate(group), now])
            own.append(rate)
            shares.append(self._share(rate))


def _rate(group: dict[str, Any], first: str = "lr") -> float:
    rate = group.get(first, group.get("lr"))
    if rate is None:
        raise ValueError("optimizer: a parameter group has no learning rate to set")
    return float(rate)


def _undecided(rates: list[float]) -> ValueError:
    shown = ", ".join(f"{rate:g}" for rate in rates)
    return ValueError(
        f"groups: the parameter groups' learning rates {shown} differ; say groups='proportional' (the largest follows "
        "the schedule, the others keep their ratio to it) or groups='same' (all follow it)"
    )


class Steps:
    """Calls `before` right before, and `after` right after, each step that an optimiser takes, whoever asks for it."""

    def __init__(self, before: Callable[[Optimizer], None], after: Callable[[Optimizer], None]) -> None:
        self._before, self._after = before, after
        self._handles: list[Any] = []
        self._open: dict[int, int] = {}  # of each optimiser, how many calls of `step` are under way

    def new_batch(self) -> None:
        """Forgets steps that an exception has broken off."""
        self._open.clear()

    def _begins(self, optimizer: Optimizer, args: Any, options: Any) -> None:
        # torch calls the hooks around the `step` of a class and again around that of the class it derives from
        calls = self._open.get(id(optimizer), 0)
        if calls == 0:
            self._before(optimizer)
        self._open[id(optimizer)] = calls + 1

    def _ends(self, optimizer: Optimizer, args: Any, options: Any) -> None:
        calls = self._open[id(optimizer)] = max(0, self._open.get(id(optimizer), 0) - 1)
        if calls == 0:
            self._after(optimizer)

    def watch(self, optimizers: Iterable[Optimizer]) -> None:
        self.leave()
        for optimizer in optimizers:
            if not hasattr(optimizer, "register_step_pre_hook"):
                raise ValueError(f"optimizer: {type(optimizer).__name__} is no torch.optim.Optimizer; derive from it")
            if not hasattr(optimizer, "_optimizer_step_pre_hooks"):  # what torch's __init__ makes
                name = type(optimizer).__name__
                raise ValueError(f"optimizer: {name} cannot tell of its steps; call super().__init__ in its own")
            self._handles.append(optimizer.register_step_pre_hook(self._begins))
            self._handles.append(optimizer.register_step_post_hook(self._ends))

    def leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._open = [], {}


def moved(optimizer: Optimizer) -> bool:
    """Tells whether a step that was just taken can have changed a parameter.

    Without any gradient it does nothing. A fused optimiser under a gradient scaler steps in name only if it has found
    gradients that are not finite.
    """
    found = getattr(optimizer, "found_inf", None)
    if found is not None and float(found):
        return False
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def smallest_gradient(optimizer: Optimizer) -> Tensor | None:
    """Returns the gradient with the fewest elements.

    It is another tensor once gradients have been set to None in between.
    """
    there = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return min(there, key=Tensor.numel) if there else None
