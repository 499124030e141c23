"""One number that decides between rivals: g, by which eta/S^g decides, from three runs at equal t_eta.

A at (eta, S), B at (k eta, k S), C at (eta, k' S) for k' times the epochs: equal t_eta, and A and C as many steps. With
y an outcome (a logarithm, or an accuracy) that less noise raises, r = (C - A)/log k' is what the noise does and
q = (A - B)/log k what exchanging eta and S does; g = r/(r + q), 1 where eta/S alone decides, 1/2 for eta/√S, 0 for eta.
"""

from __future__ import annotations

import numpy as np

from three_factors.reproduce.engine import claims, seedwise

# For k = k' a g in it is a share of the noise's effect within a third, and excludes 1/2.
ALIKE = seedwise.Range(0.71, 1.4)
STATISTIC = "g = r/(r + q), r of S at equal eta, q of eta and S together"


def exponent(about: claims.Statement, r: np.ndarray, q: np.ndarray) -> claims.Finding:
    """Returns the finding that g lies about 1, of r and q a seed, (n,) each, paired."""
    statistic = claims.joined(about.statistic, STATISTIC)
    return seedwise.ratio(claims.replace(about, statistic=statistic, quantity=claims.G), r, r + q, ALIKE)
