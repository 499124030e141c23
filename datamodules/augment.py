"""Crop and flip a whole batch at once, on its device.

The draws are a function of (seed, epoch) and of the example's place in the epoch, so any split of a batch over
devices, and any point to resume from, gives every example the same crop.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from three_factors.datamodules.streams import generator


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int, fill: Tensor) -> Tensor:
    """Returns each image cropped from its padded self at (top, left), then mirrored where `flip`.

    Args:
        images: (B, C, H, W).
        top, left: int64 (B,), in [0, 2 padding].
        flip: bool (B,).
        fill: (C,), what black is after normalisation; torchvision pads before normalising.
    """
    batch, channels, height, width = images.shape
    shift = fill.view(1, channels, 1, 1)
    padded = F.pad(images - shift, (padding,) * 4) + shift
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, 2p+1, 2p+1, H, W)
    cropped = windows[torch.arange(batch, device=images.device), :, top, left]
    return torch.where(flip.view(-1, 1, 1, 1), cropped.flip(3), cropped)


class CropAndFlip:
    """Random crop with padding and horizontal flip: the paper's augmentation of CIFAR-10, drawn for one epoch."""

    def __init__(
        self,
        examples: int,
        fill: Tensor,
        *,
        seed: int,
        epoch: int,
        device: torch.device,
        padding: int = 4,
        stream: str = "augmentation",
    ) -> None:
        random = generator(seed, stream, epoch)
        self.padding, self.fill = padding, fill.to(device)
        corners = random.integers(0, 2 * padding + 1, size=(2, examples))
        self.top, self.left = torch.from_numpy(corners).to(device)
        self.flip = torch.from_numpy(random.random(examples) < 0.5).to(device)

    def __call__(self, images: Tensor, where: slice) -> Tensor:
        return crop_and_flip(images, self.top[where], self.left[where], self.flip[where], self.padding, self.fill)
