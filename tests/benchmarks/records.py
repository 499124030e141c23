"""What a figure of long runs costs once they are done: seconds and memory to collect, judge and draw it.

    python tests/benchmarks/records.py [--json FILE]

Two figures from synthetic records: Figure 1 with 210 runs of 500 epochs (a million steps at S = 25), and Figure 13 with
40 runs, each with the loss of a million steps. Then a dry run of Figure 1 on them, as a user calls it. Bounds: 15 s and
1 GB each, 1.5 s the dry run. At last the archive of Figures 1, 5 and 9, five seeds at the paper's epochs: 3 MB each.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _code import ROOT
from _timing import command_line, parsed

sys.path.insert(0, str(ROOT / "reproduce" / "_name"))

import numpy as np

EPOCHS = {"fig1": 500, "fig13": 2857}
SEEDS = {"fig1": 7, "fig13": 5}
ARCHIVED = ("fig1", "fig5", "fig9")
MEGABYTES = 3
NOISE = {"loss": 0.02, "accuracy": 0.003, "variance": 0.2, "weights": 0.002}  # from epoch to epoch, relative
PARTS = ("train", "val", "test", "train_subset")
SECONDS, GIGABYTES, DRY = 15, 1, 1.5


def items_of(name: str, smallest: bool, epochs: int | None = None, seeds: int = 5) -> list[Any]:
    """Returns a figure's runs at paper scale; the shortest is made to have so many epochs."""
    from tests.reproduce.figures import figure, source
    from three_factors.reproduce.engine.contract.spec import Item

    defined = figure(name)
    settings = defined.experiment.runs("smoke" if smallest else "paper", source(defined.data[0]))
    shortest = min(setting.spec.epochs for setting in settings.values())
    stretch = 1 if smallest or epochs is None else epochs / shortest
    found = []
    for seed in range(1 if smallest else seeds):
        for label, s in settings.items():
            length = round(s.spec.epochs * stretch / s.spec.evaluate_every) * s.spec.evaluate_every
            spec = replace(s.spec, seed=seed, epochs=length)
            found.append(Item(label, seed, spec, s.measurements, s.factors, s.every_step))
    return found


def write(out: Path, item: Any) -> None:
    """Writes the files of a finished run, with plausible numbers."""
    from three_factors.reproduce.engine.contract.files import digest
    from three_factors.reproduce.engine.contract.results import Results
    from three_factors.reproduce.engine.contract.steps import BATCH_SIZE, DTYPE, OF_STEPS, STEP_LOSSES, of_plan

    folder, random = Results(out).folder(item.spec).path, np.random.default_rng(int(item.spec.key, 16))
    folder.mkdir(parents=True)
    epochs = item.spec.epochs
    plan = of_plan(item.spec, epochs)
    if item.every_step:
        total = plan[-1]["step"]
        curve = 2.3 * np.exp(-np.arange(total) / total * 3)
        (curve * random.uniform(0.9, 1.1, total)).astype(DTYPE).tofile(folder / STEP_LOSSES)

    def noisy(what: str) -> float:
        return float(np.exp(random.normal(0, NOISE[what])))

    parts = (*PARTS, "train_clean", "train_wrong") if item.spec.data.label_noise else PARTS
    rows, between = list[dict[str, Any]](), list[dict[str, Any]]()
    for place in plan:
        whole = BATCH_SIZE in place
        mean = 2.3 * float(np.exp(-place["epoch"] / epochs * 3))
        row, often = dict(place), item.spec.evaluations
        early = not whole and often is not None and place["epoch"] < often.until
        if not early:
            row |= {"weights/norm": 10 + place["epoch"] * noisy("weights") / epochs}
            row |= {"weights/distance": place["epoch"] * noisy("weights") / epochs}
        if whole:
            row |= {"train/step_variance": 0.01 / place[BATCH_SIZE] * noisy("variance")}
        evaluated = not whole or place["epoch"] % item.spec.evaluate_every == 0
        for part in parts if evaluated else parts[:1]:
            if (part == "train" and not whole) or (part == "test" and early):
                continue
            row |= {} if early else {f"{part}/loss": mean * noisy("loss")}
            row |= {f"{part}/accuracy": round(float(np.exp(-mean)) * noisy("accuracy"), 4)}
        if not whole:
            between.append(row)
            continue
        rows.append(row | ({"between": between} if between else {}))
        between = []
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    top = {"epoch": epochs, "train_subset/loss": 0.01}
    reached = {at: top for m in item.measurements for at in m.at}
    result = {
        "key": item.spec.key,
        "status": "ok",
        "first_loss": 2.3,
        "final": {k: v for k, v in rows[-1].items() if k not in (*OF_STEPS, "between")},
        "bytes": (folder / "metrics.jsonl").stat().st_size,
        "sha256": {
            file.name: digest(file) for file in (folder / "metrics.jsonl", folder / STEP_LOSSES) if file.exists()
        },
        "milestones": reached,
        "provenance": {"seconds": 1.0, "devices": 1, "num_nodes": 1},
    }
    for m in item.measurements:
        found = {at: {name: float(random.uniform(1, 100)) for name in values_of(m)} for at in m.at}
        (folder / f"measured-{m.key}.json").write_text(json.dumps({"milestones": found}))
    (folder / "result.json").write_text(json.dumps(result))


def values_of(measurement: Any) -> list[str]:
    """Returns the names of what is measured at a milestone."""
    if not hasattr(measurement, "curvature"):
        with_errors = ("trace", "mean_square", "isotropy", "noise_scale", "kurtosis", "alignment", "alignment_lift")
        names = ["top_eigenvalue", *(f"{name}{end}" for name in with_errors for end in ("", "_error"))]
        return [f"gradient_noise/{name}" for name in names]
    prefix = "training_hessian" if measurement.curvature.training else "hessian"
    names = [f"{name}{end}" for name in measurement.curvature.measures for end in ("", "_error")]
    return [f"{prefix}/{name}" for name in ("weight_norm", "products", *names)]


def collect(name: str, out: Path, smallest: bool) -> dict[str, float]:
    """Returns the seconds of each part, and the memory at its peak; runs in a process of its own."""
    from tests.reproduce.figures import figure
    from three_factors.reproduce.engine.contract.results import Results
    from three_factors.reproduce.engine.evidence import table_of
    from three_factors.reproduce.engine.publish.picture import save

    defined, items = figure(name), items_of(name, smallest, EPOCHS[name], SEEDS[name])
    begin = time.perf_counter()
    table = table_of(defined.experiment, items, Results(out), print)
    collected = time.perf_counter()
    claims = defined.check(table)
    judged = time.perf_counter()
    assert claims
    save(defined.draw, table, out, name, footer="", watermark=None)
    drawn = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"collect": collected - begin, "judge": judged - collected, "draw": drawn - judged, "gigabytes": peak}


def dry_run(out: Path) -> float:
    """Returns the seconds of `fig1.py --dry-run` on random images in FashionMNIST's layout; the second call's."""
    raw = out / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + random.bytes(784 * count))
        labels = random.integers(0, 10, count, dtype=np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, count], ">i4").tobytes() + labels)
    command = [sys.executable, str(ROOT / "reproduce" / "fig1.py"), "--scale", "paper", "--seeds", "7", "--dry-run"]
    command += ["--data-dir", str(out / "data"), "--out", str(out)]
    env = os.environ | {"THREE_FACTORS_CACHE": str(out / "cache")}
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    return seconds


def archived(name: str, out: Path, smallest: bool) -> float:
    """Returns the megabytes of a figure's block."""
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.contract.results import Results

    items, results = items_of(name, smallest), Results(out)
    for item in items:
        write(out, item)
    told = {"figure": name, "scale": "paper", "arm": "epochs", "data": None, "lines": {}}
    Archive(out / "archive").add(name, told, [(item, results.folder(item.spec)) for item in items])
    return sum(file.stat().st_size for file in (out / "archive").glob(f"{name}.*")) / 1e6


def main() -> None:
    parser = command_line(__doc__, smallest="one seed at smoke scale, and no dry run", json=True)
    parser.add_argument("--collect", nargs=2, metavar=("FIGURE", "OUT"), help="in a process of its own")
    options = parsed(parser)
    sys.path.insert(0, str(ROOT))
    if options.collect:
        name, out = options.collect
        print(json.dumps(collect(name, Path(out), options.smallest)))
        return
    found: dict[str, Any] = {}
    print(f"{'what':<8}{'runs':>6}{'megabytes':>11}{'collect':>9}{'judge':>7}{'draw':>7}{'seconds':>9}{'GB':>6}")
    for name in EPOCHS:
        out = Path(tempfile.mkdtemp())
        try:
            items = items_of(name, options.smallest, EPOCHS[name], SEEDS[name])
            for item in items:
                write(out, item)
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
            command = [sys.executable, __file__, "--collect", name, str(out)] + ["--smallest"] * options.smallest
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            seconds = row["collect"] + row["judge"] + row["draw"]
            print(
                f"{name:<8}{len(items):>6}{size:>11.0f}{row['collect']:>9.1f}{row['judge']:>7.1f}{row['draw']:>7.1f}"
                f"{seconds:>9.1f}{row['gigabytes']:>6.2f}   (bounds {SECONDS} s, {GIGABYTES} GB)"
            )
            found[name] = row
            if name == "fig1" and not options.smallest:
                found["dry run"] = dry_run(out)
                print(f"fig1.py --dry-run on these: {found['dry run']:.2f} s   (bound {DRY} s)")
        finally:
            shutil.rmtree(out)
    for name in ARCHIVED:
        out = Path(tempfile.mkdtemp())
        try:
            found[f"{name} archived"] = archived(name, out, options.smallest)
            print(f"{name} in the archive: {found[f'{name} archived']:.2f} MB   (bound {MEGABYTES} MB)")
        finally:
            shutil.rmtree(out)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
