"""A figure's grid, ours against one Trainer after another: seconds for all of its runs on this machine.

    python tests/benchmarks/sweeps.py [--figure fig5] [--rounds 3] [--json FILE]

Ours is what a figure's script does: packs where they win, several processes where there are several cores, the runs'
records and evaluations. The other makes the same runs one after another, each in a plain Trainer with its evaluations
and nothing else, in one process that has loaded torch already. Grids of quick scale, a seed, without measurements.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _code import ROOT
from _fits import quiet
from _timing import clocked, command_line, interleaved, parsed, ratio

FIGURES = ("fig1", "fig5", "fig9")


def specs_of(name: str, smallest: bool) -> list[Any]:
    """Returns the grid of a figure."""
    from tests.reproduce.figures import figure
    from three_factors.datamodules.prepared import prepare
    from three_factors.reproduce.engine.experiment import Setting

    scale = "smoke" if smallest else "quick"
    settings: dict[str, Setting] = dict(figure(name).experiment.runs(scale, prepare("digits28")))
    found = {setting.of_seed(1000).key: setting.of_seed(1000) for setting in settings.values()}
    return list(found.values())[: 2 if smallest else None]


def ours(specs: list[Any]) -> None:
    from three_factors.datamodules.prepared import prepare
    from three_factors.reproduce.engine.contract.job import Job
    from three_factors.reproduce.engine.contract.run_folder import RunFolder
    from three_factors.reproduce.engine.contract.spec import Item
    from three_factors.reproduce.engine.launch import devices, packing
    from three_factors.reproduce.engine.launch.runner import Runner, Watcher
    from three_factors.reproduce.engine.launch.task import Task

    here = devices.detect()
    gpus = here.count if here.accelerator == "cuda" else 0
    with tempfile.TemporaryDirectory() as folder:
        out, job = Path(folder), Job(prepare("digits28"), here.accelerator)
        tasks = [Task(Item(s.key, s.seed, s), RunFolder(out / "runs" / s.key), job) for s in specs]
        work = packing.formed(tasks, out, gpus or here.count)
        failed = Runner(SERVER, gpus or here.count, gpus=gpus).run(work, Watcher())
        if failed:
            raise SystemExit(failed[0].folder.log.read_text()[-2000:])


SERVER: Any = None


def one_after_another(specs: list[Any]) -> None:
    import pytorch_lightning as pl

    from three_factors.callbacks import NoiseScheduler
    from three_factors.datamodules.prepared import prepare
    from three_factors.reproduce.engine.contract.job import Job
    from three_factors.reproduce.engine.worker.train import build_data, build_module

    job = Job(prepare("digits28"))
    for spec in specs:
        pl.seed_everything(spec.seed)
        trainer = pl.Trainer(
            devices=1,
            max_epochs=spec.epochs,
            check_val_every_n_epoch=spec.evaluate_every,
            callbacks=[NoiseScheduler(spec.schedule)],
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = build_module(spec.network, 0.1, spec.momentum, spec.weight_decay)
        trainer.fit(module, datamodule=build_data(spec, job))


def main() -> None:
    global SERVER
    parser = command_line(__doc__, smallest="two runs of the smoke scale", rounds=3, json=True)
    parser.add_argument("--figure", choices=FIGURES, action="append", help="default: all of them")
    options = parsed(parser)
    import sys

    sys.path.insert(0, str(ROOT / "reproduce" / "_name"))
    from three_factors.reproduce.engine.launch.server import Server

    quiet()
    SERVER = Server()
    rows = []
    print(f"{'grid':<8}{'runs':>6}{'ours (s)':>12}{'one by one (s)':>18}{'one by one / ours':>20}")
    for name in options.figure or FIGURES[: 1 if options.smallest else None]:
        specs = specs_of(name, options.smallest)
        times = interleaved(
            {
                "ours": lambda specs=specs: clocked(lambda: ours(specs)),
                "one by one": lambda specs=specs: clocked(lambda: one_after_another(specs)),
            },
            options.rounds,
        )
        seconds = {way: statistics.median(of) for way, of in times.items()}
        row = {"grid": name, "runs": len(specs), **seconds, "ratio": ratio(times, "one by one", "ours")}
        rows.append(row)
        print(
            f"{name:<8}{len(specs):>6}{row['ours']:>12.1f}{row['one by one']:>18.1f}{row['ratio']:>20.2f}", flush=True
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
