"""A pack: runs of MLPs that share network, N, S and sampling, trained in one process as one stack."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import torch

from three_factors.callbacks import ExactResume, ProgressFile
from three_factors.callbacks.functional.wide_products import wide_products
from three_factors.reproduce.engine.contract.files import read_lines
from three_factors.reproduce.engine.contract.folders import PackFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.worker.pack_module import PackModule, Place
from three_factors.reproduce.engine.worker.train import build_trainer, configure_device, read_weights


def train_pack(specs: Sequence[RunSpec], job: Job, folder: PackFolder, folders: Sequence[RunFolder]) -> None:
    """Trains the members that have no result, and leaves each in its own folder.

    Goes on from the pack's checkpoint, if there is one.
    """
    where = configure_device(job, specs[0].precision)
    module = PackModule(specs, job, folders, folder.drafts, where)
    if all(place.done for place in module.places):
        return
    checkpoints = ExactResume(folder.checkpoint, every=job.checkpoint_every, leave_on=signal.SIGTERM)
    callbacks = [ProgressFile(folder.path / "progress.json"), checkpoints]
    longest = max(spec.epochs for spec in specs)
    trainer = build_trainer(job, where, longest, callbacks, specs[0].precision)
    shapes = [p.shape[1:] for p in module.stack.parameters() if p.dtype == torch.float32]
    with wide_products(where, shapes, stack=True) as module.wide:
        trainer.fit(module, **(checkpoints.where() if _readable(folder, module.places) else {}))


def _readable(folder: PackFolder, places: Sequence[Place]) -> bool:
    """Tells whether there is a checkpoint that can be read; without one the pack starts again."""
    if not folder.checkpoint.exists():
        return False
    try:
        saved = torch.load(folder.checkpoint, map_location="cpu", weights_only=True)
        there = {place.spec.key: place for place in places}
        for key, state in zip(saved["pack"]["keys"], saved["pack"]["members"], strict=True):
            place = there[key]
            if place.done:
                continue
            rows = len(read_lines(place.draft.path / "metrics.jsonl"))
            if rows < state["rows"]:
                raise ValueError(f"it counts {state['rows']} rows of {key}, where {rows} are")
            for name in state["reached"]:
                read_weights(place.draft, name)
        print(f"goes on from epoch {saved['epoch'] + 1}", flush=True)
    except Exception as error:  # whatever unpickling a part of a file, or another file, raises
        print(f"{folder.checkpoint.name} cannot be read ({error}); the pack starts again", flush=True)
        return False
    return True
