"""What a measured step leaves behind: nothing, wherever the module keeps it."""

import random
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F

from tests.strangers.monitors import KINDS, fit
from tests.strangers.projects import Project, data, network
from three_factors.callbacks.functional import gradient_noise, measuring


def the_step(module, batch):
    return module.training_step(batch, 0)


class Keeping(Project):
    """Puts the loss of every step where `put` says, and at an epoch's end looks at what is there."""

    def __init__(self, kept, put):
        super().__init__()
        self.kept, self.put, self.found = kept, put, []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.put(self.kept, loss.detach())
        return loss

    def on_train_epoch_end(self):
        self.found.append(repr(self.kept))


def metric():
    from torchmetrics import MeanMetric

    return {"train": MeanMetric()}


def update(kept, loss):
    kept["train"].update(loss)


PLACES = {
    "a list in a dictionary": (lambda: {"train": []}, lambda kept, loss: kept["train"].append(loss)),
    "a list in a tuple": (lambda: ([], 0), lambda kept, loss: kept[0].append(loss)),
    "a defaultdict": (lambda: defaultdict(list), lambda kept, loss: kept["train"].append(loss)),
    "a deque": (lambda: deque(maxlen=4), lambda kept, loss: kept.append(loss)),
    "a set": (lambda: [set()], lambda kept, loss: kept[0].add(len(kept[0]))),
    "a counter": (Counter, lambda kept, loss: kept.update(steps=1)),
    "an order": (lambda: OrderedDict(a=1, b=2, c=3), lambda kept, loss: kept.move_to_end(next(iter(kept)))),
    "a sum in a dictionary": (lambda: {"sum": torch.zeros(())}, lambda kept, loss: kept["sum"].add_(1)),
    "one of many lists": (lambda: [[] for _ in range(200)], lambda kept, loss: kept[150].append(loss)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_a_step_keeps_is_what_training_put_there(place, kind):
    make, put = PLACES[place]
    plain, measured = Keeping(make(), put), Keeping(make(), put)
    fit(plain, epochs=2)
    fit(measured, KINDS[kind](batch_loss=the_step), epochs=2)
    assert measured.found == plain.found


@pytest.mark.parametrize("kind", KINDS)
def test_a_metric_in_a_plain_dictionary_counts_the_steps_of_training_alone(kind):
    plain, measured = Keeping(metric(), update), Keeping(metric(), update)
    fit(plain)
    fit(measured, KINDS[kind](batch_loss=the_step))
    assert float(measured.kept["train"].compute()) == float(plain.kept["train"].compute())


def test_a_network_that_is_hidden_in_a_list_keeps_its_running_statistics():
    """As teachers are hidden, so that they are not among the parameters."""
    hidden = network(lambda: nn.Linear(6, 3), lambda: nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in hidden.state_dict().items()}
    project = Keeping([hidden], lambda kept, loss: kept[0](data()[0]))
    with measuring(project):
        project.training_step(data(), 0)
    assert all(torch.equal(value, before[name]) for name, value in hidden.state_dict().items())


class Taught(Project):
    """Moves a teacher after itself in every step, as one of its parts or hidden in a list."""

    def __init__(self, hidden, write):
        super().__init__()
        teacher, self.write = network(seed=2).requires_grad_(False), write
        self.kept = [teacher] if hidden else teacher

    @torch.no_grad()
    def moved(self):
        teacher = self.kept[0] if isinstance(self.kept, list) else self.kept
        for mine, other in zip(teacher.parameters(), self.net.parameters()):
            self.write(mine, other)
        return teacher

    def training_step(self, batch, batch_idx):
        target = self.moved()(batch[0]).detach()
        return super().training_step(batch, batch_idx) + F.mse_loss(self(batch[0]), target)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.05)


@pytest.mark.parametrize("kind", ["hessian", "line"])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("write", [lambda p, q: p.lerp_(q, 0.1), lambda p, q: p.data.lerp_(q.data, 0.1)])
def test_a_teacher_is_moved_by_the_steps_of_training_alone(kind, hidden, write):
    plain, measured = Taught(hidden, write), Taught(hidden, write)
    fit(plain, epochs=2)
    fit(measured, KINDS[kind](batch_loss=the_step), epochs=2)
    assert all(torch.equal(p, q) for p, q in zip(plain.moved().parameters(), measured.moved().parameters()))


def test_a_write_to_one_of_many_tensors_is_refused_by_name():
    project = Keeping([torch.zeros(1) for _ in range(200)], lambda kept, loss: kept[150].add_(1))
    with pytest.raises(ValueError, match=r"writes to 'kept', .* one of many"), measuring(project):
        project.training_step(data(), 0)


GENERATORS = {
    "torch": (lambda: torch.Generator().manual_seed(5), lambda g, n: torch.rand(n, generator=g)),
    "numpy": (lambda: np.random.default_rng(5), lambda g, n: torch.from_numpy(g.random(n))),
    "numpy's old": (lambda: np.random.RandomState(5), lambda g, n: torch.from_numpy(g.rand(n))),
    "Python": (lambda: random.Random(5), lambda g, n: torch.tensor([g.random() for _ in range(n)])),
}


class Drawing(Project):
    """Drops inputs by a generator of its own, which is kept in a list."""

    def __init__(self, make, draw):
        super().__init__()
        self.generators, self.draw = [make()], draw

    def forward(self, x):
        kept = self.draw(self.generators[0], len(x))[:, None] > 0.2 if self.training else 1
        return self.net(x * kept)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", GENERATORS)
def test_a_generator_of_the_modules_own_goes_on_as_without_a_monitor(of, kind):
    plain, measured = Drawing(*GENERATORS[of]), Drawing(*GENERATORS[of])
    fit(plain, epochs=2)
    fit(measured, KINDS[kind](), epochs=2)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), measured.parameters()))


class Logging(Project):
    """Writes to its loggers past `self.log`."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        assert self.logger.log_dir
        self.logger.log_metrics({"mine": float(loss.detach())}, step=self.global_step)
        self.logger.experiment.log_metrics({"more": 1.0}, step=self.global_step)
        return loss


@pytest.mark.parametrize("kind", ["hessian", "line"])
def test_a_measured_step_writes_to_no_logger(kind, tmp_path):
    class Counting(CSVLogger):
        written = 0

        def log_metrics(self, metrics, step=None):
            self.written += "mine" in metrics

    logger = Counting(tmp_path)
    project = fit(Logging(), KINDS[kind](batch_loss=the_step), logger=logger)
    assert logger.written == project.steps
    assert project.trainer.loggers == [logger]


def test_gradients_of_examples_leave_no_tensor_of_vmap_where_a_step_keeps_losses():
    project = Keeping({"train": []}, PLACES["a list in a dictionary"][1])
    x, y = data()
    found = gradient_noise(project, None, [(x[:12], y[:12]), (x[12:], y[12:])], batch_loss=the_step)
    assert (found.estimator, project.kept) == ("per_example", {"train": []})
    assert F.cross_entropy(project(x), y).isfinite()
