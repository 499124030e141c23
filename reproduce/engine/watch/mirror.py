"""The W&B mirror: the only file that touches wandb. Results on disk stay the truth.

It lives in the figure's process and copies what runs append to metrics.jsonl. The mode is always passed, so nothing
prompts; online without a login is refused before anything runs; if W&B fails later, that is said, and the runs go on.
"""

from __future__ import annotations

import hashlib
import json
import math
import netrc
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from three_factors.callbacks.measures import COSTS
from three_factors.reproduce.engine import surroundings
from three_factors.reproduce.engine.contract.files import lock, read_cache, write_json
from three_factors.reproduce.engine.contract.folder import MIRRORED
from three_factors.reproduce.engine.contract.job import environment_of
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.contract.steps import BATCH_SIZE, LR, expanded, light
from three_factors.reproduce.engine.contract.stored import encode
from three_factors.reproduce.engine.launch.packing import Work
from three_factors.reproduce.engine.launch.runner import Watcher
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.options import InputError

PROJECT = "three-factors"
AXES = ("epoch", "t_eta", "step")
LOSS_POINTS = 20  # per epoch at most: a log call costs about 0.2 ms
TIMEOUT = 20  # seconds without an answer

# Every metric's exact name; the dashboard is built from these.
DATA_PARTS = ("train", "val", "test", "train_subset", "train_clean", "train_wrong")  # with losses and accuracies
ACCURACIES = tuple(f"{part}/accuracy" for part in DATA_PARTS)
LOSSES = tuple(f"{part}/loss" for part in DATA_PARTS)
SELECTED = ("val/accuracy", "test/accuracy")  # whose best is of interest
CURVATURE = (
    *((f"hessian/{measure}", f"hessian/{measure}_error") for measure in COSTS),
    *((f"hessian/{name}",) for name in ("lr_top_eigenvalue", "lr_batch_sharpness", "finite_difference_step")),
    ("training_hessian/lr_top_eigenvalue", "training_hessian/lr_batch_sharpness"),
    ("weights/norm", "weights/distance", "hessian/weight_norm"),
    *((f"hessian/{name}",) for name in ("products", "seconds")),
)  # what is drawn together
NOISE = ("noise/lr", "noise/batch_size", "noise/ratio")
# a value an epoch
METRICS = (*ACCURACIES, *LOSSES, *(name for names in CURVATURE for name in names), *NOISE)
STEP_LOSS = "step/loss"
LOGIN = "needs a login (`wandb login`, or WANDB_API_KEY)"
PICTURE, TABLES = "figure", ("claims", "table")  # of a figure's own run


def points(count: int) -> range:
    """Returns which of an epoch's losses are logged, `LOSS_POINTS` at most, evenly."""
    return range(0, count, max(1, math.ceil(count / LOSS_POINTS)))


@dataclass
class _Mirrored:
    run: Any
    item: Item
    folder: RunFolder
    environment: dict[str, Any]  # of the rows
    offset: int = 0
    unread: str = ""
    inode: int = 0  # of the file that `offset` is in
    epoch: int = 0  # the last that is mirrored
    previous_step: int = 0


@dataclass
class Mirror(Watcher):
    """Mirrors the runs of one figure into W&B runs of one group, as they go.

    Attributes:
        mode: offline, online or disabled.
        directory: OUT; W&B's own files go to its folder "wandb".
        group: the W&B group.
        tags: of every run.
        place: what the configuration of every run says of its figure, besides the spec.
        say: tells the user.
        runs: what is being mirrored, by key.
        held: the locks of the runs above, each as long as it is there.
    """

    mode: str
    directory: Path
    group: str
    tags: list[str]
    place: dict[str, Any]
    say: Callable[[str], None]
    runs: dict[str, _Mirrored] = field(default_factory=dict)
    held: dict[str, FileLock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode != "disabled":
            surroundings.forget_run(self.say)

    def wanted(self, folder: RunFolder) -> bool:
        """Tells whether a finished run still has to be mirrored: it never was, or only offline and now it is online."""
        return self._wanted(folder.path / MIRRORED)

    def _wanted(self, marker: Path) -> bool:
        done = read_cache(marker).get("mode")
        return self.mode != "disabled" and (done is None or (self.mode == "online" and done == "offline"))

    # -- what the runner tells

    def started(self, task: Work, slot: int, attempt: int) -> None:
        """Mirrors a run from now on, unless another call does; the members of a pack when they are done."""
        if isinstance(task.folder, RunFolder):
            self.start(task.item, task.folder)

    def polled(self, active: dict[int, Work]) -> None:
        self.poll()

    def finished(self, task: Task, slot: int, seconds: float, result: dict[str, Any]) -> None:
        assert isinstance(task.folder, RunFolder)
        if task.folder.path.name not in self.runs:  # a pack's
            self.copy(task.item, task.folder, result)
            return
        self.finish(task.folder, result["status"], task.folder.milestones(task.item.measurements, result))

    def failed(self, task: Work, slot: int, reason: str, again: bool) -> None:
        if isinstance(task.folder, RunFolder):
            self.discard(task.folder)

    # -- runs

    def start(self, item: Item, folder: RunFolder) -> None:
        """Mirrors a run from now on, unless another call does."""
        self.discard(folder)
        if self.mode == "disabled":
            return
        with self._survives(), suppress(Timeout):
            self._lock(folder)
            self._begin(item, folder)

    def copy(self, item: Item, folder: RunFolder, result: dict[str, Any]) -> None:
        """Mirrors a finished run that is wanted, unless another call is at it."""
        if not self.wanted(folder):
            return
        with self._survives(), suppress(Timeout):
            self._lock(folder)
            if self.wanted(folder):  # still: another call may have been at it
                self._begin(item, folder)
                self.finish(folder, result["status"], folder.milestones(item.measurements, result))

    def _begun(self, folder: RunFolder) -> Path:
        """Returns the file of what is known of a run's mirror until it is whole."""
        return self.directory / "wandb" / "begun" / f"{folder.path.name}.json"

    def _lock(self, folder: RunFolder) -> None:
        """Takes the right to mirror a run. Raises filelock.Timeout while another call has it."""
        held = lock(self._begun(folder), "lock", 0)
        held.acquire()
        self.held[folder.path.name] = held

    def _begin(self, item: Item, folder: RunFolder) -> None:
        """Opens a run of W&B; an earlier one of the same training is gone on with, or removed."""
        here = environment_of(folder.path)
        run, epoch = self._opened(item, folder, here)
        self.runs[folder.path.name] = _Mirrored(run, item, folder, here, epoch=epoch)

    def _config(self, item: Item) -> dict[str, Any]:
        """Returns what W&B shows of a run: its spec, and where it belongs."""
        return encode(item.spec) | self.place | {"label": item.label, "key": item.spec.key}

    def _opened(self, item: Item, folder: RunFolder, here: dict[str, Any]) -> tuple[Any, int]:
        """Returns W&B's run for a training in the environment `here`, and the epoch that it has already."""
        file, told = self._begun(folder), {"id": secrets.token_hex(4)}
        broken_off = read_cache(file)
        before = broken_off or read_cache(folder.path / MIRRORED)  # or mirrored before something more was measured
        if before.get("mode") == "offline" and (broken_off or self.mode == "offline"):
            for left in self.directory.glob(f"wandb/offline-run-*-{before['id']}"):
                shutil.rmtree(left, ignore_errors=True)  # W&B goes on with no offline run; all of it is mirrored again
        if before.get("mode") == self.mode == "online" and before.get("environment") == here:  # the same rows again
            told = {"id": before["id"], "resume": "allow"}
        write_json(file, {"mode": self.mode, "id": told["id"], "environment": here})
        try:
            options = {"name": item.name, "group": self.group, "job_type": item.label, "config": self._config(item)}
            run = self._init(**options, **told)
        except Exception as error:
            if "timed out" not in str(error):  # the server does not want that id, of a run deleted there, say
                for known in (file, folder.path / MIRRORED):
                    known.unlink(missing_ok=True)  # the next call takes another
            raise
        for axis in AXES:
            run.define_metric(axis, hidden=axis == "step")
        for name in METRICS:  # exact names: Lightning-style globs are ignored once "*" is defined
            run.define_metric(name, step_metric="epoch", summary=summary_of(name))
        run.define_metric(STEP_LOSS, step_metric="step")
        return run, run.summary.get("epoch", 0) if "resume" in told else 0

    def poll(self) -> None:
        """Copies the rows that have been appended since the last call."""
        for mirrored in list(self.runs.values()):
            with self._survives():
                self._copy(mirrored)

    def finish(self, folder: RunFolder, status: str, measured: dict[str, float] | None = None) -> None:
        """Ends a run's mirror; what was measured at its milestones goes into the summary."""
        mirrored = self.runs.pop(folder.path.name, None)
        if mirrored is None:
            return
        with self._survives():
            self._copy(mirrored)
            mirrored.run.summary.update({"status": status} | (measured or {}))
            mirrored.run.finish()
            known = {"mode": self.mode, "id": mirrored.run.id, "environment": mirrored.environment}
            write_json(folder.path / MIRRORED, known)
            self._begun(folder).unlink(missing_ok=True)

    def discard(self, folder: RunFolder) -> None:
        """Ends the mirror of a run that crashed, for now."""
        mirrored = self.runs.pop(folder.path.name, None)
        if mirrored is not None:
            with self._survives():
                mirrored.run.finish(exit_code=1)

    def figure(self, picture: bytes, table: Any, claims: list[dict[str, Any]]) -> None:
        """Adds one more run with the figure (a PNG), its table and its claims, unless W&B has the same."""
        if self.mode == "disabled":
            return
        marker = self.directory / "wandb" / f"{self.group}.json"
        with self._survives(), lock(marker, "lock"):
            content = hashlib.sha256((table.to_csv() + json.dumps(claims)).encode()).hexdigest()[:16]
            if not self._wanted(marker) and read_cache(marker).get("content") == content:
                return
            import pandas as pd  # as late as here: a second of a call that finds everything done
            import wandb

            run = self._init(name=self.group, group=self.group, job_type="figure", config={})
            columns = ["claim", "value", "low", "high", "n", "look", "paper", "verdict"]
            judged = pd.DataFrame(claims)[columns].astype({"paper": str})
            tables = {name: wandb.Table(dataframe=frame) for name, frame in zip(TABLES, (judged, table))}
            with tempfile.NamedTemporaryFile(suffix=".png") as file:  # W&B copies it, as it is
                file.write(picture)
                file.flush()
                run.log({PICTURE: wandb.Image(file.name)} | tables)
            run.finish()
            write_json(marker, {"mode": self.mode, "id": run.id, "content": content})

    def close(self) -> None:
        for mirrored in list(self.runs.values()):
            self.discard(mirrored.folder)

    def _init(self, **options: Any) -> Any:
        import wandb

        self.directory.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            init_timeout=TIMEOUT,
            finish_timeout=TIMEOUT,
            finish_timeout_raises=True,  # else a run that has not arrived would count as mirrored
        )
        return wandb.init(
            project=PROJECT,
            mode=self.mode,  # type: ignore[arg-type]
            dir=str(self.directory),
            tags=self.tags,
            reinit="create_new",
            settings=settings,
            **options,
        )

    def _copy(self, mirrored: _Mirrored) -> None:
        try:
            file = (mirrored.folder.path / "metrics.jsonl").open(encoding="utf-8")
        except FileNotFoundError:
            return
        with file:
            there = os.fstat(file.fileno())
            if there.st_ino != mirrored.inode or there.st_size < mirrored.offset:  # rows that are written anew
                mirrored.inode, mirrored.offset, mirrored.unread = there.st_ino, 0, ""
                self._check_environment(mirrored)
            file.seek(mirrored.offset)
            text = file.read()
            mirrored.offset = file.tell()
        *lines, mirrored.unread = (mirrored.unread + text).split("\n")
        kept = mirrored.folder.step_losses() if lines else None
        for line in lines:
            row = light(json.loads(line))
            before, mirrored.previous_step = mirrored.previous_step, row["step"]
            if row["epoch"] <= mirrored.epoch:
                continue
            mirrored.epoch = row["epoch"]
            losses = [] if kept is None else kept[before : row["step"]].astype(float).tolist()
            for i in points(len(losses)):
                mirrored.run.log({"step": before + i + 1, STEP_LOSS: losses[i]})
            *between, last = expanded(row)
            for evaluation in between:
                mirrored.run.log(evaluation)
            mirrored.run.log(last | {"noise/ratio": row[LR] / row[BATCH_SIZE]})

    def _check_environment(self, mirrored: _Mirrored) -> None:
        """Opens a run of W&B of its own for a run that began again elsewhere: it has other rows."""
        here = environment_of(mirrored.folder.path)
        if here != mirrored.environment:
            mirrored.run.finish(exit_code=1)
            mirrored.run, mirrored.epoch = self._opened(mirrored.item, mirrored.folder, here)
            mirrored.environment, mirrored.previous_step = here, 0

    @contextmanager
    def _survives(self) -> Any:
        """Keeps W&B from ending a run: its failure is said once, and mirroring stops. Whatever ends, only locks of runs
        that are being mirrored stay held.
        """
        try:
            yield
        except Exception as error:
            self.mode = "disabled"
            self.runs.clear()
            self.say(f"W&B mirror stopped ({brief(error)}); results on disk are complete")
        finally:
            for name in self.held.keys() - self.runs.keys():
                self.held.pop(name).release()  # another call may do better


def summary_of(metric: str) -> str | None:
    """Returns what W&B's summary keeps of a metric besides its last value, which alone is the default (None)."""
    if metric in SELECTED:
        return "max,last"
    return "min,last" if metric in LOSSES else None


def brief(error: Exception) -> str:
    """Returns an error of W&B in one short line; some have no text."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def check(mode: str) -> None:
    """Raises InputError if online is asked for without a login: W&B would prompt, or crash."""
    if mode == "online" and not logged_in():
        raise InputError(f"--wandb: 'online' {LOGIN}")


def logged_in() -> bool:
    """Tells whether there is a key for the W&B server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0].split(":")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
