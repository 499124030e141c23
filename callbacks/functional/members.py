"""Curvature and gradient noise of many networks at once: each is measured by the code that measures one.

The measurements of the members run side by side, each in a thread of its own, with generators, residuals and stopping
of its own. Whenever all of them wait for a product, one double backward through the stack computes them all.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from three_factors.callbacks.functional.stacked import StackedOperator
from three_factors.callbacks.functional.state import measuring
from three_factors.callbacks.functional.wide_products import wide_products

T = TypeVar("T")
ROWS = 32  # gradients of single examples that are taken at a time


@dataclass(frozen=True)
class _Request:
    """What a member asks for: a method of a stack, and the member's part of its argument."""

    stack: StackedOperator
    member: int
    kind: str
    argument: Any = None


@dataclass(frozen=True)
class _Done:
    member: int
    value: Any = None
    error: BaseException | None = None


class MemberOperator:
    """One member's Hessian, as the functions take a `HessianOperator`; for use within `together`.

    Attributes:
        index: which member.
        products: how many H v this member has asked for.
    """

    def __init__(self, stack: StackedOperator, index: int, ask: Callable[[_Request], Any]) -> None:
        self._stack, self.index, self._ask = stack, index, ask
        self.num_params, self.device, self.dtype = stack.num_params, stack.device, stack.dtype
        self.lengths, self.sizes, self.training = stack.lengths, stack.sizes, stack.training
        self.parameters = {name: p.detach()[index] for name, p in stack.parameters.items()}
        self.shapes = [p.shape for p in self.parameters.values()]
        self.products = 0

    def beside(self, stack: StackedOperator) -> MemberOperator:
        """Returns the same member of another stack: of the same networks, on other batches or in another mode."""
        return MemberOperator(stack, self.index, self._ask)

    def weights(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.parameters.values()])

    def ask(self, kind: str, argument: Any) -> Any:
        """Returns this member's part of what a method of the stack computes."""
        return self._ask(_Request(self._stack, self.index, kind, argument))

    def matvec(self, vector: Tensor) -> Tensor:
        return self.matmat(vector.reshape(-1, 1))[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """Returns H V for V (q, k)."""
        self.products += vectors.shape[1]
        found: Tensor = self.ask("products", vectors.to(self.device, self.dtype).T.contiguous())
        return found.T

    def gradient(self, shift: Tensor | None = None) -> Tensor:
        """Returns ∇L (q,); at θ + shift (q,) if given."""
        found: Tensor = self.ask("gradients", shift)
        return found

    def gradients_and_products(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields what `HessianOperator.gradients_and_products` does."""
        for index, size in enumerate(self.sizes):
            g, product = self.ask("pair", index)
            yield size, g, product


class MemberGradients:
    """One member's gradients as rows (m, q), as `noise_of` takes them; for use within `together`.

    Args:
        operator: of the member, in train mode.
        alone: whether a row is the gradient of one example; else that of a batch.
    """

    def __init__(self, operator: MemberOperator, *, alone: bool, seed: int = 0) -> None:
        self._operator, self.alone, self.seed = operator, alone, seed
        self.dtype, self.num_params = operator.dtype, operator.num_params
        self.estimator: Literal["per_example", "batch_means"] = "per_example" if alone else "batch_means"
        if not alone and len(set(operator.sizes)) > 1:
            raise ValueError(f"batches: sizes {sorted(set(operator.sizes))}; batch means need one size")

    @property
    def batch_size(self) -> float:
        return 1.0 if self.alone else float(self._operator.sizes[0])

    def measuring(self) -> AbstractContextManager[None]:
        """Does nothing: what is measured in is the stack's to see to, and that of all threads."""
        return nullcontext()

    def __len__(self) -> int:
        return sum(self._operator.sizes) if self.alone else len(self._operator.sizes)

    def __call__(self, start: int, stop: int) -> Tensor:
        """Returns (stop - start, q)."""
        if not self.alone:
            return torch.stack([self._operator.ask("of_batch", i) for i in range(start, stop)])
        edges = [*range(start, stop, ROWS), stop]
        return torch.cat([self._operator.ask("of_examples", pair) for pair in pairwise(edges)])

    def differences(self, n: int) -> Tensor:
        """Returns what `Gradients.differences` does."""
        rows = self(0, 2 * n)
        return (rows[0::2] - rows[1::2]) / math.sqrt(2)


def together(
    stack: StackedOperator, work: Callable[[MemberOperator], T], members: Sequence[int] | None = None
) -> list[T | Exception]:
    """Returns work(operator) of each member, in their order; the exception where one was raised.

    A member's numbers do not depend on what the others are at: the stack is always computed whole.

    Args:
        members: which of them; all by default.
    """
    wanted = list(range(stack.members)) if members is None else list(members)
    told: queue.SimpleQueue[_Request | _Done] = queue.SimpleQueue()
    answers = {index: queue.SimpleQueue[Any]() for index in wanted}

    def ask(request: _Request) -> Any:
        told.put(request)
        answer = answers[request.member].get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def do(index: int) -> None:
        try:
            told.put(_Done(index, work(MemberOperator(stack, index, ask))))
        except BaseException as error:  # told to whoever asked for the work
            told.put(_Done(index, error=error))

    threads = [threading.Thread(target=do, args=(index,), daemon=True) for index in wanted]
    found: dict[int, Any] = {}
    waiting: dict[int, _Request] = {}
    for thread in threads:
        thread.start()
    asked = {stack}
    try:
        with measuring(stack.module, training=stack.training):  # once, not for every product
            while len(found) < len(wanted):
                heard = told.get()
                if isinstance(heard, _Done):
                    found[heard.member] = heard.value if heard.error is None else heard.error
                    if heard.error is not None and not isinstance(heard.error, Exception):
                        raise heard.error
                else:
                    waiting[heard.member] = heard
                    asked.add(heard.stack)
                if waiting and len(waiting) + len(found) == len(wanted):
                    _serve(waiting, answers)
                    waiting = {}
    finally:
        for one in asked:
            one.drop()
    for thread in threads:
        thread.join()
    return [found[index] for index in wanted]


def _serve(waiting: dict[int, _Request], answers: dict[int, queue.SimpleQueue[Any]]) -> None:
    """Answers all that wait; what is asked for alike is computed at once."""
    try:
        given: dict[int, Any] = {}
        for stack in dict.fromkeys(of.stack for of in waiting.values()):
            with wide_products(stack.device, [shape[1:] for shape in stack.shapes], stack=True):
                given |= _answered(stack, {i: of for i, of in waiting.items() if of.stack is stack})
    except Exception as error:  # every member hears it, or would wait for ever
        given = dict.fromkeys(waiting, error)
    for i, answer in given.items():
        answers[i].put(answer)


def _answered(stack: StackedOperator, waiting: dict[int, _Request]) -> dict[int, Any]:
    """Returns what members asked of a stack."""
    given: dict[int, Any] = {}
    products = {i: of.argument for i, of in waiting.items() if of.kind == "products"}
    if products:
        columns = max(len(rows) for rows in products.values())
        vectors = torch.zeros(columns, stack.members, stack.num_params, device=stack.device, dtype=stack.dtype)
        for i, rows in products.items():
            vectors[: len(rows), i] = rows
        computed = stack.products(vectors)
        given |= {i: computed[: len(rows), i] for i, rows in products.items()}
    slopes = {i: of.argument for i, of in waiting.items() if of.kind == "gradients"}
    if slopes:
        shifts = torch.zeros(stack.members, stack.num_params, device=stack.device, dtype=stack.dtype)
        for i, shift in slopes.items():
            if shift is not None:
                shifts[i] = shift
        computed = stack.gradients(shifts)
        given |= {i: computed[i] for i in slopes}
    for kind, argument in sorted({(of.kind, of.argument) for i, of in waiting.items() if i not in given}):
        asking = [i for i, of in waiting.items() if i not in given and (of.kind, of.argument) == (kind, argument)]
        if kind == "pair":
            g, product = stack.pair(argument)
            given |= {i: (g[i], product[i]) for i in asking}
        elif kind == "of_batch":
            rows = stack.of_batch(argument)
            given |= {i: rows[i] for i in asking}
        else:
            rows = stack.of_examples(*argument)
            given |= {i: rows[:, i] for i in asking}
    return given
