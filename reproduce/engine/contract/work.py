"""A piece of work: one run, line or simulation, and where it stands in the table of its figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from three_factors.reproduce.engine.contract.spec import Measurement, PathSpec, RunSpec
from three_factors.reproduce.theory.simulate import Simulation

Spec = RunSpec | PathSpec | Simulation
Factors = Mapping[str, float | str]  # what a setting is made of: eta, S, panel, network, ...


@dataclass(frozen=True)
class Item:
    """One piece of work.

    Attributes:
        label: the setting's name, for people; the same for all its seeds.
        seed: which repetition.
        spec: what is done.
        measurements: what is measured of a run after its training.
        factors: the setting in numbers and words; columns of the table.
    """

    label: str
    seed: int
    spec: Spec
    measurements: tuple[Measurement, ...] = ()
    factors: Factors = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.label} seed {self.seed}"
