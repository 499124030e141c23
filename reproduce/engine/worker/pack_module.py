"""The LightningModule of a pack: the steps of all members as a stack, and the record of each.

The Trainer's batch is a chunk of steps and its epochs are the members'. What a row, a milestone and the end are is said
by `Member`, as for runs that have a Trainer of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from three_factors.callbacks import ExactResume
from three_factors.datamodules.batches import resumed_at
from three_factors.datamodules.vision import MARKED, WATCHED
from three_factors.lightning_modules.losses import example_losses
from three_factors.lightning_modules.stack import StackedMLP, StackedSGD, flat
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.contract.steps import of_epoch
from three_factors.reproduce.engine.worker.lengths import lengths
from three_factors.reproduce.engine.worker.members import Member
from three_factors.reproduce.engine.worker.stacked_noise import StackedNoise
from three_factors.reproduce.engine.worker.stacked_steps import StackedSteps
from three_factors.reproduce.engine.worker.stacking import initial_network, stacked_data
from three_factors.reproduce.engine.worker.train import provenance, read_weights, real, write_weights

CHUNK = 64  # steps at most between two looks at the clock


@dataclass
class Place:
    """A member's place in the stack: its run, its record, and where its files are.

    Attributes:
        draft: where its files grow; they are moved to `folder` when it ends.
        kept: milestones whose weights lie in `draft` as they are.
        done: it has a result.
    """

    spec: RunSpec
    record: Member
    draft: RunFolder
    folder: RunFolder
    kept: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    @property
    def trains(self) -> bool:
        return not (self.done or self.record.stopped)


class Chunks:
    """The steps of an epoch in runs of at most `CHUNK`, that end wherever a member is evaluated.

    Args:
        start: the first chunk, where a training goes on within an epoch.

    Attributes:
        began: the chunk at which the latest pass has begun, by which ExactResume knows a loader that goes on.
    """

    def __init__(self, steps: int, points: Sequence[int], start: int = 0) -> None:
        edges = sorted({0, steps, *points, *range(0, steps, CHUNK)})
        self.parts, self.start, self.began = list(pairwise(edges)), start, start

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self.began, self.start = self.start, 0  # at the first chunk: Lightning asks for an iterator twice
        yield from self.parts[self.began :]


class PackModule(pl.LightningModule):
    """The stack and the records of its members.

    Members of fewer epochs leave between epochs, as the specs say: within an epoch the stack is the same whatever has
    become of anyone, and so are everyone's bits.

    Args:
        specs: the members' runs.
        folders: those of their results.
        drafts: below it a folder a member is written until it ends.

    Attributes:
        wide: whether its matrices are multiplied by oneDNN, which results say.
    """

    def __init__(
        self, specs: Sequence[RunSpec], job: Job, folders: Sequence[RunFolder], drafts: Path, device: torch.device
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.job, self.where, self.wide = job, device, False
        first = specs[0]
        self.criterion = first.loss
        self.real = real(first)
        self.data = stacked_data(specs, job, device)
        self.places = [
            Place(
                spec,
                Member(drafts / spec.key / "metrics.jsonl", spec, every_step=job.every_step),
                RunFolder(drafts / spec.key),
                folder,
                done=folder.result() is not None,
            )
            for spec, folder in zip(specs, folders, strict=True)
        ]
        for place in self.places:
            place.draft.path.mkdir(parents=True, exist_ok=True)
        self.stack = StackedMLP([initial_network(spec) for spec in specs]).to(device, self.real)
        self.start = flat([p.detach() for p in self.stack.parameters()])
        momentum, decay = (self._each([getattr(s, of) for s in specs]) for of in ("momentum", "weight_decay"))
        self.sgd = StackedSGD(self.stack.parameters(), momentum, decay)
        self.noise = StackedNoise(specs, self._losses, device, self.real)
        parts = (self.stack, self.sgd, self.noise, self.data)
        self.work = StackedSteps(*parts, self._losses, device, self.real)
        self.at_start = self._lengths()
        self.steps, self.t_eta = 0, [0.0] * len(specs)  # before this epoch
        for i, place in enumerate(self.places):
            if place.spec.keep is not None and place.spec.keep.initial:
                place.record.milestones.keep("initial", self._state(i), {"epoch": 0})

    def _each(self, values: Sequence[float]) -> Tensor:
        """Returns a number a member, (M,)."""
        return torch.tensor(values, dtype=self.real, device=self.where)

    def configure_optimizers(self) -> None:
        return None

    # -- epochs

    def train_dataloader(self) -> Chunks:
        start = resumed_at(self.trainer)  # first: it puts the epoch right
        number = self.trainer.current_epoch
        self._leave(number)
        assert self.trainer.max_epochs is not None
        epoch = self.data.epoch(number, more=number + 1 < self.trainer.max_epochs)
        plans = [of_epoch(place.spec, number) for place in self.places]
        self.eta, self.sizes = np.stack([rates for rates, _ in plans]), plans[0][1]
        moving = np.array([[place.trains] for place in self.places])  # a member that has stopped stays where it is
        if start == 0:
            self.work.reset(len(epoch))
        self.work.lay(epoch, torch.from_numpy(self.eta * moving), self.steps)
        points = {point for place in self.places for point in place.record.points.get(number, ())}
        return Chunks(len(epoch), sorted(points), start)

    def _leave(self, number: int) -> None:
        """Takes out the members whose epochs are over."""
        staying = [i for i, place in enumerate(self.places) if place.spec.epochs > number]
        if len(staying) == len(self.places):
            return
        self.keep(staying)

    def keep(self, indices: Sequence[int]) -> None:
        """Leaves these members."""
        chosen = list(indices)
        self.work.keep(chosen)
        self.start = self.start[chosen]
        self.places = [self.places[i] for i in chosen]
        self.at_start, self.t_eta = [self.at_start[i] for i in chosen], [self.t_eta[i] for i in chosen]

    # -- steps

    def on_train_epoch_start(self) -> None:
        training = [i for i, place in enumerate(self.places) if place.trains]
        self.work.renew(self.trainer.current_epoch, training)

    def training_step(self, batch: tuple[int, int], batch_idx: int) -> None:
        first, last = batch
        self.stack.train()
        self.work.run(first, last)
        self._evaluate_within(last)

    def on_train_end(self) -> None:
        self.work.end()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return example_losses(self.criterion, logits, labels)

    # -- evaluation

    def _evaluate_within(self, done: int) -> None:
        """Evaluates the members that ask for it after so many steps of the epoch."""
        number = self.trainer.current_epoch
        points = [place.record.points.get(number, {}) if place.trains else {} for place in self.places]
        asking = [i for i, of in enumerate(points) if done in of]
        if not asking:
            return
        share = points[asking[0]][done]  # members have the same S
        wanted = {i: self.places[i].record.parts(number, share) for i in asking}
        parts = None if None in wanted.values() else next(iter(wanted.values()))
        found, norms = self.evaluate(parts), self._lengths()
        rates = self.eta[:, :done].sum(1).tolist()
        for i, own in wanted.items():
            place = {"epoch": number + share, "step": self.steps + done, "t_eta": self.t_eta[i] + rates[i]}
            named = {name: v for name, v in found[i].items() if own is None or name.split("/")[0] in own}
            self.places[i].record.between(place, named, norms[i])

    def evaluate(self, parts: Sequence[str] | None = None) -> list[dict[str, float]]:
        """Returns what a validation finds of each member: of these parts, by default of all."""
        noisy = any(place.spec.data.label_noise is not None for place in self.places)
        known = (*WATCHED, *MARKED) if noisy else WATCHED
        found: list[dict[str, float]] = [{} for _ in self.places]
        self.stack.eval()
        with torch.no_grad():
            for part in known if parts is None else [of for of in known if of in parts]:
                sums = torch.zeros(3, len(self.places), dtype=torch.float64, device=self.where)
                for images, labels, there in self.data.evaluation(part):
                    logits = self.stack(images)
                    losses = self._losses(logits, labels).double()
                    sums[0] += torch.where(there, losses, 0.0).sum(1)
                    sums[1] += ((logits.argmax(2) == labels) & there).sum(1)
                    sums[2] += there.sum(1)
                for i, (loss, correct, count) in enumerate(sums.T.tolist()):
                    if count and (part not in MARKED or self.places[i].spec.data.label_noise is not None):
                        found[i] |= {f"{part}/loss": loss / count, f"{part}/accuracy": correct / count}
        self.stack.train()
        return found

    def _lengths(self) -> list[dict[str, float]]:
        """Returns |θ| and |θ - θ0| of each member."""
        return lengths([flat([p.detach() for p in self.stack.parameters()])], [self.start])

    def on_train_epoch_end(self) -> None:
        number = self.trainer.current_epoch + 1
        due = [p.trains and number % p.spec.evaluate_every == 0 for p in self.places]
        found = self.evaluate() if any(due) else [dict[str, float]() for _ in self.places]
        sizes = torch.as_tensor(self.sizes, device=self.where)
        means = ((self.work.losses * sizes).sum(1) / sizes.sum()).float().tolist()
        accuracies = (self.work.correct.sum(1).double() / sizes.sum()).float().tolist()
        losses, norms, rates = self.work.losses.tolist(), self._lengths(), self.eta.sum(1).tolist()
        for i, place in enumerate(self.places):
            self.t_eta[i] += rates[i]
            if not place.trains:
                continue
            evaluated = {name: _logged(value, self.real) for name, value in found[i].items()} if due[i] else {}
            if due[i]:
                place.record.validated(number, evaluated, lambda i=i: self._state(i))  # type: ignore[misc]
            noise = {name: _logged(value, torch.float32) for name, value in self.noise.logged(i).items()}
            metrics = {"train/loss": means[i], "train/accuracy": accuracies[i]} | noise | evaluated
            at = {"epoch": number, "step": self.steps + len(losses[i]), "t_eta": self.t_eta[i]}
            last = float(self.eta[i, -1]), int(self.sizes[-1])
            place.record.close(at, losses[i], last, norms[i], metrics)
            if place.record.stopped or number == place.spec.epochs:
                self._end(i, number, evaluated)
        self.steps += self.work.losses.shape[1]
        if not any(place.trains for place in self.places):
            self.trainer.should_stop = True

    def _state(self, index: int) -> dict[str, Tensor]:
        """Returns a member's state dictionary, on the CPU, as a run of its own has it."""
        return {f"network.{name}": value.cpu() for name, value in self.stack.member(index).items()}

    def _end(self, index: int, number: int, evaluated: dict[str, float]) -> None:
        """Moves a member's files to its folder, the result last: from then on it is done."""
        place = self.places[index]
        record, keep = place.record, place.spec.keep
        state = self._state(index)
        if keep is not None and keep.end:
            record.milestones.keep("end", state, {"epoch": number} | evaluated)
        record.end()
        self._write_weights(place)
        finite = all(bool(torch.isfinite(value).all()) for value in state.values())
        outcome = record.result(finite) | {
            "milestones": record.reached(self.at_start[index], record.milestones.reached),
            "provenance": self._provenance(),
        }
        for name in sorted(record.milestones.weights):
            place.folder.weights(name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(place.draft.weights(name), place.folder.weights(name))
        for file in sorted(place.draft.path.glob("*")):
            if file.is_file():
                os.replace(file, place.folder.path / file.name)
        write_json(place.folder.path / "result.json", {"key": place.spec.key} | outcome)
        place.done = True
        record.milestones.weights.clear()

    def _provenance(self) -> dict[str, Any]:
        seconds = next(one for one in self.trainer.callbacks if isinstance(one, ExactResume)).seconds  # type: ignore[attr-defined]
        made = provenance(self.job, self.trainer, seconds / len(self.places), self.wide)
        return made | {"parameters": self.start.shape[1], "pack": len(self.places)}

    # -- checkpoints

    def _write_weights(self, place: Place) -> None:
        """Writes the milestones that are not in the draft as they are: too much for every checkpoint."""
        for name, metrics in place.record.milestones.reached.items():
            if place.kept.get(name) != metrics:
                write_weights(place.draft.weights(name), place.record.milestones.weights[name])
                place.kept[name] = metrics

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for place in self.places:
            if place.trains:
                self._write_weights(place)
        checkpoint["pack"] = {
            "keys": [place.spec.key for place in self.places],
            "members": [self._record(place) for place in self.places],
            "velocity": self.sgd.velocity,
            "noise": self.noise.state(),
            "losses": self.work.losses,
            "correct": self.work.correct,
            "steps": self.steps,
            "t_eta": self.t_eta,
        }

    @staticmethod
    def _record(place: Place) -> dict[str, Any]:
        return {name: value for name, value in place.record.state_dict().items() if name != "weights"}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        held = checkpoint["pack"]
        keys = [place.spec.key for place in self.places]
        self.keep([keys.index(key) for key in held["keys"]])
        for place, state in zip(self.places, held["members"], strict=True):
            if place.done:
                continue
            weights = {name: read_weights(place.draft, name) for name in state["reached"]}
            place.record.load_state_dict(state | {"weights": weights})
            place.kept = dict(state["reached"])
        self.sgd.velocity = [v.to(self.where) for v in held["velocity"]]
        self.noise.load(held["noise"])
        self.work.restore(held["losses"], held["correct"])
        self.steps, self.t_eta = held["steps"], list(held["t_eta"])


def _logged(value: float, real: torch.dtype) -> float:
    """Returns a value as a Trainer logs it: in the run's type from a step, else in float32."""
    return float(torch.tensor(value, dtype=real))
