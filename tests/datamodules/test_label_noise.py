"""Label noise: on the training labels only, of the size asked for, and told apart when it is evaluated."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.callbacks.fits import trainer
from three_factors.datamodules import DigitsDataModule, LabelNoise
from three_factors.lightning_modules import MLP


@given(
    fraction=st.floats(0, 1),
    size=st.integers(1, 400),
    classes=st.integers(2, 12),
    seed=st.integers(0, 9),
    kind=st.sampled_from(["uniform", "other"]),
)
def test_no_more_labels_change_than_were_chosen_and_other_changes_all_of_them(fraction, size, classes, seed, kind):
    labels = np.arange(size) % classes
    noisy = LabelNoise(fraction, kind)(labels, classes, seed)
    changed = int((noisy != labels).sum())
    assert ((noisy >= 0) & (noisy < classes)).all()
    assert changed <= round(fraction * size)
    assert kind == "uniform" or changed == round(fraction * size)
    assert (LabelNoise(fraction, kind)(labels, classes, seed) == noisy).all()


@pytest.mark.parametrize(("kind", "share"), [("uniform", 0.9), ("other", 1.0)])
def test_random_labels_are_uniform_over_the_classes(kind, share):
    labels = np.zeros(50_000, dtype=np.int64)
    noisy = LabelNoise(0.5, kind)(labels, 10, seed=1)
    counts = np.bincount(noisy, minlength=10)
    assert (noisy != labels).mean() == pytest.approx(0.5 * share, abs=0.005)
    assert counts[1:].std() / counts[1:].mean() < 0.05


@pytest.mark.parametrize(
    ("options", "words"), [({"fraction": 1.5}, "fraction: 1.5"), ({"fraction": 0.1, "kind": "all"}, "kind: 'all'")]
)
def test_bad_noise_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        LabelNoise(**options)


def modules(seed=0):
    options = {"gray": True, "train": 2000, "subset": 2000, "test": 100, "validation": 100, "seed": seed}
    watch = ("val", "test", "train_subset", "train_clean", "train_wrong")
    return DigitsDataModule(**options), DigitsDataModule(label_noise=LabelNoise(0.5), watch=watch, **options)


def test_images_validation_and_test_labels_stay_and_the_seed_decides_which_labels_change():
    right, noisy = modules()
    _, other = modules(seed=1)
    for module in (right, noisy, other):
        module.setup()
    for part in ("val", "test"):
        assert torch.equal(right.splits[part][1], noisy.splits[part][1])
    assert torch.equal(right.splits["train"][0], noisy.splits["train"][0])
    wrong = noisy.splits["train"][1] != right.splits["train"][1]
    assert 0.38 < float(wrong.float().mean()) < 0.5
    assert not torch.equal(wrong, other.splits["train"][1] != right.splits["train"][1])


def test_accuracy_is_logged_apart_for_right_and_wrong_labels():
    torch.manual_seed(0)
    _, data = modules()
    data.batch_size = lambda epoch: 20
    fitted = trainer([], epochs=3)
    fitted.fit(MLP(hidden=(256,), lr=0.02), data)
    clean, wrong, both = (
        float(fitted.callback_metrics[f"{part}/accuracy"]) for part in ("train_clean", "train_wrong", "train_subset")
    )
    labels = (~data.parts.right).mean()
    assert clean > wrong + 0.2
    assert both == pytest.approx((1 - labels) * clean + labels * wrong, abs=1e-6)


def test_a_checkpoint_of_a_fraction_of_numpy_is_read(tmp_path):
    torch.save(LabelNoise(np.float64(0.25)), tmp_path / "saved.pt")
    assert torch.load(tmp_path / "saved.pt", weights_only=True) == LabelNoise(0.25)
