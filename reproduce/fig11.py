"""Figure 11. Sharper minima at lower eta/S when the learning rate decays: a smaller learning rate.

As Figure 2, with eta divided by 10 at 50 % and 75 % of the epochs (at which epochs is our choice), a panel for each
random initialisation. Claim: beyond its end the loss of the baseline, at higher eta/S, takes longer to rise.

(The captions of Figures 10 to 12 are the same; that each shows one of Figure 2's lines is our reading.)

    python reproduce/fig11.py
    python reproduce/fig11.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig11.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine import Figure, main
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.loss_profiles import draw_seeds
from three_factors.reproduce.experiments.resnet_valleys import DECAYED, SMALL_TO_BASE

FIGURE = Figure(
    name="fig11",
    title="Lower eta/S leads to sharper minima with a decaying learning rate too: small eta",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=DECAYED,
    check=lambda table: DECAYED.wider(table, [SMALL_TO_BASE], quote="smaller eta/S leads to sharper minima"),
    primary=("wider",),
    spread="one a panel",
    draw=lambda table, axes: draw_seeds(table, axes, SMALL_TO_BASE),
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL),
)

if __name__ == "__main__":
    main(FIGURE)
