"""What the monitors ought to find, computed another way: plain PyTorch on a plain network, nothing of this project.

Curvature by double backward (or torch.func's forward mode), gradient noise by a Python loop over examples or batches,
interpolation by loading weights into a network of its own. All in float64 unless said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

BatchLoss = Callable[[Any, Any], Tensor]
DENSE = 200  # rows up to which the whole matrix is computed


def in_dtype(batch: Any, dtype: torch.dtype) -> Any:
    """A batch with its floating tensors in `dtype`."""
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    if isinstance(batch, Mapping):
        return {key: in_dtype(value, dtype) for key, value in batch.items()}
    return [in_dtype(part, dtype) for part in batch] if isinstance(batch, list | tuple) else batch


def examples_of(batch: Any) -> int:
    """The number of examples in a batch, all of whose parts have one entry an example."""
    while isinstance(batch, Mapping):
        batch = next(iter(batch.values()))
    return len(batch[0]) if isinstance(batch, list | tuple) and not isinstance(batch[0], str) else len(batch)


def part_of(batch: Any, start: int, stop: int) -> Any:
    """The examples from `start` to `stop` of a batch, as a batch."""
    if isinstance(batch, Mapping):
        return {key: part_of(value, start, stop) for key, value in batch.items()}
    if isinstance(batch, list | tuple) and not isinstance(batch[0], str):
        return [part_of(part, start, stop) for part in batch]
    return batch[start:stop]


def regrouped(batches: list[Any], examples: int, size: int) -> list[Any]:
    """The first so many examples of these batches, in batches of `size`."""
    whole = _together(batches)
    number = min(examples, examples_of(whole))
    return [part_of(whole, at, min(at + size, number)) for at in range(0, number, size)]


def _together(batches: list[Any]) -> Any:
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(batches)
    if isinstance(first, Mapping):
        return {key: _together([batch[key] for batch in batches]) for key in first}
    if isinstance(first[0], str):
        return [name for names in batches for name in names]
    return [_together(list(parts)) for parts in zip(*batches)]


def free_parameters(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def _flat(pieces: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    return torch.cat([(torch.zeros_like(x) if p is None else p).reshape(-1) for p, x in zip(pieces, like)])


# -- curvature


Times = Callable[[Tensor], Tensor]


class HardSigmoid(nn.Module):
    """nn.Hardsigmoid, written out: torch has no second derivative of its kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 6 + 0.5).clamp(0, 1)


@dataclass
class Curvature:
    """The Hessian of a mean loss over batches, in eval mode, as products with vectors. The module is its to change."""

    module: nn.Module
    loss: BatchLoss
    batches: list[Any]

    def __post_init__(self) -> None:
        for part in list(self.module.modules()):
            for name, child in part.named_children():
                if isinstance(child, nn.Hardsigmoid):
                    setattr(part, name, HardSigmoid())
        self.module.eval()
        self.parameters = free_parameters(self.module)
        self.dtype = self.parameters[0].dtype
        self.batches = [in_dtype(batch, self.dtype) for batch in self.batches]
        sizes = [examples_of(batch) for batch in self.batches]
        self.weights = [size / sum(sizes) for size in sizes]
        self.rows = sum(p.numel() for p in self.parameters)

    def split(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters)]

    def of_batch(self, batch: Any) -> tuple[Tensor, Times]:
        """The gradient of one batch's loss, and the product of its Hessian with a vector."""
        loss = self.loss(self.module, batch)
        gradients = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)

        def times(vector: Tensor) -> Tensor:
            pairs = zip(gradients, self.split(vector))
            inner = sum((g * v).sum() for g, v in pairs if g is not None and g.requires_grad)
            found = torch.autograd.grad(inner, self.parameters, retain_graph=True, allow_unused=True)
            return _flat(found, self.parameters)

        return _flat([None if g is None else g.detach() for g in gradients], self.parameters), times

    @cached_property
    def each(self) -> list[tuple[Tensor, Times]]:
        """What `of_batch` gives for every batch."""
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that PyTorch differentiates twice
            return [self.of_batch(batch) for batch in self.batches]

    def times(self, vector: Tensor) -> Tensor:
        return sum(weight * times(vector) for weight, (_, times) in zip(self.weights, self.each))

    def batch_sharpness(self) -> float:
        """Σ g'H_B g / Σ |g|² over the batches, g the gradient of one; without a ragged last one after three."""
        sizes, each = [examples_of(batch) for batch in self.batches], self.each
        if len(sizes) > 3 and len(set(sizes[:-1])) == 1:
            each = [one for one, size in zip(each, sizes) if size == sizes[0]]
        return float(sum(g @ times(g) for g, times in each) / sum(g @ g for g, _ in each))

    @cached_property
    def dense(self) -> Tensor:
        """The whole matrix, a row at a time."""
        return torch.stack([self.times(row) for row in torch.eye(self.rows, dtype=self.dtype)])

    def top_eigenvalue(self) -> float:
        """The algebraically largest."""
        if self.rows <= DENSE:
            return float(torch.linalg.eigvalsh(self.dense)[-1])
        if self.rows > 1_000_000:
            return self._top_of_many_rows()
        operator = LinearOperator(
            (self.rows, self.rows),
            matvec=lambda v: self.times(torch.from_numpy(v.ravel().copy())).numpy(),
            dtype=np.float64,
        )
        start = np.random.default_rng(1).standard_normal(self.rows)
        return float(eigsh(operator, k=1, which="LA", tol=1e-5, v0=start, return_eigenvectors=False)[0])

    def _top_of_many_rows(self, steps: int = 12) -> float:
        """By Lanczos' three-term recurrence, whose copies of eigenvalues do not matter for the largest."""
        v = torch.randn(self.rows, generator=torch.Generator().manual_seed(1), dtype=self.dtype)
        v, before, beta = v / v.norm(), torch.zeros_like(v), 0.0
        diagonal, beside = [], []
        for _ in range(steps):
            w = self.times(v) - beta * before
            diagonal.append(float(w @ v))
            w -= diagonal[-1] * v
            beta = float(w.norm())
            beside.append(beta)
            before, v = v, w / beta
        matrix = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
        return float(np.linalg.eigvalsh(matrix)[-1])


@dataclass
class GaussNewton(Curvature):
    """J' ∇²l J by forward mode through the network, forward over reverse through the loss, and reverse mode back.

    `output_loss(output, target)` and (input, target) batches; `loss` is not asked.
    """

    output_loss: Callable[[Any, Tensor], Tensor] | None = None

    def of_batch(self, batch: Any) -> tuple[Tensor, Times]:
        inputs, targets = batch
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        point = {name: p.detach() for name, p in named.items()}
        output_loss = self.output_loss
        assert output_loss is not None

        def network(tensors: dict[str, Tensor]) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH), _without_fast_path():
                return functional_call(self.module, tensors, (inputs,))

        def slope(output: Tensor) -> Tensor:
            return torch.func.grad(lambda o: output_loss(o, targets))(output)

        output, back = vjp(network, point)

        def times(vector: Tensor) -> Tensor:
            _, pushed = jvp(network, (point,), (dict(zip(named, self.split(vector))),))
            _, curved = jvp(slope, (output,), (pushed,))
            return _flat(list(back(curved)[0].values()), self.parameters).detach()

        return _flat(list(back(slope(output))[0].values()), self.parameters).detach(), times


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """nn.MultiheadAttention's kernel for evaluation has no forward mode."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# -- gradient noise


@dataclass(frozen=True)
class Noise:
    """Unbiased tr C and |∇L|² of m gradients, the sample covariance's largest eigenvalue, and the number of rows q."""

    trace: float
    mean_square: float
    top_eigenvalue: float
    rows: int

    def temperature(self, eta_over_s: float) -> float:
        return eta_over_s * self.trace / (2 * self.rows)


def gradient_noise(module: nn.Module, loss: BatchLoss, batches: list[Any], *, by_batch: bool) -> Noise:
    """From the gradients of single examples, one at a time, or of whole batches of one size.

    The module's modes are the caller's affair, and so are its random layers.
    """
    parameters = free_parameters(module)
    own = [in_dtype(batch, parameters[0].dtype) for batch in batches]
    size = examples_of(own[0]) if by_batch else 1
    pieces = own if by_batch else [part_of(b, i, i + 1) for b in own for i in range(examples_of(b))]
    rows = []
    for piece in pieces:
        found = torch.autograd.grad(loss(module, piece), parameters, allow_unused=True)
        rows.append(_flat(found, parameters))
    gradients = torch.stack(rows)
    m, mean = len(gradients), gradients.mean(0)
    away = gradients - mean
    variance = float((away**2).sum()) / (m - 1)
    return Noise(
        trace=size * variance,
        mean_square=float(mean @ mean) - variance / m,
        top_eigenvalue=size * float(torch.linalg.eigvalsh(away @ away.T)[-1]) / (m - 1),
        rows=gradients.shape[1],
    )


# -- interpolation


def loss_on_the_line(
    build: Callable[[], nn.Module],
    loss: BatchLoss,
    batches: list[Any],
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    alphas: Sequence[float],
    *,
    re_estimate: bool,
) -> list[float]:
    """The loss of (1 - a) start + a end at every a, each in a network that is built for it."""
    found = []
    for a in alphas:
        module = build()
        dtype = next(module.parameters()).dtype
        own = [in_dtype(batch, dtype) for batch in batches]
        line = {k: (1 - a) * start[k] + a * end[k] if start[k].is_floating_point() else end[k] for k in start}
        module.load_state_dict(line)
        module.eval()
        with torch.no_grad():
            if re_estimate:
                _re_estimate(module, loss, own)
            sizes = [examples_of(batch) for batch in own]
            found.append(sum(n * float(loss(module, batch)) for n, batch in zip(sizes, own)) / sum(sizes))
    return found


def distance(one: Mapping[str, Tensor], two: Mapping[str, Tensor], parameters: Sequence[str]) -> float:
    return math.sqrt(sum(float(((one[k].double() - two[k].double()) ** 2).sum()) for k in parameters))


def _re_estimate(module: nn.Module, loss: BatchLoss, batches: list[Any]) -> None:
    """Mean and variance of all that comes into each layer, while each batch is normalised by its own."""
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    inputs: list[list[Tensor]] = [[] for _ in layers]
    with _collecting(layers, inputs):
        for layer in layers:
            layer.train()
        for batch in batches:
            loss(module, batch)
        module.eval()
    for layer, seen in zip(layers, inputs):
        values = torch.cat([x.transpose(0, 1).flatten(1) for x in seen], 1)
        layer.running_mean.copy_(values.mean(1))
        layer.running_var.copy_(values.var(1, correction=0))


@contextmanager
def _collecting(layers: list[nn.Module], inputs: list[list[Tensor]]) -> Iterator[None]:
    handles = [
        layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].clone()))
        for layer, seen in zip(layers, inputs)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
