"""A1, A5, A6, A9, A11, B0, B3-B5, B7, B8 and memory: monitors in projects that they were not made for."""

import math
import re
import warnings
from collections import Counter

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.ranks import on_ranks
from tests.strangers.projects import Project, batches, data, dense_hessian, gradient, network, trainer
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor
from three_factors.callbacks.functional import GGNOperator, HessianOperator, gradient_noise, interpolate
from three_factors.callbacks.functional.equivalents import EQUIVALENTS

SMALL = {"examples": 24, "batch_size": 12}


def hessian(**options):
    return HessianMonitor(**{"measures": ("top_eigenvalue",), **SMALL} | options)


def noise(**options):
    return GradientNoiseMonitor(**{"batches": 6, "stationarity": False} | options)


def line(**options):
    return InterpolationMonitor(**{"alphas": [0, 0.5, 1], **SMALL} | options)


KINDS = {"hessian": hessian, "noise": noise, "line": line}


def double(project):
    """The project in float64, as `Trainer(precision="64-true")` would have it."""
    return project.double()


def fit(project, *callbacks, **options):
    trainer(*callbacks, precision="64-true", **options).fit(project)
    return project


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


# -- A5: two monitors of one kind


@pytest.mark.parametrize("kind", KINDS)
def test_two_monitors_under_one_name_are_refused(kind):
    make, project = KINDS[kind], Project()
    with pytest.raises((ValueError, RuntimeError), match=r"name: two monitors|state_key"):
        fit(project, make(), make())
    assert project.steps == 0


def test_two_monitors_with_names_log_apart():
    backbone, head = hessian(params=["net.0.weight"], name="backbone"), hessian(params=["net.2.weight"], name="head")
    project, run = Project(), trainer(backbone, head, precision="64-true")
    run.fit(project)
    for watch, own in ((backbone, "net.0.weight"), (head, "net.2.weight")):
        batch = torch.cat([b[0] for b in watch.batches]), torch.cat([b[1] for b in watch.batches])
        dense = dense_hessian(lambda b=batch: F.cross_entropy(project(b[0]), b[1]), project, {own})
        truth = float(torch.linalg.eigvalsh(dense)[-1])
        assert float(run.callback_metrics[f"{watch.prefix}/top_eigenvalue"]) == pytest.approx(truth, rel=1e-3)
    assert backbone.state_key != head.state_key


# -- A6: used again


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_fit_begins_anew(kind):
    watch, fresh = KINDS[kind](), KINDS[kind]()
    fit(Project(network(lambda: nn.Linear(6, 9), lambda: nn.Linear(9, 3)), examples=16), watch, epochs=2)
    fit(Project(), watch)
    fit(Project(), fresh)
    own, other = ([{k: v for k, v in row.items() if "seconds" not in k} for row in w.history] for w in (watch, fresh))
    assert own == [pytest.approx(row, rel=1e-9) for row in other]
    held = {"noise": "measurements", "line": "profiles"}.get(kind, "history")
    assert len(getattr(watch, held)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_fit_holds_what_it_had(kind, tmp_path):
    first, second = KINDS[kind](), KINDS[kind]()
    run = trainer(first, precision="64-true")
    run.fit(Project())
    run.save_checkpoint(tmp_path / "one.ckpt")
    trainer(second, precision="64-true", epochs=2).fit(Project(), ckpt_path=tmp_path / "one.ckpt")  # with weights only
    assert len(second.history) == 2
    assert second.history[0] == pytest.approx(first.history[0])
    if kind == "noise":
        assert second.measurements[0].trace.value == first.measurements[0].trace.value
    if kind == "line":
        assert second.profiles[0] == first.profiles[0]


# -- A9: several learning rates


class TwoRates(Project):
    def configure_optimizers(self):
        groups = [{"params": self.net[0].parameters(), "lr": 0.001}, {"params": self.net[2].parameters(), "lr": 0.1}]
        return torch.optim.SGD(groups)


def test_what_takes_one_learning_rate_is_left_out_where_there_are_two():
    every, head, sgd = hessian(), hessian(params=["net.2.weight"], name="head"), noise()
    fit(TwoRates(), every, head, sgd)
    assert "hessian/lr_top_eigenvalue" not in every.history[0]
    found = head.history[0]
    assert found["head/lr_top_eigenvalue"] == pytest.approx(0.1 * found["head/top_eigenvalue"])
    assert "gradient_noise/temperature" not in sgd.history[0]
    assert "gradient_noise/trace" in sgd.history[0]


# -- A11: parameters that are not real, dense, floating


class Phases(nn.Module):
    """A complex weight, as in spectral layers."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.randn(6, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(2)))
        self.bias = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        return (x.to(torch.complex128) @ self.turn).abs() + self.bias


def test_a_complex_weight_goes_along_a_line_with_both_its_parts():
    module, (x, y) = Phases(), data()
    start = {k: v.clone() for k, v in module.state_dict().items()}
    end = {"turn": start["turn"] * 1j + 0.5, "bias": start["bias"] + 1}
    found = interpolate(module, F.cross_entropy, (x, y), start, end, alphas=[0, 0.5, 1])
    middle = ((x.to(torch.complex128) @ (start["turn"] + end["turn"]) / 2).abs()) + 0.5
    assert found.values[1] == pytest.approx(float(F.cross_entropy(middle, y)))
    shift = torch.cat([torch.view_as_real(end["turn"] - start["turn"]).flatten(), torch.ones(3)])
    assert found.distance == pytest.approx(float(shift.norm()))


@pytest.mark.parametrize(
    "measure",
    [
        lambda m, b, **o: HessianOperator(m, F.cross_entropy, b, **o).num_params,
        lambda m, b, **o: gradient_noise(m, F.cross_entropy, b, **o).num_params,
    ],
)
def test_a_complex_weight_is_refused_by_name_where_it_has_no_measure(measure):
    with pytest.raises(ValueError, match="params: 'turn' is complex"):
        measure(Phases(), data())
    assert measure(Phases(), data(), params=["bias"]) == 3


def test_sparse_gradients_are_those_of_a_dense_embedding():
    words, y = torch.randint(0, 7, (24, 4), generator=torch.Generator().manual_seed(0)), data()[1]
    dense, sparse = (
        nn.Sequential(nn.Embedding(7, 3, sparse=s), nn.Flatten(), nn.Linear(12, 3)).double() for s in (False, True)
    )
    sparse.load_state_dict(dense.state_dict())
    for estimator in ("loop", "batch_means"):
        split = [(words[i : i + 4], y[i : i + 4]) for i in range(0, 24, 4)]
        found = [gradient_noise(m, F.cross_entropy, split, estimator=estimator).value for m in (dense, sparse)]
        assert found[1] == pytest.approx(found[0])
    v = torch.ones(sum(p.numel() for p in dense.parameters()), dtype=torch.float64)
    truth = HessianOperator(dense, F.cross_entropy, (words, y)).matvec(v)
    torch.testing.assert_close(HessianOperator(sparse, F.cross_entropy, (words, y)).matvec(v), truth)


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), lambda: nn.Linear(6, 3, device="meta")])
def test_parameters_without_values_are_refused_by_name(make):
    with pytest.raises(ValueError, match=r"'0.weight' is (not initialised yet|sharded or without storage)"):
        HessianOperator(nn.Sequential(make()), F.cross_entropy, data())


def test_parameters_of_several_precisions_are_measured_in_the_finest():
    module, (x, y) = network(), data()
    truth = HessianOperator(module, F.cross_entropy, (x, y))
    mixed = network()
    mixed[0].to(torch.bfloat16)

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mixed

        def forward(self, x):
            return mixed[2](mixed[1](mixed[0](x.to(mixed[0].weight.dtype))).to(mixed[2].weight.dtype))

    found = HessianOperator(Mixed(), F.cross_entropy, (x, y))
    assert found.dtype == torch.float64
    v = torch.ones(truth.num_params, dtype=torch.float64)
    torch.testing.assert_close(found.matvec(v), truth.matvec(v), rtol=0.05, atol=0.01)


# -- B0: the trial


class Named(Project):
    """Batches that are dictionaries."""

    def __init__(self, **options):
        super().__init__(**options)
        self.pairs = [{"x": x, "y": y, "name": f"{i}"} for i, (x, y) in enumerate(zip(*data()))]

    def training_step(self, batch, batch_idx):
        self.steps += 1
        self.log("train", F.cross_entropy(self(batch["x"]), batch["y"]))
        return F.cross_entropy(self(batch["x"]), batch["y"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_measured_is_said_before_the_first_step(kind):
    project = Named()
    with pytest.raises(ValueError, match=r"batches: a dict is not \(input, target\).*give batch_loss=f"):
        fit(project, KINDS[kind](every_n_epochs=3), epochs=3)
    assert project.steps == 0


class Counted(TensorDataset):
    """Notes what is read of it."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.read = []

    def __getitem__(self, index):
        self.read.append(int(index))
        return super().__getitem__(index)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_from_a_loader_and_no_trace_is_left(kind):
    found = []
    for callbacks in ([], [KINDS[kind]()]):
        project = Project(
            network(
                lambda: nn.Linear(6, 5), lambda: nn.BatchNorm1d(5), lambda: nn.Dropout(0.3), lambda: nn.Linear(5, 3)
            )
        )
        project.pairs = Counted(*data())
        torch.manual_seed(0)
        fit(project, *callbacks, epochs=2)
        found.append((project.pairs.read, {k: v.clone() for k, v in project.state_dict().items()}, torch.rand(1)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(v, found[1][1][k]) for k, v in found[0][1].items())
    assert torch.equal(found[0][2], found[1][2])


class Stream(IterableDataset):
    """A stream that knows where it is, like a socket or a file that is read on."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        x, y = data()
        for _ in range(24):
            self.at += 1
            yield x[self.at % 23], y[self.at % 23]  # read once more it stands elsewhere


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1])
def test_streams_and_persistent_workers_go_on_undisturbed(kind, workers):
    class Streaming(Project):
        def train_dataloader(self):
            self.seen = []
            return DataLoader(Stream(), 8, num_workers=workers, persistent_workers=workers > 0)

        def training_step(self, batch, batch_idx):
            self.seen.append(batch[0].sum().item())
            return super().training_step(batch, batch_idx)

    watched, alone = Streaming(), Streaming()
    fit(watched, KINDS[kind](), epochs=2)
    fit(alone, epochs=2)
    assert watched.seen == alone.seen


class Failing(Project):
    """Its loss breaks, in a measurement and not in training, from the second epoch on."""

    def loss(self, output, target):
        if self.current_epoch == 1 and not self.training_now:
            raise RuntimeError("no more\nof this")
        return super().loss(output, target)

    training_now = False

    def training_step(self, batch, batch_idx):
        self.training_now = True
        try:
            return super().training_step(batch, batch_idx)
        finally:
            self.training_now = False


@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_that_fails_later_warns_and_goes_on_or_ends_it_if_asked(kind):
    watch, project = KINDS[kind](), Failing()
    with pytest.warns(UserWarning, match="epoch 2: not measured: RuntimeError: no more"):
        fit(project, watch, epochs=3)
    assert project.steps == 9
    bad, good = watch.history[1], watch.history[2]
    assert all(math.isnan(v) for k, v in bad.items() if k.startswith(watch.prefix) and "seconds" not in k)
    assert all(math.isfinite(v) for k, v in good.items() if k in bad and "stationarity" not in k)
    with pytest.raises(RuntimeError, match="no more"):
        fit(Failing(), KINDS[kind](on_error="raise"), epochs=3)


def failing_on_one(rank, world_size, kind, epoch):
    class OnOne(Failing):
        def loss(self, output, target):
            if rank == 1 and self.current_epoch == epoch and not self.training_now:
                raise RuntimeError("only here")
            return F.cross_entropy(output, target)

    import os

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "tests",
    }
    project, watch = OnOne(examples=32), KINDS[kind]()
    run = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        precision="64-true",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    said = ""
    try:
        run.fit(project)
    except ValueError as error:
        said = str(error)
    return project.steps, said, [{k: v for k, v in row.items() if "seconds" not in k} for row in watch.history]


@pytest.mark.ddp
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_end_together_where_one_cannot_be_tried(kind):
    for steps, said, _ in on_ranks(2, failing_on_one, kind, 0):
        assert steps == 0
        assert "RuntimeError: only here" in said


@pytest.mark.ddp
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_go_on_together_where_one_fails_later(kind):
    (steps, _, first), (other, _, second) = on_ranks(2, failing_on_one, kind, 1)
    assert steps == other == 4
    assert [row.keys() for row in first] == [row.keys() for row in second]
    assert len(first) == 2
    assert all(math.isnan(v) for row in (first[1], second[1]) for k, v in row.items() if "/" in k)


# -- B3: batches that are not (tensor, tensor)


def named_loss(module, batch):
    return F.cross_entropy(module(batch["x"]), batch["y"])


def the_step(module, batch):
    return module.training_step(batch, 0)


@pytest.mark.parametrize("f", [named_loss, the_step])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_of_any_batch_is_measured_as_that_of_pairs(kind, f):
    named, pairs = KINDS[kind](batch_loss=f), KINDS[kind]()
    project = fit(Named(), named)
    assert "train" in project.trainer.callback_metrics
    fit(Project(), pairs)
    own, other = named.history[0], pairs.history[0]
    assert own.keys() == other.keys()
    for key in own.keys() - {f"{named.prefix}/seconds"}:
        assert own[key] == pytest.approx(other[key], rel=1e-6, nan_ok=True), key


def test_a_step_that_is_measured_logs_nothing_and_updates_no_metric():
    import torchmetrics

    class Metric(Named):
        def __init__(self):
            super().__init__()
            self.mean, self.calls = torchmetrics.MeanMetric(), []

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.mean.update(loss.detach())
            self.calls.append(batch_idx)
            self.log("mean", self.mean, on_epoch=True, on_step=False)
            return loss

    found = []
    for callbacks in ([], [make(batch_loss=the_step) for make in KINDS.values()]):
        project = fit(Metric(), *callbacks, epochs=2)
        logged = project.trainer.callback_metrics
        found.append((float(logged["mean"]), float(logged["train"]), project.calls, project.steps))
    assert found[0] == found[1]


class TwoInputs(Project):
    """(inputs…, target), and a module with several inputs."""

    def __init__(self):
        super().__init__()
        x, y = data()
        self.pairs = TensorDataset(x[:, :2], x[:, 2:], y)

    def forward(self, left, right):
        return self.net(torch.cat([left, right], 1))

    def training_step(self, batch, batch_idx):
        return self.loss(self(*batch[:-1]), batch[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_several_inputs_go_to_the_module_as_they_stand_in_the_batch(kind):
    two, one = KINDS[kind](), KINDS[kind]()
    fit(TwoInputs(), two)
    fit(Project(), one)
    for key in one.history[0].keys() - {f"{one.prefix}/seconds"}:
        assert two.history[0][key] == pytest.approx(one.history[0][key], rel=1e-6, nan_ok=True), key


class TwoLoaders(Project):
    """A dictionary of loaders."""

    def train_dataloader(self):
        return {name: super(TwoLoaders, self).train_dataloader() for name in ("labelled", "more")}

    def training_step(self, batch, batch_idx):
        return two_losses(self, batch)


def two_losses(module, batch):
    return sum(F.cross_entropy(module(x), y) for x, y in batch.values()) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_of_loaders_is_measured_by_a_loss_of_its_batches(kind):
    several, one = KINDS[kind](batch_loss=two_losses), KINDS[kind]()
    fit(TwoLoaders(), several)  # both loaders draw the same
    fit(Project(), one)
    for key in one.history[0].keys() - {f"{one.prefix}/seconds"}:
        assert several.history[0][key] == pytest.approx(one.history[0][key], rel=1e-6, nan_ok=True), key


# -- B4: outputs that are no tensors


class Structured(Project):
    def forward(self, x):
        return {"out": self.net(x), "aux": self.net(x).pow(2).mean()}

    def loss(self, output, target):
        return F.cross_entropy(output["out"], target) + 0.1 * output["aux"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_may_return_anything_that_its_loss_takes(kind):
    watch, project = KINDS[kind](), Structured()
    fit(project, watch)
    assert all(math.isfinite(v) for k, v in watch.history[0].items() if "accuracy" not in k and "noise_scale" not in k)
    x, y = data()
    if kind == "hessian":
        x, y = (torch.cat([b[i] for b in watch.batches]) for i in (0, 1))
        dense = dense_hessian(lambda: project.loss(project(x), y), project)
        assert watch.history[0]["hessian/top_eigenvalue"] == pytest.approx(
            float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3
        )
    if kind == "line":
        assert math.isnan(watch.profiles[0].accuracy[0])


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


# -- B8: no second derivative


class Once(torch.autograd.Function):
    """A function of somebody's own, with a first derivative in both modes and no second."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] ** 2 * slope

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * ctx.saved_tensors[0] ** 2 * tangent


class Cubed(nn.Module):
    def forward(self, x):
        return Once.apply(x)


class Bag(nn.Module):
    """Words by the signs of the inputs."""

    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(12, 5, mode="mean")

    def forward(self, x):
        return self.bag((x > 0).long() + 2 * torch.arange(6))


LAYERS = {"'net.1' (Cubed)": (lambda: nn.Linear(6, 5), Cubed), "'net.0.bag' (EmbeddingBag)": (Bag, nn.Tanh)}


@pytest.mark.parametrize("named", LAYERS)
def test_a_layer_without_a_second_derivative_is_named_before_the_first_step(named):
    project = Project(network(*LAYERS[named], lambda: nn.Linear(5, 3)))
    with pytest.raises(ValueError, match=re.escape(f"module: {named} has no second derivative in torch; GGNOperator")):
        fit(project, hessian())
    assert project.steps == 0


def gauss_newton(project, x, y):
    output, weights = project(x), list(project.parameters())
    rows = [torch.autograd.grad(o, weights, retain_graph=True) for o in output.flatten()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    of_outputs = torch.autograd.functional.hessian(
        lambda o: F.cross_entropy(o.view_as(output), y), output.detach().flatten()
    )
    return jacobian.T @ of_outputs @ jacobian


def test_gauss_newton_does_without_second_derivatives_of_the_network():
    project = Project(network(*LAYERS["'net.1' (Cubed)"], lambda: nn.Linear(5, 3)))
    watch = hessian(curvature="gauss_newton")
    fit(project, watch)
    x, y = (torch.cat([b[i] for b in watch.batches]) for i in (0, 1))
    truth = float(torch.linalg.eigvalsh(gauss_newton(project, x, y))[-1])
    assert watch.history[0]["gauss_newton/top_eigenvalue"] == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("named", LAYERS)
def test_finite_differences_do_without_second_derivatives(named):
    watch = hessian(measures=("finite_difference",))
    fit(Project(network(*LAYERS[named], lambda: nn.Linear(5, 3))), watch)
    assert watch.history[0]["hessian/finite_difference"] > 0


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize(
    "layers",
    [
        (lambda: nn.Linear(6, 5), nn.Hardsigmoid),
        (lambda: nn.Linear(6, 5), lambda: nn.Hardsigmoid(inplace=True)),
        (lambda: nn.utils.weight_norm(nn.Linear(6, 5)), nn.Tanh),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh),
    ],
)
def test_what_torch_has_not_or_has_wrong_is_that_of_finite_differences(layers):
    operator = HessianOperator(network(*layers, lambda: nn.Linear(5, 3)), F.cross_entropy, data())
    unit = torch.eye(operator.num_params, dtype=torch.float64)
    slopes = [(operator.gradient(1e-5 * e) - operator.gradient(-1e-5 * e)) / 2e-5 for e in unit]
    torch.testing.assert_close(operator.matmat(unit), torch.stack(slopes, 1), rtol=0, atol=1e-8)


def test_second_derivatives_that_are_not_symmetric_end_the_fit_at_its_start(monkeypatch):
    monkeypatch.delitem(EQUIVALENTS, torch._weight_norm)  # torch 2.14's own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        project = Project(network(lambda: nn.utils.weight_norm(nn.Linear(6, 5)), nn.Tanh, lambda: nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="module: its second derivatives are not symmetric"):
        fit(project, hessian())
    assert project.steps == 0


# -- memory


def test_max_memory_refuses_at_the_start_and_names_the_vectors_that_fit():
    q = sum(p.numel() for p in Project().parameters())
    with pytest.raises(
        ValueError, match=rf"max_memory: 64 vectors of {q} parameters .* need \d+ bytes, .*max_vectors=(\d+) fits"
    ) as refused:
        fit(Project(), hessian(max_memory=30 * q * 8))
    fitting = int(str(refused.value).rpartition("max_vectors=")[2].split()[0])
    watch, free = hessian(max_memory=30 * q * 8, max_vectors=fitting), hessian()
    fit(Project(), watch)
    fit(Project(), free)
    assert watch.history[0]["hessian/top_eigenvalue"] == pytest.approx(
        free.history[0]["hessian/top_eigenvalue"], rel=1e-3
    )


def test_more_eigenvalues_than_parameters_are_refused_before_the_first_step():
    project = Project()
    with pytest.raises(ValueError, match="k: 7 eigenvalues of a matrix with 5 rows"):
        fit(project, hessian(k=7, params=["net.0.bias"]))
    assert project.steps == 0


# -- what is measured on


def test_what_training_draws_is_what_is_measured_on():
    class Writing(Project):
        def training_step(self, batch, batch_idx):
            loss = self.loss(self(batch[0].clone()), batch[1])
            batch[0].zero_()  # a step may write to its batch
            return loss

    watch, project = hessian(), Writing()
    fit(project, watch)
    drawn = torch.cat([x for x, _ in project.train_dataloader()])
    torch.testing.assert_close(torch.cat([x for x, _ in watch.batches]), drawn)


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
