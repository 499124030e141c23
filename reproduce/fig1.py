"""Figure 1. The ratio of learning rate to batch size decides how sharp the minimum is, and how well it generalises.

A 4-layer batch-norm MLP on FashionMNIST, trained at every pair of 5 learning rates and 6 batch sizes. Claims: the norm
of the Hessian at the end falls with eta/S (a), validation accuracy rises with it (b), and only the ratio counts. Beside
them: the same at equal training loss, and with the scale of the weights taken out, because a run at higher eta/S has
also trained further.

    python reproduce/fig1.py
    python reproduce/fig1.py --data fashionmnist --data-dir data --seeds 8
    python reproduce/fig1.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments.noise_grid import ACCURACY, BATCH_NORM_MLP, NORM, draw, draw_beside


def check(table):
    return BATCH_NORM_MLP.claims(
        table, "", "falls (a), by eye; most models at ≈ 100 % train accuracy", "rises (b), by eye"
    )


def panels(table, axes):
    a, b = axes(1, 2)
    draw(table, [a], BATCH_NORM_MLP, title="(a)", metrics=(NORM,))
    draw(table, [b], BATCH_NORM_MLP, title="(b)", metrics=(ACCURACY,))


FIGURE = Figure(
    name="fig1",
    title="Higher eta/S leads to flatter minima that generalise better",
    doc=__doc__,
    data="fashionmnist",
    substitute="digits28",
    experiment=BATCH_NORM_MLP,
    measurements=BATCH_NORM_MLP.measurements,
    check=check,
    draw=panels,
    beside=lambda table, axes: draw_beside(table, axes, BATCH_NORM_MLP),
    arms=("time", "loss", "ghost", "no-bn", "l2", "svag"),
)

if __name__ == "__main__":
    main(FIGURE)
