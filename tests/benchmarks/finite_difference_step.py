"""Draws reproduce/gallery/finite_difference_step.png: the paper's Hessian norm depends on its step on ReLU networks.

    python tests/benchmarks/finite_difference_step.py [FILE]

Two MLPs 8-64-64-4, ReLU and Tanh, float64, 200 examples: the finite-difference norm over the exact Frobenius norm,
against the displacement r = |δ|/|θ|. About 20 seconds.
"""

from __future__ import annotations

import io
import warnings

import matplotlib as mpl
import numpy as np
import torch
from _code import ROOT
from _timing import command_line, new_file, parsed
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from three_factors.callbacks.functional import HessianOperator, finite_difference_norm, frobenius_norm
from three_factors.reproduce.engine.publish.picture import STYLE
from three_factors.reproduce.engine.publish.plots import BLUE, RED

STEPS = np.logspace(-5, 0, 16)
GALLERY = ROOT / "reproduce/gallery/finite_difference_step.png"
warnings.filterwarnings("ignore")


def ratios(activation: type[nn.Module], smallest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ratio to the exact norm at every step, (16,), and half its 95 % interval."""
    width, examples, tol, vectors = (4, 10, 0.1, 4) if smallest else (64, 200, 0.005, 64)
    torch.manual_seed(0)
    layers = nn.Linear(8, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 4)
    module = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(examples, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (examples,), generator=generator)
    operator = HessianOperator(module, F.cross_entropy, (inputs, targets))
    exact = frobenius_norm(operator, tol=tol).value
    found = [finite_difference_norm(operator, r=float(r), vectors=vectors) for r in STEPS]
    return np.array([f.value for f in found]) / exact, np.array([f.error for f in found]) / exact


def draw(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Returns the figure of these ratios, by the activation's name."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, (values, error)), colour in zip(found.items(), (RED, BLUE)):
        axes.errorbar(STEPS, values, error, color=colour, marker="o", markersize=3, label=name)
        if name == "ReLU":
            slope = np.sqrt(1 + (values[9] ** 2 - 1) * STEPS[9] / STEPS)
            axes.plot(STEPS, slope, color=colour, linestyle=(0, (4, 2)), linewidth=1, label="ratio² - 1 ∝ 1/r")
    axes.axvline(1e-3, color="#7a7a7a", linewidth=0.8)
    note = {"fontsize": 7, "rotation": 90, "va": "top", "ha": "right", "color": "#555555"}
    axes.annotate("default in float32", (1e-3, 0.97), xycoords=("data", "axes fraction"), **note)
    axes.set(xscale="log", yscale="log", xlabel="displacement r = |δ| / |θ|")
    axes.set(ylabel="finite-difference norm / exact |H|", title="On ReLU networks small steps see kinks")
    axes.legend(loc="upper right")
    return figure


def main() -> None:
    parser = command_line(__doc__, smallest="networks of width 4 and 10 examples, drawn into FILE only if one is given")
    parser.add_argument("file", nargs="?", type=new_file, metavar="FILE", help=f"default: {GALLERY.relative_to(ROOT)}")
    options = parsed(parser)
    found = {activation.__name__: ratios(activation, options.smallest) for activation in (nn.ReLU, nn.Tanh)}
    print(f"{'r':<10}" + "".join(f"{name:>10}{'+-':>8}" for name in found))
    for i, step in enumerate(STEPS):
        print(f"{step:<10.2g}" + "".join(f"{values[i]:>10.3f}{error[i]:>8.3f}" for values, error in found.values()))
    target = options.file or (io.BytesIO() if options.smallest else GALLERY)
    with mpl.rc_context(STYLE):
        draw(found).savefig(target)
    if not isinstance(target, io.BytesIO):
        print(f"written: {target}")


if __name__ == "__main__":
    main()
