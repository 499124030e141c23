"""A5, A6, A9, memory: monitors in projects that they were not made for."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.strangers.monitors import KINDS, fit, hessian, noise
from tests.strangers.projects import Project, dense_hessian, network, trainer

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


# -- a fit that ends before the first measurement


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_in_which_no_measurement_is_due_says_so_once(kind):
    with pytest.warns(UserWarning, match="every_n_epochs=5") as told:
        fit(Project(), KINDS[kind](every_n_epochs=5), epochs=3)
    assert sum("max_epochs=3 is due: nothing will be measured" in str(one.message) for one in told) == 1


@pytest.mark.parametrize(("every", "options"), [(3, {"epochs": 3}), (5, {"epochs": -1, "max_steps": 2})])
def test_where_one_is_due_or_nobody_knows_nothing_is_said(every, options):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(Project(), hessian(every_n_epochs=every), **options)
    assert not any("nothing will be measured" in str(one.message) for one in told)
