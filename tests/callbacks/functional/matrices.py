"""Dense matrices as operators, and matrices of a given spectrum."""

import torch


class Matrix:
    """A dense symmetric matrix as an operator that counts its products."""

    def __init__(self, dense):
        self.dense, self.num_params, self.products = dense, len(dense), 0
        self.dtype, self.device = dense.dtype, dense.device

    def matvec(self, vector):
        return self.matmat(vector[:, None])[:, 0]

    def matmat(self, vectors):
        self.products += vectors.shape[1]
        return self.dense @ vectors


def symmetric(values, seed=0, dtype=torch.float64):
    """A matrix with these eigenvalues, in a random basis."""
    values = torch.as_tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return Matrix(((basis * values) @ basis.T).to(dtype))
