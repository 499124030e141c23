"""What a run is given besides its spec: data, device, threads; and how its process says how it ended."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine.contract.files import read_cache, write_json

PREEMPTED = 75  # exit status after SIGTERM: saved, to be gone on with (EX_TEMPFAIL of sysexits.h)
SCHEDULERS = (signal.SIGUSR1, signal.SIGUSR2)  # how a cluster announces a time limit or a preemption
WATCH_STDIN = "THREE_FACTORS_WATCH_STDIN"  # set for a worker that shall end when its standard input does
ROUNDED = "THREE_FACTORS_ROUNDED"  # set for runs that start one rounding away: how far do words hang on rounding?
FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """The environment that a run gets; nothing here changes which experiment it is.

    Attributes:
        data: the prepared data set; None for a simulation that needs none.
        accelerator: "cpu" or "cuda".
        devices: on each of `num_nodes` nodes.
        num_nodes: nodes that train together.
        threads: of each process; their number changes a run's bits.
        made: hardware, versions and code, as `provenance.bits` has them.
        checkpoint_every: seconds between checkpoints.
        every_step: whether the loss of every step is kept; it changes no bits.
    """

    data: Prepared | None = None
    accelerator: str = "cpu"
    devices: int = 1
    num_nodes: int = 1
    threads: int = 1
    made: dict[str, Any] = field(default_factory=dict)
    checkpoint_every: float = 15.0
    every_step: bool = False

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    @property
    def source(self) -> Prepared:
        """Returns the data set of a job that has one. Raises ValueError for any other."""
        if self.data is None:
            raise ValueError("data: the job names no data set")
        return self.data

    @property
    def environment(self) -> dict[str, Any]:
        """Describes what may change the bits of a run: a half-done one goes on only where all of it is the same."""
        return _environment(self.made | {name: getattr(self, name) for name in DECISIVE})

    def write(self, folder: Path) -> None:
        """Writes the folder's job."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Reads the folder's job. Raises ValueError if there is none, or none that this code can do."""
        written = read_cache(folder / FILE)
        if not written:
            raise ValueError(f"{folder / FILE}: is no job")
        try:
            data = written.pop("data", None)
            return cls(data=None if data is None else Prepared(**data), **written)
        except TypeError as error:
            raise ValueError(f"{folder / FILE}: cannot be read ({error})") from error


DECISIVE = ("accelerator", "devices", "num_nodes", "threads")


def _environment(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told.get(name) for name in DECISIVE} | told


def environment_of(folder: Path) -> dict[str, Any]:
    """Returns `Job.environment` of the job that a folder was last prepared for; all unknown (None) if there is none."""
    written = read_cache(folder / FILE)
    made = written.get("made")
    return _environment((made if isinstance(made, dict) else {}) | {name: written.get(name) for name in DECISIVE})
