"""Appendix E. Where the noise is not isotropic, SGD does not end in a Gibbs distribution.

SGD on a quadratic with a gradient covariance C that does not commute with the Hessian H, and one that does. Claims: the
covariance solves HΣ + ΣH = n C (at a finite step HΣ + ΣH - eta HΣH = n C), not Gibbs'; and a probability current flows
where H and C do not commute, and none where they do.
One start will do: on a quadratic it is forgotten at a known rate, and chains are read several relaxation times later.

    python reproduce/anisotropic.py
    python reproduce/anisotropic.py --seeds 16
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

import numpy as np

from three_factors.reproduce.engine import Chains, Theory, chainwise, claims, main, plots
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.potentials import Quadratic
from three_factors.reproduce.theory.simulation import Gaussian, Simulation

HESSIAN = ((1.0, 0.0), (0.0, 3.0))
COVARIANCES = {"H and C do not commute": ((2.0, 1.2), (1.2, 1.0)), "H and C commute": ((2.0, 0.0), (0.0, 1.0))}
LRS = {"small step": 0.01, "large step": 0.3}
IDS = {"H and C do not commute": "apart", "H and C commute": "commuting", "small step": "small", "large step": "large"}
S = 4
CHAINS = {"smoke": 200, "quick": 10_000, "paper": 100_000}
BURN_IN, APART, PAIRS = 6.0, 3.0, 8  # in t_eta; pairs of successive steps


def name(covariance: str, step: str) -> str:
    return f"{covariance}, {step}"


def simulations(scale: Scale) -> dict[str, Simulation]:
    found = {}
    for covariance, matrix in COVARIANCES.items():
        for step, lr in LRS.items():
            at = [round((BURN_IN + APART * i) / lr) for i in range(PAIRS if scale != "smoke" else 2)]
            record = tuple(k for first in at for k in (first, first + 1))
            found[name(covariance, step)] = Simulation(
                Quadratic(HESSIAN), lr, S, Gaussian(covariance=matrix), record[-1], record, (0.0, 0.0), CHAINS[scale]
            )
    return found


def covariance_of(samples: np.ndarray) -> np.ndarray:
    """Returns <θθ'>, (2, 2): the mean is 0."""
    flat = samples.reshape(-1, 2)
    return flat.T @ flat / len(flat)


def currents(samples: np.ndarray, lr: float) -> np.ndarray:
    """Returns Q_12 of every chain, (chains,): <θ1' θ2 - θ2' θ1>/(2 eta) over successive steps θ, θ'."""
    before, after = samples[0::2], samples[1::2]
    return ((after[..., 0] * before[..., 1] - after[..., 1] * before[..., 0]) / (2 * lr)).mean(axis=0)


def check(chains: Chains) -> list[claims.Finding]:
    h, found = np.array(HESSIAN), list[claims.Finding]()
    near, far = chainwise.Range(-1.0, 0.02), chainwise.Direction(1, smallest=0.05, null=0.1)

    def error_of(
        key: str, text: str, samples: np.ndarray, reference: np.ndarray, rule: chainwise.Range | chainwise.Direction
    ) -> None:
        """Judges |Σ - reference|/|reference|, with its jackknife standard error."""

        def error(used: np.ndarray) -> float:
            return float(np.linalg.norm(covariance_of(samples[:, used]) - reference) / np.linalg.norm(reference))

        about = claims.Statement(key, text, "relative error of the covariance")
        found.append(claims.Finding(about, rule, chainwise.jackknife(error, samples.shape[1])))

    for covariance, matrix in COVARIANCES.items():
        c, key = np.array(matrix), IDS[covariance]
        for step, lr in LRS.items():
            text = f"the discrete Lyapunov equation holds; {covariance}, {step}"
            exact = gibbs.discrete_lyapunov(h, c, lr, S)
            error_of(f"discrete.{key}.{IDS[step]}", text, chains.samples[name(covariance, step)], exact, near)
        samples, lr = chains.samples[name(covariance, "small step")], LRS["small step"]
        continuous = f"at a small step the continuous one does; {covariance}"
        error_of(f"continuous.{key}", continuous, samples, gibbs.lyapunov(h, c, lr / S), near)
        at_gibbs = f"Gibbs at n tr(C)/2q does not; {covariance}"
        error_of(f"not_gibbs.{key}", at_gibbs, samples, gibbs.gibbs_covariance(h, c, lr / S), far)
        flow, expected = currents(samples, lr), gibbs.current(h, c, lr / S)[0, 1]
        scale, count = np.abs(h @ gibbs.lyapunov(h, c, lr / S)).max(), samples.shape[1]
        current = claims.Statement(
            f"current.{key}",
            f"the probability current is as expected, {expected / scale:.2f} of H Σ; {covariance}",
            "Q_12 less its theory, over the largest element of H Σ",
        )
        value, spread = float(flow.mean() - expected) / scale, float(flow.std(ddof=1)) / scale / count**0.5
        found.append(chainwise.over_chains(current, value, spread, chainwise.Range(-0.05, 0.05), count))
    return found


def draw(chains: Chains, axes: Any) -> None:
    h, angle = np.array(HESSIAN), np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for panel, (covariance, matrix) in zip(axes(1, 2), COVARIANCES.items()):
        c, lr = np.array(matrix), LRS["small step"]
        samples = chains.samples[name(covariance, "small step")]
        shown = samples.reshape(-1, 2)[:: max(1, samples[..., 0].size // 3000)]
        panel.scatter(shown[:, 0], shown[:, 1], s=2, color=plots.GREY, alpha=0.3, linewidths=0)
        for sigma, colour, words, style in (
            (covariance_of(samples), plots.ORANGE, "SGD", "-"),
            (gibbs.lyapunov(h, c, lr / S), plots.BLUE, "Lyapunov, HΣ + ΣH = nC", (0, (4, 2))),
            (gibbs.gibbs_covariance(h, c, lr / S), plots.RED, "Gibbs at n tr(C)/2q", (0, (1, 1.5))),
        ):
            ellipse = 2 * np.linalg.cholesky(sigma) @ circle
            panel.plot(ellipse[0], ellipse[1], color=colour, linestyle=style, label=words)
        panel.set(xlabel="θ₁", ylabel="θ₂", title=f"{covariance}: 2 sd ellipses")
        panel.set_aspect("equal", adjustable="datalim")
        plots.legend_below(panel, columns=3)


THEORY = Theory(
    name="anisotropic",
    title="Noise that is not isotropic leads to no Gibbs distribution",
    doc=__doc__,
    simulations=simulations,
    seeds={"smoke": 1, "quick": 4, "paper": 16},
    check=check,
    draw=draw,
    formulas=(r"H\Sigma + \Sigma H = nC", r"H\Sigma + \Sigma H - \eta H\Sigma H = nC"),
)

if __name__ == "__main__":
    main(THEORY)
