"""Where a resumed training goes on: what Lightning gets wrong where epochs differ in length is put right.

And by what a loader that follows a plan is known, wherever it is looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BUILD = (
    "build it in train_dataloader with epoch=trainer.current_epoch, start=resumed_at(trainer), for a Trainer with "
    "reload_dataloaders_every_n_epochs=1"
)


def put_right(trainer: Any, length: Callable[[], int] | None = None) -> None:
    """Sets the counts of a resumed Trainer to the moment at which its checkpoint was written.

    For a `train_dataloader` hook, before it asks for the epoch or the batch (`resumed_at` does it); later calls and
    fits that are not resumed are left alone. Lightning takes the following moments for others, and then loses steps, an
    epoch's end or a validation without a word:

    - after an epoch's last batch: the validation and the end of that epoch are still to come;
    - before or within a validation: it is made again, as a whole;
    - at an epoch's end, in a training with `max_steps`: that end is over;
    - at an epoch's start: none of its batches is done;
    - where `max_steps` or `max_time` stopped a training within an epoch: the rest of that epoch is to come.

    Args:
        length: gives the batches of the current epoch. Without it loggers count one step too many from a checkpoint on
            that was written after a batch that a fractional `val_check_interval` validates after.
    """
    fit = trainer.fit_loop
    loop, epochs = fit.epoch_loop, fit.epoch_progress
    # Lightning's mark of a loop that was loaded and has not run: taken off, so that this acts once for a checkpoint.
    if not (fit.is_resuming and loop.is_resuming):
        return
    loop._resuming_from_checkpoint = False
    batches, validation = loop.batch_progress, loop.val_loop.batch_progress
    made, done = batches.current.processed, epochs.current.processed
    over = epochs.current.started == done
    stopped = over and made > 0 and not batches.is_last_batch  # within an epoch that Lightning counts as done
    if stopped:
        done, over = done - 1, False
    for count in (epochs.total, epochs.current):
        count.ready = count.started = done if over else done + 1
        count.processed = done
        if not over:  # else Lightning counts it, and `trainer.current_epoch` may be asked for before and after this
            count.completed = done
    for part in (fit, loop, loop.val_loop, loop.automatic_optimization, loop.manual_optimization):
        part._restarting = not over  # its setter takes every training with `max_steps` for one in mid-epoch
    if over:
        batches.reset_on_run()
        return
    begun = batches.current.ready > made  # the next batch: all that follows those that are made is over
    settled = begun or stopped
    validates = not settled and batches.current.completed == made
    evaluated = settled or (validates and _whole(validation))
    _complete(batches)
    batches.is_last_batch = batches.is_last_batch and not begun
    if evaluated:
        _complete(validation)
    else:  # what Lightning counts in a validation that was broken off
        validation.reset()
        validation.increment_ready()
        validation.increment_started()
    due = validates or _due(trainer, length)
    if made % trainer.accumulate_grad_batches == 0 or batches.is_last_batch:
        # Of the steps that loggers go by Lightning now counts one if batch `made` is one to validate after.
        loop._batches_that_stepped += (not settled) - due
    if batches.is_last_batch and not due:
        _end(loop)


def _end(loop: Any) -> None:
    """Ends a resumed epoch without another batch: Lightning asks for one, and a loader that begins anew has it."""

    def advance(data_fetcher: Any) -> None:
        del loop.advance
        if loop.restarting:
            raise StopIteration
        loop.advance(data_fetcher)  # of another fit, if this one has failed before it came here

    loop.advance = advance


def _whole(progress: Any) -> bool:
    return bool(progress.is_last_batch) and progress.current.ready == progress.current.completed


def _complete(progress: Any) -> None:
    for count in (progress.total, progress.current):
        count.ready = count.started = count.completed = count.processed


def _due(trainer: Any, length: Callable[[], int] | None) -> bool:
    """Tells whether Lightning would validate after the batches that are made, as its `_should_check_val_fx` says."""
    batches, every = trainer.fit_loop.epoch_loop.batch_progress, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or trainer._val_check_time_interval is not None:
        return False
    if every is not None and (trainer.current_epoch + 1) % every:
        return False
    made, interval = (batches.total if every is None else batches.current).ready, trainer.val_check_interval
    if made == 0:
        return True
    if not isinstance(interval, int):
        if batches.is_last_batch:
            whole = batches.current.ready
        elif length is not None:
            limit = trainer.limit_train_batches
            whole = min(length(), limit) if isinstance(limit, int) else int(length() * limit)
        else:
            return False
        interval = max(1, int(whole * interval))
    return bool(made % interval == 0)


def holder_of_plan(loader: object) -> Any:
    """Returns what holds the plan that a loader follows: a loader of ours, or a DataLoader's sampler.

    None without a plan. Any holder does whose plan has `edges`, as an `EpochPlan` has.
    """
    for holder in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if hasattr(getattr(holder, "plan", None), "edges"):
            return holder
    return None
