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

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import equal_loss, noise_dial

NAMES = {
    noise_dial.SGD: "S",
    noise_dial.QUIET: "4 S",
    noise_dial.HALVES: "4 S, half batches",
    noise_dial.OF_ITS_SHAPE: "4 S, Gaussian, C's shape",
    noise_dial.ISOTROPIC: "4 S, Gaussian, isotropic",
}


def check(table):
    from three_factors.reproduce.engine import claims, seedwise

    sgd, quiet, accuracy = noise_dial.SGD, noise_dial.QUIET, noise_dial.ACCURACY

    def norms(label, rule, claim):
        """The end norm over SGD's at S, and that at equal training loss beside it."""
        at_equal_loss, note = equal_loss.ratio(table, label, sgd)
        over = f"norm of '{label}' over that of '{sgd}'"
        return [
            seedwise.over_seeds(
                noise_dial.ratio(table, label, sgd, noise_dial.NORM), rule, scale=seedwise.LOG, claim=claim,
                statistic=f"{over}, a seed",
            ),
            seedwise.over_seeds(
                at_equal_loss, rule, scale=seedwise.LOG, claim=f"{claim}, at equal training loss", control_of=claim,
                statistic=f"{over} where the loss first reaches a level, geometric mean over levels, a seed", note=note,
            ),
        ]  # fmt: skip

    sharper = norms(
        quiet, seedwise.Direction(1, smallest=0.1, null=1.0), "a quarter of the noise ends at a larger Hessian norm"
    )
    found = [
        claims.differ(
            table, sgd, quiet, on=accuracy, smallest=0.005, claim="a quarter of the noise ends at a lower test accuracy"
        ),
        *sharper,
    ]
    for label in noise_dial.DIALLED:
        noise = claims.NoiseContrast((sgd, label), quiet, on=accuracy)
        words = f"as SGD at S: {label}"
        pair = [
            claims.share_of_effect(
                table, label, sgd, margin=1 / 3, noise=noise, claim=f"ends {words}, measured by what noise does"
            ),
            claims.equivalent(
                table, label, sgd, on=accuracy, margin=0.01, claim=f"test accuracy within a point, {words}"
            ),
        ]
        found += claims.where_noise_shows(pair, table, label, sgd, noise)
        alike = norms(label, seedwise.Range(1 / 1.25, 1.25), f"the same Hessian norm {words}")
        found += [claims.where_it_shows(same, visible, 1.0) for same, visible in zip(alike, sharper)]
        found.append(
            seedwise.over_seeds(
                noise_dial.ratio(table, label, sgd, noise_dial.LOSS), seedwise.Range(1 / 1.25, 1.25),
                scale=seedwise.LOG, claim=f"the same training loss {words}", control_of=f"ends {words}",
                note="made a claim after a first look at these runs",
                statistic=f"loss on clean training images, '{label}' over '{sgd}', geometric mean, a seed",
            )
        )  # fmt: skip
    return found


def colours():
    from three_factors.reproduce.engine import plots

    return dict(zip(NAMES, (plots.RED, plots.BLUE, plots.ORANGE, plots.PURPLE, plots.GREEN)))


def draw_ends(table, panel, metric):
    """A metric where the runs end, a point a way of making noise."""
    from three_factors.reproduce.engine import plots

    for place, (label, name) in enumerate(NAMES.items()):
        values = table.grid([label], metric) * (100 if metric == noise_dial.ACCURACY else 1)
        plots.points(panel, [place], values, plots.all_trained(table, [label]), colours()[label], name)
    panel.set_xticks(range(len(NAMES)), ["S", "4 S", "4 S\nhalves", "4 S\nC's shape", "4 S\nisotropic"])


def draw_beside(table, axes):
    from three_factors.reproduce.engine import plots

    for panel, (metric, words) in zip(axes(1, len(plots.WORDS)), plots.WORDS.items()):
        draw_ends(table, panel, f"end {metric}")
        panel.set(ylabel=f"{words}, at the end")
        plots.log_scale(panel.yaxis)
        if metric == plots.STABILITY:
            plots.edge_of_stability(panel)
        plots.legend_below(panel, columns=2)


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    curves, accuracy, loss, norm = axes(2, 2)
    for label, name in NAMES.items():
        stretch = 1.0 if label == noise_dial.SGD else float(noise_dial.RATIO)
        plots.band(
            curves, table, label, noise_dial.ACCURACY, colours()[label], legend=name, percent=True, stretch=stretch
        )
    curves.set(xlabel="epoch of the run at S, at equal steps", ylabel="test accuracy (%)")
    plots.legend_below(curves, columns=2)
    for panel, metric in ((accuracy, noise_dial.ACCURACY), (loss, noise_dial.LOSS), (norm, noise_dial.NORM)):
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
    data="fashionmnist",
    substitute="digits28",
    also_on=("cifar10",),
    experiment=noise_dial,
    measurements=noise_dial.measurements,
    check=check,
    draw=draw,
    beside=draw_beside,
)

if __name__ == "__main__":
    main(FIGURE)
