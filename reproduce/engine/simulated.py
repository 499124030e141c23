"""From the definition of a theory script to its files: simulate what is missing, check the mixing, draw, judge.

The twin of `figure` for simulations: no training, the same folders, workers, claims and exit codes; a data set only
where the loss is one of examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from three_factors.reproduce.engine import interrupts
from three_factors.reproduce.engine.ending import end_with
from three_factors.reproduce.engine.options import DataOptions, InputError, Scale, SimulationOptions, parse

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.claims import Claim
    from three_factors.reproduce.engine.results import Results
    from three_factors.reproduce.engine.server import Server
    from three_factors.reproduce.theory.simulate import Simulation

__all__ = ["Chains", "Theory", "main"]
DATA = "simulation"  # what stands for a data set where there is none


@dataclass(frozen=True)
class Theory:
    """A statement of the paper's theory, tested by simulation.

    Attributes:
        simulations: scale -> label -> the simulation of seed 0; `seeds` of them at each scale, all independent. It is
            called with the data set too where there is one; ValueError if that does not do.
        check: the claims about the chains. draw: the panels, on `axes(rows, columns)`.
        formulas: what is tested, in LaTeX, for the report.
        data: the data set of a loss of examples; `substitute` stands in, loudly, where that is not to be had and none
            was named.
        table: the rows of table.csv, where they are not those of `Chains.frame`.
    """

    name: str
    title: str
    doc: str
    simulations: Callable[..., dict[str, Simulation]]
    seeds: dict[Scale, int]
    check: Callable[[Chains], list[Claim]]
    draw: Callable[[Chains, Any], None]
    formulas: tuple[str, ...] = ()
    data: str | None = None
    substitute: str = ""
    table: Callable[[Chains], pd.DataFrame] = lambda chains: chains.frame


@dataclass(frozen=True, eq=False)
class Chains:
    """What was simulated: the chains of all seeds of a label are one sample.

    Attributes:
        specs: label -> the simulation of seed 0. samples: label -> θ at the recorded steps, (records, chains, q).
        source: the data set of losses of examples.
    """

    specs: dict[str, Simulation]
    samples: dict[str, np.ndarray]
    source: Prepared | None = None

    @property
    def labels(self) -> list[str]:
        return list(self.samples)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row a label and coordinate: the setting, and mean and variance over chains at the last record."""
        import pandas as pd

        rows = []
        for label, samples in self.samples.items():
            spec = self.specs[label]
            for i in range(samples.shape[2]):
                last = samples[-1, :, i]
                rows.append({"label": label, "coordinate": i, "eta": spec.lr, "S": spec.batch_size, "n": spec.n,
                             "momentum": spec.momentum, "step": spec.record[-1], "chains": len(last),
                             "mean": last.mean(), "variance": last.var(ddof=1)})  # fmt: skip
        return pd.DataFrame(rows)


def main(theory: Theory, arguments: list[str] | None = None) -> NoReturn:
    """Runs a theory script's command line and ends the process with the status of `ending.end_with`."""
    started = time.monotonic()
    interrupts.listen()

    def work() -> int:
        options = parse(theory.doc, arguments, SimulationOptions if theory.data is None else DataOptions)
        print(f"{theory.name}: {theory.title} (scale {options.scale})", flush=True)
        return _run(theory, options, started)

    end_with(work)


def _run(theory: Theory, options: SimulationOptions, started: float) -> int:
    from three_factors.reproduce.engine import devices, outputs, planning, wandb_mirror
    from three_factors.reproduce.engine.claims import holm
    from three_factors.reproduce.engine.display import say
    from three_factors.reproduce.engine.results import Results
    from three_factors.reproduce.engine.server import Server

    hardware, server = devices.cpu(), Server()
    wandb_mirror.check(options.wandb)
    results, seeds = Results(options.out), options.seeds or theory.seeds[options.scale]
    source = _source(theory, options, server)
    specs = _specs(theory, options.scale, source)
    planned = {
        f"{label}, seed {seed}": replace(spec, seed=seed) for seed in range(seeds) for label, spec in specs.items()
    }
    todo = {name: spec for name, spec in planned.items() if results.finished(spec, (), say) is None}
    chain_steps = sum(work(spec) for spec in todo.values())
    say(f"simulations: {len(planned)} = {len(specs)} settings x {seeds} seeds, {len(planned) - len(todo)} cached; "
        f"{chain_steps:.3g} values left")  # fmt: skip
    if options.dry_run:
        for label, spec in specs.items():
            say(f"  {label:<40} {spec.steps:>9} steps of {spec.chains} chains")
        return 0
    simulated = bool(todo) and not options.plot_only
    if simulated:
        _simulate(todo, source, results, server, options.jobs or hardware.count)
    chains, missing = _collect(specs, planned, results, source)
    if missing:
        say(f"{len(missing)} of {len(planned)} simulations are missing: {', '.join(missing)}", style="bold red")
        return 1
    data, own = source.name if source is not None else DATA, source is None or source.name == theory.data
    other = f"{data}, not {theory.data}"
    why_not = "smoke scale" if options.scale == "smoke" else None if own else f"on {other}"
    judged = [replace(claim, data=data) for claim in holm(theory.check(chains))]
    if why_not is not None:
        judged = [replace(claim, verdict="not judged", note=why_not) for claim in judged]
    watermark = "smoke scale: no result" if options.scale == "smoke" else None if own else other
    footer = [theory.name, options.scale, *([data] if source is not None else [])]
    leaving = outputs.Leaving(
        folder=options.out / theory.name / (options.scale if own else f"{options.scale}-{data}"),
        name=theory.name,
        drawings={theory.name: theory.draw},
        footer=", ".join([*footer, f"{seeds} x {max(s.chains for s in specs.values())} chains"]),
        watermark=watermark,
        provenance={
            "hardware": hardware.describe(),
            "data": {"name": data, "own": own} | _content(source),
            "reductions": [],
            "source": None if source is None else planning.described(source),
            "seeds": seeds,
            "runs": {name: spec.key for name, spec in planned.items()},
            "missing": [],
        },
    )
    frame = theory.table(chains)
    claims, picture = outputs.leave(leaving, chains, frame, judged, time.monotonic() - started if simulated else 0.0)
    say(f"written: {leaving.folder}/{{{theory.name}.png,{theory.name}.svg,{','.join(outputs.FILES)}}}")
    mode = "disabled" if options.plot_only else options.wandb
    mirror = wandb_mirror.Mirror(mode, options.out, f"{theory.name}-{leaving.folder.name}", [theory.name, data], say)
    mirror.figure(picture, frame, claims)
    say(f"done in {time.monotonic() - started:.1f} s")
    return 0


def _source(theory: Theory, options: SimulationOptions, server: Server) -> Prepared | None:
    if theory.data is None:
        return None
    from three_factors.reproduce.engine.display import say
    from three_factors.reproduce.engine.planning import resolve

    assert isinstance(options, DataOptions)
    return resolve((theory.data,), theory.substitute, options, server, say)


def _specs(theory: Theory, scale: Scale, source: Prepared | None) -> dict[str, Simulation]:
    if source is None:
        return theory.simulations(scale)
    try:
        return theory.simulations(scale, source)
    except ValueError as error:  # too few images, or none of these classes
        raise InputError(f"--data: {source.name!r} does not do: {error}") from error


def _content(source: Prepared | None) -> dict[str, str]:
    return {} if source is None else {"fingerprint": source.fingerprint, "origin": source.origin}


def work(spec: Simulation) -> float:
    """Values that are computed: steps x chains x dimensions, or examples where a gradient goes over more of those."""
    return float(spec.record[-1] * spec.chains * max(spec.potential.dim, spec.examples_a_step))


def _simulate(
    todo: dict[str, Simulation], source: Prepared | None, results: Results, server: Server, jobs: int
) -> None:
    from three_factors.reproduce.engine.display import Display, say
    from three_factors.reproduce.engine.results import job_data
    from three_factors.reproduce.engine.runner import Runner, Task
    from three_factors.reproduce.engine.wandb_mirror import Mirror

    job = {} if source is None else job_data(source, "cpu", devices=1, threads=1)
    longest_first = sorted(todo.items(), key=lambda item: -work(item[1]))
    tasks = [Task(name, results.folder(spec), spec, job) for name, spec in longest_first]
    nowhere = Mirror("disabled", results.out, "", [], say)  # their numbers are in the figure's table
    weights = {name: work(spec) for name, spec in todo.items()}
    with Display(weights, nowhere, lambda name: {}) as display:
        Runner(server, jobs).run(tasks, display)


def _collect(
    specs: dict[str, Simulation], planned: dict[str, Simulation], results: Results, source: Prepared | None
) -> tuple[Chains, list[str]]:
    import numpy as np

    from three_factors.reproduce.engine.display import say
    from three_factors.reproduce.engine.results import SimulationFolder

    missing: list[str] = []
    parts: dict[str, list[np.ndarray]] = {label: [] for label in specs}
    for name, spec in planned.items():
        folder = results.folder(spec)
        if results.finished(spec, (), say) is None or not isinstance(folder, SimulationFolder):
            missing.append(name)
            continue
        parts[name.rsplit(", seed ", 1)[0]].append(np.load(folder.samples).astype(float))
    samples = {label: np.concatenate(found, axis=1) for label, found in parts.items() if found}
    return Chains(specs, samples, source), missing
