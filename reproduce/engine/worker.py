"""The process a run lives in: trains the spec of one folder and leaves result.json there.

Forked from a server that has torch and Lightning loaded (`serve`), or started for several devices, by torchrun or
by srun as `python reproduce/worker.py RUN_DIR`. It ends when the figure's process ends, however that dies.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch.distributed
from filelock import Timeout

from three_factors.callbacks.exact_resume import Preempted
from three_factors.datamodules.prepared import Prepared, prepare
from three_factors.datamodules.sources import DataError
from three_factors.reproduce.engine import interpolate as interpolating
from three_factors.reproduce.engine import layout
from three_factors.reproduce.engine import measure as measuring
from three_factors.reproduce.engine import train as training
from three_factors.reproduce.engine.files import read_lines, write_bytes, write_json
from three_factors.reproduce.engine.interrupts import PREEMPTED, SCHEDULERS
from three_factors.reproduce.engine.results import PathFolder, RunFolder, SimulationFolder, Spec
from three_factors.reproduce.engine.spec import Network, PathSpec
from three_factors.reproduce.engine.stored import loads
from three_factors.reproduce.theory.classifier import SoftmaxRegression
from three_factors.reproduce.theory.simulate import Simulation, simulate

CUT_OFF = "THREE_FACTORS_WATCH_STDIN"  # set for a worker that shall end when its standard input does


class Refused(ValueError):
    """A folder that is not of a run that this code can do."""


def run_folder(folder: Path) -> None:
    """Trains folder/spec.json under folder/job.json, if that is not done, and measures folder/measurements.json."""
    file = folder / "spec.json"
    try:
        spec: Spec = loads(file.read_text())
    except ValueError as error:
        raise Refused(f"{file} cannot be read ({error})") from error
    if spec.key != folder.name:
        raise Refused(f"{file} is the spec of {spec.key}, not of {folder.name}")
    if not isinstance(spec, Simulation) and spec.protocol != spec.current_protocol:
        raise Refused(f"protocol: {spec.protocol} of {file}; what this code does is {spec.current_protocol}")
    if isinstance(spec, Simulation):
        data = json.loads((folder / "job.json").read_text()).get("data")
        source = Prepared(**data) if data else None
        write_json(folder / "result.json", {"key": spec.key} | _simulated(spec, source, SimulationFolder(folder)))
        return
    job = _job(json.loads((folder / "job.json").read_text()))
    if isinstance(spec, PathSpec):
        write_json(folder / "result.json", {"key": spec.key} | interpolating.follow(spec, job, PathFolder(folder)))
        return
    run = RunFolder(folder)
    first = layout.is_first(job.world_size)
    if run.result() is None:
        result = training.train(spec, job, run, resume=_readable(run.checkpoint, say=first))
        if result is not None:
            write_json(folder / "result.json", {"key": spec.key} | result)
            run.checkpoint.unlink(missing_ok=True)
    if not first:
        return  # the first rank writes the result, and measures
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # one device measures, and waits for no other
    file = folder / "measurements.json"
    for measurement in loads(file.read_text()) if file.exists() else ():
        if run.complete([measurement]) is None:
            try:
                found = measuring.measure(spec, measurement, job, run)
            except training.LostWeights:
                run.forget()  # the next attempt trains again
                raise
            write_json(folder / f"measured-{measurement.key}.json", {"milestones": found})


def _readable(checkpoint: Path, *, say: bool) -> bool:
    """Whether there is a checkpoint that can be read: every rank finds the same. Otherwise the run starts again."""
    if not checkpoint.exists():
        return False
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        counted, there = saved["callbacks"]["Recorder"]["rows"], len(read_lines(checkpoint.parent / "metrics.jsonl"))
        if there < counted:
            raise ValueError(f"it counts {counted} rows of metrics.jsonl, where {there} are")
        words = f"goes on from epoch {saved['epoch'] + 1}, step {saved['global_step']}"
    except Exception as error:  # whatever unpickling a part of a file, or another file, raises
        saved, words = None, f"{checkpoint.name} cannot be read ({error}); the run starts again"
    if say:
        print(words, flush=True)
    return saved is not None


def _simulated(spec: Simulation, source: Prepared | None, folder: SimulationFolder) -> dict[str, Any]:
    started, arrays = time.time(), None
    if source is not None and isinstance(spec.potential, SoftmaxRegression):
        if source.fingerprint != spec.potential.fingerprint:
            raise ValueError(f"data: {source.folder} holds {source.fingerprint}, not {spec.potential.fingerprint}")
        arrays = source.arrays()
    samples = simulate(spec, lambda share: write_json(folder.path / "progress.json", {"fraction": share}), arrays)
    buffer = io.BytesIO()
    np.save(buffer, samples.astype(np.float32))  # far below what chance does to them
    write_bytes(folder.samples, buffer.getvalue())
    return {"status": "ok", "bytes": buffer.tell(), "final": {}, "provenance": {"seconds": time.time() - started}}


def serve_run(folder: str, gpu: int | None) -> None:
    """A forked run: own session, own log, own GPU."""
    _detach(Path(folder) / "log.txt", gpu)
    run_or_leave(Path(folder))


def run_or_leave(folder: Path) -> None:
    """`run_folder`; after SIGTERM the training saves itself and the process ends with status PREEMPTED."""
    signal.signal(signal.SIGTERM, _leave)
    for number in SCHEDULERS:  # ignored where a runner asks by itself; else as SIGTERM
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    first = True
    try:
        job = json.loads((folder / "job.json").read_text())
        first = layout.is_first(job.get("devices", 1) * job.get("num_nodes", 1))  # a simulation's job may be empty
        with RunFolder(folder).alone() if first else nullcontext():  # the other ranks are this one's
            run_folder(folder)
    except Preempted as error:
        print(error, flush=True)
        sys.exit(PREEMPTED if first else 0)  # Lightning kills the first rank once another has failed


def _leave(*_: Any) -> NoReturn:
    """Where there is nothing to save: before the training, and in measurements, which are done again."""
    sys.exit(PREEMPTED)


def serve_prepare(name: str, data_dir: str, download: bool, answer: Connection) -> None:
    """Prepares a data set where torchvision is loaded; answers with a Prepared, or the error to raise."""
    _detach(None, None)
    try:
        answer.send(asdict(prepare(name, data_dir, download=download)))
    except DataError as error:
        answer.send(error)


def serve_timing(network: Network, job: dict[str, Any], answer: Connection) -> None:
    """Times training steps for the forecast."""
    _detach(None, 0 if job["accelerator"] == "cuda" else None)
    answer.send(training.seconds_per_batch(network, _job(job)))


def _job(data: dict[str, Any]) -> training.Job:
    return training.Job(**(data | {"data": Prepared(**data["data"])}))


def _detach(log: Path | None, gpu: int | None) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the figure's to handle
    parent = multiprocessing.parent_process()
    assert parent is not None
    _end_with(lambda: wait([parent.sentinel]))
    if log is not None:
        _redirect(log)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(gpu)
    _quiet()


def _visible(gpu: int) -> str:
    """The gpu-th of the devices that are visible already."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[gpu] if visible else str(gpu)


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _end_with(wait_for_end: Any) -> None:
    """Kills this process's whole group once `wait_for_end` returns."""

    def watch() -> None:
        wait_for_end()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="ends with the figure's process").start()


def _until_stdin_ends() -> None:
    while os.read(0, 1024):  # a byte asks to leave
        os.kill(os.getpid(), signal.SIGTERM)


def _quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # torchmetrics and we have reduced them already


def _run_folder(text: str) -> Path:
    if not (Path(text) / "spec.json").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no folder with spec.json and job.json")
    return Path(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Does the run of a folder.")
    parser.add_argument("folder", type=_run_folder, metavar="RUN_DIR", help="a folder with spec.json and job.json")
    parser.add_argument(
        "--import", action="append", default=[], dest="modules", metavar="MODULE",
        help="a module that registers a class which the spec holds: a folder alone makes nothing be imported",
    )  # fmt: skip
    options = parser.parse_args()
    for module in options.modules:
        import_module(module)
    if os.environ.get(CUT_OFF):
        _end_with(_until_stdin_ends)
    _quiet()
    try:
        run_or_leave(options.folder.absolute())
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Timeout:
        print(f"error: another process is at {options.folder}", file=sys.stderr)
        raise SystemExit(1) from None
