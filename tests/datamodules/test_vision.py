"""Data: splits, normalisation, augmentation, and what every loader yields."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from three_factors.datamodules import (
    DigitsDataModule,
    plan_epoch,
    stratified_subset,
)
from three_factors.datamodules.augment import CropAndFlip, crop_and_flip
from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.parts import Parts
from three_factors.datamodules.prepared import Prepared, cached, prepare
from three_factors.datamodules.subsets import split
from three_factors.datamodules.vision import WITH_LABEL_NOISE


def test_the_digits_are_balanced_deterministic_and_no_two_alike():
    source = prepare("digits")
    arrays = source.arrays()
    assert arrays["train_images"].shape == (10_000, 3, 32, 32)
    assert np.bincount(arrays["train_labels"]).tolist() == [1000] * 10
    assert len(np.unique(arrays["train_images"].reshape(10_000, -1), axis=0)) == 10_000
    assert cached("digits", "data") == source
    from three_factors.datamodules import digits

    again, _ = digits.draw(20, size=32, channels=3, seed=0)
    twice, _ = digits.draw(20, size=32, channels=3, seed=0)
    other, _ = digits.draw(20, size=32, channels=3, seed=1)
    assert (again == twice).all()
    assert (again != other).any()


def test_a_simple_classifier_reads_the_digits_far_above_chance():
    """A drawn digit carries its label: nearest class mean, which knows nothing of shape, already beats chance."""
    arrays = prepare("digits28").arrays()
    images, labels = arrays["train_images"][:, 0].reshape(10_000, -1) / 255, arrays["train_labels"]
    means = np.stack([images[labels == c].mean(0) for c in range(10)])
    test = arrays["test_images"][:, 0].reshape(2_000, -1) / 255
    guesses = ((test[:, None] - means[None]) ** 2).sum(-1).argmin(1)
    assert (guesses == arrays["test_labels"]).mean() > 0.2  # chance is 0.1 ± 0.007


def test_splits_are_disjoint_seeded_and_stratified():
    labels = np.repeat(np.arange(10), 100)  # sorted, as files often are
    train, held_out = split(labels, validation=200, train=300, seed=3)
    assert not set(train) & set(held_out)
    rest = np.setdiff1d(np.arange(1000), held_out)
    shares = np.bincount(labels[rest]) / len(rest)
    assert (np.abs(np.bincount(labels[train]) - 300 * shares) < 1).all()
    assert (split(labels, 200, 300, seed=3)[0] == train).all()
    assert (split(labels, 200, 300, seed=4)[0] != train).any()


@pytest.mark.parametrize(("size", "counts"), [(10, [4, 4, 2]), (11, [5, 5, 1])])
def test_a_larger_stratified_subset_may_have_fewer_of_a_class(size, counts):
    labels = np.repeat([0, 1, 2], [6, 6, 2])
    assert np.bincount(labels[stratified_subset(labels, size, seed=0)]).tolist() == counts


@pytest.mark.parametrize("size", [0, 7, 100, 1000])
def test_a_stratified_subset_has_its_size_and_no_repeats(size):
    chosen = stratified_subset(np.repeat([0, 1, 2], [500, 300, 200]), size, seed=0)
    assert len(np.unique(chosen)) == len(chosen) == size


@pytest.mark.parametrize(
    ("validation", "train", "words"), [(10_000, None, "validation: 10000"), (9_000, 1_001, "train: 1001")]
)
def test_subsets_that_do_not_exist_are_refused(validation, train, words):
    with pytest.raises(ValueError, match=words):
        DigitsDataModule(validation=validation, train=train).setup()


@pytest.mark.parametrize(
    ("field", "value"), [("validation", -1), ("eval_batch_size", 0), ("subset", -1), ("subset", 0)]
)
def test_numbers_of_examples_that_no_part_can_have_are_refused(field, value):
    with pytest.raises(ValueError, match=f"^{field}: {value} is less than"):
        DigitsDataModule(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("dtype", torch.int64, "torch.int64 is neither torch.float32 nor torch.float64"),
        ("dtype", torch.float16, "torch.float16 is neither torch.float32 nor torch.float64"),
        ("seed", -1, "-1 is less than 0"),
        ("split_seed", -1, "-1 is less than 0"),
        ("watch", ["test"], r"\['test'\] is not a beginning"),
    ],
)
def test_fields_that_no_data_module_can_have_are_named(field, value, words):
    with pytest.raises(ValueError, match=f"^{field}: {words}"):
        DigitsDataModule(**{field: value})


def set_up(stage, **options):
    """Sets up 40 images on two devices, one label of which is wrong."""
    wrong = LabelNoise(1 / 40, "other")
    data = DigitsDataModule(**{"train": 40, "validation": 4, "watch": WITH_LABEL_NOISE, "label_noise": wrong} | options)
    data.trainer = SimpleNamespace(world_size=2, callbacks=[])
    data.setup(stage)


@pytest.mark.parametrize("stage", ["fit", "validate"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation": 1}, "validation: 'val' of 1 is"),
        ({"test": 1}, "test: 'test' of 1 is"),
        ({"subset": 1}, "subset: 'train_subset' of 1 is"),
        ({}, "subset: 'train_wrong' of 1 is"),
    ],
)
def test_a_watched_part_that_leaves_a_device_without_examples_is_refused(options, words, stage):
    with pytest.raises(ValueError, match=f"^{words} less than one example on each of 2 devices$"):
        set_up(stage, **options)


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_a_test_set_that_leaves_a_device_without_examples_is_refused(stage):
    with pytest.raises(ValueError, match=r"^test: 'test' of 1 is less than one example on each of 2 devices$"):
        set_up(stage, test=1, watch=["val"])


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("fit", {"label_noise": LabelNoise(0.0)}),  # no label is wrong
        ("fit", {"validation": 0, "watch": ["val"]}),
        ("fit", {"validation": 2, "test": 1, "watch": ["val"]}),  # whose test images nothing evaluates
        ("test", {"validation": 1}),
        (None, {"validation": 2, "watch": ["val"]}),
    ],
)
def test_parts_that_are_empty_or_not_evaluated_or_have_one_example_a_device_are_set_up(stage, options):
    set_up(stage, **options)


def test_what_is_watched_may_be_a_list():
    assert DigitsDataModule(watch=["val", "test"]).watch == ("val", "test")


@pytest.mark.parametrize(("name", "mode", "channels"), [("cifar10", "L", 1), ("mnist", "RGB", 3)])
def test_published_statistics_are_not_taken_for_images_of_other_channels(name, mode, channels):
    images = np.random.default_rng(0).integers(0, 256, (50, channels, 8, 8), dtype=np.uint8)
    labels = np.arange(50) % 2
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    source = Prepared(name, "-", "-", train=50, test=50, channels=channels, size=8, classes=2, origin="-")
    parts = Parts.of(source, arrays, validation=0)
    np.testing.assert_allclose(parts.mean, images.mean((0, 2, 3)) / 255)
    assert parts.std.shape == (channels,)


def test_a_split_that_holds_out_fewer_than_none_is_refused():
    with pytest.raises(ValueError, match=r"^validation: -1 is less than 0 examples$"):
        split(np.arange(10), -1, None, seed=0)


def test_crop_and_flip_is_torchvisions_for_every_image():
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    raw = torch.rand(40, 3, 32, 32, generator=generator)
    top, left = torch.randint(0, 9, (2, 40), generator=generator)
    flip = torch.rand(40, generator=generator) < 0.5
    normalised = (raw - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    ours = crop_and_flip(normalised, top, left, flip, 4, -mean / std)
    for i in range(40):
        theirs = TF.crop(TF.pad(raw[i], [4]), int(top[i]), int(left[i]), 32, 32)
        theirs = TF.normalize(TF.horizontal_flip(theirs) if flip[i] else theirs, mean.tolist(), std.tolist())
        torch.testing.assert_close(ours[i], theirs, rtol=1e-5, atol=1e-5)


def test_an_examples_crop_does_not_depend_on_how_the_batch_is_split():
    images, fill = torch.randn(30, 3, 32, 32), torch.zeros(3)
    augment = CropAndFlip(30, fill, seed=1, epoch=2, device=torch.device("cpu"))
    whole = augment(images, slice(0, 30))
    parts = [augment(images[a:b], slice(a, b)) for a, b in ((0, 11), (11, 12), (12, 30))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(
        whole, CropAndFlip(30, fill, seed=1, epoch=3, device=torch.device("cpu"))(images, slice(0, 30))
    )


def test_training_images_are_normalised_and_follow_the_plan():
    data = DigitsDataModule(train=320, batch_size=32, seed=7)
    data.setup()
    images, labels = data.splits["train"]
    assert images.mean().abs() < 0.05
    assert images.std() == pytest.approx(1, abs=0.05)
    batches = list(data.train_dataloader())
    plan = plan_epoch(320, 32, 0, seed=7)
    assert torch.equal(torch.cat([y for _, y in batches]), labels[torch.from_numpy(plan.indices)])
    assert len(data.val_dataloader()) == 1
    assert sum(len(y) for _, y in data.test_dataloader()) == 2000


def test_drawn_batches_are_the_same_each_time_augmented_and_independent():
    def data(**options):
        module = DigitsDataModule(validation=50, train=60, test=50, **options)
        module.setup()
        return module

    plain, augmented = data(seed=3), data(seed=3, augment=True)
    batches = plain.drawn_batches(40, 30)
    assert [tuple(images.shape) for images, _ in batches] == [(30, 3, 32, 32)] * 40
    for (images, labels), (again, same) in zip(batches, data(seed=3).drawn_batches(40, 30)):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
    assert not torch.equal(batches[0][0], data(seed=4).drawn_batches(1, 30)[0][0])
    assert torch.equal(batches[0][1], augmented.drawn_batches(40, 30)[0][1])
    assert not torch.equal(batches[0][0], augmented.drawn_batches(40, 30)[0][0])
    own = plain.splits["train"][0].flatten(1)
    places = torch.cat([torch.cdist(images.flatten(1), own).argmin(1) for images, _ in batches])
    counts = torch.bincount(places, minlength=60).double()  # with replacement: a multinomial's
    assert 0.5 < float(counts.var()) / (1_200 / 60) < 1.6
    assert any(len(set(places[i : i + 30].tolist())) < 30 for i in range(0, 1_200, 30))
