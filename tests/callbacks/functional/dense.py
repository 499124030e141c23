"""Small float64 networks and their dense Hessians, made another way: torch.func.hessian."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

KINDS = ("tanh", "relu", "batch norm", "conv")


def network(kind):
    torch.manual_seed(7)
    layers = {
        "tanh": [nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 4)],
        "relu": [nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)],
        "batch norm": [nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4)],
        "conv": [
            nn.Unflatten(1, (2, 2, 2)),
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 2),
            nn.Flatten(),
        ],
    }[kind]
    module = nn.Sequential(*layers).double()
    with torch.no_grad():
        for part in module:
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
    return module


def data(n=40, classes=4):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, classes, (n,), generator=generator)


def batches(*sizes):
    inputs, targets = data(sum(sizes))
    return list(zip(inputs.split(sizes), targets.split(sizes)))


def hessian(module, loss=F.cross_entropy, inputs=None, targets=None, names=None):
    """(q, q), of the loss of all data at once, in eval mode."""
    if inputs is None:
        inputs, targets = data()
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    chosen = {k: v.detach() for k, v in module.named_parameters() if names is None or k in names}
    shapes, lengths = [v.shape for v in chosen.values()], [v.numel() for v in chosen.values()]

    def of(flat):
        tensors = {k: x.view(s) for k, x, s in zip(chosen, flat.split(lengths), shapes)}
        return loss(functional_call(module, tensors, (inputs,)), targets)

    with sdpa_kernel(SDPBackend.MATH):
        dense = torch.func.hessian(of)(torch.cat([v.reshape(-1) for v in chosen.values()]))
    for m, mode in modes:
        m.training = mode
    return dense
