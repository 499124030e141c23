"""PyHessian's own `eigenvalues()` and `trace()` on our Hessian operator. The only file that imports pyhessian.

From PyHessian come the algorithms (power iteration with deflation; Hutchinson until two means agree) and their stopping
rules. The product is ours, and with it what PyHessian 0.1 lacks: several ranks, any loader, sum losses, unused and
frozen parameters, a module left in its modes with its gradients, a seed. `density()` is not offered: it calls
`torch.eig`, which torch no longer has; see `spectral_density`. No line of PyHessian is copied here.
"""

from __future__ import annotations

from typing import Any

import torch
from pyhessian import hessian as _PyHessian
from torch import Tensor

from three_factors.callbacks.functional.hessian_operator import HessianOperator


class _NoGradients:
    """Stands where PyHessian keeps the model, whose gradients it would set to zero."""

    def zero_grad(self) -> None: ...


class PyHessian(_PyHessian):
    """`eigenvalues(maxIter, tol, top_n)` and `trace(maxIter, tol)` as PyHessian's users know them.

    PyHessian(HessianOperator(module, F.cross_entropy, loader)).eigenvalues(top_n=2)
    """

    def __init__(self, operator: HessianOperator, seed: int = 0) -> None:  # PyHessian's own would run the model
        self.operator, self.seed = operator, seed
        self.params = list(operator.parameters.values())
        self.device = operator.device
        self.model = _NoGradients()
        self.full_dataset = True  # so that every product comes from dataloader_hv_product

    def dataloader_hv_product(self, v: list[Tensor]) -> tuple[float, list[Tensor]]:
        flat = torch.cat([piece.reshape(-1) for piece in v]).to(self.operator.dtype)
        product = self.operator.matvec(flat)
        pieces = [p.view(s) for p, s in zip(product.split(self.operator.lengths), self.operator.shapes)]
        return float(flat @ product), pieces

    def eigenvalues(self, maxIter: int = 100, tol: float = 1e-3, top_n: int = 1) -> tuple[list[float], Any]:
        """Returns the `top_n` eigenvalues of largest magnitude and their vectors, as PyHessian returns them."""
        with self._seeded():
            return super().eigenvalues(maxIter, tol, top_n)

    def trace(self, maxIter: int = 100, tol: float = 1e-3) -> list[float]:
        """Returns the samples v·Hv, as PyHessian returns them; their mean estimates the trace."""
        with self._seeded():
            return super().trace(maxIter, tol)

    def density(self, *_: Any, **__: Any) -> Any:
        """Raises NotImplementedError: see `spectral_density`."""
        raise NotImplementedError("density: PyHessian's needs torch.eig, which is gone; use spectral_density(operator)")

    def _seeded(self) -> _Seeded:
        return _Seeded(self.seed, self.device)


class _Seeded:
    """The same vectors on every rank, and torch's random states as they were."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.fork = torch.random.fork_rng([device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)
