"""A training goes on where its checkpoint was written, whatever has written it and when."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.tiny import images
from three_factors.callbacks import ExactResume, NoiseScheduler
from three_factors.datamodules import Cyclic, NoiseSchedule, PlannedBatchSampler, resumed_at
from three_factors.lightning_modules import MLP

pytestmark = pytest.mark.filterwarnings("ignore:.*not resumable.*", "ignore:.*logging interval.*")
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}
LONG_FIRST, SHORT_FIRST = Cyclic(high=24, low=8, period=2, phase=0.5), Cyclic(high=24, low=8, period=2)


def ours(batch_size):
    return images(train=68, test=20, size=28, validation=20, eval_batch_size=500, batch_size=batch_size)


class OwnLoader(pl.LightningDataModule):
    """A stranger's data set with the batch sampler, as the README shows it."""

    def __init__(self, batch_size):
        super().__init__()
        data = ours(batch_size)
        data.setup()
        self.batches, self.images, self.held_out = batch_size, data.splits["train"], data.splits["val"]

    def train_dataloader(self):
        sampler = PlannedBatchSampler(
            48, self.batches, epoch=self.trainer.current_epoch, start=resumed_at(self.trainer)
        )
        return DataLoader(TensorDataset(*self.images), batch_sampler=sampler)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.held_out), batch_size=10)


class Events(Logger):
    """What a training did, in order, and at which steps it was logged."""

    name, version = "events", 0

    def __init__(self):
        super().__init__()
        self.seen, self.logged = [], []

    def log_metrics(self, metrics, step=None):
        self.logged.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


class Writer(Checkpoint):
    """Notes what happens, and writes a checkpoint at every hook, after all others."""

    def __init__(self, folder, events):
        self.folder, self.events, self.written = folder, events.seen, []

    def write(self, trainer, hook):
        if self.folder is not None and not trainer.sanity_checking:
            path = self.folder / f"{len(self.written)}.ckpt"
            trainer.save_checkpoint(path)
            self.written.append((hook, trainer.global_step, len(self.events), path))

    def on_train_epoch_start(self, trainer, module):
        self.write(trainer, "epoch start")
        self.events.append(("start", trainer.current_epoch))

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.write(trainer, "batch start")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.events.append(("step", trainer.current_epoch, trainer.global_step, batch_idx, batch[1].tolist()))
        self.write(trainer, "batch end")

    def on_validation_start(self, trainer, module):
        self.write(trainer, "validation start")

    def on_validation_batch_end(self, trainer, module, *rest):
        self.write(trainer, "in validation")

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.events.append(("validation", trainer.current_epoch, trainer.global_step))
        self.write(trainer, "validation end")

    def on_train_epoch_end(self, trainer, module):
        means = {name: float(trainer.callback_metrics[name]) for name in ("train/loss", "train/accuracy")}
        self.events.append(("end", trainer.current_epoch, trainer.global_step, means))
        self.write(trainer, "epoch end")

    def on_train_end(self, trainer, module):
        self.write(trainer, "train end")


def fit(data, *callbacks, folder=None, ckpt_path=None, **options):
    torch.manual_seed(0)
    module, events = MLP(hidden=(4,), lr=0.05, momentum=0.9), Events()
    writer = Writer(folder, events)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=events,
        log_every_n_steps=1,
        callbacks=[*callbacks, writer],
        reload_dataloaders_every_n_epochs=1,
        **QUIET,
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    return events, weights, writer.written, trainer


MAKE = {
    "data module": lambda s, **o: fit(ours(s), **o),
    "batch sampler": lambda s, **o: fit(OwnLoader(s), **o),
    "NoiseScheduler": lambda s, **o: fit(ours(None), NoiseScheduler(NoiseSchedule(0.05, s)), **o),
}
HOW = {
    "epochs": {"max_epochs": 3},
    "every second validated": {"max_epochs": 3, "check_val_every_n_epoch": 2},
    "validated within epochs": {"max_epochs": 2, "val_check_interval": 2},
    "steps": {"max_steps": 11, "max_epochs": 9},
}
MOMENTS = [
    ("batch end", "of the last batch"),
    ("batch end", "of another batch"),
    ("batch start", "of the last batch"),
    ("validation start", ""),
    ("in validation", ""),
    ("validation end", ""),
    ("epoch end", ""),
    ("epoch start", ""),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = {}

    def of(loader, schedule, how):
        if (loader, schedule, how) not in made:
            folder = tmp_path_factory.mktemp("whole")
            made[loader, schedule, how] = MAKE[loader](schedule, folder=folder, **HOW[how])
        return made[loader, schedule, how]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("hook", "which"), MOMENTS, ids=[" ".join(m).strip() for m in MOMENTS])
@pytest.mark.parametrize(
    ("loader", "schedule", "how"),
    [
        ("data module", SHORT_FIRST, "epochs"),
        ("data module", LONG_FIRST, "steps"),
        ("data module", LONG_FIRST, "validated within epochs"),
        ("batch sampler", LONG_FIRST, "every second validated"),
        ("NoiseScheduler", SHORT_FIRST, "epochs"),
    ],
)
def test_a_training_goes_on_from_a_checkpoint_of_any_moment(loader, schedule, how, hook, which, whole):
    events, weights, written, _ = whole(loader, schedule, how)
    ends = {event[2] for event in events.seen if event[0] == "end"}
    chosen = [w for w in written if w[0] == hook and w[1] > 0]
    if which:  # `batch start` is before the step
        last = "last" in which
        chosen = [w for w in chosen if (w[1] + (hook == "batch start") in ends) == last]
    chosen = [w for w in chosen if w[1] < events.seen[-1][2]][: 2 if how == "epochs" else 1]
    assert chosen, "the test needs a checkpoint of that moment"
    for _, _, seen, path in chosen:
        rest, again, _, _ = MAKE[loader](schedule, ckpt_path=path, **HOW[how])
        assert rest.seen == events.seen[seen:]
        assert torch.equal(again, weights)
        later = rest.logged[1:]  # the first may hold less: what was logged before the checkpoint is not in it
        assert later == events.logged[len(events.logged) - len(later) :]


@pytest.mark.parametrize("loader", ["data module", "batch sampler"])
@pytest.mark.parametrize("written_at", ["epoch end", "train end", "afterwards"])
@pytest.mark.parametrize("then", [{"max_epochs": 3}, {"max_steps": 11}], ids=["epochs", "steps"])
def test_an_epoch_that_max_steps_has_cut_is_finished(loader, written_at, then, tmp_path):
    whole, weights, *_ = MAKE[loader](LONG_FIRST, **then)
    begun, _, written, trainer = MAKE[loader](LONG_FIRST, folder=tmp_path, max_steps=9)  # 6 + 2 + 1
    path = next((w[3] for w in reversed(written) if w[0] == written_at), tmp_path / "afterwards.ckpt")
    if written_at == "afterwards":
        trainer.save_checkpoint(path)
    rest, again, *_ = MAKE[loader](LONG_FIRST, ckpt_path=path, **then)
    steps = [[e for e in run.seen if e[0] == "step"] for run in (whole, begun, rest)]
    assert steps[1] + steps[2] == steps[0]
    assert torch.equal(again, weights)


@pytest.mark.parametrize("loader", ["batch sampler", "NoiseScheduler"])
def test_a_training_may_be_resumed_again_and_again(loader, tmp_path):
    whole, weights, *_ = MAKE[loader](LONG_FIRST, max_epochs=2)
    seen, path, count = [], None, 0
    while not seen or seen[-1] != whole.seen[-1]:
        folder = tmp_path / str(count)
        folder.mkdir()
        rest, again, written, _ = MAKE[loader](LONG_FIRST, folder=folder, ckpt_path=path, max_epochs=2)
        first = next((w for w in written if w[0] == "batch end"), None)
        seen += rest.seen[: first[2]] if first and count < 8 else rest.seen
        path, count = first and first[3], count + 1
    assert seen == whole.seen
    assert torch.equal(again, weights)


def test_the_mean_of_an_epoch_is_of_its_own_steps_where_lightning_has_left_out_the_end_before(tmp_path):
    """With a plain loader Lightning resumes after an epoch's last batch without the end of that epoch."""

    class Plain(OwnLoader):
        def train_dataloader(self):
            return DataLoader(TensorDataset(*self.images), batch_size=8)

    whole, _, written, _ = fit(Plain(8), folder=tmp_path, max_epochs=2)
    after_last = next(w for w in written if w[0] == "batch end" and w[1] == 6)
    rest, *_ = fit(Plain(8), ckpt_path=after_last[3], max_epochs=2)
    assert rest.seen[-1] == whole.seen[-1]


def trained(tmp_path, *callbacks, **options):
    torch.manual_seed(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        **QUIET,
        **{"max_epochs": 2} | options,
    )
    trainer.fit(MLP(hidden=(4,)), datamodule=ours(8))
    return trainer


@pytest.mark.parametrize("exact_first", [True, False])
def test_the_best_checkpoint_is_that_of_the_model_checkpoint_in_either_order(exact_first, tmp_path):
    exact = ExactResume(tmp_path / "training.ckpt")
    best = pl.callbacks.ModelCheckpoint(tmp_path, filename="best", monitor="val/loss")
    trainer = trained(tmp_path, *([exact, best] if exact_first else [best, exact]))
    assert trainer.checkpoint_callback is best
    assert "test/loss" in trainer.test(ckpt_path="best", datamodule=trainer.datamodule, verbose=False)[0]


def test_a_trainer_has_the_checkpoint_callback_that_it_would_have_without_exact_resume(tmp_path):
    trainer = trained(tmp_path, ExactResume(tmp_path / "training.ckpt"), enable_checkpointing=False)
    assert trainer.checkpoint_callback is None
    with pytest.raises(ValueError, match="`ModelCheckpoint` is not configured"):
        trainer.test(ckpt_path="best", datamodule=trainer.datamodule, verbose=False)
    trainer = trained(tmp_path, ExactResume(tmp_path / "training.ckpt"))
    assert isinstance(trainer.checkpoint_callback, pl.callbacks.ModelCheckpoint)
    assert trainer.early_stopping_callback is None


class Stop(Exception):
    pass


class Late(Checkpoint):
    """A stranger's checkpoint callback: what it sees at an epoch's end belongs in the checkpoint."""

    def __init__(self, stop_at=None):
        self.ends, self.starts, self.stop_at = [], [], stop_at

    def on_train_epoch_end(self, trainer, module):
        self.ends.append((trainer.current_epoch, float(trainer.callback_metrics["train/loss"])))

    def on_train_epoch_start(self, trainer, module):
        self.starts.append(trainer.current_epoch)

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.stop_at:
            raise Stop

    def state_dict(self):
        return {"ends": self.ends, "starts": self.starts}

    def load_state_dict(self, state_dict):
        self.ends, self.starts = state_dict["ends"], state_dict["starts"]


@pytest.mark.parametrize("options", [{"max_epochs": 3}, {"max_epochs": 9, "max_steps": 17}], ids=["epochs", "steps"])
@pytest.mark.parametrize(("loader", "exact_first"), [("plain", False), ("ours", True)])
@pytest.mark.parametrize("stop_at", [7, 9])
def test_every_hook_of_every_epoch_runs_once_over_the_parts_of_a_training(
    stop_at, loader, exact_first, options, tmp_path
):
    class Plain(OwnLoader):
        def train_dataloader(self):
            return DataLoader(TensorDataset(*self.images), batch_size=8)

    def run(path, stop_at):
        torch.manual_seed(0)
        late, exact, module = Late(stop_at), ExactResume(path, every=0), MLP(hidden=(4,))
        callbacks = [exact, late] if exact_first else [late, exact]
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, num_sanity_val_steps=0, callbacks=callbacks, **options, **QUIET
        )
        trainer.fit(module, datamodule=Plain(8) if loader == "plain" else ours(8), **exact.where())
        return late, torch.cat([p.detach().flatten() for p in module.parameters()]), trainer

    whole, weights, _ = run(tmp_path / "whole.ckpt", None)
    with pytest.raises(Stop):
        run(tmp_path / "broken.ckpt", stop_at)
    again, resumed, trainer = run(tmp_path / "broken.ckpt", None)
    assert torch.equal(resumed, weights)
    assert (again.starts, again.ends) == (whole.starts, whole.ends)
    assert trainer.callbacks[-1].__class__ is ExactResume


def test_a_second_fit_with_the_same_exact_resume_begins_anew(tmp_path):
    exact = ExactResume(tmp_path / "training.ckpt", every=0)
    trained(tmp_path, exact, enable_checkpointing=False)
    spent = exact.spent
    exact._leave = True
    trainer = trained(tmp_path, exact, enable_checkpointing=False)  # not asked to leave this time
    assert trainer.global_step == 12
    assert exact.spent < 2 * spent + 0.5
    assert trainer.callbacks == [exact]
