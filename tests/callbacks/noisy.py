"""Small trainings whose gradients' noise is followed."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.callbacks.fits import Own, trainer


class Rows(Own):
    """Own data and network, `rows` examples in batches of `size`."""

    def __init__(self, rows=160, size=16, momentum=0.0):
        super().__init__()
        self.size, self.momentum = size, momentum
        self.pairs = TensorDataset(*(t[:rows] for t in self.pairs.tensors))

    def train_dataloader(self):
        return DataLoader(self.pairs, self.size, shuffle=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=self.momentum)


class Plain(Rows):
    """Without batch norm: an example has a gradient of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.network = torch.nn.Linear(12, 4)


def fitted(module, watch, **options):
    torch.manual_seed(3)
    found = trainer([watch], **options)
    found.fit(module)
    return found
