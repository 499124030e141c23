"""Draws reproduce/gallery/finite_difference_step.png: the paper's Hessian norm depends on its step on ReLU networks.

    python tests/benchmarks/finite_difference_step.py [FILE]

Two MLPs 8-64-64-4, ReLU and Tanh, float64, 200 examples: the finite-difference norm over the exact Frobenius norm,
against the displacement r = |δ|/|θ|. About 20 seconds.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
warnings.filterwarnings("ignore")

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from callbacks.functional import HessianOperator, finite_difference_norm, frobenius_norm
from reproduce.engine.plots import BLUE, RED, STYLE

STEPS = np.logspace(-5, 0, 16)


def ratios(activation: type[nn.Module]) -> tuple[np.ndarray, np.ndarray]:
    """Ratio to the exact norm at every step, (16,), and half its 95 % interval."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 4)).double()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (200,), generator=generator)
    operator = HessianOperator(module, F.cross_entropy, (inputs, targets))
    exact = frobenius_norm(operator, tol=0.005).value
    found = [finite_difference_norm(operator, r=float(r), vectors=64) for r in STEPS]
    return np.array([f.value for f in found]) / exact, np.array([f.error for f in found]) / exact


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "reproduce/gallery/finite_difference_step.png"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for activation, colour in ((nn.ReLU, RED), (nn.Tanh, BLUE)):
            values, error = ratios(activation)
            axes.errorbar(STEPS, values, error, color=colour, marker="o", markersize=3, label=activation.__name__)
            if activation is nn.ReLU:
                slope = np.sqrt(1 + (values[9] ** 2 - 1) * STEPS[9] / STEPS)
                axes.plot(STEPS, slope, color=colour, linestyle=(0, (4, 2)), linewidth=1, label="ratio² - 1 ∝ 1/r")
        axes.axvline(1e-3, color="#7a7a7a", linewidth=0.8)
        axes.annotate("default in float32", (1e-3, 0.97), xycoords=("data", "axes fraction"), fontsize=7, rotation=90,
                      va="top", ha="right", color="#555555")  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="displacement r = |δ| / |θ|",
                 ylabel="finite-difference norm / exact |H|", title="On ReLU networks small steps see kinks",
        )  # fmt: skip
        axes.legend(loc="upper right")
        figure.savefig(target)
    print(f"written: {target}")


if __name__ == "__main__":
    main()
