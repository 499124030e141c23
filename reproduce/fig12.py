"""Figure 12. Minima of similar quality at similar eta/S when the learning rate decays.

As Figure 2 on the right, with eta divided by 10 at 50 % and 75 % of the epochs (at which epochs is our choice), a panel
for each random initialisation. Claims: the minima of large batch and small eta are equally wide and equally deep.

(The captions of Figures 10 to 12 are the same; that each shows one of Figure 2's lines is our reading.)

    python reproduce/fig12.py
    python reproduce/fig12.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig12.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine import Figure, main
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.loss_profiles import draw_seeds
from three_factors.reproduce.experiments.resnet_valleys import DECAYED, EQUAL, LARGE_TO_SMALL

FIGURE = Figure(
    name="fig12",
    title="Minima at about equal eta/S are alike with a decaying learning rate too",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=DECAYED,
    check=lambda table: DECAYED.alike(table, EQUAL, quote="similar quality at approximately the same eta/S"),
    primary=("wide", "deep"),
    spread="one a panel",
    draw=lambda table, axes: draw_seeds(table, axes, LARGE_TO_SMALL),
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL),
)

if __name__ == "__main__":
    main(FIGURE)
