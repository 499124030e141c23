"""The folders of what is no single run: lines, simulations, packs; and which folder is whose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from three_factors.reproduce.engine.contract.folder import Folder
from three_factors.reproduce.engine.contract.packs import Pack
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import PathSpec, RunSpec
from three_factors.reproduce.theory.simulation import Simulation


class PathFolder(Folder):
    """A line's files. It lies beside the runs whose ends it joins."""

    place, noun = "paths", "lines"
    current = PathSpec.current_protocol

    def _check(self, result: dict[str, Any]) -> None:
        if not result["final"] or not result["profiles"]:
            raise ValueError("without a profile")

    def describe(self, result: dict[str, Any]) -> str:
        final = result["final"]
        return f"loss at the ends {final['loss θ1']:.3f} and {final['loss θ2']:.3f}, barrier {final['barrier']:.2f}"

    def points(self, name: str) -> Path:
        """Returns the file of a profile's points, written as they come."""
        return self.path / f"{name}.jsonl"

    def resumable_files(self) -> list[Path]:
        return sorted(self.path.glob("*.jsonl"))

    def run(self, spec: RunSpec) -> RunFolder:
        """Returns the folder of a run in the same results folder."""
        return RunFolder(self.path.parent.parent / RunFolder.place / spec.key)


class SimulationFolder(Folder):
    """A simulation's files, with the chains at the recorded steps in samples.npy."""

    place, noun = "simulations", "simulations"

    @property
    def samples(self) -> Path:
        return self.path / "samples.npy"

    def _check(self, result: dict[str, Any]) -> None:
        if result["bytes"] != self.samples.stat().st_size:
            raise ValueError("without all its samples")

    def describe(self, result: dict[str, Any]) -> str:
        return "simulated"


class PackFolder(Folder):
    """A pack's files: its checkpoint, and what its members have written so far. They end in folders of their own."""

    place, noun = "packs", "packs"

    @property
    def checkpoint(self) -> Path:
        """Returns the file of a training that is not done."""
        return self.path / "training.ckpt"

    @property
    def drafts(self) -> Path:
        """Returns the folder in which members are written until they end."""
        return self.path / "members"

    def run(self, key: str) -> RunFolder:
        """Returns a member's folder, in the same results folder."""
        return RunFolder(self.path.parent.parent / RunFolder.place / key)

    def _check(self, result: dict[str, Any]) -> None:
        """A pack has nothing beside its members, which are looked at themselves."""

    def describe(self, result: dict[str, Any]) -> str:
        return "all its runs are done"

    def resumable_files(self) -> list[Path]:
        return [self.checkpoint] if self.checkpoint.exists() else []

    def _of_another_attempt(self) -> tuple[str, ...]:
        if self.checkpoint.exists():
            return ("result.json",)
        return ("result.json", "progress.json", "members/*/*.*", "members/*/weights/*")

    def _forget_progress(self) -> None:
        self.checkpoint.unlink(missing_ok=True)


FOLDERS: dict[type, type[Folder]] = {
    RunSpec: RunFolder,
    PathSpec: PathFolder,
    Simulation: SimulationFolder,
    Pack: PackFolder,
}
