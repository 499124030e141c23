"""Noise changed alone. What the paper's experiments cannot part: eta, S, steps and t_eta stay, only the noise changes.

Fig. 1's MLP on FashionMNIST, and Fig. 4's VGG-11 on CIFAR-10, with batches of S, with batches of 4 S, and with batches
of 4 S to which the missing noise is given back: by weighting the gradients of two half batches, g = (g1 + g2)/2 +
√3 (g1 - g2)/2, which has the same mean and exactly 4 times the covariance; or by Gaussian noise of the same trace,
of the covariance's own shape or isotropic, as Theorem 1 assumes. Eta and steps are equal throughout, and examples are
drawn with replacement, since a shuffled epoch's noise cancels in part. Claims: less
noise ends at a lower test accuracy in a sharper minimum, and given back it ends as SGD at S does, whatever its shape.

    python reproduce/noise_only.py
    python reproduce/noise_only.py --data cifar10 --data-dir data
    python reproduce/noise_only.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import loss_levels
from three_factors.reproduce.experiments.metrics import END_NORM, LOSS, TEST, end
from three_factors.reproduce.experiments.noise_dial import (
    DIALLED,
    HALVES,
    ISOTROPIC,
    NOISE_DIAL,
    OF_ITS_SHAPE,
    QUIET,
    RATIO,
    SGD,
    ratio,
)

NAMES = {
    SGD: "S",
    QUIET: "4 S",
    HALVES: "4 S, half batches",
    OF_ITS_SHAPE: "4 S, Gaussian, C's shape",
    ISOTROPIC: "4 S, Gaussian, isotropic",
}
IDS = {HALVES: "halves", OF_ITS_SHAPE: "its_shape", ISOTROPIC: "isotropic"}
ALIKE = (1 / 1.25, 1.25)  # a norm or a loss over SGD's at S


def norms(
    table: Evidence, label: str, rule: seedwise.Direction | seedwise.Range, name: str, text: str
) -> list[claims.Claim]:
    """Claims something of the end norm over SGD's at S; as its control, of that at equal training loss."""
    over = f"norm of '{label}' over that of '{SGD}'"
    at_end = claims.Statement(name, text, f"{over}, a seed")
    at_equal_loss, note = loss_levels.ratio(table, label, SGD)
    control = claims.Statement(
        f"{name}.equal_loss",
        f"{text}, at equal training loss",
        f"{over} where the loss first reaches a level, geometric mean over levels, a seed",
        note=note,
        control_of=name,
    )
    return [
        seedwise.over_seeds(at_end, ratio(table, label, SGD, END_NORM), rule, seedwise.LOG),
        seedwise.over_seeds(control, at_equal_loss, rule, seedwise.LOG),
    ]


def given_back(table: Evidence, label: str, sharper: list[claims.Claim]) -> list[claims.Claim]:
    """Claims that with the noise given back in one way a run ends as SGD does at S; judged where noise shows."""
    name, words, noise = IDS[label], f"as SGD at S: {label}", claims.NoiseContrast((SGD, label), QUIET, on=TEST)
    share = claims.Statement(f"{name}.share", f"ends {words}, measured by what noise does")
    ends = claims.Statement(f"{name}.ends", f"test accuracy within a point, {words}")
    pair = [
        claims.share_of_effect(share, table, label, SGD, noise=noise, margin=1 / 3),
        claims.equivalent(ends, table, label, SGD, on=TEST, margin=0.01),
    ]
    found = claims.where_noise_shows(pair, table, label, SGD, noise)
    alike = norms(table, label, seedwise.Range(*ALIKE), f"{name}.norm", f"the same Hessian norm {words}")
    found += [claims.where_it_shows(same, visible, 1.0) for same, visible in zip(alike, sharper)]
    loss = claims.Statement(
        f"{name}.loss",
        f"the same training loss {words}",
        f"loss on clean training images, '{label}' over '{SGD}', geometric mean, a seed",
        note="made a claim after a first look at these runs",
        control_of=f"{name}.share",
    )
    return [*found, seedwise.over_seeds(loss, ratio(table, label, SGD, LOSS), seedwise.Range(*ALIKE), seedwise.LOG)]


def check(table: Evidence) -> list[claims.Claim]:
    lower = claims.Statement("quiet.ends", "a quarter of the noise ends at a lower test accuracy")
    larger = seedwise.Direction(1, smallest=0.1, null=1.0)
    sharper = norms(table, QUIET, larger, "quiet.norm", "a quarter of the noise ends at a larger Hessian norm")
    found = [claims.differ(lower, table, SGD, QUIET, seedwise.Direction(1, smallest=0.005), on=TEST), *sharper]
    for label in DIALLED:
        found += given_back(table, label, sharper)
    return found


def colours() -> dict[str, str]:
    return dict(zip(NAMES, (plots.RED, plots.BLUE, plots.ORANGE, plots.PURPLE, plots.GREEN)))


def draw_ends(table: Table, panel: Any, metric: str) -> None:
    """Draws a metric where the runs end, a point a way of making noise."""
    for place, (label, name) in enumerate(NAMES.items()):
        values = table.grid([label], metric) * (100 if metric == TEST else 1)
        plots.points(panel, [place], values, plots.all_trained(table, [label]), colours()[label], name)
    panel.set_xticks(range(len(NAMES)), ["S", "4 S", "4 S\nhalves", "4 S\nC's shape", "4 S\nisotropic"])


def draw_beside(table: Table, axes: Any) -> None:
    for panel, (metric, words) in zip(axes(1, len(plots.WORDS)), plots.WORDS.items()):
        draw_ends(table, panel, end(metric))
        panel.set(ylabel=f"{words}, at the end")
        plots.log_scale(panel.yaxis)
        if metric == plots.STABILITY:
            plots.edge_of_stability(panel)
        plots.legend_below(panel, columns=2)


def draw(table: Table, axes: Any) -> None:
    curves, accuracy, loss, norm = axes(2, 2)
    for label, name in NAMES.items():
        style: dict[str, Any] = {"percent": True, "stretch": 1.0 if label == SGD else float(RATIO)}
        plots.band(curves, table, label, TEST, colours()[label], legend=name, **style)
    curves.set(xlabel="epoch of the run at S, at equal steps", ylabel="test accuracy (%)")
    plots.legend_below(curves, columns=2)
    for panel, metric in ((accuracy, TEST), (loss, LOSS), (norm, END_NORM)):
        draw_ends(table, panel, metric)
    accuracy.set(ylabel="test accuracy at the end (%)")
    loss.set(ylabel="training loss at the end")
    norm.set(ylabel="Hessian norm at the end (Frobenius)")
    plots.log_scale(loss.yaxis)
    plots.log_scale(norm.yaxis)


FIGURE = Figure(
    name="noise_only",
    title="Noise changed alone, at equal eta and equal steps",
    doc=__doc__,
    data=("fashionmnist", "cifar10"),
    substitute="digits28",
    experiment=NOISE_DIAL,
    check=check,
    draw=draw,
    beside=draw_beside,
)


if __name__ == "__main__":
    main(FIGURE)
