"""What theory says of the stationary distribution: Gibbs by quadrature, Laplace's approximation, Lyapunov equations.

SGD with noise of isotropic covariance sigma^2/S has, as eta → 0 at a fixed n = eta/S, the stationary density
P ∝ exp(-L/T) at the temperature T = n sigma^2/2 (Theorem 1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import trapezoid

from three_factors.reproduce.theory.potentials import DoubleWell, Quadratic, Quartic

POINTS, REACH = 20_001, 30.0  # of the quadrature; how many T above its minimum the potential is followed
JUMPS = 1_000  # between points of the grid on which rates are found


def temperature(lr: float, batch_size: int, sigma: float, momentum: float = 0.0) -> float:
    """Returns T = n sigma^2/2 with n = eta/(S (1 - beta)).

    With momentum (appendix E, corrected) dθ = v dt, dv = -(mu v + eta ∇L) dt + (eta sigma/√S) dW, mu = 1 - beta. Its
    Fokker-Planck equation is ∂P/∂t = -v·∇_θ P + eta ∇L·∇_v P + ∇_v·(mu v P + D ∇_v P), D = eta^2 sigma^2/2S: both
    derivatives of the noise are in v. For P ∝ exp(-(mu/D) (|v|^2/2 + eta L)) mu v P + D ∇_v P vanishes and the first
    two terms cancel, so it is stationary. Its θ-marginal is exp(-mu eta L/D) = exp(-2 mu L/(n sigma^2)):
    n/(1 - beta) stands in the place of n.
    """
    return lr / batch_size / (1 - momentum) * sigma**2 / 2


def effective(potential: DoubleWell | Quartic | Quadratic, t: float, x: np.ndarray) -> np.ndarray:
    """Returns the potential of the first coordinate alone: the others integrated out of exp(-L/T), up to a constant."""
    if isinstance(potential, DoubleWell):
        return potential.along(x) + t / 2 * np.log(potential.stiffness(x)).sum(axis=1)
    if potential.dim != 1:
        raise ValueError(f"potential: {potential!r} has no quadrature over its first coordinate")
    return potential.loss(x[:, None])


def density(potential: DoubleWell | Quartic | Quadratic, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns x (P,) and the Gibbs density of the first coordinate (P,)."""
    half = 1.0
    while (effective(potential, t, np.array([-half, half])) - effective(potential, t, np.zeros(1))).min() < REACH * t:
        half *= 1.3
    x = np.linspace(-half, half, POINTS)
    u = effective(potential, t, x)
    p = np.exp(-(u - u.min()) / t)
    return x, p / trapezoid(p, x)


def mean_of(potential: DoubleWell | Quartic | Quadratic, t: float, f: Callable[[np.ndarray], np.ndarray]) -> float:
    """Returns <f(x)> under Gibbs."""
    x, p = density(potential, t)
    return float(trapezoid(p * f(x), x))


def mean_loss(potential: DoubleWell | Quartic | Quadratic, t: float) -> float:
    """Returns <L> under Gibbs; T/2 for every coordinate that is Gaussian given the first."""
    if isinstance(potential, DoubleWell):
        return mean_of(potential, t, potential.along) + t / 2 * (potential.dim - 1)
    return mean_of(potential, t, lambda x: potential.loss(x[:, None]))


def cumulative(potential: DoubleWell | Quartic | Quadratic, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns x (P,) and the distribution function of the first coordinate (P,)."""
    x, p = density(potential, t)
    c = np.concatenate([[0.0], np.cumsum((p[1:] + p[:-1]) / 2 * np.diff(x))])
    return x, c / c[-1]


def sample(
    potential: DoubleWell | Quartic | Quadratic, t: float, chains: int, random: np.random.Generator
) -> np.ndarray:
    """Draws from Gibbs, (chains, q)."""
    x, c = cumulative(potential, t)
    first = np.interp(random.random(chains), c, x)
    if not isinstance(potential, DoubleWell) or potential.dim == 1:
        return first[:, None]
    y = random.standard_normal((chains, potential.dim - 1)) * np.sqrt(t / potential.stiffness(first))
    return np.concatenate([first[:, None], y], axis=1)


# -- two wells (Theorem 2)


def share_in_a(potential: DoubleWell, t: float) -> float:
    """Returns p_A, the probability of x below the top of the barrier, by quadrature."""
    x, c = cumulative(potential, t)
    return float(np.interp(potential.top, x, c))


def laplace_ratio(potential: DoubleWell, t: float) -> float:
    """Returns p_A/p_B = sqrt(det H_B/det H_A) exp((L_B - L_A)/T) (Theorem 2)."""
    a, b = potential.minima
    depth = potential.along(np.array([b]))[0] - potential.along(np.array([a]))[0]
    return float(np.sqrt(potential.determinant(b) / potential.determinant(a)) * np.exp(depth / t))


def crossover(potential: DoubleWell, sigma: float) -> tuple[float, float]:
    """Returns n* at which both wells are as probable, by Laplace: (corrected, as printed in eq. 4 of the paper).

    p_A = p_B means 2 (L_A - L_B)/(n* sigma^2) = ln sqrt(det H_B/det H_A), so
    n* = 2 (L_A - L_B)/(sigma^2 ln sqrt(det H_B/det H_A)). Equation 4 has the 2 on the other side: a quarter of it.
    """
    a, b = potential.minima
    deeper = float(potential.along(np.array([a]))[0] - potential.along(np.array([b]))[0])
    wider = 0.5 * np.log(potential.determinant(b) / potential.determinant(a))
    corrected = 2 * deeper / (sigma**2 * wider)
    return float(corrected), float(corrected / 4)


def barrier_over_t(potential: DoubleWell, t: float) -> float:
    """Returns the lower of the two barriers, in T, of the first coordinate's effective potential: whether chains can
    mix.
    """
    x = np.linspace(-1.6, 1.6, 4001)
    u = effective(potential, t, x)
    top = np.abs(x - potential.top) < 0.6
    left, right = x < potential.top, x > potential.top
    return float((u[top].max() - max(u[left].min(), u[right].min())) / t)


def relaxation_time(potential: DoubleWell | Quartic | Quadratic, t: float) -> float:
    """Returns the t_eta in which the first coordinate's slowest deviation from Gibbs (of wells, their shares) decays.

    1 over the smallest rate but 0 of dx = -U' dt + sqrt(2 T) dW, U the effective potential: of its Fokker-Planck
    equation as jumps between neighbours on a grid, made symmetric. The other coordinates are taken to follow x at once.
    """
    from scipy.linalg import eigvalsh_tridiagonal

    x = density(potential, t)[0][:: POINTS // JUMPS]
    u = effective(potential, t, x)
    half = np.diff(u) / (2 * t)
    rate = t / (x[1] - x[0]) ** 2
    leaving = np.zeros_like(x)
    leaving[:-1] += rate * np.exp(-half)
    leaving[1:] += rate * np.exp(half)
    rates = eigvalsh_tridiagonal(leaving, np.full(len(half), -rate), select="i", select_range=(0, 1))
    return float(1 / rates[1])


# -- quadratic losses (finite steps, momentum, any covariance)


def sgd_variance(h: float, lr: float, batch_size: int, sigma: float, momentum: float = 0.0) -> float:
    """Returns the exact stationary variance of SGD on h θ^2/2: infinite from eta h = 2 (1 + beta) on.

    θ' = θ - eta v', v' = beta v + h θ + noise. The second moments of (θ, v) are a linear fixed point; solved, they give
    (eta sigma^2/S) (1 + beta)/(h (1 - beta) (2 (1 + beta) - eta h)), which is n sigma^2/(h (2 - eta h)) at beta = 0.
    """
    if lr * h >= 2 * (1 + momentum):
        return float("inf")
    return lr * sigma**2 / batch_size * (1 + momentum) / (h * (1 - momentum) * (2 * (1 + momentum) - lr * h))


def lyapunov(hessian: np.ndarray, covariance: np.ndarray, n: float) -> np.ndarray:
    """Returns Σ of the diffusion: HΣ + ΣH = n C."""
    from scipy.linalg import solve_continuous_lyapunov  # takes longer to import than all else here

    return solve_continuous_lyapunov(hessian, n * covariance)


def discrete_lyapunov(hessian: np.ndarray, covariance: np.ndarray, lr: float, batch_size: int) -> np.ndarray:
    """Returns Σ of SGD itself: HΣ + ΣH - eta HΣH = n C."""
    from scipy.linalg import solve_discrete_lyapunov

    step = np.eye(len(hessian)) - lr * hessian
    return solve_discrete_lyapunov(step, lr**2 * covariance / batch_size)


def gibbs_covariance(hessian: np.ndarray, covariance: np.ndarray, n: float) -> np.ndarray:
    """Returns what Gibbs at the temperature n tr(C)/(2q) would have: T H^-1."""
    return n * np.trace(covariance) / (2 * len(hessian)) * np.linalg.inv(hessian)


def excess_loss(hessian: np.ndarray, sigma: np.ndarray) -> float:
    """Returns <L> - L* = tr(HΣ)/2 of a quadratic. HΣ + ΣH = nC makes it n tr(C)/4 whatever C is: the trace of both
    sides.

    At a finite step 2 tr(HΣ) - eta tr(HΣH) = n tr C.
    """
    return float(np.trace(hessian @ sigma)) / 2


def loss_variance(hessian: np.ndarray, sigma: np.ndarray) -> float:
    """Returns Var L = tr((HΣ)^2)/2 of a Gaussian θ on a quadratic; q T^2/2 where Σ = T H^-1.

    With tr(HΣ) given it is least where Σ = T H^-1 (Cauchy-Schwarz): of all noises of one trace the isotropic one varies
    the loss least.
    """
    product = hessian @ sigma
    return float((product * product.T).sum()) / 2


def current(hessian: np.ndarray, covariance: np.ndarray, n: float) -> np.ndarray:
    """Returns Q = n C/2 - HΣ, antisymmetric; the stationary current is Q Σ^-1 θ P. It is 0 if H and C commute."""
    return n * covariance / 2 - hessian @ lyapunov(hessian, covariance, n)
