"""Seeded splits and stratified subsets. Files often hold the images of a class together, so nothing takes a prefix."""

from __future__ import annotations

import numpy as np

from three_factors.datamodules.streams import generator


def stratified_subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Returns `size` indices in random order whose class shares equal those of `labels`, up to one example a class.

    Args:
        labels: int (N,).

    Returns:
        int64 (size,). A larger subset may have one example of a class fewer, since largest remainders decide: of
        classes of 6, 6 and 2 a subset of 10 has 4, 4, 2, and one of 11 has 5, 5, 1.
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"size: {size} examples were asked for, {len(labels)} are there")
    random = generator(seed, "split", size)
    order = random.permutation(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * size / len(labels)
    quota = np.floor(shares).astype(int)
    for index in np.argsort(quota - shares, kind="stable")[: size - quota.sum()]:
        quota[index] += 1
    chosen = np.concatenate([order[labels[order] == c][:q] for c, q in zip(classes, quota)])
    return random.permutation(chosen).astype(np.int64)


def split(labels: np.ndarray, validation: int, train: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns disjoint (train, validation) indices: a seeded permutation, then a stratified subset of what is left."""
    if validation < 0:
        raise ValueError(f"validation: {validation} is less than 0 examples")
    if validation >= len(labels):
        raise ValueError(f"validation: {validation} examples leave none of {len(labels)} for training; pass fewer")
    order = generator(seed, "split").permutation(len(labels)).astype(np.int64)
    held_out, rest = order[:validation], order[validation:]
    if train is None:
        return rest, held_out
    if train > len(rest):
        raise ValueError(f"train: {train} examples were asked for, {len(rest)} are left beside {validation} held out")
    return rest[stratified_subset(labels[rest], train, seed)], held_out
