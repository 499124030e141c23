"""One run: builds the only Trainer of the project, trains a spec, and records it in the run's folder."""

from __future__ import annotations

import json
import math
import platform
import signal
import statistics
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping
from torch import Tensor

import lightning_modules
from callbacks import ExactResume, HessianMonitor, KeepWeights, NoiseScheduler, ProgressFile
from datamodules.schedules import as_schedule
from datamodules.sources import Prepared
from datamodules.streams import integer_seed
from datamodules.vision import WATCHED, WITH_LABEL_NOISE, ImageDataModule
from lightning_modules.gradient_noise import GaussianOfItsShape, GradientNoise, HalfBatch, Isotropic
from reproduce.engine.files import read_lines, write_text
from reproduce.engine.layout import cluster
from reproduce.engine.results import RunFolder
from reproduce.engine.spec import PRECISIONS, Curvature, HalfBatchNoise, Keep, Network, RunSpec


@dataclass(frozen=True)
class Job:
    """The environment a run gets: nothing here changes which experiment it is."""

    data: Prepared
    accelerator: str = "cpu"
    devices: int = 1
    num_nodes: int = 1
    threads: int = 1
    checkpoint_every: float = 15.0  # seconds
    made: dict[str, Any] = field(default_factory=dict)  # hardware, versions and code

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes


def build_module(network: Network, lr: float = 0.0, momentum: float = 0.0, weight_decay: float = 0.0) -> Any:
    """The network's LightningModule."""
    kind = getattr(lightning_modules, network.module)
    module = kind(**asdict(network), lr=lr, momentum=momentum, weight_decay=weight_decay)
    widths = [part.out_channels for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    # 1.2 x on CPU, more on a GPU; the same arithmetic. With 2 channels torch 2.15 corrupts memory on AVX2 processors.
    if widths and min(widths) >= 8:
        module = module.to(memory_format=torch.channels_last)
    return module


def build_noise(spec: RunSpec) -> GradientNoise | None:
    """What changes the noise of the run's gradients, if anything does."""
    if spec.noise is None:
        return None
    if isinstance(spec.noise, HalfBatchNoise):
        return HalfBatch(spec.noise.factor)
    seeds = partial(integer_seed, spec.seed, "gradient noise")
    if spec.noise.shape == "isotropic":
        return Isotropic(spec.noise.factor, seeds)
    return GaussianOfItsShape(spec.noise.factor, seeds, spec.noise.block)


def build_data(spec: RunSpec, job: Job) -> ImageDataModule:
    """The run's data."""
    data = spec.data
    return ImageDataModule(
        job.data,
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
        dtype=torch.float64 if spec.precision == "float64" else torch.float32,
    )


def device(job: Job) -> torch.device:
    return torch.device("cuda" if job.accelerator == "cuda" else "cpu")


def hessian_monitor(curvature: Curvature, every: int = 1) -> HessianMonitor:
    """The callback that a `Curvature` describes."""
    return HessianMonitor(every_n_epochs=every, **asdict(curvature))


def train(spec: RunSpec, job: Job, folder: RunFolder, *, resume: bool = True) -> dict[str, Any] | None:
    """Trains and returns the result on rank 0 (None on others). Rows go to `folder`'s metrics.jsonl as they come.

    Goes on from the folder's checkpoint, if there is one and `resume` is true.
    """
    torch.set_num_threads(job.threads)
    torch.manual_seed(integer_seed(spec.seed, "weights"))
    lr0 = as_schedule(spec.schedule.lr)(0.0)
    module = build_module(spec.network, lr0, spec.momentum, spec.weight_decay)
    module.gradient_noise = build_noise(spec)
    noise = NoiseScheduler(spec.schedule)
    watch = None if spec.watch is None else hessian_monitor(spec.watch.curvature, spec.watch.every)
    recorder = Recorder(folder.path / "metrics.jsonl", noise, watch)
    keep = KeepWeights(**asdict(spec.keep or Keep(end=False)))
    progress = ProgressFile(folder.path / "progress.json")
    stop = [] if spec.stop_at_loss is None else [_stop_at(spec.stop_at_loss, spec.epochs)]
    checkpoints = ExactResume(folder.checkpoint, every=job.checkpoint_every, leave_on=signal.SIGTERM)
    trainer = pl.Trainer(
        accelerator="gpu" if job.accelerator == "cuda" else "cpu",
        devices=job.devices,
        num_nodes=job.num_nodes,
        strategy="ddp" if job.world_size > 1 else "auto",
        plugins=[cluster(job.world_size)],
        precision=PRECISIONS[spec.precision],  # type: ignore[arg-type]
        max_epochs=spec.epochs,
        check_val_every_n_epoch=spec.evaluate_every,
        num_sanity_val_steps=0,
        callbacks=[
            DropoutStream(spec.seed),
            noise,
            *([watch] if watch else []),
            keep,
            *stop,
            progress,
            recorder,
            checkpoints,
        ],
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=build_data(spec, job), **(checkpoints.where() if resume else {}))
    if not trainer.is_global_zero:
        return None
    for milestone, weights in keep.weights.items():
        write_weights(folder.weights(milestone), weights)
    finite = all(bool(torch.isfinite(p).all()) for p in module.parameters())
    reached = {name: finite_only(metrics) for name, metrics in keep.reached.items()}
    return recorder.result(finite) | {
        "milestones": reached,
        "provenance": provenance(job, module, checkpoints.seconds)
        | {"checkpoint_seconds": round(checkpoints.spent, 3)},
    }


def _stop_at(loss: float, epochs: int) -> EarlyStopping:
    """Ends a run at the first evaluation with at most this training loss; never because it has stopped falling."""
    return EarlyStopping("train_subset/loss", stopping_threshold=loss, patience=epochs + 1, check_finite=False)


def write_weights(file: Path, weights: dict[str, Tensor]) -> None:
    """Whole or not at all, as all files of a run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}")
    torch.save(weights, draft)
    draft.replace(file)


def finite_only(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


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


class Recorder(Checkpoint):
    """Appends a row an epoch: evaluations, eta, S, t_eta, and the loss of every step of the epoch.

    Losses stay tensors until the epoch ends, so a GPU is not waited for. A loss that is not finite ends the run.
    As one of Lightning's checkpoint callbacks it comes after the module has logged an epoch's means.
    """

    def __init__(self, path: Path, noise: NoiseScheduler, watch: HessianMonitor | None = None) -> None:
        self.path, self.noise, self.watch = path, noise, watch
        self.rows: list[dict[str, Any]] = []
        self.first_loss = math.nan
        self.diverged = False
        self._earlier: list[float] = []  # losses of this epoch before the training was resumed
        self._losses: list[Tensor] = []
        self._settings: list[tuple[float, int]] = []
        self._file: TextIO | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs.get("mean", outputs["loss"]))
        self._settings.append((self.noise.lr, self.noise.batch_size))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        recent = torch.stack(self._losses).double()
        losses = torch.cat([recent.new_tensor(self._earlier), recent])
        if trainer.world_size > 1:  # each rank's loss is scaled so that the mean over ranks is the global batch's
            torch.distributed.all_reduce(losses)
            losses /= trainer.world_size
        values = losses.tolist()
        self.diverged = not all(math.isfinite(v) for v in values)
        trainer.should_stop = trainer.should_stop or self.diverged
        if math.isnan(self.first_loss):
            self.first_loss = values[0]
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "t_eta": self.noise.t_eta,
            "steps": {
                "loss": [v if math.isfinite(v) else None for v in values],
                "lr": [lr for lr, _ in self._settings],
                "batch_size": [size for _, size in self._settings],
            },
        }
        self._earlier, self._losses, self._settings = [], [], []
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}  # every rank: it may reduce
        if trainer.is_global_zero:
            self._write(row, logged, trainer.check_val_every_n_epoch or 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, row: dict[str, Any], logged: dict[str, float], every: int) -> None:
        """The epoch's row, with what is logged; evaluations and curvature may be of an earlier epoch."""
        names = [n for n in logged if row["epoch"] % every == 0 or n.startswith("train/")]
        metrics = {name: logged[name] for name in names if not name.startswith("hessian/")}
        if self.watch and self.watch.history and self.watch.history[-1]["epoch"] == row["epoch"]:
            metrics |= {k: v for k, v in self.watch.history[-1].items() if k.startswith("hessian/")}
        row |= finite_only(metrics)
        self._file = self._file or self._cut()
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.rows.append(row)

    def _cut(self) -> TextIO:
        """The file, to be appended to; rows that a killed attempt wrote after its last checkpoint are cut off."""
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        return self.path.open("a", encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """How many rows are in the file, and what of every rank is not in it yet."""
        own = self._earlier + [float(loss) for loss in self._losses]
        losses: list[list[float]] = [own]
        if torch.distributed.is_initialized():
            losses = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(losses, own)
        return {
            "rows": len(self.rows), "first_loss": self.first_loss, "diverged": self.diverged,
            "losses": losses, "settings": self._settings,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self.first_loss, self.diverged = state_dict["first_loss"], state_dict["diverged"]
        self._earlier = state_dict["losses"][rank]
        self._settings = list(state_dict["settings"])
        if rank == 0:
            self.rows = read_lines(self.path)[: state_dict["rows"]]
            if len(self.rows) < state_dict["rows"]:
                raise ValueError(f"{self.path} holds {len(self.rows)} rows, fewer than its checkpoint")

    def result(self, finite_weights: bool) -> dict[str, Any]:
        """Status and last values. Diverged: a loss or weight not finite, or a loss above that of the first step.

        By more than a hundredth: a network that learns nothing stays at the loss of chance, and has not diverged.
        """
        last = self.rows[-1]
        final = last.get("train/loss")
        diverged = self.diverged or not finite_weights or final is None or final > HIGHER * self.first_loss
        return {
            "status": "diverged" if diverged else "ok",
            "first_loss": self.first_loss if math.isfinite(self.first_loss) else None,
            "final": {k: v for k, v in last.items() if k != "steps"},
        }


HIGHER = 1.01


def provenance(job: Job, module: pl.LightningModule, seconds: float) -> dict[str, Any]:
    """Where a result was made: what may differ between two results of one spec."""
    return {
        "seconds": round(seconds, 2),
        "accelerator": job.accelerator,
        "device": torch.cuda.get_device_name() if job.accelerator == "cuda" else platform.machine(),
        "devices": job.devices,
        "num_nodes": job.num_nodes,
        "threads": job.threads,
        "parameters": sum(p.numel() for p in module.parameters()),
        "data_origin": job.data.origin,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pytorch_lightning": pl.__version__,
        },
    }


def seconds_per_batch(network: Network, job: Job, sizes: tuple[int, int] = (32, 128)) -> tuple[float, float]:
    """Median time of a training step at two batch sizes on one device: (seconds a step, seconds an example)."""
    torch.set_num_threads(job.threads)
    where = device(job)
    module = build_module(network, lr=1e-4).to(where)
    optimizer = module.configure_optimizers()
    times = []
    for size in sizes:
        images = torch.randn(size, job.data.channels, job.data.size, job.data.size, device=where)
        labels = torch.zeros(size, dtype=torch.long, device=where)
        elapsed: list[float] = []
        while len(elapsed) < 3 or (len(elapsed) < 10 and sum(elapsed) < 0.5):
            start = time.perf_counter()
            optimizer.zero_grad()
            module.loss(module(images), labels).backward()
            optimizer.step()
            if where.type == "cuda":
                torch.cuda.synchronize()
            elapsed.append(time.perf_counter() - start)
        times.append(statistics.median(elapsed[1:]))
    per_example = max((times[1] - times[0]) / (sizes[1] - sizes[0]), 1e-9)
    return max(times[0] - sizes[0] * per_example, 2e-4), per_example
