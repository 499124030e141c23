"""A1, B5, B7: monitors of modules that are wrapped, cannot be copied, or decide by values."""

import math
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.strangers.monitors import KINDS, fit, line, noise
from tests.strangers.projects import Project, batches, data, gradient, network
from three_factors.callbacks.functional import GGNOperator, HessianOperator, gradient_noise, interpolate

# -- A1: a forward that is not the class's own


def compiled(project):
    return torch.compile(project, backend="eager")


def wrapped(project):
    """As a tracing or profiling tool does: the instance's forward calls the original's."""
    original = project.forward
    project.forward = lambda x: original(x)
    return project


@pytest.mark.parametrize("change", [compiled, wrapped])
def test_the_line_is_of_the_weights_on_it_where_forward_is_not_the_class_s_own(change):
    plain, changed = line(), line()
    fit(Project(), plain)
    fit(change(Project()), changed)
    values = changed.profiles[0].values
    assert values == pytest.approx(plain.profiles[0].values, rel=1e-9)
    assert len({round(v, 6) for v in values}) == 3


# -- B5: modules that cannot be copied


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_cannot_be_copied_is_measured_and_left_as_it_is(kind):
    weights = []
    for callbacks in ([], [KINDS[kind]()]):
        project = Project(network(lambda: nn.utils.weight_norm(nn.Linear(6, 5)), nn.Tanh, lambda: nn.Linear(5, 3)))
        fit(project, *callbacks)
        weights.append({k: v.clone() for k, v in project.state_dict().items()} | {"weight": project.net[0].weight})
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())


# -- B7: where vmap cannot go


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x.view(len(x), 2, 3))[0][:, -1])


class Branching(nn.Module):
    """Python decides by a value, which vmap does not let it see."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x if float(x.detach().abs().max()) > 0 else -x)


@pytest.mark.parametrize("make", [lambda: Recurrent(nn.GRU), lambda: Recurrent(nn.LSTM), Branching])
def test_gradient_noise_goes_one_by_one_where_vmap_cannot(make):
    torch.manual_seed(4)
    module, (x, y) = make().double(), data()
    rows = torch.stack([gradient(F.cross_entropy(module(x[i : i + 1]), y[i : i + 1]), module) for i in range(24)])
    truth = float(((rows - rows.mean(0)) ** 2).sum() / 23)
    found = gradient_noise(module, F.cross_entropy, batches(x, y, 8, 8, 8))
    assert found.value == pytest.approx(truth, rel=1e-9)
    if found.estimator == "loop":
        with pytest.raises(ValueError, match=r"estimator: 'per_example' cannot .*; take 'loop'"):
            gradient_noise(module, F.cross_entropy, batches(x, y, 8, 8, 8), estimator="per_example")
    watch = noise()
    fit(Project(module), watch)
    assert math.isfinite(watch.history[0]["gradient_noise/trace"])


# -- eval that is overridden


def test_the_adapters_of_an_overridden_eval_are_not_merged():
    class Adapter(nn.Module):
        """Merges its correction into the weight when it is switched to evaluation, as adapters do."""

        def __init__(self):
            super().__init__()
            self.base, self.extra = nn.Linear(6, 3), nn.Parameter(torch.ones(3, 6))
            self.events = Counter()

        def train(self, mode=True):
            self.events[mode] += 1
            return super().train(mode)

        def forward(self, x):
            return self.base(x) + x @ self.extra.T

    module = Adapter().double()
    HessianOperator(module, F.cross_entropy, data()).matvec(torch.ones(39, dtype=torch.float64))
    GGNOperator(module, F.cross_entropy, data()).matvec(torch.ones(39, dtype=torch.float64))
    interpolate(module, F.cross_entropy, data(), module.state_dict(), module.state_dict(), alphas=[1])
    assert not module.events
