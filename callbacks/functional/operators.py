"""What is asked of an operator: by Lanczos' method and traces little, by measures of sharpness more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """A symmetric linear operator, such as HessianOperator. Its products are new tensors, free to be written to."""

    num_params: int
    device: torch.device
    dtype: torch.dtype

    def matvec(self, vector: Tensor) -> Tensor:
        """Returns H v for v (q,)."""
        ...

    def matmat(self, vectors: Tensor) -> Tensor:
        """Returns H V for V (q, k)."""
        ...


class LossHessian(Operator, Protocol):
    """The Hessian of a loss over batches: of a network of its own, `HessianOperator`, or of a member of a stack.

    Attributes:
        products: how many H v were computed, over all the data.
    """

    products: int

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Returns θ by name, in the order of H's rows."""
        ...

    def weights(self) -> Tensor:
        """Returns θ, (q,), a copy."""
        ...

    def gradient(self, shift: Tensor | None = None) -> Tensor:
        """Returns ∇L, (q,); at θ + shift (q,) if given."""
        ...

    def gradients_and_products(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields for every batch its size, its own gradient g_B (q,), and H_B g_B (q,)."""
        ...
