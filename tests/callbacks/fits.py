"""Small trainings with and without monitors, on one rank or as one of several."""

from typing import get_args

import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.ranks import as_torchrun
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor
from three_factors.callbacks.measures import Measure
from three_factors.datamodules import DigitsDataModule
from three_factors.lightning_modules import MLP, VGG11

EVERY = get_args(Measure)


def monitor(kind):
    return {
        "hessian": lambda: HessianMonitor(measures=EVERY, examples=96, batch_size=16, k=2, trace_tol=0.5, norm_tol=0.2),
        "pyhessian": lambda: HessianMonitor(backend="pyhessian", examples=64, norm_tol=0.2, trace_tol=0.5),
        "noise": lambda: GradientNoiseMonitor(batches=6, alignment=True),
        "interpolation": lambda: InterpolationMonitor(alphas=[0, 0.5, 1, 1.5], examples=96),
    }[kind]()


class Own(pl.LightningModule):
    """Somebody's own module and loader: batch norm, dropout, shuffling by torch's global generator."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Sequential(
            torch.nn.Linear(12, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(16, 4),
        )
        generator = torch.Generator().manual_seed(5)
        self.pairs = TensorDataset(
            torch.randn(160, 12, generator=generator), torch.randint(0, 4, (160,), generator=generator)
        )

    def forward(self, x):
        return self.network(x)

    def loss(self, output, target):
        return F.cross_entropy(output, target)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val", self.loss(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)

    def train_dataloader(self):
        return DataLoader(self.pairs, 16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.pairs, 32)


def trainer(callbacks, ranks=1, epochs=2, **options):
    return pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )


def fit(project, callbacks, ranks=1, precision="32-true", epochs=2):
    """The trained state and the Trainer."""
    torch.manual_seed(3)
    if project == "own":
        module, data = Own(), None
    elif project == "mlp":
        module = MLP(hidden=(16, 16), batch_norm=True, lr=0.05)
        data = DigitsDataModule(gray=True, train=192, batch_size=33)
    else:
        module, data = VGG11(width=1 / 64, lr=0.05), DigitsDataModule(train=60, batch_size=10)
    if precision == "64-true" and data is not None:
        data.dtype = torch.float64
    fitted = trainer(callbacks, ranks, epochs, precision=precision, use_distributed_sampler=project == "own")
    fitted.fit(module, data)
    return {k: v.clone() for k, v in module.state_dict().items() if not k.startswith("evaluations")}, fitted


def fit_on_rank(rank, world_size, project, kind, precision):
    """The same as one of several ranks, each with a seed of its own for torch's global generator."""
    as_torchrun(rank, world_size)
    callbacks = [monitor(kind)] if kind else []
    weights, _ = fit(project, callbacks, world_size, precision)
    return weights, callbacks[0].history if callbacks else []
