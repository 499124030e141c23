"""Which examples of a data set a run trains, validates and tests on, as indices, and the labels that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.subsets import split, stratified_subset

# Per-channel mean and standard deviation of the training images, in [0, 1]; the usual published values.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashionmnist": ((0.2860,), (0.3530,)),
}
Split = Literal["train", "val", "test"]


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a data set that one run uses.

    Attributes:
        train, val, test: int64 indices, the first two of the training images. Those of `train` are in random order:
            a beginning of them is a random sample.
        labels: int64, of the examples of `train`, as they are given to the training.
        right: bool, whether these are the true ones.
        mean, std: float64 (channels,), of the training images in [0, 1].
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(
        cls,
        source: Prepared,
        arrays: Mapping[str, np.ndarray],
        *,
        validation: int,
        train: int | None = None,
        test: int | None = None,
        split_seed: int = 0,
        label_noise: LabelNoise | None = None,
        seed: int = 0,
    ) -> Parts:
        """Returns the parts of a split; by default all that is left of the training images, and all test images.

        Args:
            arrays: those of `source`.
            seed: of the wrong labels.
        """
        labels, test_labels = (np.asarray(arrays[f"{kind}_labels"]) for kind in ("train", "test"))
        chosen, held_out = split(labels, validation, train, split_seed)
        tested = stratified_subset(test_labels, len(test_labels) if test is None else test, split_seed)
        given = right = labels[chosen]
        if label_noise is not None:
            given = label_noise(right, source.classes, seed)
        mean, std = _statistics(source.name, arrays["train_images"], chosen)
        return cls(chosen, held_out, tested, given, given == right, mean, std)

    def marked(self, part: str, at_most: int) -> np.ndarray:
        """Returns the first `at_most` positions in `train` of "train_clean" or "train_wrong", by their labels."""
        return np.flatnonzero(self.right if part == "train_clean" else ~self.right)[:at_most]


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns images as networks take them: of values in [0, 255], less the mean over the deviation, in place.

    Args:
        images: of the dtype wanted, (B, C, H, W) or any shape that the others are broadcast to.
    """
    return images.div_(255).sub_(mean).div_(std)


def _statistics(name: str, images: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = STATISTICS.get(name, ((), ()))
    if len(mean) == images.shape[1]:  # else an image folder that happens to have the name
        return np.array(mean), np.array(std)
    sample = images[np.sort(chosen)[:: max(1, len(chosen) // 5_000)]] / 255
    return sample.mean(axis=(0, 2, 3)), np.maximum(sample.std(axis=(0, 2, 3)), 1e-3)


def as_tensor(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Returns mean or deviation as a tensor (channels,)."""
    return torch.tensor(values.tolist(), dtype=dtype)
