"""The cells of the matrix: one architecture, one monitor, one way of training, and what came of it.

A cell is right if what the monitor found is what `oracles` find on a plain network with the same weights, and refused
if the fit ends in one line before the first optimizer step. Anything else is a fault.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch.utils.data import default_collate

from tests.architectures import oracles
from tests.architectures.networks import ARCHITECTURES, BATCH, Architecture, Project, freeze_all_but_the_head
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor

MONITORS = ("hessian", "gauss_newton", "gradient_noise", "interpolation")
CONDITIONS = (
    "float32",
    "drawn",  # float32, on the examples that training draws: the monitor is given none
    "bf16-mixed",
    "compiled module",
    "compiled network",
    "EMA",
    "clipping",
    "accumulation",
    "frozen",
)
ALPHAS = (0.0, 0.5, 1.0, 1.25)
LARGE = ("resnet18",)  # measured in float32 by the oracle too, with fewer products
SIZES = (6, 5, 4)  # of the batches given, unequal
EQUAL = (6,) * 6  # the same where batches have to be alike


class Recorder(pl.Callback):
    """Keeps what an oracle needs: the weights at the start and when the monitors measure, the modes, the batches."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.start: dict[str, torch.Tensor] = {}
        self.end: dict[str, torch.Tensor] = {}
        self.training: dict[str, bool] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = _plain(copy.deepcopy(pl_module.state_dict()))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(copy.deepcopy(batch))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.end = _plain(copy.deepcopy(pl_module.state_dict()))
        self.training = _plain({name: part.training for name, part in pl_module.named_modules()})


def _plain(named: dict[str, Any]) -> dict[str, Any]:
    """With the names of a module in which nothing is compiled."""
    return {name.replace("._orig_mod", ""): value for name, value in named.items()}


@dataclass
class Cell:
    """One cell; `outcome` trains, measures and judges."""

    name: str
    monitor: str
    condition: str
    backend: str = "aot_eager"
    dropout: float | None = None
    seen: Recorder = field(default_factory=Recorder)

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.name]

    def __str__(self) -> str:
        return f"{self.name}, {self.monitor}, {self.condition}"

    # -- the stranger's training

    def built(self) -> Project:
        # Random layers are off where gradients in train mode are compared one by one.
        usual = 0.0 if self.monitor == "gradient_noise" else self.architecture.dropout
        module = self.architecture.build(usual if self.dropout is None else self.dropout)
        if self.condition == "frozen":
            freeze_all_but_the_head(module, self.architecture.head)
        return module

    def outcome(self) -> str:
        """ "right", "refused: …", or what is wrong."""
        trainer = None
        try:
            watch = self.watch
            torch.manual_seed(3)
            module, trainer = self._compiled(self.built()), self._trainer([self.seen, watch])
            with self._kernels():
                trainer.fit(module)
        except Exception as error:
            line = f"{error}"
            if trainer is not None and trainer.global_step:
                return f"CRASHED after step {trainer.global_step}: {type(error).__name__}: {line}"
            refused = isinstance(error, ValueError) and "\n" not in line
            return f"refused: {line}" if refused else f"CRASHED at the start: {type(error).__name__}: {line}"
        if not watch.history:
            return "NOT RIGHT: nothing was measured"
        wrong = getattr(self, f"_{'hessian' if self.monitor == 'gauss_newton' else self.monitor}_is_wrong")()
        return f"NOT RIGHT: {'; '.join(wrong)}" if wrong else "right"

    def _trainer(self, callbacks: list[pl.Callback]) -> pl.Trainer:
        options: dict[str, Any] = {
            "bf16-mixed": {"precision": "bf16-mixed"},
            "clipping": {"gradient_clip_val": 0.1},
            "accumulation": {"accumulate_grad_batches": 2},
        }.get(self.condition, {})
        if self.condition == "EMA":
            callbacks = [EMAWeightAveraging(decay=0.8), *callbacks]
        return pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            limit_train_batches=5 if self.condition == "drawn" else 3,
            limit_val_batches=1 if self.condition == "EMA" else 0,  # Lightning exchanges the weights for it
            **options,
        )

    def _kernels(self) -> AbstractContextManager[Any]:
        """Without oneDNN's LSTM, whose bfloat16 needs AVX-512: without that training itself fails, watched or not."""
        off = self.name == "lstm" and self.condition == "bf16-mixed"
        return torch.backends.mkldnn.flags(enabled=False) if off else nullcontext()

    def _compiled(self, module: Project) -> Any:
        torch.compiler.reset()
        if self.condition == "compiled module":
            return torch.compile(module, backend=self.backend)
        if self.condition == "compiled network":
            module.net = torch.compile(module.net, backend=self.backend)
        return module

    # -- the monitor

    @cached_property
    def given(self) -> list[Any] | None:
        """The batches that the monitor is given; None if it is to take what training draws."""
        if self.condition == "drawn":
            return None
        examples, batches, at = self.built().examples, [], 0
        for size in self.sizes:
            batches.append(default_collate([examples[i] for i in range(at, at + size)]))
            at += size
        return batches

    @property
    def sizes(self) -> tuple[int, ...]:
        if self.monitor == "gradient_noise":
            return EQUAL if self.normalised else SIZES
        return (BATCH,) if self.name in LARGE else SIZES

    @cached_property
    def normalised(self) -> bool:
        return any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in self.built().modules())

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """Trace and norm where the oracle has them exactly, from the whole matrix."""
        rows = sum(p.numel() for p in oracles.free_parameters(self.built()))
        several = self.name not in LARGE
        exact = rows <= oracles.DENSE
        return (
            "top_eigenvalue",
            *(("batch_sharpness",) if several else ()),
            *(("trace", "frobenius") if exact else ()),
        )

    @cached_property
    def watch(self) -> Any:
        told = self.architecture.told | {"on_error": "raise"}
        if self.monitor == "gradient_noise":
            own = {} if self.given is None else {"batches": self.given}
            return GradientNoiseMonitor(stationarity=self.sgd, **own, **told)
        told |= self.subset if self.given is None else {"batches": self.given}
        if self.monitor == "interpolation":
            return InterpolationMonitor(alphas=ALPHAS, **told)
        kind: dict[str, Any] = {"curvature": self.monitor}
        if self.name in LARGE:
            kind |= {"tol": 2e-2, "max_products": 10, "max_vectors": 20}
        return HessianMonitor(measures=self.measures, **kind, **told)

    @property
    def subset(self) -> dict[str, int]:
        """Of a monitor that takes what training draws, in batches of a size of its own."""
        return {"examples": BATCH, "batch_size": BATCH} if self.name in LARGE else {"examples": 22, "batch_size": 6}

    @property
    def sgd(self) -> bool:
        return isinstance(self.built().configure_optimizers(), torch.optim.SGD)

    # -- the independent computation

    def plain(self, weights: dict[str, torch.Tensor] | None = None) -> Project:
        """A plain network with those weights, by default those that were measured, in the oracle's precision."""
        module = self.built()
        module.load_state_dict(self.seen.end if weights is None else weights)
        return module if self.name in LARGE else module.double()

    @property
    def measured(self) -> list[Any]:
        """What the monitor should have measured on: the batches given, or the first ones that training drew."""
        if self.given is not None:
            return self.given
        if self.monitor == "gradient_noise":
            return self.seen.batches
        return oracles.regrouped(self.seen.batches, self.subset["examples"], self.subset["batch_size"])

    def _hessian_is_wrong(self) -> list[str]:
        found = self.watch.history[-1]
        module, loss = self.plain(), self.architecture.loss_of
        batches = self.measured
        if self.monitor == "gauss_newton":
            truth = oracles.GaussNewton(module, loss, batches, output_loss=self.architecture.loss)
        else:
            truth = oracles.Curvature(module, loss, batches)
        of: dict[str, Callable[[], float]] = {
            "top_eigenvalue": truth.top_eigenvalue,
            "batch_sharpness": truth.batch_sharpness,
            "trace": lambda: float(truth.dense.trace()),
            "frobenius": lambda: float(truth.dense.norm()),
        }
        wanted = {name: of[name]() for name in self.measures}
        wanted["weight_norm"] = float(torch.cat([p.detach().flatten() for p in truth.parameters]).norm())
        wrong = []
        for name, value in wanted.items():
            there = found[f"{self.monitor}/{name}"]
            # sharpness and weights are exact, an eigenvalue is within its bound, the others mostly within an interval
            own = 0.0 if name in ("batch_sharpness", "weight_norm") else 1.5 * found[f"{self.monitor}/{name}_error"]
            if not abs(there - value) <= 2e-3 * abs(value) + own:
                wrong.append(f"{name} {there:.6g}, not {value:.6g}")
            if own > 0.2 * abs(value):
                wrong.append(f"{name} {there:.6g} with an error of {own:.2g}")
        return wrong

    def _gradient_noise_is_wrong(self) -> list[str]:
        found, row = self.watch.measurements[-1], self.watch.history[-1]
        module = self.plain()
        for name, part in module.named_modules():
            part.training = self.seen.training[name]
        batches = self.measured
        by_batch = found.estimator == "batch_means"
        truth = oracles.gradient_noise(module, self.architecture.loss_of, batches, by_batch=by_batch)
        step = sum(map(oracles.examples_of, self.seen.batches)) / len(self.seen.batches)
        step *= 2 if self.condition == "accumulation" else 1
        wanted = {
            "trace": truth.trace,
            "mean_square": truth.mean_square,
            "top_eigenvalue": truth.top_eigenvalue,
        }
        optimizer = self.built().configure_optimizers()
        if isinstance(optimizer, torch.optim.SGD) and self.condition != "clipping":
            n = module.lr / step / (1 - optimizer.defaults["momentum"])
            wanted["temperature"] = truth.temperature(n)
        elif "gradient_noise/temperature" in row:
            return ["a temperature that is not SGD's"]
        scale = {"mean_square": truth.trace}  # a difference of the two
        accuracy = 1e-2 if self.name in LARGE else 1e-3  # float32, and batch norm over six values
        return [
            f"{name} {row[f'gradient_noise/{name}']:.6g}, not {value:.6g}"
            for name, value in wanted.items()
            if row[f"gradient_noise/{name}"] != pytest.approx(value, rel=accuracy, abs=1e-4 * scale.get(name, 0.0))
        ]

    def _interpolation_is_wrong(self) -> list[str]:
        profile, row, seen = self.watch.profiles[-1], self.watch.history[-1], self.seen
        truth = oracles.loss_on_the_line(
            lambda: self.plain(seen.start),
            self.architecture.loss_of,
            self.measured,
            seen.start,
            seen.end,
            ALPHAS,
            re_estimate=True,
        )
        names = [name for name, _ in self.built().named_parameters()]
        wanted = dict(zip(map(str, ALPHAS), truth)) | {
            "distance": oracles.distance(seen.start, seen.end, names),
            "reference_loss": truth[ALPHAS.index(0)],
            "current_loss": truth[ALPHAS.index(1)],
        }
        there = dict(zip(map(str, profile.alphas), profile.values)) | {
            name: row[f"interpolation/{name}"] for name in ("distance", "reference_loss", "current_loss")
        }
        return [
            f"{name} {there[name]:.6g}, not {value:.6g}"
            for name, value in wanted.items()
            if there[name] != pytest.approx(value, rel=1e-4)
        ]


def cells(wanted: Callable[[Cell], bool] = lambda cell: True) -> list[Cell]:
    """All cells, in the order of the table. The Gauss-Newton matrix is tried once for each architecture."""
    every = [
        Cell(name, monitor, condition)
        for name in ARCHITECTURES
        for monitor in MONITORS
        for condition in (CONDITIONS if monitor != "gauss_newton" else CONDITIONS[:1])
    ]
    return [cell for cell in every if wanted(cell)]
