"""The CUDA path: every script at smoke scale; training, curvature and gradient noise as on the CPU, in float64."""

import copy
import json
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from tests.callbacks.functional.dense import batches, network
from tests.reproduce.figures import SCRIPTS, figure
from tests.reproduce.killing import job
from tests.reproduce.script import run
from tests.reproduce.soak import Soak
from tests.reproduce.specs import MEASURED, SOAK
from three_factors.callbacks import NoiseScheduler
from three_factors.callbacks.functional import (
    HessianOperator,
    frobenius_norm,
    gradient_noise,
    interpolate,
    top_eigenvalues,
    trace,
)
from three_factors.datamodules import Cyclic, DigitsDataModule, NoiseSchedule
from three_factors.lightning_modules import MLP, VGG11
from three_factors.lightning_modules.noise_injection import HalfBatch
from three_factors.lightning_modules.normalization import BatchNorm2d
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network
from three_factors.reproduce.engine.launch.server import Server

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One results folder for all scripts."""
    return tmp_path_factory.mktemp("gpu")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_trains_on_the_gpu(name, out):
    stand_in = figure(name).substitute
    done = run(name, out, "--wandb", "disabled", "--jobs", "4", data=stand_in)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((out / name / f"smoke-{stand_in}" / "provenance.json").read_text())
    assert torch.cuda.get_device_name() in told["hardware"]
    results = [out / "runs" / key / "result.json" for key in told["runs"].values()]
    places = {json.loads(file.read_text())["provenance"]["accelerator"] for file in results}
    assert places == {"cuda"}


def fitted(accelerator, kind, noise=None):
    """Losses of every step and the weights."""
    torch.manual_seed(3)
    module = {
        "mlp": lambda: MLP(hidden=(16, 16), batch_norm=True),
        "vgg": lambda: VGG11(width=1 / 32),
        "ghost": lambda: VGG11(width=1 / 32, ghost_batch_size=8),
    }[kind]()
    module.gradient_noise = noise
    data = DigitsDataModule(gray=kind == "mlp", train=192, dtype=torch.float64, augment=kind != "mlp")
    losses = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=2,
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[NoiseScheduler(NoiseSchedule(0.02, Cyclic(high=48, low=16, period=2))), Losses()],
    )
    trainer.fit(module, data)
    return losses, {name: tensor.cpu() for name, tensor in module.state_dict().items() if "evaluations" not in name}


@pytest.mark.parametrize(("kind", "noise"), [("mlp", None), ("vgg", None), ("ghost", None), ("mlp", HalfBatch(3**0.5))])
def test_a_run_follows_the_same_trajectory_as_on_the_cpu(kind, noise):
    (here, weights), (there, others) = (fitted(accelerator, kind, noise) for accelerator in ("cpu", "gpu"))
    assert there == pytest.approx(here, abs=1e-9)
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=0, atol=1e-9)


SOAKS = {
    "VGG-11, dropout, augmentation": SOAK,
    "ResNet56": replace(SOAK, network=ResNet56Network(depth=8, width=0.25), epochs=4),
    "MLP, batch norm": replace(
        SOAK, network=MLPNetwork((32, 32), in_features=3072, batch_norm=True), data=replace(SOAK.data, augment=False)
    ),
}


@pytest.mark.parametrize("name", SOAKS)
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(name, tmp_path):
    assert Soak(Server(), SOAKS[name], (MEASURED,), job("digits", accelerator="cuda"), tmp_path, gpu=0).kill(7) >= 1


@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_curvature_and_gradient_noise_are_the_cpus(kind):
    found = []
    for where in ("cpu", "cuda"):
        module = copy.deepcopy(network(kind)).to(where)
        data = [(x.to(where), y.to(where)) for x, y in batches(16, 16, 8)]
        operator = HessianOperator(module, F.cross_entropy, data)
        noise = gradient_noise(module, F.cross_entropy, data, noise_ratio=0.01)
        found.append(
            [
                *top_eigenvalues(operator, k=3, tol=1e-8).values.tolist(),
                float(trace(operator, tol=0.05).value),
                float(frobenius_norm(operator, tol=0.05).value),
                noise.value,
                noise.mean_square.value,
                *noise.top_eigenvalues.tolist(),
            ]
        )
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_a_line_between_two_weights_is_the_cpus():
    torch.manual_seed(0)
    module = VGG11(width=1 / 32).double()
    start = copy.deepcopy(module.state_dict())
    end = {k: v + 0.1 * torch.randn_like(v) if v.is_floating_point() else v for k, v in start.items()}
    data = DigitsDataModule(train=64, dtype=torch.float64)
    data.prepare_data(), data.setup()
    given = data.measurement_batches(48, 16)
    lines = [
        interpolate(copy.deepcopy(module).to(where), F.cross_entropy, given, start, end, alphas=[-0.5, 0.0, 0.5, 1.0])
        for where in ("cpu", "cuda")
    ]
    torch.testing.assert_close(torch.tensor(lines[1].values), torch.tensor(lines[0].values), rtol=1e-9, atol=1e-12)


def test_batch_norm_over_ranks_is_torchs_over_nccl():
    import torch.distributed as dist

    inputs = torch.randn(12, 5, 3, 3, device="cuda", dtype=torch.float64)
    plain = torch.nn.BatchNorm2d(5).to("cuda", torch.float64)
    ours = BatchNorm2d(5).to("cuda", torch.float64)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.testing.assert_close(ours(inputs), plain(inputs), rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.running_var, plain.running_var, rtol=0, atol=1e-12)
    finally:
        dist.destroy_process_group()
