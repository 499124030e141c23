"""The process a run lives in: trains the spec of one folder and leaves result.json there.

Forked from a server that has torch and Lightning loaded (`serve`), or started for several devices, by torchrun or
by srun as `python reproduce/worker.py RUN_DIR`. It ends when the figure's process ends, however that dies.
"""

from __future__ import annotations

import argparse
import io
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import torch.distributed
from filelock import Timeout

from three_factors.callbacks.exact_resume import Preempted
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.sources import DataError
from three_factors.reproduce.engine.contract.files import write_bytes, write_json
from three_factors.reproduce.engine.contract.folder import writing
from three_factors.reproduce.engine.contract.folders import FOLDERS, PackFolder, PathFolder, SimulationFolder
from three_factors.reproduce.engine.contract.job import PREEMPTED, SCHEDULERS, WATCH_STDIN, Job
from three_factors.reproduce.engine.contract.measurements import AnyMeasurement
from three_factors.reproduce.engine.contract.networks import Network
from three_factors.reproduce.engine.contract.packs import Pack
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import PathSpec, RunSpec, Spec
from three_factors.reproduce.engine.contract.steps import whole
from three_factors.reproduce.engine.contract.stored import loads
from three_factors.reproduce.engine.worker import interpolate as interpolating
from three_factors.reproduce.engine.worker import measure as measuring
from three_factors.reproduce.engine.worker import measure_pack as measuring_pack
from three_factors.reproduce.engine.worker import pack as packing
from three_factors.reproduce.engine.worker import ranks, timing
from three_factors.reproduce.engine.worker import train as training
from three_factors.reproduce.theory.classifier import SoftmaxRegression
from three_factors.reproduce.theory.simulate import simulate
from three_factors.reproduce.theory.simulation import Simulation

NOTHING: Mapping[str, str] = MappingProxyType({})


class NotRunnable(ValueError):
    """This version of the code cannot execute the folder's spec."""


def run_folder(path: Path) -> None:
    """Does what the folder's spec.json says under its job.json, if that is not done, and measures it."""
    spec, job = _spec(path), _job(path)
    folder = FOLDERS[type(spec)](path)
    first = ranks.is_first(job.world_size)
    if folder.result() is None:
        outcome = _EXECUTE[type(spec)](spec, job, folder)
        if outcome is not None:  # the first rank's
            write_json(path / "result.json", {"key": spec.key} | outcome)
            if isinstance(folder, RunFolder):
                folder.checkpoint.unlink(missing_ok=True)
    if isinstance(spec, RunSpec) and isinstance(folder, RunFolder) and first:
        _measure(spec, job, folder)


def _spec(path: Path) -> Spec:
    """Reads the folder's spec. Raises NotRunnable."""
    file = path / "spec.json"
    try:
        spec: Spec = loads(file.read_text())
    except ValueError as error:
        raise NotRunnable(f"{file} cannot be read ({error})") from error
    if type(spec) not in _EXECUTE:
        raise NotRunnable(f"{file}: a {type(spec).__name__} is nothing to be done by itself")
    if spec.key != path.name:
        raise NotRunnable(f"{file} is the spec of {spec.key}, not of {path.name}")
    current = FOLDERS[type(spec)].current
    if current is not None and not isinstance(spec, Pack) and spec.protocol != current:
        raise NotRunnable(f"protocol: {spec.protocol} of {file}; what this code does is {current}")
    return spec


def _job(path: Path) -> Job:
    """Reads the folder's job. Raises NotRunnable."""
    try:
        return Job.read(path)
    except ValueError as error:
        raise NotRunnable(str(error)) from error


def _train(spec: RunSpec, job: Job, folder: RunFolder) -> dict[str, Any] | None:
    say = ranks.is_first(job.world_size)
    return training.train(spec, job, folder, resume=_readable(folder, job, say=say))


def _measure(spec: RunSpec, job: Job, folder: RunFolder) -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # one device measures, and waits for no other
    file = folder.path / "measurements.json"
    for measurement in loads(file.read_text()) if file.exists() else ():
        if folder.measured(measurement) is None:
            try:
                found = measuring.measure(spec, measurement, job, folder)
            except training.LostWeights:
                folder.forget()  # the next attempt trains again
                raise
            write_json(folder.path / f"measured-{measurement.key}.json", {"milestones": found})


def _readable(folder: RunFolder, job: Job, *, say: bool) -> bool:
    """Tells whether there is a checkpoint that can be read, alike on every rank; without one the run starts again."""
    checkpoint = folder.checkpoint
    if not checkpoint.exists():
        return False
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        counted, rows = saved["callbacks"]["Recorder"]["rows"], whole(folder.rows())
        if len(rows) < counted:
            raise ValueError(f"it counts {counted} rows of metrics.jsonl, where {len(rows)} are")
        losses = folder.step_losses() if job.every_step else None
        if job.every_step and counted and (losses is None or len(losses) < rows[counted - 1]["step"]):
            raise ValueError("not every step before it was kept")
        words = f"goes on from epoch {saved['epoch'] + 1}, step {saved['global_step']}"
    except Exception as error:  # whatever unpickling a part of a file, or another file, raises
        saved, words = None, f"{checkpoint.name} cannot be read ({error}); the run starts again"
    if say:
        print(words, flush=True)
    return saved is not None


def _simulate(spec: Simulation, job: Job, folder: SimulationFolder) -> dict[str, Any]:
    started, arrays = time.time(), None
    if isinstance(spec.potential, SoftmaxRegression):
        if job.source.fingerprint != spec.potential.fingerprint:
            raise ValueError(
                f"data: {job.source.folder} holds {job.source.fingerprint}, not {spec.potential.fingerprint}"
            )
        arrays = job.source.arrays()
    samples = simulate(spec, lambda share: write_json(folder.path / "progress.json", {"fraction": share}), arrays)
    buffer = io.BytesIO()
    np.save(buffer, samples.astype(np.float32))  # far below what chance does to them
    write_bytes(folder.samples, buffer.getvalue())
    return {"status": "ok", "bytes": buffer.tell(), "final": {}, "provenance": {"seconds": time.time() - started}}


def _follow(spec: PathSpec, job: Job, folder: PathFolder) -> dict[str, Any]:
    return interpolating.follow(spec, job, folder)


def _pack(pack: Pack, job: Job, folder: PackFolder) -> dict[str, Any]:
    """Trains and measures the members of a pack; each is done when its own folder says so."""
    folders = [folder.run(key) for key in pack.keys]
    with ExitStack() as held:
        for own in folders:
            held.enter_context(own.alone())
        specs = [_member(own) for own in folders]
        packing.train_pack(specs, job, folder, folders)
        wanted = {own.path: _wanted(own) for own in folders}
        for measurement in dict.fromkeys(of for measurements in wanted.values() for of in measurements):
            found = measuring_pack.measure_pack(specs, measurement, job, folders)
            for own, values in zip(folders, found, strict=True):
                if measurement not in wanted[own.path]:
                    continue
                if isinstance(values, Exception):
                    print(f"{own.path.name}: {type(values).__name__}: {values}", flush=True)
                else:
                    write_json(own.path / f"measured-{measurement.key}.json", {"milestones": values})
    shutil.rmtree(folder.drafts, ignore_errors=True)
    folder.checkpoint.unlink(missing_ok=True)
    return {"status": "ok"}


def _member(folder: RunFolder) -> RunSpec:
    spec = _spec(folder.path)
    if not isinstance(spec, RunSpec):
        raise NotRunnable(f"{folder.path / 'spec.json'}: a {type(spec).__name__} is no member of a pack")
    return spec


def _wanted(folder: RunFolder) -> list[AnyMeasurement]:
    """Returns the measurements that a member lacks."""
    result, file = folder.result(), folder.path / "measurements.json"
    if result is None or result["status"] == "diverged" or not file.exists():
        return []
    return [measurement for measurement in loads(file.read_text()) if folder.measured(measurement) is None]


# How each kind of work is done: of spec, job and folder, the result without its key; None on ranks but the first.
_EXECUTE: dict[type, Callable[[Any, Job, Any], dict[str, Any] | None]] = {
    RunSpec: _train,
    PathSpec: _follow,
    Simulation: _simulate,
    Pack: _pack,
}


def serve_run(folder: str, gpu: int | None, environment: Mapping[str, str] = NOTHING) -> None:
    """Does a folder's work in a forked process, with a session, log and GPU of its own, or a share of one."""
    os.environ.update(environment)
    _detach(Path(folder) / "log.txt", gpu)
    run_or_exit(Path(folder))


def run_or_exit(folder: Path) -> None:
    """Runs a folder; after SIGTERM the training saves itself and the process exits with status PREEMPTED."""
    signal.signal(signal.SIGTERM, _exit)
    for number in SCHEDULERS:  # ignored where a runner asks by itself; else as SIGTERM
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    first = True
    try:
        first = ranks.is_first(_job(folder).world_size)
        with writing(folder) if first else nullcontext():  # the other ranks are this one's
            run_folder(folder)
    except Preempted as error:
        print(error, flush=True)
        sys.exit(PREEMPTED if first else 0)  # Lightning kills the first rank once another has failed


def _exit(*_: Any) -> NoReturn:
    """Exits where there is nothing to save: before the training, and in measurements, which are done again."""
    sys.exit(PREEMPTED)


def serve_prepare(name: str, data_dir: str, download: bool, answer: Connection) -> None:
    """Prepares a data set where torchvision is loaded; answers with a Prepared, or the error to raise."""
    _detach(None, None)
    try:
        answer.send(asdict(prepare(name, data_dir, download=download)))
    except DataError as error:
        answer.send(error)


def serve_timing(
    network: Network, job: Job, members: int, precision: str, environment: Mapping[str, str], answer: Connection
) -> None:
    """Times training steps for the forecast: of a network, or of so many as a stack."""
    os.environ.update(environment)
    _detach(None, 0 if job.accelerator == "cuda" else None)
    answer.send(timing.seconds_per_batch(network, job, members, precision))


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
    """Returns the gpu-th of the devices that are visible already."""
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
    while os.read(0, 1024):  # a byte asks to exit
        os.kill(os.getpid(), signal.SIGTERM)


def _quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*fit will run with no optimizer.*")  # a pack's steps are its own
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # torchmetrics and we have reduced them already


def _run_folder(text: str) -> Path:
    if not (Path(text) / "spec.json").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no folder with spec.json and job.json")
    return Path(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Does the run of a folder.")
    parser.add_argument("folder", type=_run_folder, metavar="RUN_DIR", help="a folder with spec.json and job.json")
    why = "a module that registers a class which the spec holds: a folder alone makes nothing be imported"
    parser.add_argument("--import", action="append", default=[], dest="modules", metavar="MODULE", help=why)
    options = parser.parse_args()
    for module in options.modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            print(f"error: --import: {module!r} cannot be imported ({error})", file=sys.stderr)
            raise SystemExit(2) from None
    if os.environ.get(WATCH_STDIN):
        _end_with(_until_stdin_ends)
    _quiet()
    try:
        run_or_exit(options.folder.absolute())
    except NotRunnable as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Timeout:
        print(f"error: another process is at {options.folder}", file=sys.stderr)
        raise SystemExit(1) from None
