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

from reproduce.engine.figure import Figure, main
from reproduce.experiments import cycles

PAIRS = {
    "cyclic": (cycles.CYCLIC_S, cycles.CYCLIC_ETA, (0.8939, 0.8924)),
    "constant": (cycles.SMALL_S, cycles.LARGE_S, (0.8725, 0.8692)),
}


def check(table):
    from reproduce.engine import claims

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
            table, cycles.SMALL_S, cycles.NOISE_CONTROL, on="test/accuracy", smallest=0.005,
            claim="noise matters: 5x more of it, at equal eta, steps and t_eta, ends higher",
        )
    )  # fmt: skip
    return found


def draw(table, axes):
    from reproduce.engine import plots

    for panel, (title, colours) in zip(
        axes(1, 2, sharey=True),
        {
            "Cyclic: S (blue) or η (red)": {cycles.CYCLIC_S: plots.BLUE, cycles.CYCLIC_ETA: plots.RED},
            "Constant: small S (blue), 5 × larger S and η (red)": {
                cycles.SMALL_S: plots.BLUE,
                cycles.LARGE_S: plots.RED,
                cycles.NOISE_CONTROL: plots.GREY,
            },
        }.items(),
    ):
        for label, colour in colours.items():
            stretch = 5 if label == cycles.NOISE_CONTROL else 1  # drawn at equal t_eta
            name = {
                cycles.SMALL_S: "small S",
                cycles.LARGE_S: "large S and η",
                cycles.NOISE_CONTROL: "control, noise ÷ 5 (epochs ÷ 5)",
            }.get(label, label.replace("eta", "η"))
            plots.band(panel, table, label, "test/accuracy", colour, legend=name, stretch=stretch, percent=True)
            plots.band(
                panel, table, label, "train/accuracy", colour, legend="_", stretch=stretch, percent=True, dashed=True
            )
        panel.set(title=title, xlabel="epoch", ylabel="accuracy (%): test solid, train dashed")
        plots.legend_below(panel, columns=len(colours))


FIGURE = Figure(
    name="fig4",
    title="A learning-rate schedule can be replaced by a batch-size schedule",
    doc=__doc__,
    data="cifar10",
    substitute="digits",
    experiment=cycles,
    check=check,
    draw=draw,
)

if __name__ == "__main__":
    main(FIGURE)
