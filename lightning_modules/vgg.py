"""VGG-11 for 32 x 32 images (configuration A of Simonyan and Zisserman 2015), the paper's network for Figs. 3, 4, 6."""

from __future__ import annotations

from torch import Tensor, nn

from three_factors.lightning_modules.classifier import SGDClassifier
from three_factors.lightning_modules.initialisation import Init, check_width, initialise
from three_factors.lightning_modules.normalization import BatchNorm1d, BatchNorm2d, Layers

LAYOUT = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class VGG11Net(nn.Module):
    """Eight 3x3 convolutions with five 2x2 max-pools, then 512-512-512-classes; ReLU throughout.

    9,756,426 parameters for CIFAR-10 with batch norm on the convolutions, 9,750,922 without.

    Args:
        width: multiplies all layer widths (512 -> 64 at 1/8); positive, or ValueError.
        batch_norm: batch norm after every convolution.
        ghost_batch_size: see `normalization.BatchNorm2d`.
        dropout: probability, before each dense layer but the last where there is `dense_batch_norm`, as in the authors'
            later code; else after each hidden layer of the classifier.
        dense_batch_norm: batch norm on the input and after both hidden dense layers as well.
        init: "he" or "glorot" (`initialise`).
        in_channels: of the input (B, in_channels, 32, 32).
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        batch_norm: bool = True,
        ghost_batch_size: int | None = None,
        dropout: float = 0.0,
        dense_batch_norm: bool = False,
        init: Init = "he",
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_width(width)
        layers: list[nn.Module] = [BatchNorm2d(in_channels, ghost_batch_size)] if dense_batch_norm else []
        channels = in_channels
        for entry in LAYOUT:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            out = max(1, round(entry * width))
            layers.append(nn.Conv2d(channels, out, 3, padding=1))
            if batch_norm:
                layers.append(BatchNorm2d(out, ghost_batch_size))
            layers.append(nn.ReLU(inplace=True))
            channels = out
        self.features = Layers(*layers)
        hidden: list[nn.Module] = []
        for _ in range(2):
            if dropout and dense_batch_norm:
                hidden.append(nn.Dropout(dropout))
            hidden.append(nn.Linear(channels, channels))
            if dense_batch_norm:
                hidden.append(BatchNorm1d(channels, ghost_batch_size))
            hidden.append(nn.ReLU(inplace=True))
            if dropout and not dense_batch_norm:
                hidden.append(nn.Dropout(dropout))
        self.classifier = nn.Sequential(*hidden, nn.Linear(channels, num_classes))
        for module in self.modules():  # without He's the network without batch norm does not start to learn
            if isinstance(module, nn.Conv2d | nn.Linear):
                initialise(module, init)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class VGG11(SGDClassifier):
    """`VGG11Net` trained by SGD; see `SGDClassifier` for what it logs."""

    def __init__(
        self,
        *,
        lr: float = 0.005,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        width: float = 1.0,
        batch_norm: bool = True,
        ghost_batch_size: int | None = None,
        dropout: float = 0.0,
        dense_batch_norm: bool = False,
        init: Init = "he",
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        network = VGG11Net(
            width=width,
            batch_norm=batch_norm,
            ghost_batch_size=ghost_batch_size,
            dropout=dropout,
            dense_batch_norm=dense_batch_norm,
            init=init,
            in_channels=in_channels,
            num_classes=num_classes,
        )
        super().__init__(network, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.save_hyperparameters()
