"""One call of gpu_check: its device, its lines, how its runs are made, and the seconds of an epoch of theirs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from three_factors.datamodules.prepared import prepare
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.folders import PackFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.packs import Pack
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.worker.pack import train_pack
from three_factors.reproduce.engine.worker.train import train

LONG = 5.0  # seconds that a row is measured for, at least
RISE = 1.2  # of the time of a first guess, where that was too short


class Check:
    """One call: where it writes, on what device, how large everything is."""

    def __init__(self, out: Path, *, toy: bool) -> None:
        self.out, self.toy = out, toy
        self.cuda = torch.cuda.is_available()
        self.accelerator = "cuda" if self.cuda else "cpu"
        self.where = torch.device(self.accelerator)
        self.long = 0.2 if toy else LONG
        self.tf32 = "tf32" if self.cuda else "float32"
        self.file = out / "gpu_check.jsonl"

    def job(self, name: str) -> Job:
        return Job(prepare(name), accelerator=self.accelerator)

    def said(self) -> set[str]:
        """Returns the names of the rows that are there."""
        if not self.file.exists():
            return set()
        return {json.loads(line)["row"] for line in self.file.read_text().splitlines()}

    def say(self, row: str, **values: Any) -> None:
        line = json.dumps({"row": row} | values)
        print(line, flush=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def fresh(self, name: str) -> Path:
        """Returns an empty folder."""
        folder = self.out / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    # -- how runs are made

    def pack(self, specs: list[RunSpec], job: Job, name: str) -> list[RunFolder]:
        out = self.fresh(name)
        folders = [RunFolder(out / "runs" / spec.key) for spec in specs]
        pack = PackFolder(out / "packs" / Pack.of(specs).key)
        for folder in (*folders, pack):
            folder.path.mkdir(parents=True)
        train_pack(specs, job, pack, folders)
        self.wait()
        return folders

    def single(self, spec: RunSpec, job: Job, name: str) -> RunFolder:
        folder = RunFolder(self.fresh(name) / spec.key)
        folder.path.mkdir()
        result = train(spec, job, folder)
        assert result is not None
        write_json(folder.path / "result.json", {"key": spec.key} | result)
        self.wait()
        return folder

    # -- rates

    def seconds_an_epoch(self, run: Callable[[int], object]) -> float:
        """Returns the seconds of an epoch: of run(1 + k) less run(1), so many that they take long enough."""
        first = clocked(lambda: run(1))
        more = 2
        while True:
            spent = clocked(lambda: run(1 + more)) - first  # noqa: B023
            if spent >= self.long or self.toy:
                return abs(spent) / more
            more = max(more + 1, int(RISE * more * self.long / max(spent, 0.1 * self.long)))


def clocked(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
