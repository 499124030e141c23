"""Batches that are neither tensors nor tuples of them: lists of examples, several loaders, losses of whole batches."""

import pytest
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.projects import Project, data, dense_hessian, network, trainer
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor
from three_factors.callbacks.functional import HessianOperator, gradient_noise
from three_factors.callbacks.functional.nests import cut, joined, size_of

SMALL = {"examples": 12, "batch_size": 6}


def monitors(**options):
    return [
        HessianMonitor(measures=("trace",), **SMALL, **options),
        GradientNoiseMonitor(batches=6, stationarity=False, **options),
        InterpolationMonitor(alphas=[0, 1], **SMALL, **options),
    ]


# -- detection: a list of images of sizes of their own, and a dictionary an image


class Detector(Project):
    def __init__(self, sizes=(4, 3)):
        super().__init__(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Tanh()).double())
        self.sizes = sizes

    def image(self, i):
        generator = torch.Generator().manual_seed(i)
        side = self.sizes[i % len(self.sizes)]
        image = torch.randn(3, side, side, generator=generator, dtype=torch.float64)
        return image, {"boxes": torch.rand(1 + i % 2, 2, generator=generator, dtype=torch.float64), "name": f"{i}.png"}

    def detection(self, batch):
        images, targets = batch
        found = [self.net(image[None]).mean((2, 3)) for image in images]
        return torch.stack([((f - t["boxes"].mean(0)) ** 2).sum() for f, t in zip(found, targets)]).mean()

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.detection(batch)

    def train_dataloader(self):
        return DataLoader(range(12), 3, collate_fn=lambda rows: tuple(zip(*map(self.image, rows))))


def same(operator, loss):
    """Whether the operator is the Hessian of loss()."""
    found = operator.matmat(torch.eye(operator.num_params, dtype=torch.float64))
    torch.testing.assert_close(found, dense_hessian(loss, operator.module), rtol=1e-9, atol=1e-12)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4,), (4, 3)], ids=["of one size", "of sizes of their own"])
def test_lists_of_images_and_dictionaries_are_cut_by_examples(sizes):
    module = Detector(sizes)
    batches = list(module.train_dataloader())
    assert [size_of(batch) for batch in batches] == [3, 3, 3, 3]
    whole = joined(batches)
    assert size_of(whole) == 12
    assert [target["name"] for target in cut(whole, 2, 4)[1]] == ["2.png", "3.png"]
    for split in (batches, [whole], [cut(whole, 0, 5), cut(whole, 5, 12)]):
        operator = HessianOperator(module, None, split, batch_loss=lambda m, b: m.detection(b))
        assert same(operator, lambda: module.detection(whole))
    noise = gradient_noise(module, None, batches, batch_loss=lambda m, b: m.detection(b), estimator="loop")
    slopes = [torch.autograd.grad(module.detection(cut(whole, i, i + 1)), list(module.parameters())) for i in range(12)]
    rows = torch.stack([torch.cat([g.flatten() for g in slope]) for slope in slopes])
    assert noise.value == pytest.approx(float(rows.var(0).sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("batch", "examples"),
    [
        ({"x": torch.ones(8, 2), "extras": [{"a": 1}, {"b": 2}]}, 8),
        ({"x": torch.ones(8, 2), "extras": [{"a": i} for i in range(8)]}, 8),
        (([torch.ones(3, 4, 4)] * 5, [{"label": torch.tensor(1)}] * 5), 5),
        (([torch.ones(5, 2), torch.ones(7, 2), torch.ones(3, 2)], torch.ones(3)), 3),  # sequences and their labels
        (([torch.ones(3, 2), torch.ones(3, 2), torch.ones(3, 2)], torch.ones(3)), 3),  # three inputs, one target
        (([torch.ones(8, 2), torch.ones(8, 3)], [torch.ones(8), torch.ones(8)]), 8),  # two inputs, two targets
        ([{"x": torch.ones(6, 2)}, {"x": torch.ones(4, 2)}], 6),  # of two loaders
    ],
)
def test_a_list_of_dictionaries_tells_the_examples_only_where_all_parts_are_so_long(batch, examples):
    assert size_of(batch) == examples


class Sequences(Project):
    """Sums of sequences of lengths of their own, in lists."""

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.summed(batch)

    def summed(self, batch):
        sequences, labels = batch
        return self.loss(torch.stack([self.net(sequence).sum(0) for sequence in sequences]), labels)

    def train_dataloader(self):
        x, y = self.pairs.tensors
        rows = [(x[i : i + 1 + i % 3], int(y[i])) for i in range(len(x) - 2)]
        return DataLoader(
            rows, 6, collate_fn=lambda rows: ([row[0] for row in rows], torch.tensor([r[1] for r in rows]))
        )


@pytest.mark.slow
def test_every_monitor_measures_lists_of_sequences():
    module = Sequences()
    watching = monitors(batch_loss=lambda m, b: m.summed(b), on_error="raise")
    trainer(*watching, precision="64-true").fit(module)
    assert all(len(watch.history) == 1 for watch in watching)
    whole = joined(list(module.train_dataloader()))
    assert same(
        HessianOperator(module, None, list(module.train_dataloader()), batch_loss=lambda m, b: m.summed(b)),
        lambda: module.summed(whole),
    )


def test_every_monitor_measures_a_detector():
    module = Detector()
    watching = monitors(batch_loss=lambda m, b: m.detection(b), on_error="raise")
    trainer(*watching, precision="64-true").fit(module)
    assert all(len(watch.history) == 1 for watch in watching)
    assert module.steps == 4


# -- losses of a batch as a whole


class Contrastive(Project):
    """Every example against the others of its batch of 8; fewer than three have no loss."""

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.loss(self(batch[0]), batch[1])

    def loss(self, output, target):
        if len(output) < 3:
            raise RuntimeError("too few to contrast")
        return F.cross_entropy(output @ output.T, torch.arange(len(output)).roll(1))


def test_what_belongs_to_a_batch_as_a_whole_is_measured_on_batches_as_training_has_them():
    module = Contrastive()
    seen = []
    module.on_train_batch_start = lambda batch, index: seen.append(batch)
    watching = monitors(reduction="batch", on_error="raise")
    trainer(*watching, precision="64-true").fit(module)
    assert module.steps == 3
    assert [len(x) for x, _ in watching[0].batches] == [8, 8]
    dense = dense_hessian(lambda: torch.stack([module.loss(module(x), y) for x, y in seen[:2]]).mean(), module)
    assert watching[0].history[0]["hessian/trace"] == pytest.approx(float(dense.trace()), rel=0.05)


# -- several loaders


class Two(Project):
    def __init__(self, second, mode="max_size_cycle"):
        super().__init__()
        self.second, self.mode = second, mode

    def both(self, batch):
        return sum(self.loss(self(batch[key][0]), batch[key][1]) for key in "ab")

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.both(batch[0] if isinstance(batch, tuple) else batch)

    def loaders(self):
        return {"a": self.pairs, "b": TensorDataset(*data(self.second, seed=5))}

    def train_dataloader(self):
        loaders = {key: DataLoader(pairs, 8 if key == "a" else 6) for key, pairs in self.loaders().items()}
        return CombinedLoader(loaders, self.mode)


def of_both(module, batch):
    return module.both(batch)


def test_loaders_that_are_mixed_alike_have_the_hessian_of_all_their_examples():
    module = Two(18)
    batches = [batch for batch, *_ in iter(module.train_dataloader())]
    operator = HessianOperator(module, None, batches, batch_loss=of_both)
    whole = {key: pairs.tensors for key, pairs in module.loaders().items()}
    assert same(operator, lambda: module.both(whole))


@pytest.mark.parametrize("kind", ["operator", "monitor"])
def test_loaders_that_are_mixed_differently_are_refused_unless_it_is_said_what_a_batch_weighs(kind):
    module = Two(16)  # 8 + 6, 8 + 6, 8 + 4
    batches = [batch for batch, *_ in iter(module.train_dataloader())]
    said = r"batches: of several loaders, with 8 \+ 4 examples and with 8 \+ 6: .*weights=f\(batch\), or reduction"
    if kind == "operator":
        with pytest.raises(ValueError, match=said):
            HessianOperator(module, None, batches, batch_loss=of_both)
    else:
        watch = HessianMonitor(batch_loss=of_both, measures=("trace",), examples=24, on_error="raise")
        with pytest.raises(ValueError, match=said):
            watch.measure(module, batches)
    weighed = HessianOperator(module, None, batches, batch_loss=of_both, reduction="batch")
    assert same(weighed, lambda: sum(module.both(batch) for batch in batches) / 3)


# -- random numbers


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return F.dropout(self.net(x), 0.5, training=True)


def test_a_loss_that_is_another_one_each_time_is_called_that():
    x, y = data()
    with pytest.raises(ValueError, match=r"loss: is another one each time .* draws random numbers in eval mode"):
        HessianOperator(Noisy(), F.cross_entropy, [(x[:8], y[:8]), (x[8:], y[8:])])
    with pytest.warns(UserWarning, match="draws random numbers in eval mode too"):
        gradient_noise(Noisy(), F.cross_entropy, [(x[i : i + 4], y[i : i + 4]) for i in range(0, 24, 4)])


class OwnGenerator(Noisy):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        found = self.net(x)
        return found * torch.empty_like(found).bernoulli_(0.5, generator=self.generator)


def test_numbers_from_a_generator_of_the_modules_own_are_called_that():
    x, y = data()
    pairs = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 24, 4)]
    module = OwnGenerator()
    before = module.generator.get_state()
    with pytest.warns(UserWarning, match="batch means, since .* draws random numbers from a generator of its own"):
        assert gradient_noise(module, F.cross_entropy, pairs).estimator == "batch_means"
    assert torch.equal(module.generator.get_state(), before)
