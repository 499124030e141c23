"""A small network, a module around it, and a stranger's class: what checkpoints are made of."""

import pytorch_lightning as pl
import torch
from torch import nn


class Own:
    """A stranger's class, whose state is set by code of its own."""

    ran = False

    def __setstate__(self, state):
        Own.ran = True


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Wrapping(pl.LightningModule):
    def __init__(self, network=None, name="network", **hyperparameters):
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        setattr(self, name, network if network is not None else net())
        self.part = name

    def forward(self, x):
        return getattr(self, self.part)(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
