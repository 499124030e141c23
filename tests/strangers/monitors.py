"""The monitors of all kinds in a fit of a small project."""

from torch.nn import functional as F

from tests.strangers.projects import Project, data, trainer
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor

SMALL = {"examples": 24, "batch_size": 12}


def hessian(**options):
    return HessianMonitor(**{"measures": ("top_eigenvalue",), **SMALL} | options)


def noise(**options):
    return GradientNoiseMonitor(**{"batches": 6, "stationarity": False} | options)


def line(**options):
    return InterpolationMonitor(**{"alphas": [0, 0.5, 1], **SMALL} | options)


KINDS = {"hessian": hessian, "noise": noise, "line": line}


def fit(project, *callbacks, **options):
    trainer(*callbacks, precision="64-true", **options).fit(project)
    return project


class Named(Project):
    """Batches that are dictionaries."""

    def __init__(self, **options):
        super().__init__(**options)
        self.pairs = [{"x": x, "y": y, "name": f"{i}"} for i, (x, y) in enumerate(zip(*data()))]

    def training_step(self, batch, batch_idx):
        self.steps += 1
        self.log("train", F.cross_entropy(self(batch["x"]), batch["y"]))
        return F.cross_entropy(self(batch["x"]), batch["y"])
