"""One run: builds the only Trainer of the project, trains a spec, and records it in the run's folder."""

from __future__ import annotations

import io
import os
import platform
import signal
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor

from three_factors import lightning_modules
from three_factors.callbacks import ExactResume, HessianMonitor, KeepWeights, NoiseScheduler, ProgressFile
from three_factors.callbacks.functional.wide_products import wide_products
from three_factors.datamodules.schedules import as_schedule
from three_factors.datamodules.streams import integer_seed
from three_factors.datamodules.vision import WATCHED, WITH_LABEL_NOISE, ImageDataModule
from three_factors.lightning_modules.noise_injection import (
    GaussianOfItsShape,
    GradientNoise,
    HalfBatch,
    Isotropic,
    Projected,
    Renewed,
)
from three_factors.reproduce.engine.contract.files import write_bytes
from three_factors.reproduce.engine.contract.job import ROUNDED, Job
from three_factors.reproduce.engine.contract.measurements import Curvature
from three_factors.reproduce.engine.contract.networks import Network
from three_factors.reproduce.engine.contract.noise import HalfBatchNoise
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import PRECISIONS, Keep, RunSpec
from three_factors.reproduce.engine.worker.graphed import GraphedSteps, why_not
from three_factors.reproduce.engine.worker.members import Member
from three_factors.reproduce.engine.worker.ranks import cluster
from three_factors.reproduce.engine.worker.recorder import Recorder
from three_factors.reproduce.engine.worker.renewing import Renewing


def build_module(network: Network, lr: float = 0.0, momentum: float = 0.0, weight_decay: float = 0.0) -> Any:
    """Returns the network's LightningModule."""
    kind = getattr(lightning_modules, network.module)
    module = kind(**asdict(network), lr=lr, momentum=momentum, weight_decay=weight_decay)
    widths = [part.out_channels for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    # 1.2 x on CPU, more on a GPU; the same arithmetic. With 2 channels torch 2.15 corrupts memory on AVX2 processors.
    if widths and min(widths) >= 8:
        module = module.to(memory_format=torch.channels_last)
    return module


def module_of(spec: RunSpec) -> Any:
    """Returns a run's LightningModule: its network, its loss, its optimiser's numbers at the start."""
    lr = as_schedule(spec.schedule.lr)(0.0)
    module = build_module(spec.network, lr, spec.momentum, spec.weight_decay)
    module.criterion = spec.loss
    return module


def initial_module(spec: RunSpec) -> Any:
    """Returns a run's LightningModule with its weights at the start, in the precision that it was initialised in.

    Where the environment's `ROUNDED` is set they are one rounding away: the same run on another machine, so to speak.
    """
    torch.manual_seed(integer_seed(spec.seed, "weights"))
    module = module_of(spec)
    if os.environ.get(ROUNDED):
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(1 + torch.finfo(p.dtype).eps)
    return module


def build_noise(spec: RunSpec) -> tuple[GradientNoise | None, Renewing | None]:
    """Returns what changes the noise of the run's gradients, if anything does, and what renews its shape."""
    noise = spec.noise
    if noise is None:
        return None, None
    renewed, size = Renewed(), round(as_schedule(spec.schedule.batch_size)(0.0))
    seeds = partial(integer_seed, spec.seed, "gradient noise")
    if isinstance(noise, HalfBatchNoise):
        if noise.part == "all" or noise.renewal is None:
            return HalfBatch(noise.factor), None
        return Projected(noise.factor, noise.part, renewed), Renewing(noise.renewal, "directions", renewed, size)
    if noise.shape == "covariance":
        return GaussianOfItsShape(noise.factor, seeds, noise.block), None
    if noise.renewal is None:
        return Isotropic(noise.factor, seeds), None
    return Isotropic(noise.factor, seeds, renewed), Renewing(noise.renewal, "lift", renewed, size)


def real(spec: RunSpec) -> torch.dtype:
    """Returns the type of a run's weights, and of what is measured of them."""
    return torch.float64 if spec.precision == "float64" else torch.float32


def build_data(spec: RunSpec, job: Job) -> ImageDataModule:
    """Returns the run's data."""
    data = spec.data
    return ImageDataModule(
        job.source,
        validation=data.validation,
        train=data.train,
        test=data.test,
        augment=data.augment,
        seed=spec.seed,
        split_seed=data.split_seed,
        sampling=spec.sampling,
        max_batch_size=spec.max_batch_size,
        label_noise=data.label_noise,
        watch=WATCHED if data.label_noise is None else WITH_LABEL_NOISE,
        subset=data.subset,
        dtype=real(spec),
    )


def configure_device(job: Job, precision: str = "float32") -> torch.device:
    """Sets threads, deterministic kernels and what float32 means; returns the job's device.

    On a CPU arithmetic repeats itself to the bit. On a GPU, where convolutions may add in any order, torch is told to.
    Raises ValueError for TF32 on a CPU, which has none.
    """
    torch.set_num_threads(job.threads)
    if job.accelerator != "cuda":
        if precision == "tf32":
            raise ValueError("precision: tf32 is for GPUs; float32 trains on a CPU")
        return torch.device("cpu")
    # Products by the older of torch's two settings, which Lightning asks for: the newer leaves it as it was, and then
    # asking fails. Convolutions by the newer: torch's own default takes TF32 in them.
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    backends: Any = torch.backends  # its stubs lack what it makes by name
    backends.mkldnn.matmul.fp32_precision = "ieee"
    backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch asks for
    torch.use_deterministic_algorithms(True)
    # A check for wrong code, and a kernel for every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda")


def hessian_monitor(curvature: Curvature, every: int = 1) -> HessianMonitor:
    """Returns the callback that a `Curvature` describes."""
    drawn = None
    if curvature.training:
        drawn = lambda trainer: trainer.datamodule.drawn_batches(curvature.batches, curvature.batch_size)  # noqa: E731
    return HessianMonitor(every_n_epochs=every, batches=drawn, **asdict(curvature))


def build_trainer(
    job: Job,
    where: torch.device,
    epochs: int,
    callbacks: list[pl.Callback],
    precision: str,
    evaluate_every: int | None = None,
) -> pl.Trainer:
    """Returns the only kind of Trainer that there is here; one that evaluates nothing by itself without a number."""
    validation: dict[str, Any] = {"limit_val_batches": 0, "reload_dataloaders_every_n_epochs": 1}
    if evaluate_every is not None:
        validation = {"check_val_every_n_epoch": evaluate_every}
    return pl.Trainer(
        accelerator="gpu" if where.type == "cuda" else "cpu",
        deterministic=where.type == "cuda",
        devices=job.devices,
        num_nodes=job.num_nodes,
        strategy="ddp" if job.world_size > 1 else "auto",
        plugins=[cluster(job.world_size)],
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        max_epochs=epochs,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **validation,
    )


def train(spec: RunSpec, job: Job, folder: RunFolder, *, resume: bool = True) -> dict[str, Any] | None:
    """Trains and returns the result on rank 0 (None on others). Rows go to `folder`'s metrics.jsonl as they come.

    Goes on from the folder's checkpoint, if there is one and `resume` is true.
    """
    where = configure_device(job, spec.precision)
    module = initial_module(spec)
    module.gradient_noise, renewing = build_noise(spec)
    noise = NoiseScheduler(spec.schedule)
    watch = None if spec.watch is None else hessian_monitor(spec.watch.curvature, spec.watch.every)
    member = Member(folder.path / "metrics.jsonl", spec, every_step=job.every_step, world_size=job.world_size)
    recorder = Recorder(member, noise, watch, [p.detach().clone() for p in module.parameters()])
    at_start = recorder.weights(module)
    keep = KeepWeights(**asdict(spec.keep or Keep(end=False)))
    progress = ProgressFile(folder.path / "progress.json")
    checkpoints = ExactResume(folder.checkpoint, every=job.checkpoint_every, leave_on=signal.SIGTERM)
    others = filter(None, (watch, renewing))
    callbacks = [DropoutStream(spec.seed), noise, *others, keep, progress, recorder, checkpoints]
    if where.type == "cuda":
        if reason := why_not(job.world_size, spec.precision, spec.noise):
            print(f"no CUDA graphs: {reason}; slower, and the same", flush=True)
        else:
            steps = GraphedSteps(module)
            module.configure_optimizers = steps.optimizer
            callbacks.append(steps)
    trainer = build_trainer(job, where, spec.epochs, callbacks, spec.precision, spec.evaluate_every)
    # A noise of its own shape multiplies single vectors at every step, which is slower.
    shapes = [p.shape for p in module.parameters() if spec.noise is None and spec.precision == "float32"]
    with wide_products(where, shapes) as wide:
        trainer.fit(module, datamodule=build_data(spec, job), **(checkpoints.where() if resume else {}))
    if not trainer.is_global_zero:
        return None
    for milestone, weights in keep.weights.items():
        write_weights(folder.weights(milestone), weights)
    finite = all(bool(torch.isfinite(p).all()) for p in module.parameters())
    return member.result(finite) | {
        "milestones": member.reached(at_start, keep.reached),
        "provenance": provenance(job, trainer, checkpoints.seconds, wide)
        | {"checkpoint_seconds": round(checkpoints.spent, 3)},
    }


class LostWeights(ValueError):
    """Says that a finished run's saved weights are missing or damaged; it must be trained again."""


def write_weights(file: Path, weights: dict[str, Tensor]) -> None:
    """Writes weights whole or not at all, as all files of a run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    write_bytes(file, buffer.getvalue())


def read_weights(folder: RunFolder, milestone: str) -> dict[str, Tensor]:
    """Raises LostWeights if they are gone or damaged, OSError if they cannot be read at the moment."""
    try:
        return dict(torch.load(folder.weights(milestone), map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise LostWeights(f"{folder.weights(milestone)} is not there") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever unpickling a part of a file raises
        raise LostWeights(f"{folder.weights(milestone)} is damaged ({type(error).__name__})") from error


class DropoutStream(pl.Callback):
    """Reseeds torch from (seed, step, rank) before each step, if the network draws: dropout needs no saved state."""

    def __init__(self, seed: int) -> None:
        self.seed, self.active = seed, False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.active = any(isinstance(part, torch.nn.Dropout) for part in pl_module.modules())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.active:
            torch.manual_seed(integer_seed(self.seed, "dropout", trainer.global_step, trainer.global_rank))


def _starter(trainer: pl.Trainer) -> str:
    """Returns where the ranks have learned of one another."""
    known = trainer.strategy.cluster_environment if isinstance(trainer.strategy, ParallelStrategy) else None
    return type(known or LightningEnvironment()).__name__


def provenance(job: Job, trainer: pl.Trainer, seconds: float, wide: bool) -> dict[str, Any]:
    """Returns where a result was made: what may differ between two results of one spec.

    Args:
        wide: whether its matrices were multiplied by oneDNN.
    """
    return {
        **({"products": "oneDNN"} if wide else {}),
        "seconds": round(seconds, 2),
        "accelerator": job.accelerator,
        "device": torch.cuda.get_device_name() if job.accelerator == "cuda" else platform.machine(),
        "devices": job.devices,
        "num_nodes": job.num_nodes,
        "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "started_by": _starter(trainer),
        "threads": job.threads,
        "parameters": sum(p.numel() for p in trainer.lightning_module.parameters()),
        "data_origin": job.source.origin,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pytorch_lightning": pl.__version__,
        },
    }
