"""What a script shows while it runs: one live display on a terminal, one line a run without."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from three_factors.reproduce.engine.runner import Task, Watcher
from three_factors.reproduce.engine.wandb_mirror import Mirror

console = Console(highlight=False, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False)


def waiting(words: str) -> Status:
    """`with` it: a line that moves while something takes its seconds, on a terminal; nothing elsewhere."""
    return console.status(Text(words))


def duration(seconds: float) -> str:
    """'45 s', '4 min', '3.5 h', '12 days'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


OUTCOME = 33  # characters of a training's outcome


class Display(Watcher):
    """An outer bar over all runs and an inner bar for each run in progress.

    Args:
        weights: expected seconds, by label; the outer bar moves with work, not with the count of runs.
        mirror: gets every run as it goes, under the configuration that `config` has for its label.
    """

    def __init__(self, weights: dict[str, float], mirror: Mirror, config: Callable[[str], dict[str, Any]]) -> None:
        self.weights, self.done, self.total = weights, 0, len(weights)
        self.mirror, self.config = mirror, config
        self.width = max(map(len, weights), default=0) + 1
        self.live = sys.stdout.isatty()
        self.finished_work = 0.0
        self.bars: dict[int, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=5,
            disable=not self.live,
        )
        self.outer = self.progress.add_task(self._runs(), total=sum(weights.values()))

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _runs(self) -> str:
        return f"{'runs':<11}{self.done:>4} of {self.total:<12}"

    def started(self, task: Task, slot: int, attempt: int) -> None:
        if slot in self.bars:
            self.progress.remove_task(self.bars.pop(slot))
        self.bars[slot] = self.progress.add_task(f"  {task.label:<{max(29, self.width)}}", total=1.0)
        self.mirror.start(task.label, task.folder, self.config(task.label))

    def polled(self, active: dict[int, Task]) -> None:
        under_way = 0.0
        for slot, task in active.items():
            fraction = task.folder.fraction()
            self.progress.update(self.bars[slot], completed=fraction)
            under_way += fraction * self.weights[task.label]
        self.progress.update(self.outer, completed=self.finished_work + under_way)
        self.mirror.poll()

    def finished(self, task: Task, slot: int, seconds: float, result: dict[str, Any]) -> None:
        self._end(slot, task)
        self.done += 1
        self.progress.update(self.outer, description=self._runs(), completed=self.finished_work)
        self.mirror.finish(task.folder, result["status"], task.folder.milestones(task.measurements, result))
        outcome = describe(result)
        say(f"  {self.done:>3}/{self.total}  {task.label:<{self.width}} {outcome:<{OUTCOME}}  {duration(seconds):>8}")

    def told(self, words: str) -> None:
        say(f"  {words}")

    def elsewhere(self, task: Task) -> None:
        say(f"  {task.label}: another call is at it; waiting")

    def found(self, task: Task, result: dict[str, Any]) -> None:
        self.finished_work += self.weights[task.label]
        self.done += 1
        self.progress.update(self.outer, description=self._runs(), completed=self.finished_work)
        say(f"  {self.done:>3}/{self.total}  {task.label:<{self.width}} {describe(result)}  by another call")

    def failed(self, task: Task, slot: int, reason: str, again: bool) -> None:
        self._end(slot, None)
        self.mirror.discard(task.folder)
        words = "started once more" if again else "given up"
        say(f"  {task.label}: {reason}; {words}; log: {task.folder.log}", style="bold red")

    def _end(self, slot: int, task: Task | None) -> None:
        self.progress.remove_task(self.bars.pop(slot))
        if task is not None:
            self.finished_work += self.weights[task.label]


def describe(result: dict[str, Any]) -> str:
    """One run's end in a few words."""
    final = result["final"]
    if not final:
        return "simulated"
    if "profiles" in result:
        return f"loss at the ends {final['loss θ1']:.3f} and {final['loss θ2']:.3f}, barrier {final['barrier']:.2f}"
    if result["status"] == "diverged":
        return _divergence(final["epoch"], final.get("train/loss"), result["first_loss"])
    return f"train loss {final['train/loss']:7.4f}  test {100 * final['test/accuracy']:6.2f} %"


def _divergence(epoch: int, last: float | None, first: float | None) -> str:
    if last is not None and first is not None and last > first:
        return f"diverged: loss {last:.3g} from {first:.3g}"
    return f"diverged: not finite, epoch {epoch}"  # a step's loss, or the weights
