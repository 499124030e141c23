"""What the stationarity of SGD is judged on: inner products of weights and gradients, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from three_factors.callbacks.functional import stationarity
from three_factors.callbacks.functional.fluctuation import Stationarity

SAME = 1e-6  # by so much of itself |g|² may differ between two sums
SCALE_INVARIANT = 1e-3  # mean |θ·g| / |θ||g| below this: the loss does not depend on the norm of θ (Euler)


class Setting(NamedTuple):
    """What the steps of a series have in common, of their parameter group.

    Attributes:
        dampening, nesterov, maximize: not of the relation's steps; they may be switched on right before one.
        elements: of each parameter, 0 where it has no gradient: which are trained, and how long they are.
    """

    lr: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    elements: tuple[int, ...] = ()


@dataclass
class Series:
    """2θ·g, eta(1+beta)|v|², |θ|² and cos(θ, g) of one parameter group, since S or its setting last changed.

    Attributes:
        count, table: so many steps, a row each, float64; the table has room for more.
        setting, size: what the steps have in common, and S of the first of them.
        recent: of the last steps, whose S over all ranks is not known yet: this rank's part of it, and whether the
            step ended an epoch. (A collective at every step would cost more than what is followed.)
        changed: whether gradients were not those that had been seen before the step; on the device.
    """

    count: int = 0
    table: Tensor = field(default_factory=lambda: torch.empty(0, 4, dtype=torch.float64))
    setting: Setting = field(default_factory=Setting)
    size: int = 0
    recent: list[tuple[int, bool]] = field(default_factory=list)
    changed: Tensor | bool = False
    pending: Tensor | None = None
    power: Tensor | None = None  # |g|² of the step that is pending
    made: bool = False

    def __post_init__(self) -> None:
        self.setting = Setting(*self.setting)  # a checkpoint has a plain tuple

    @property
    def rows(self) -> Tensor:
        """Returns the steps so far, (T, 4)."""
        return self.table[: self.count]

    def state(self) -> dict[str, Any]:
        table = self.rows.clone().cpu()  # a view would be saved with all its room
        return {
            "table": table,
            "setting": tuple(self.setting),
            "size": self.size,
            "recent": list(self.recent),
            "changed": bool(self.changed),
        }

    def before(self, pairs: list[tuple[Tensor, Tensor]], setting: Setting) -> None:
        if self.setting != setting:
            self.count, self.setting, self.size, self.recent = 0, setting, 0, []
        lr, momentum, decay = setting.lr, setting.momentum, setting.weight_decay
        product = torch.stack([inner(p, g) for p, g in pairs]).sum()
        square = square_of([p for p, _ in pairs])
        power = square_of([g for _, g in pairs])
        cosine = product.abs() / (square * power).sqrt().clamp(min=1e-300)
        with_decay = power + 2 * decay * product + decay**2 * square
        self.pending = torch.stack([2 * (product + decay * square), lr * (1 + momentum) * with_decay, square, cosine])
        self.power, self.made = power, False

    def stepped(self, gradients: list[Tensor], setting: Setting) -> None:
        """Takes note that the step was made, with these gradients."""
        if self.power is None or self.setting != setting:  # nobody has told of it, or not as it was
            self.pending = self.power = None
            return
        apart = (square_of(gradients) - self.power).abs()
        self.changed, self.power, self.made = self.changed | (apart > SAME * self.power), None, True

    def after(self, buffers: list[Tensor], size: int, last: bool) -> None:
        """Takes over the step that a batch has ended with, if one was made: a gradient scaler may have refused it."""
        row, made, self.pending, self.made = self.pending, self.made, None, False
        if row is None or not made:
            return
        lr, momentum = self.setting.lr, self.setting.momentum
        if momentum and buffers:
            row[1] = lr * (1 + momentum) * square_of(buffers)
        if self.count == len(self.table):
            grown = row.new_empty(max(64, 2 * self.count), len(row))
            grown[: self.count] = self.table
            self.table = grown
        self.table[self.count] = row
        self.count += 1
        self.recent.append((size, last))

    def settle(self, sizes: list[int]) -> None:
        """Takes S of the recent steps over all ranks; forgets what was before S changed by more than a tenth."""
        older = self.count - len(sizes)
        kept: list[int] = []
        for i, (size, (_, last)) in enumerate(zip(sizes, self.recent), older):
            if self.size and abs(size - self.size) > 0.1 * self.size:
                if last:
                    continue  # the ragged end of an epoch
                older, kept, self.size = 0, [], 0
            self.size = self.size or size
            kept.append(i)
        if older + len(kept) < self.count:
            self.table = self.table[[*range(older), *kept]]
            self.count = len(self.table)
        self.recent = []
        finite = self.rows.isfinite().all(1)  # what a diverged training has come to is no stationary state
        if not bool(finite.all()):
            self.table = self.rows[finite]
            self.count = len(self.table)

    def judge(self, seed: int) -> Stationarity:
        series = self.rows.cpu()
        invariant = bool(len(series)) and not self.setting.weight_decay and float(series[:, 3].mean()) < SCALE_INVARIANT
        return stationarity(series[:, 0], series[:, 1], square_norm=series[:, 2], scale_invariant=invariant, seed=seed)


def square_of(tensors: list[Tensor]) -> Tensor:
    """Returns their squared length, float64 and on the device."""
    return torch.stack([inner(t, t) for t in tensors]).sum()


def inner(one: Tensor, other: Tensor) -> Tensor:
    """Returns the inner product of two tensors of one shape, float64 and on the device; complex numbers count as pairs.

    Products of 16 bits are taken in float32: in float16 the square of a gradient of 1e-4 is 0, and that of 300 is inf.
    """
    if one.is_complex():
        one, other = (torch.view_as_real(t.resolve_conj()) for t in (one, other))
    if one.dtype in (torch.float16, torch.bfloat16):
        one, other = one.float(), other.float()
    return (one * other).sum(dtype=torch.float64)
