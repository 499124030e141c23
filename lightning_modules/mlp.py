"""Multilayer perceptrons: the paper's networks on MNIST and FashionMNIST."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from three_factors.lightning_modules.classifier import SGDClassifier
from three_factors.lightning_modules.initialisation import Init, check_init, initialise
from three_factors.lightning_modules.normalization import BatchNorm1d


class MLPNet(nn.Module):
    """Flattens its input; ReLU hidden layers, optional batch norm before each ReLU.

    Args:
        hidden: width of every hidden layer; (256, 256) is the network of Figs. 5, 14 and 15 (Arpit et al. 2017).
        init_std: standard deviation of all weights; None for that of `init`. Biases are 0.
        init: "he", normal with variance 2 / inputs; or "glorot", uniform with variance 2 / (inputs + outputs), the bad
            initialisation of Fig. 9: through 20 ReLU layers it shrinks the signal by half a layer.
        in_features: values an example has, 784 for 28 x 28.
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (256, 256),
        batch_norm: bool = False,
        ghost_batch_size: int | None = None,
        init_std: float | None = None,
        init: Init = "he",
        in_features: int = 784,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_init(init)  # also where `init_std` takes its place
        layers: list[nn.Module] = []
        width = in_features
        for out in hidden:
            layers.append(nn.Linear(width, out))
            if batch_norm:
                layers.append(BatchNorm1d(out, ghost_batch_size))
            layers.append(nn.ReLU(inplace=True))
            width = out
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if init_std is None:
                    initialise(module, init)
                else:
                    nn.init.normal_(module.weight, std=init_std)
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(1))


class MLP(SGDClassifier):
    """`MLPNet` trained by SGD; see `SGDClassifier` for what it logs."""

    def __init__(
        self,
        *,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        hidden: Sequence[int] = (256, 256),
        batch_norm: bool = False,
        ghost_batch_size: int | None = None,
        init_std: float | None = None,
        init: Init = "he",
        in_features: int = 784,
        num_classes: int = 10,
    ) -> None:
        network = MLPNet(
            hidden=hidden,
            batch_norm=batch_norm,
            ghost_batch_size=ghost_batch_size,
            init_std=init_std,
            init=init,
            in_features=in_features,
            num_classes=num_classes,
        )
        super().__init__(network, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.save_hyperparameters()
