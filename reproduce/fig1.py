"""Figure 1. The ratio of learning rate to batch size decides how sharp the minimum is, and how well it generalises.

A 4-layer batch-norm MLP on FashionMNIST, trained at every pair of 5 learning rates and 6 batch sizes. Claims: the norm
of the Hessian at the end falls with eta/S (a), validation accuracy rises with it (b), and so a smaller norm goes with a
higher accuracy. Beside them: the same at equal training loss, and with the scale of the weights taken out, because a
run at higher eta/S has also trained further.

    python reproduce/fig1.py
    python reproduce/fig1.py --data fashionmnist --data-dir data --seeds 8
    python reproduce/fig1.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.grid_panels import draw, draw_beside
from three_factors.reproduce.experiments.metrics import END_NORM, VALID
from three_factors.reproduce.experiments.mlp_grids import BATCH_NORM_MLP, SINGLE


def check(table: Evidence) -> list[claims.Finding]:
    return BATCH_NORM_MLP.check(table, SINGLE)


def panels(table: Table, axes: Any) -> None:
    a, b = axes(1, 2)
    draw(table, [a], SINGLE, "(a)", (END_NORM,))
    draw(table, [b], SINGLE, "(b)", (VALID,))


FIGURE = Figure(
    name="fig1",
    title="Higher eta/S leads to flatter minima that generalise better",
    doc=__doc__,
    data=("fashionmnist",),
    substitute="digits28",
    experiment=BATCH_NORM_MLP,
    check=check,
    primary=("norm", "accuracy", "wider"),
    draw=panels,
    beside=lambda table, axes: draw_beside(table, axes, BATCH_NORM_MLP),
    arms=(*arms.CONSTANT, *arms.BATCH_NORM, *arms.FOR_ALL, arms.SVAG),
    later={arms.TIME.name: 2},  # t_eta differed by 9 %
)


if __name__ == "__main__":
    main(FIGURE)
