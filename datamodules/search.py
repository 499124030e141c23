"""Lightning's BatchSizeFinder on a data module whose batch size may be a schedule."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.callbacks import BatchSizeFinder

from three_factors.datamodules.schedules import Constant, NoiseSchedule, Schedule


class Search:
    """Lets a BatchSizeFinder (or a Tuner, which adds one) go up to the largest S, and keeps it from anything else.

    The finder sets `batch_size` to 2, 4, 8, …; it stops at the length of `loader.dataset`.

    Attributes:
        running: whether there is a finder in the present call of the Trainer.
    """

    def __init__(self) -> None:
        self.running = False
        self._finder: BatchSizeFinder | None = None
        self._begun = False

    def expect(self, trainer: Any, stage: str | None, batch_size: int | Schedule | None, largest: int) -> Any:
        """Returns the data module's batch size: as it is, or under a finder a number, which that reckons with.

        Raises:
            ValueError: before anything is tried: S follows a schedule, or it is not S that evaluation goes by.
        """
        self.running = False
        finders = [callback for callback in trainer.callbacks if isinstance(callback, BatchSizeFinder)]
        # Lightning has no public name for what it looks for.
        finder = next((one for one in finders if one._batch_arg_name == "batch_size"), None)
        if finder is None:
            return batch_size
        if stage != "fit" and finder is not self._finder:
            raise ValueError(
                "BatchSizeFinder: evaluation goes by eval_batch_size; give it batch_arg_name='eval_batch_size'"
            )
        driven = any(isinstance(getattr(callback, "schedule", None), NoiseSchedule) for callback in trainer.callbacks)
        if driven or (batch_size is not None and not isinstance(batch_size, int | Constant)):
            what = "what a NoiseScheduler brings" if driven else repr(batch_size)
            raise ValueError(f"batch_size: {what} is a schedule, which a BatchSizeFinder would replace by one number")
        self.running, self._finder, self._begun = True, finder, False
        if batch_size is None:
            return min(128, largest)
        return round(batch_size.value) if isinstance(batch_size, Constant) else batch_size

    def begin(self, trainer: Any) -> None:
        """Refuses a search in a resumed training: Lightning reads the checkpoint, searches, and begins at epoch 0."""
        if self.running and not self._begun and trainer.ckpt_path is not None:
            raise ValueError("ckpt_path: a BatchSizeFinder loses what it brings; search first, in a Trainer of its own")
        self._begun = True

    def limit(self, loader: Any, at: int) -> None:
        """Makes the finder stop at `at` examples, and go through them as often as it likes."""
        if self.running:
            loader.dataset = range(at)
            loader.repeats = True  # a trial of several epochs keeps its loader
