"""Figure 4. A learning-rate schedule can be replaced by a batch-size schedule.

VGG-11 on CIFAR-10: a cyclic and a constant noise schedule, each once in eta and once in S, with eta/S equal at all
times. Claim: the two runs of a pair end at the same test accuracy, measured by what noise does: a noise control has the
same eta, steps and t_eta, and five times less noise.

    python reproduce/fig4.py
    python reproduce/fig4.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig4.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from dataclasses import dataclass
from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms, cycles
from three_factors.reproduce.experiments.metrics import TEST

PAIRS = {
    "cyclic": (cycles.CYCLIC_S, cycles.CYCLIC_ETA, "89.39 % and 89.24 %"),
    "constant": (cycles.SMALL_S, cycles.LARGE_S, "87.25 % and 86.92 %"),
}


def check(table: Evidence) -> list[claims.Finding]:
    noise, found = cycles.noise_contrast(), list[claims.Finding]()
    for name, (a, b, paper) in PAIRS.items():
        share = claims.Statement(
            f"{name}.share",
            f"{name} pair: eta and S end alike, measured by what noise does",
            paper=paper,
            quote="the learning curves of the two schedules match",
        )
        ends = claims.Statement(f"{name}.ends", f"{name} pair: end test accuracies within 0.5 points", paper=paper)
        shown = seedwise.gate(noise.effect(table))
        found += [
            seedwise.share(share, table, a, b, noise),
            seedwise.differ(ends, table, a, b, seedwise.within(0.005), on=TEST, gate=shown),
        ]
    found.append(cycles.exponent(table, TEST, "test accuracy", seedwise.PLAIN))
    return found + [
        seedwise.differ(about, table, higher, lower, seedwise.Direction(1, smallest=0.005), on=TEST)
        for about, higher, lower in controls()
        if lower in table.labels  # the paper scale has more of them
    ]


def controls() -> list[tuple[claims.Statement, str, str]]:
    """Returns what is claimed of the controls: a statement, what ends higher, and than what."""
    noise = "noise matters: 5x more of it, at equal eta, steps and t_eta, ends higher"
    root = "eta/S, not eta/√S: S x 5 with eta x √5, at equal t_eta, ends lower"
    cycle = "a cycle ends higher than constant noise of its mean"
    small, cyclic = cycles.SMALL_S, cycles.CYCLIC_S
    return [
        (claims.Statement("noise", noise, control_of=claims.ALL_CLAIMS), small, cycles.NOISE_CONTROL),
        (claims.Statement("root", root, control_of="constant"), small, cycles.ROOT_TIME),
        (claims.Statement("mean_noise", cycle, control_of="cyclic"), cyclic, cycles.MEAN_NOISE),
    ]


@dataclass(frozen=True)
class Line:
    """A setting in a panel; its epochs are divided by `stretch`, so that all lines are drawn at equal t_eta."""

    name: str
    colour: str
    stretch: float = 1.0


def panels(table: Table) -> dict[str, dict[str, Line]]:
    """Returns title -> the settings in it; a third panel where the paper scale's controls are there."""
    shown = {
        "A cyclic schedule, in S or in η": {
            cycles.CYCLIC_S: Line("cyclic S", plots.BLUE),
            cycles.CYCLIC_ETA: Line("cyclic η", plots.RED),
        },
        "A constant schedule, and its control": {
            cycles.SMALL_S: Line("small S and η", plots.BLUE),
            cycles.LARGE_S: Line("both × 5", plots.RED),
            cycles.NOISE_CONTROL: Line("S × 5 alone (epochs drawn ÷ 5)", plots.GREY, 5),
        },
    }
    if cycles.ROOT_TIME in table.labels:
        shown["Controls: other rules, other noise"] = {
            cycles.SMALL_S: Line("small S and η", plots.BLUE),
            cycles.ROOT_EPOCHS: Line("S × 5, η × √5", plots.ORANGE),
            cycles.ROOT_TIME: Line("the same, longer (epochs drawn ÷ √5)", plots.GREEN, 5**0.5),
            cycles.MEAN_NOISE: Line("cycle's mean noise", plots.PURPLE),
        }
    return shown


def draw(table: Table, axes: Any) -> None:
    shown = panels(table)
    for panel, (title, lines) in zip(axes(1, len(shown), sharex=True, sharey=True), shown.items()):
        for label, line in lines.items():
            options: dict[str, Any] = {"stretch": line.stretch, "percent": True}
            plots.band(panel, table, label, TEST, line.colour, legend=line.name, **options)
            plots.band(panel, table, label, "train/accuracy", line.colour, legend="_", dashed=True, **options)
        panel.set(title=title, xlabel="epoch", ylabel="accuracy (%): test solid, train dashed")
        panel.set_xlim(left=0)
        panel.label_outer()
        plots.legend_below(panel, columns=len(lines) if len(lines) < 4 else 2)


FIGURE = Figure(
    name="fig4",
    title="A learning-rate schedule can be replaced by a batch-size schedule",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=cycles.CYCLES,
    check=check,
    primary=("cyclic.share", "constant.share"),
    draw=draw,
    edition=2,  # where a run ends was another stretch of epochs where S cycles
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL, *arms.TRIPLET),
)


if __name__ == "__main__":
    main(FIGURE)
