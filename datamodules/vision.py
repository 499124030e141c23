"""LightningDataModules whose batch size may be a schedule, over images that live on the training device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from three_factors.datamodules.augment import CropAndFlip
from three_factors.datamodules.batches import EvaluationLoader, PlannedLoader, resumed_at
from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.parts import Parts, as_tensor, normalised
from three_factors.datamodules.plan import EpochPlan, Sampling, check_batch_size, plan_epoch
from three_factors.datamodules.prepared import Prepared, prepare
from three_factors.datamodules.resuming import put_right
from three_factors.datamodules.schedules import Schedule, as_schedule
from three_factors.datamodules.search import Search
from three_factors.datamodules.streams import generator

WATCHED = ("val", "test", "train_subset")
MARKED = ("train_clean", "train_wrong")
FIELD = {"val": "validation", "test": "test"}  # what says how many examples an evaluated part has; else `subset`
WITH_LABEL_NOISE = (*WATCHED, *MARKED)


class ImageDataModule(pl.LightningDataModule):
    """Images in memory, normalised once, moved to the device once, batched by an epoch plan.

    Args:
        name: a data set of `datamodules.sources`, or a `Prepared` one.
        batch_size: examples a step over all devices: a number, or a function of the epoch progress. By default
            128, or what a NoiseScheduler brings.
        validation: images held out of the training set by a seeded permutation.
        train: size of the training subset (stratified); all that is left by default.
        test: size of the test subset (stratified); all by default.
        augment: random crop (padding 4) and horizontal flip of the training images.
        seed: of data order and augmentation. `split_seed` is that of the splits.
        sampling: "shuffle" (each example once an epoch) or "replacement".
        max_batch_size: where a growing schedule is clipped; eta takes over the clipped part.
        drop_last: leave out the examples that no longer fill a batch.
        label_noise: wrong labels for a part of the training set; validation and test labels stay right. Drawn from
            `seed`.
        watch: what is evaluated after every epoch: "val", then if wanted "test", "train_subset" (`subset` training
            images, not augmented, with the labels that are trained on), and with label noise "train_clean" and
            "train_wrong" (as many with a right and with a wrong label), in this order.
        dtype: of the images, float32 or float64.

    The plan of every epoch is made anew, so the epoch's length follows the schedule: in `setup` the Trainer is
    told to reload its loaders every epoch. Under `overfit_batches` all epochs have the first one's batches.
    `trainer.predict` gets the test images. Lightning's BatchSizeFinder and Tuner find a `batch_size` that is a number,
    up to N. On several devices `setup` refuses a part that is evaluated on some of them alone: ValueError.
    """

    augment_default: ClassVar[bool] = False

    def __init__(
        self,
        name: str | Prepared,
        data_dir: str | Path = "data",
        *,
        batch_size: int | Schedule | None = None,
        validation: int = 5_000,
        train: int | None = None,
        test: int | None = None,
        augment: bool | None = None,
        seed: int = 0,
        split_seed: int = 0,
        sampling: Sampling = "shuffle",
        max_batch_size: int | None = None,
        drop_last: bool = True,
        eval_batch_size: int = 500,
        label_noise: LabelNoise | None = None,
        watch: Sequence[str] = ("val",),
        subset: int = 500,
        download: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.dataset, self.data_dir, self.download = name, data_dir, download
        self._search = Search()
        self.batch_size = None if batch_size is None else as_schedule(batch_size, "batch_size")
        self.validation, self.train, self.test = validation, train, test
        self.augment = self.augment_default if augment is None else augment
        self.seed, self.split_seed, self.sampling = seed, split_seed, sampling
        self.max_batch_size, self.drop_last, self.eval_batch_size = max_batch_size, drop_last, eval_batch_size
        known, watched = WATCHED if label_noise is None else WITH_LABEL_NOISE, tuple(watch)
        if watched != known[: len(watched)] or not watched:
            raise ValueError(f"watch: {watch!r} is not a beginning of {known!r}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype: {dtype} is neither torch.float32 nor torch.float64")
        numbers = {"validation": validation, "seed": seed, "split_seed": split_seed}
        for least, of in ((0, numbers), (1, {"eval_batch_size": eval_batch_size, "subset": subset})):
            for field, value in of.items():
                if value < least:
                    raise ValueError(f"{field}: {value!r} is less than {least}")
        self.label_noise, self.watch, self.subset, self.dtype = label_noise, watched, subset, dtype
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def batch_size(self) -> int | Schedule | None:
        """Returns S over all devices, in examples: None for 128 or a NoiseScheduler's, a number in a search."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int | Schedule | None) -> None:
        searched = self._search.running and isinstance(value, int)
        self._batch_size = min(value, self._largest) if searched else value  # type: ignore[type-var]

    def prepare_data(self) -> None:
        if not isinstance(self.dataset, Prepared):
            prepare(self.dataset, self.data_dir, download=self.download)

    def setup(self, stage: str | None = None) -> None:
        if not self.splits:
            self._load()
        if self.trainer is not None:
            for part in ("test",) if stage in ("test", "predict") else self.watch:
                self._check_evaluated(part, self.trainer.world_size)
            self.batch_size = self._search.expect(self.trainer, stage, self.batch_size, self._largest)
            self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
            if self.batch_size is not None:  # else a NoiseScheduler may still bring one
                self._check_batch_size()

    @property
    def _largest(self) -> int:
        return min(self.examples, self.max_batch_size or self.examples)

    def teardown(self, stage: str) -> None:
        self._search.running = False

    def _load(self) -> None:
        source = (
            self.dataset if isinstance(self.dataset, Prepared) else prepare(self.dataset, self.data_dir, download=False)
        )
        arrays = source.arrays()
        self.parts = parts = Parts.of(
            source,
            arrays,
            validation=self.validation,
            train=self.train,
            test=self.test,
            split_seed=self.split_seed,
            label_noise=self.label_noise,
            seed=self.seed,
        )
        self.mean, self.std = (as_tensor(of, self.dtype) for of in (parts.mean, parts.std))
        self.num_classes, self.source = source.classes, source
        for part, array, indices in (
            ("train", "train", parts.train),
            ("val", "train", parts.val),
            ("test", "test", parts.test),
        ):
            images = torch.from_numpy(np.ascontiguousarray(arrays[f"{array}_images"][indices])).to(self.dtype)
            images = normalised(images, self.mean.view(1, -1, 1, 1), self.std.view(1, -1, 1, 1))
            labels = parts.labels if part == "train" else np.asarray(arrays[f"{array}_labels"])[indices]
            self.splits[part] = images, torch.from_numpy(labels)

    @property
    def examples(self) -> int:
        """Returns N, the size of the training set."""
        return len(self.splits["train"][1])

    def _check_batch_size(self) -> Schedule:
        world_size = self.trainer.world_size if self.trainer is not None else 1
        return check_batch_size(
            128 if self.batch_size is None else self.batch_size,
            self.examples,
            world_size,
            self.max_batch_size,
        )

    def _on_device(self, part: str) -> tuple[Tensor, Tensor]:
        images, labels = self.splits[part]
        if self.trainer is not None and images.device != self.trainer.strategy.root_device:
            device = self.trainer.strategy.root_device
            self.splits[part] = images, labels = images.to(device), labels.to(device)
        return images, labels

    def _plan(self, *, repeats: bool) -> EpochPlan:
        return plan_epoch(
            self.examples,
            self._check_batch_size(),
            0 if self.trainer is None or repeats else self.trainer.current_epoch,
            seed=self.seed,
            sampling=self.sampling,
            world_size=self._place()[1],
            max_batch_size=self.max_batch_size,
            drop_last=self.drop_last,
        )

    def train_dataloader(self) -> PlannedLoader:
        images, labels = self._on_device("train")
        rank, world_size = self._place()
        repeats = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        start = 0
        if self.trainer is not None and self.trainer.training:
            self._search.begin(self.trainer)
            put_right(self.trainer, lambda: len(self._plan(repeats=repeats)))
            start = resumed_at(self.trainer)
        plan = self._plan(repeats=repeats)
        augments, place = self.augment, (self.examples, plan.epoch, images.device)
        transform = self._augmentation(*place, "augmentation") if augments else None
        loader = PlannedLoader(
            images,
            labels,
            plan,
            rank=rank,
            world_size=world_size,
            transform=transform,
            start=start,
            repeats=repeats,
        )
        self._search.limit(loader, at=self._largest)
        return loader

    def _check_evaluated(self, part: str, world_size: int) -> None:
        """Raises ValueError if some devices get examples of a part and others none.

        Lightning leaves out the end of an evaluation on a device without batches, where the others wait for it.
        """
        examples = len(self._evaluated(part)[1])
        if 0 < examples < world_size:
            raise ValueError(
                f"{FIELD.get(part, 'subset')}: {part!r} of {examples} is less than one example on each of "
                f"{world_size} devices"
            )

    def _evaluated(self, part: str) -> tuple[Tensor, Tensor]:
        """Returns the images and labels of a part, wherever they are by now."""
        images, labels = self.splits["train" if part.startswith("train") else part]
        if part == "train_subset":  # already in random order, see `subsets`
            return images[: self.subset], labels[: self.subset]
        if part in MARKED:
            indices = torch.from_numpy(self.parts.marked(part, self.subset)).to(labels.device)
            return images[indices], labels[indices]
        return images, labels

    def _evaluation(self, part: str) -> EvaluationLoader:
        self._on_device("train" if part.startswith("train") else part)
        images, labels = self._evaluated(part)
        rank, world_size = self._place()
        loader = EvaluationLoader(images, labels, self.eval_batch_size, rank=rank, world_size=world_size)
        self._search.limit(loader, at=0)  # a finder that is left over from a fit finds nothing here
        return loader

    def measurement_batches(self, examples: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Returns a fixed subset of the training set without augmentation, this rank's part of it, in batches."""
        images, labels = self._on_device("train")  # already in random order, see `subsets`
        rank, world_size = self._place()
        return list(
            EvaluationLoader(images[:examples], labels[:examples], batch_size, rank=rank, world_size=world_size)
        )

    def drawn_batches(self, count: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Returns batches as training draws them, augmented, always the same; for measurements, on one device.

        Independent of one another and within themselves (with replacement), so that the covariance of the gradients of
        such batches is C/S.
        """
        images, labels = self._on_device("train")
        number = count * batch_size
        chosen = generator(self.seed, "measurement", 0).integers(0, self.examples, size=number)
        indices = torch.from_numpy(chosen).to(labels.device)
        transform = self._augmentation(number, 1, images.device, "measurement") if self.augment else None
        found = []
        for start in range(0, number, batch_size):
            where = slice(start, start + batch_size)
            drawn = images[indices[where]]
            found.append((drawn if transform is None else transform(drawn, where), labels[indices[where]]))
        return found

    def _augmentation(self, examples: int, epoch: int, device: torch.device, stream: str) -> CropAndFlip:
        black = -self.mean / self.std
        return CropAndFlip(examples, black, seed=self.seed, epoch=epoch, device=device, stream=stream)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def val_dataloader(self) -> list[EvaluationLoader]:
        return [self._evaluation(part) for part in self.watch]

    def test_dataloader(self) -> EvaluationLoader:
        return self._evaluation("test")

    def predict_dataloader(self) -> EvaluationLoader:
        """Returns the test images, as in `test_dataloader`."""
        return self._evaluation("test")


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10, 45 000 / 5 000 / 10 000, cropped and flipped in training."""

    augment_default = True

    def __init__(self, data_dir: str | Path = "data", **options: Any) -> None:
        super().__init__("cifar10", data_dir, **options)


class MNISTDataModule(ImageDataModule):
    """MNIST, 50 000 / 10 000 / 10 000, no augmentation."""

    def __init__(self, data_dir: str | Path = "data", *, validation: int = 10_000, **options: Any) -> None:
        super().__init__("mnist", data_dir, validation=validation, **options)


class FashionMNISTDataModule(ImageDataModule):
    """FashionMNIST, 50 000 / 10 000 / 10 000, no augmentation."""

    def __init__(self, data_dir: str | Path = "data", *, validation: int = 10_000, **options: Any) -> None:
        super().__init__("fashionmnist", data_dir, validation=validation, **options)


class ImageFolderDataModule(ImageDataModule):
    """Images of DATA_DIR/NAME/{train,test}/<class>/*, all of one size; of 16 bits of grey the upper 8 are taken."""

    def __init__(self, name: str, data_dir: str | Path = "data", **options: Any) -> None:
        super().__init__(name, data_dir, **options)


class DigitsDataModule(ImageDataModule):
    """The embedded digits: 10 000 training images (1 000 of them held out) and 2 000 test images.

    `gray=True` gives 28 x 28 x 1 (in place of MNIST), otherwise 32 x 32 x 3 (in place of CIFAR-10).
    """

    def __init__(self, *, gray: bool = False, validation: int = 1_000, **options: Any) -> None:
        super().__init__("digits28" if gray else "digits", validation=validation, **options)
