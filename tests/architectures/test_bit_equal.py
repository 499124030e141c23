"""Training with all three monitors ends with the bits of training without: weights, optimizer, random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from tests.architectures.cells import Cell
from tests.architectures.networks import ARCHITECTURES
from tests.ranks import as_torchrun, on_ranks
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def monitors(name: str) -> list[Any]:
    """All three on the examples that training draws, with few products."""
    cell = Cell(name, "hessian", "drawn")
    told = cell.architecture.told
    kind: dict[str, Any] = {"curvature": "gauss_newton"} if name == "mobilenet_v3_small" else {}
    return [
        HessianMonitor(measures=("top_eigenvalue",), max_products=3, examples=10, batch_size=5, **told, **kind),
        GradientNoiseMonitor(batches=5, stationarity=cell.sgd, **told),
        InterpolationMonitor(alphas=(0, 1), examples=10, batch_size=5, **told),
    ]


def trained(name: str, watched: bool, ranks: int = 1) -> tuple[dict[str, Tensor], list[int]]:
    """All tensors after two epochs of three steps, the next random numbers among them, and measurements made."""
    architecture, watches = ARCHITECTURES[name], monitors(name) if watched else []
    torch.manual_seed(3)
    module = architecture.build(architecture.dropout)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=watches,
    )
    trainer.fit(module)
    found = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for i, state in trainer.optimizers[0].state_dict()["state"].items():
        found |= {f"optimizer.{i}.{key}": torch.as_tensor(value).clone() for key, value in state.items()}
    return found | {"random": torch.get_rng_state()}, [len(watch.history) for watch in watches]


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> set[str]:
    return (one.keys() ^ two.keys()) | {k for k in one.keys() & two.keys() if not torch.equal(one[k], two[k])}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_is_bit_equal_with_and_without_the_monitors(name: str) -> None:
    (watched, measured), (alone, _) = trained(name, True), trained(name, False)
    assert measured == [2, 2, 2]
    assert differing(watched, alone) == set()


def _on_rank(rank: int, world_size: int, name: str, watched: bool) -> tuple[dict[str, Tensor], list[int]]:
    as_torchrun(rank, world_size)
    return trained(name, watched, world_size)


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["densenet", "gru"])
def test_on_two_ranks_too(name: str) -> None:
    for (watched, measured), (alone, _) in zip(*(on_ranks(2, _on_rank, name, kind) for kind in (True, False))):
        assert measured == [2, 2, 2]
        assert differing(watched, alone) == set()
