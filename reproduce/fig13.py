"""Figure 13. Exchanging batch size for learning rate in detail: epoch means coincide, single steps do not.

The four runs of Figure 4. Claims: the loss curves of a pair are alike in every third of the training, measured by what
five times less noise does to them. Single steps scatter in proportion to 1/S, because fewer examples make a noisier
mean: five times the variance at a fifth of the batch.

    python reproduce/fig13.py
    python reproduce/fig13.py --data cifar10 --data-dir data
    python reproduce/fig13.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms, cycles
from three_factors.reproduce.experiments.metrics import LOSS, STEP_LOSS, TEST, VALID

PAIRS = {"cyclic": (cycles.CYCLIC_S, cycles.CYCLIC_ETA), "constant": (cycles.SMALL_S, cycles.LARGE_S)}
NOISIER = {  # in single steps: what has the smaller S, and the larger
    "constant": ("constant", cycles.SMALL_S, cycles.LARGE_S),
    "cyclic": ("cyclic, low-noise phases", cycles.CYCLIC_ETA, cycles.CYCLIC_S),
}
NAMES = {
    cycles.CYCLIC_S: "cyclic S",
    cycles.CYCLIC_ETA: "cyclic η",
    cycles.LARGE_S: "constant, large S and η",
    cycles.SMALL_S: "constant, small S and η",
}


def check(table: Evidence) -> list[claims.Finding]:
    found = list[claims.Finding]()
    for name, (a, b) in PAIRS.items():
        text = f"{name} pair: the loss curves are alike throughout, measured by what noise does"
        about = claims.Statement(f"{name}.curves", text, quote="the curves match well")
        found.append(cycles.curve_shares(about, table, a, b))
    found.append(cycles.exponent(table, LOSS, "training loss", seedwise.LOG))
    for name, (words, noisier, quieter) in NOISIER.items():
        about = claims.Statement(
            f"{name}.step_variance",
            f"{words}: the loss of single steps has 5 times the variance at S / 5",
            f"variance ratio of step losses in an epoch, '{noisier}' over '{quieter}', geometric mean",
            paper="smaller S, higher variance",
        )
        ratio = cycles.step_variance_ratio(table, noisier, quieter)
        found.append(seedwise.over_seeds(about, ratio, seedwise.Range(5 / 1.5, 5 * 1.5), seedwise.LOG))
    return found


def draw(table: Table, axes: Any) -> None:
    colours = dict(zip(NAMES, (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED)))
    by_step, *by_epoch, sizes, rates, ratios = axes(4, 2)
    for label, colour in colours.items():
        plots.per_step(by_step, table, label, "loss", colour, legend=NAMES[label])
        for panel, metric in zip(by_epoch, (STEP_LOSS, "train/accuracy", VALID, TEST)):
            percent = metric.endswith("accuracy")
            plots.band(panel, table, label, metric, colour, percent=percent)
            what = metric.replace("/", " ") + (" (%)" if percent else "")
            panel.set(title=what, xlabel="epoch")
        plots.per_step(sizes, table, label, "batch_size", colour)
        plots.per_step(rates, table, label, "lr", colour)
        plots.per_step(ratios, table, label, "noise_ratio", colour)
    by_step.set(title="loss of single steps, one seed", xlabel="epoch")
    for panel in (by_step, by_epoch[0]):  # "log cross entropy loss"
        plots.log_scale(panel.yaxis)
    for panel, words in zip((sizes, rates, ratios), ("batch size S", "learning rate η", "η/S")):
        panel.set(title=words, xlabel="epoch")
    plots.legend_below(by_step, columns=2)


FIGURE = Figure(
    name="fig13",
    title="Batch size and learning rate, exchanged one to one",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=cycles.CYCLES,
    check=check,
    primary=("cyclic.curves", "constant.curves"),
    draw=draw,
    edition=2,  # where a run ends was another stretch of epochs where S cycles
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL, *arms.TRIPLET),
)


if __name__ == "__main__":
    main(FIGURE)
