"""Projects of strangers, small: modules, data and Trainers as people write them elsewhere."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

EXAMPLES, CLASSES = 24, 3


def data(examples=EXAMPLES, features=6, seed=0, dtype=torch.float64):
    """(inputs, targets) of three classes, unequally many."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, features, generator=generator, dtype=dtype)
    return inputs, torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), examples, True, generator=generator)


def batches(inputs, targets, *sizes):
    """The same examples in batches of these sizes."""
    return list(zip(inputs.split(list(sizes)), targets.split(list(sizes))))


def network(*layers, seed=1):
    """Layers with weights of their own, in float64; a small tanh network by default."""
    torch.manual_seed(seed)
    made = layers or (lambda: nn.Linear(6, 5), nn.Tanh, lambda: nn.Linear(5, CLASSES))
    return nn.Sequential(*(make() for make in made)).double()


class Project(pl.LightningModule):
    """A module with a loader of its own, which is shuffled by a generator of its own."""

    def __init__(self, net=None, examples=EXAMPLES, batch_size=8):
        super().__init__()
        self.net = network() if net is None else net
        self.pairs, self.batch_size = TensorDataset(*data(examples)), batch_size
        self.steps = 0

    def forward(self, x):
        return self.net(x)

    def loss(self, output, target):
        return F.cross_entropy(output, target)

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def train_dataloader(self):
        return DataLoader(self.pairs, self.batch_size, shuffle=True, generator=torch.Generator().manual_seed(3))


def trainer(*callbacks, epochs=1, **options):
    """A quiet Trainer on one CPU."""
    options = {"logger": False, "enable_checkpointing": False} | options
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )


def dense_hessian(loss, module, params=None):
    """The matrix of second derivatives of loss() in the module's parameters, row by row."""
    wanted = [p for n, p in module.named_parameters() if (p.requires_grad if params is None else n in params)]
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss(), wanted, create_graph=True)])
    rows = [torch.autograd.grad(s, wanted, retain_graph=True, allow_unused=True) for s in slope]
    filled = [[torch.zeros_like(p) if g is None else g for g, p in zip(row, wanted)] for row in rows]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in filled])


def gradient(loss, module):
    """∇ loss in all parameters, flat."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
