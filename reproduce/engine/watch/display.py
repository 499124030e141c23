"""What a script shows while it runs: one live display on a terminal, one line a run without."""

from __future__ import annotations

import sys
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from three_factors.reproduce.engine.console import console, duration, say
from three_factors.reproduce.engine.launch.packing import PackTask, Work, members_of
from three_factors.reproduce.engine.launch.runner import Watcher
from three_factors.reproduce.engine.launch.task import Task

OUTCOME = 33  # characters of a training's outcome


class Display(Watcher):
    """An outer bar over all runs and an inner bar for each run in progress.

    Args:
        weights: expected seconds, by an item's name; the outer bar moves with work, not with the count of runs.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights, self.done, self.total = weights, 0, len(weights)
        self.width = max(map(len, weights), default=0) + 1
        self.live = sys.stdout.isatty()
        self.finished_work = 0.0
        self.bars: dict[int, TaskID] = {}
        self.packs: set[int] = set()  # slots whose task is a pack
        self.over: set[str] = set()  # names of what is done
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
        self.outer = self.progress.add_task(self._counted(), total=sum(weights.values()))

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, task: Work, slot: int, attempt: int) -> None:
        self._clear(slot)
        if isinstance(task, PackTask):
            self.packs.add(slot)
        self.bars[slot] = self.progress.add_task(self._line(task), total=1.0)

    def _line(self, task: Work) -> str:
        words = task.item.name
        if isinstance(task, PackTask):
            done = sum(one.item.name in self.over for one in task.members)
            words = f"pack: {done} of {len(task.members)} done"
        return f"  {words:<{max(29, self.width)}}"

    def _clear(self, slot: int) -> None:
        self.packs.discard(slot)
        if slot in self.bars:
            self.progress.remove_task(self.bars.pop(slot))

    def polled(self, active: dict[int, Work]) -> None:
        under_way = 0.0
        for slot, task in active.items():
            fraction = task.folder.fraction()
            self.progress.update(self.bars[slot], completed=fraction, description=self._line(task))
            left = sum(self.weights[one.item.name] for one in members_of(task) if one.item.name not in self.over)
            under_way += fraction * left
        self.progress.update(self.outer, completed=self.finished_work + under_way)

    def ended(self, slot: int, words: str) -> None:
        self._clear(slot)

    def finished(self, task: Task, slot: int, seconds: float, result: dict[str, Any]) -> None:
        if slot not in self.packs:  # else the bar is the pack's
            self._clear(slot)
        self._ended(task, f"{task.folder.describe(result):<{OUTCOME}}  {duration(seconds):>8}")

    def found(self, task: Task, result: dict[str, Any]) -> None:
        self._ended(task, f"{task.folder.describe(result)}  by another call")

    def told(self, words: str) -> None:
        say(f"  {words}")

    def elsewhere(self, task: Work) -> None:
        say(f"  {task.item.name}: another call is at it; waiting")

    def failed(self, task: Work, slot: int, reason: str, again: bool) -> None:
        self._clear(slot)
        words = "started once more" if again else "given up"
        say(f"  {task.item.name}: {reason}; {words}; log: {task.folder.log}", style="bold red")

    def _ended(self, task: Task, words: str) -> None:
        self.over.add(task.item.name)
        self.finished_work += self.weights[task.item.name]
        self.done += 1
        self.progress.update(self.outer, description=self._counted(), completed=self.finished_work)
        say(f"  {self.done:>3}/{self.total}  {task.item.name:<{self.width}} {words}")

    def _counted(self) -> str:
        return f"{'runs':<11}{self.done:>4} of {self.total:<12}"
