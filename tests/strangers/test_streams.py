"""Loaders without a length: t is what the user says it is, and what cannot be known is said before the first step."""

import json
import math

import pytest
import pytorch_lightning as pl
from torch.utils.data import DataLoader, get_worker_info

from tests.strangers.tiny import Net, Stream, loader, planned, really, trainer
from three_factors.callbacks import NoiseScheduler, ProgressFile
from three_factors.datamodules import Cosine, NoiseSchedule
from three_factors.reproduce.engine.contract.run_folder import RunFolder

FALLING = Cosine(0.1, 0.01, epochs=4)


def stream(examples=40, **options):
    return DataLoader(Stream(examples), 8, **options)


def test_a_schedule_of_constants_needs_no_length():
    noise = NoiseScheduler(NoiseSchedule(0.1, 8))
    with really() as real:
        trainer(noise).fit(Net(), stream(44))
    assert real.rates == pytest.approx([0.1 / 8 * size for size in [8, 8, 8, 8, 8, 4] * 2], rel=1e-12)
    assert noise.t_eta == pytest.approx(sum(real.rates), rel=1e-12)


def test_any_other_schedule_is_refused_before_the_first_step():
    with really() as real, pytest.raises(ValueError, match=r"examples: .* no length; say NoiseScheduler\(schedule, ex"):
        trainer(NoiseScheduler(NoiseSchedule(FALLING, 8))).fit(Net(), stream())
    assert not real.steps


def test_with_the_number_of_examples_t_counts_those_seen():
    noise = NoiseScheduler(NoiseSchedule(FALLING, 8), examples=40)
    with really() as real:
        trainer(noise).fit(Net(), stream())
    assert real.rates == pytest.approx([FALLING(i / 5) for i in range(10)], rel=1e-12)


def test_the_examples_seen_survive_a_checkpoint(tmp_path):
    class Saves(pl.Callback):
        def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
            if run.global_step == 6:
                run.save_checkpoint(tmp_path / "saved.ckpt")

    def fit(*callbacks, **how):
        noise = NoiseScheduler(NoiseSchedule(FALLING, 8), examples=40)
        with really() as real:
            trainer(noise, *callbacks).fit(Net(), stream(), **how)
        return real.rates

    whole = fit(Saves())
    rest = fit(ckpt_path=tmp_path / "saved.ckpt", weights_only=True)
    assert rest[:4] == pytest.approx(whole[6:], rel=1e-12)


def test_a_limit_of_batches_is_the_epoch():
    noise = NoiseScheduler(NoiseSchedule(FALLING, 8))
    with really() as real:
        trainer(noise, limit_train_batches=4).fit(Net(), stream())
    assert real.rates == pytest.approx([FALLING(i / 4) for i in range(8)], rel=1e-12)


def test_a_limit_that_the_stream_does_not_reach_is_no_epoch():
    with pytest.raises(ValueError, match="examples: an epoch ended after 5 batches, limit_train_batches is 9"):
        trainer(NoiseScheduler(NoiseSchedule(FALLING, 8)), limit_train_batches=9).fit(Net(), stream())


def test_a_number_of_steps_alone_is_one_epoch():
    falling = Cosine(0.1, 0.01, epochs=1)
    noise = NoiseScheduler(NoiseSchedule(falling, 8))
    with really() as real:
        trainer(noise, max_steps=12).fit(Net(), stream())
    assert real.rates == pytest.approx([falling(i / 12) for i in range(12)], rel=1e-12)


def test_the_rests_of_several_workers_get_eta_for_their_examples():
    class Shared(Stream):
        def __iter__(self):
            worker = get_worker_info()
            yield from list(super().__iter__())[worker.id :: worker.num_workers]

    noise, module = NoiseScheduler(NoiseSchedule(FALLING, 8), examples=38), Net()
    with really() as real:
        trainer(noise, max_epochs=1).fit(module, DataLoader(Shared(38), 8, num_workers=2))
    sizes = [len(examples) for *_, examples in module.batches]
    assert sizes == [8, 8, 8, 8, 3, 3]
    starts = [sum(sizes[:i]) / 38 for i in range(6)]
    assert real.rates == pytest.approx([FALLING(t) / 8 * size for t, size in zip(starts, sizes)], rel=1e-12)


def test_a_stream_of_another_batch_size_is_refused():
    with pytest.raises(ValueError, match="batch_size: the loader's 8 cannot follow the schedule's 16"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, 16))).fit(Net(), stream())
    with pytest.raises(ValueError, match="batch_size: the loader's 4 cannot follow the schedule's 16"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, 16))).fit(Net(), DataLoader(list(loader(4)), None))


def test_a_number_of_examples_that_is_not_the_plans_is_refused():
    with pytest.raises(ValueError, match="examples: 1000 are not the 48 of the loader's plan"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, 16), examples=1000)).fit(Net(), planned(16))
    with pytest.raises(ValueError, match=r"examples: 0\.5 is not a positive whole number"):
        NoiseScheduler(NoiseSchedule(0.1, 16), examples=0.5)


def test_several_loaders_need_to_say_what_an_example_is():
    pair = {"a": loader(8), "b": loader(16)}

    class Both(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["a"], batch_idx)

    with pytest.raises(ValueError, match=r"batch_size: 2 training loaders; say size=f\(batch\) and examples=N"):
        trainer(NoiseScheduler(NoiseSchedule(0.1, 8))).fit(Both(), pair)
    noise = NoiseScheduler(NoiseSchedule(FALLING, 8), size=lambda batch: len(batch["a"][1]), examples=48)
    with really() as real:
        trainer(noise).fit(Both(), pair)
    assert real.rates == pytest.approx([FALLING(i / 6) for i in range(12)], rel=1e-12)


class Follows(ProgressFile):
    """Keeps every row."""

    def __init__(self, path):
        super().__init__(path, interval=0)
        self.rows = []

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        self.rows.append(json.loads(self.path.read_text(), parse_constant=pytest.fail))


@pytest.mark.parametrize(
    ("options", "fractions"),
    [
        ({"max_epochs": 2}, [0.0] * 5 + [0.5] * 5),
        ({"max_steps": 8}, [(i + 1) / 8 for i in range(8)]),
        ({"max_steps": 8, "max_epochs": 2}, [(i + 1) / 8 for i in range(8)]),
        ({"max_epochs": -1, "limit_train_batches": 2, "callbacks": [3]}, [None] * 3),
    ],
)
def test_the_fraction_is_of_whatever_ends_the_training(options, fractions, tmp_path):
    class Stops(pl.Callback):
        def on_train_batch_end(self, run, *args):
            run.should_stop = run.global_step == options["callbacks"][0]

    progress = Follows(tmp_path / "progress.json")
    others = [Stops()] if "callbacks" in options else []
    trainer(progress, *others, **{k: v for k, v in options.items() if k != "callbacks"}).fit(Net(), stream())
    assert [row["fraction"] for row in progress.rows] == fractions
    assert all(math.isfinite(row["epoch"]) for row in progress.rows)


def test_the_fraction_of_a_time_is_what_has_passed_of_it(tmp_path):
    progress = Follows(tmp_path / "progress.json")
    trainer(progress, max_epochs=-1, max_time={"seconds": 1}).fit(Net(), stream())
    found = [row["fraction"] for row in progress.rows]
    assert found == sorted(found)
    assert 0 < found[0] < 0.9 < found[-1] <= 1


def test_whoever_reads_a_progress_that_nobody_knows_takes_it_for_none(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "progress.json").write_text('{"fraction": null}')
    assert folder.fraction() == 0.0
