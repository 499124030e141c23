"""Results of a theory's simulations: chains of SGD, the evidence of `chainwise` claims."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.theory.simulation import Simulation


@dataclass(frozen=True, eq=False)
class Chains:
    """Describes what was simulated: the chains of all seeds of a label are one sample.

    Attributes:
        specs: label -> the simulation of seed 0.
        samples: label -> θ at the recorded steps, (records, chains, q).
        source: the data set of losses of examples.
    """

    specs: dict[str, Simulation]
    samples: dict[str, np.ndarray]
    source: Prepared | None = None

    @property
    def labels(self) -> list[str]:
        return list(self.samples)

    def diverged(self, label: str) -> int:
        """Counts none: chains that run away are part of what is simulated."""
        return 0

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Returns a row a label and coordinate: the setting, and mean and variance over chains at the last record."""
        import pandas as pd

        rows = []
        for label, samples in self.samples.items():
            spec = self.specs[label]
            setting = {"eta": spec.lr, "S": spec.batch_size, "n": spec.n, "momentum": spec.momentum}
            for i in range(samples.shape[2]):
                last = samples[-1, :, i]
                found = {"chains": len(last), "mean": last.mean(), "variance": last.var(ddof=1)}
                rows.append({"label": label, "coordinate": i, **setting, "step": spec.record[-1], **found})
        return pd.DataFrame(rows)
