"""Residual networks for small images (He et al. 2016a, b); ResNet56 is the paper's network for Figs. 2, 7, 8, 10-12."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from three_factors.lightning_modules.classifier import SGDClassifier
from three_factors.lightning_modules.initialisation import check_width
from three_factors.lightning_modules.normalization import BatchNorm2d, Layers, normalised

Form = Literal["preactivation", "original"]
FILTERS = (16, 32, 64)  # of the three stages, each at half the resolution of the one before


class ResNet56Net(nn.Module):
    """6n + 2 layers: a 3x3 convolution, three stages of n residual blocks, global average pooling, a linear layer.

    At depth 56 for CIFAR-10: 855,578 parameters in the pre-activation form, 853,018 in the original one.

    Args:
        depth: 6n + 2.
        width: multiplies the filters 16/32/64; positive, or ValueError.
        form: "preactivation" (BN-ReLU-conv twice, 1x1 projections with stride 2 where the shape changes; He et al.
            2016b) or "original" (post-activation, option A: subsampled identity, padded with zero channels; 2016a).
        batch_norm: without it every block's last convolution starts at 0, so that the signal does not grow with depth
            (Zhang et al. 2019, "Fixup").
        ghost_batch_size: see `normalization.BatchNorm2d`.

    Input (B, in_channels, H, W), output (B, num_classes).
    """

    def __init__(
        self,
        *,
        depth: int = 56,
        width: float = 1.0,
        form: Form = "preactivation",
        batch_norm: bool = True,
        ghost_batch_size: int | None = None,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_width(width)
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth: {depth} is not 6n + 2 with n of at least 1")
        if form not in ("preactivation", "original"):
            raise ValueError(f"form: {form!r} is neither 'preactivation' nor 'original'")

        def norm(channels: int) -> nn.Module:
            return BatchNorm2d(channels, ghost_batch_size) if batch_norm else nn.Identity()

        filters = [max(1, round(count * width)) for count in FILTERS]
        block = PreactivationBlock if form == "preactivation" else OriginalBlock
        first = filters[0]
        self.stem = Layers(_conv3(in_channels, first, 1, bias=not batch_norm))
        if form == "original":
            self.stem.extend([norm(first), nn.ReLU(inplace=True)])
        blocks: list[nn.Module] = []
        channels = first
        for stage, out in enumerate(filters):
            for index in range((depth - 2) // 6):
                stride = 2 if stage and not index else 1
                blocks.append(block(channels, out, stride, norm, bias=not batch_norm))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(norm(channels), nn.ReLU(inplace=True)) if form == "preactivation" else nn.Identity()
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if not batch_norm:
            for residual in self.blocks:
                nn.init.zeros_(residual.conv2.weight)  # type: ignore[union-attr, arg-type]

    def forward(self, images: Tensor) -> Tensor:
        features = self.last(self.blocks(self.stem(images)))
        return self.classifier(features.mean(dim=(2, 3)))


def _conv3(channels: int, out: int, stride: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=bias)


class PreactivationBlock(nn.Module):
    """x + conv(relu(bn(conv(a)))) with a = relu(bn(x)); where the shape changes, a 1x1 convolution of a replaces x."""

    def __init__(self, channels: int, out: int, stride: int, norm: Callable[[int], nn.Module], *, bias: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels), _conv3(channels, out, stride, bias)
        self.norm2, self.conv2 = norm(out), _conv3(out, out, 1, bias)
        changes = stride != 1 or channels != out
        self.shortcut = nn.Conv2d(channels, out, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return shortcut + self.conv2(F.relu(normalised(self.conv1, self.norm2, active)))


class OriginalBlock(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))); the shortcut subsamples and pads with zero channels (option A)."""

    def __init__(self, channels: int, out: int, stride: int, norm: Callable[[int], nn.Module], *, bias: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3(channels, out, stride, bias), norm(out)
        self.conv2, self.norm2 = _conv3(out, out, 1, bias), norm(out)
        self.stride, self.added = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(normalised(self.conv1, self.norm1, x))
        residual = normalised(self.conv2, self.norm2, active)
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            before = self.added // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.added - before))
        return torch.relu(shortcut + residual)


class ResNet56(SGDClassifier):
    """`ResNet56Net` of depth 56 (unless told otherwise) trained by SGD; see `SGDClassifier` for what it logs."""

    def __init__(
        self,
        *,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        depth: int = 56,
        width: float = 1.0,
        form: Form = "preactivation",
        batch_norm: bool = True,
        ghost_batch_size: int | None = None,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        network = ResNet56Net(
            depth=depth,
            width=width,
            form=form,
            batch_norm=batch_norm,
            ghost_batch_size=ghost_batch_size,
            in_channels=in_channels,
            num_classes=num_classes,
        )
        super().__init__(network, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.save_hyperparameters()
