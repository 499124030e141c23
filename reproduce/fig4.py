"""Figure 4. A learning-rate schedule can be replaced by a batch-size schedule.

VGG-11 on CIFAR-10: a cyclic and a constant noise schedule, each once in eta and once in S, with eta/S equal at all
times. Claim: the two runs of a pair end at the same test accuracy, and their curves are no further apart than two
seeds. A noise control (same eta, steps and t_eta, five times less noise) shows whether noise matters at all here.

    python reproduce/fig4.py
    python reproduce/fig4.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig4.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from dataclasses import dataclass

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import cycles

PAIRS = {
    "cyclic": (cycles.CYCLIC_S, cycles.CYCLIC_ETA, (0.8939, 0.8924)),
    "constant": (cycles.SMALL_S, cycles.LARGE_S, (0.8725, 0.8692)),
}


def check(table):
    from three_factors.reproduce.engine import claims

    # The constant pair has the control's eta, steps and t_eta: what noise does is measured there, for both pairs.
    noise = claims.NoiseContrast((cycles.SMALL_S, cycles.LARGE_S), cycles.NOISE_CONTROL, on="test/accuracy")
    found = []
    for name, (a, b, (paper_a, paper_b)) in PAIRS.items():
        paper = f"{100 * paper_a:.2f} % and {100 * paper_b:.2f} %"
        about_the_pair = [
            claims.share_of_effect(
                table,
                a,
                b,
                margin=1 / 3,
                paper=paper,
                claim=f"{name} pair: eta and S end alike, measured by what noise does",
                noise=noise,
            ),
            claims.equivalent(
                table,
                a,
                b,
                on="test/accuracy",
                margin=0.005,
                paper=paper,
                claim=f"{name} pair: end test accuracies within 0.5 points",
            ),
            claims.same_curve(
                table,
                a,
                b,
                on="train/loss",
                bound=1.5,
                paper="curves coincide by eye",
                claim=f"{name} pair: loss curves no further apart than two seeds",
            ),
        ]
        found += claims.where_noise_shows(about_the_pair, table, a, b, noise)
    found.append(
        claims.differ(
            table, cycles.SMALL_S, cycles.NOISE_CONTROL, on="test/accuracy", smallest=0.005, control_of=claims.EVERY,
            claim="noise matters: 5x more of it, at equal eta, steps and t_eta, ends higher",
        )
    )  # fmt: skip
    if cycles.ROOT_TIME in table.labels:  # the paper scale has the other controls too
        found += [
            claims.differ(
                table, cycles.SMALL_S, cycles.ROOT_TIME, on="test/accuracy", smallest=0.005, control_of="constant pair",
                claim="eta/S, not eta/√S: S x 5 with eta x √5, at equal t_eta, ends lower",
            ),
            claims.differ(
                table, cycles.CYCLIC_S, cycles.MEAN_NOISE, on="test/accuracy", smallest=0.005, control_of="cyclic pair",
                claim="a cycle ends higher than constant noise of its mean",
            ),
        ]  # fmt: skip
    return found


@dataclass(frozen=True)
class Line:
    """An arm in a panel. `stretch`: its epochs are divided by it, so that all lines are drawn at equal t_eta."""

    name: str
    colour: str
    stretch: float = 1.0


def panels(table):
    """Title of a panel -> the arms in it; the third where the paper scale's controls are there."""
    from three_factors.reproduce.engine.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED

    shown = {
        "A cyclic schedule, in S or in η": {
            cycles.CYCLIC_S: Line("cyclic S", BLUE),
            cycles.CYCLIC_ETA: Line("cyclic η", RED),
        },
        "A constant schedule, and its control": {
            cycles.SMALL_S: Line("small S and η", BLUE),
            cycles.LARGE_S: Line("both × 5", RED),
            cycles.NOISE_CONTROL: Line("S × 5 alone (epochs drawn ÷ 5)", GREY, 5),
        },
    }
    if cycles.ROOT_TIME in table.labels:
        shown["Controls: other rules, other noise"] = {
            cycles.SMALL_S: Line("small S and η", BLUE),
            cycles.ROOT_EPOCHS: Line("S × 5, η × √5", ORANGE),
            cycles.ROOT_TIME: Line("the same, longer (epochs drawn ÷ √5)", GREEN, 5**0.5),
            cycles.MEAN_NOISE: Line("cycle's mean noise", PURPLE),
        }
    return shown


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    shown = panels(table)
    for panel, (title, lines) in zip(axes(1, len(shown), sharex=True, sharey=True), shown.items()):
        for label, line in lines.items():
            options = {"stretch": line.stretch, "percent": True}
            plots.band(panel, table, label, "test/accuracy", line.colour, legend=line.name, **options)
            plots.band(panel, table, label, "train/accuracy", line.colour, legend="_", dashed=True, **options)
        panel.set(title=title, xlabel="epoch", ylabel="accuracy (%): test solid, train dashed")
        panel.set_xlim(left=0)
        panel.label_outer()
        plots.legend_below(panel, columns=len(lines) if len(lines) < 4 else 2)


FIGURE = Figure(
    name="fig4",
    title="A learning-rate schedule can be replaced by a batch-size schedule",
    doc=__doc__,
    data="cifar10",
    substitute="digits",
    experiment=cycles,
    check=check,
    draw=draw,
    arms=("ghost", "no-bn", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
