"""Eight real architectures under every monitor and seven ways of training: right, or refused before the first step.

Some of the cells run always, all of them with `--matrix`; with `--matrix-table FILE` their outcomes are written to it
as Markdown: the table in callbacks/README.md (one process, about 15 minutes).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.architectures import oracles
from tests.architectures.cells import CONDITIONS, MONITORS, Cell, cells
from tests.architectures.networks import ARCHITECTURES
from three_factors.callbacks import GradientNoiseMonitor

pytestmark = pytest.mark.slow

NAMES = {
    "hessian": "HessianMonitor",
    "gauss_newton": 'HessianMonitor(curvature="gauss_newton")',
    "gradient_noise": "GradientNoiseMonitor",
    "interpolation": "InterpolationMonitor",
}

# What is refused, by the beginning of what is said; every other cell is right. (architecture, monitor, condition)
WITHOUT_OUTPUT = "curvature: 'gauss_newton' needs loss(output, target) in place of batch_loss"
REFUSED: dict[tuple[str, str, str], str] = {
    (name, "gauss_newton", "float32"): WITHOUT_OUTPUT for name in ("gpt", "gru", "unet")
}

ALWAYS = [
    ("resnet18", "hessian", "frozen"),
    ("resnet18", "interpolation", "clipping"),
    ("mobilenet_v3_small", "hessian", "float32"),
    ("mobilenet_v3_small", "gradient_noise", "frozen"),
    ("vit_b_16", "hessian", "bf16-mixed"),
    ("vit_b_16", "gradient_noise", "EMA"),
    ("vit_b_16", "interpolation", "float32"),
    ("densenet", "hessian", "drawn"),
    ("densenet", "interpolation", "frozen"),
    ("gpt", "hessian", "accumulation"),
    ("gpt", "gradient_noise", "drawn"),
    ("gpt", "interpolation", "frozen"),
    ("lstm", "gauss_newton", "float32"),
    ("lstm", "gradient_noise", "clipping"),
    ("lstm", "interpolation", "compiled module"),
    ("gru", "hessian", "compiled module"),
    ("gru", "gauss_newton", "float32"),
    ("gru", "gradient_noise", "accumulation"),
    ("gru", "interpolation", "drawn"),
    ("gru", "gradient_noise", "compiled network"),
    ("unet", "hessian", "compiled network"),
    ("unet", "gradient_noise", "bf16-mixed"),
    ("unet", "interpolation", "EMA"),
]

OUTCOMES: dict[tuple[str, str, str], str] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        chosen = cells() if metafunc.config.getoption("--matrix") else [Cell(*key) for key in ALWAYS]
        metafunc.parametrize("cell", chosen, ids=str)


@pytest.fixture(scope="module", autouse=True)
def _table(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    file = request.config.getoption("--matrix-table")
    if file:
        Path(file).write_text(table(OUTCOMES))


def table(outcomes: dict[tuple[str, str, str], str]) -> str:
    """The outcomes as Markdown: a row for each architecture and monitor, then what the refusals say."""
    said: list[str] = []
    lines = [
        "| architecture | monitor | " + " | ".join(CONDITIONS) + " |",
        "|---|---|" + "---|" * len(CONDITIONS),
    ]
    for name in ARCHITECTURES:
        for monitor in MONITORS:
            row = []
            for condition in CONDITIONS:
                outcome = outcomes.get((name, monitor, condition), "")
                if outcome.startswith("refused: "):
                    if outcome not in said:
                        said.append(outcome)
                    outcome = f"refused ({said.index(outcome) + 1})"
                row.append(outcome.replace("|", "\\|"))
            if any(row):
                lines.append(f"| {name} | `{NAMES[monitor]}` | {' | '.join(row)} |")
    return "\n".join([*lines, "", *(f"{i}. {line.removeprefix('refused: ')}" for i, line in enumerate(said, 1)), ""])


@pytest.mark.filterwarnings("ignore")
def test_a_cell_is_right_or_refused_before_the_first_step(cell: Cell) -> None:
    key = (cell.name, cell.monitor, cell.condition)
    outcome = OUTCOMES[key] = cell.outcome()
    if key in REFUSED:
        assert outcome.startswith(f"refused: {REFUSED[key]}")
    else:
        assert outcome == "right"


def test_at_most_one_cell_in_six_is_refused_and_none_of_these_in_float32() -> None:
    own = [(c.name, c.monitor, c.condition) for c in cells(lambda cell: cell.monitor != "gauss_newton")]
    refused = [key for key in own if key in REFUSED]
    assert len(refused) <= len(own) / 6
    assert not {key[0] for key in refused if key[2] == "float32"} & {"resnet18", "densenet", "vit_b_16", "gpt"}


def test_every_architecture_monitor_and_condition_runs_always() -> None:
    for place, all_of_them in enumerate((ARCHITECTURES, MONITORS, CONDITIONS)):
        often = [key[place] for key in ALWAYS]
        assert all(often.count(one) >= 2 for one in all_of_them)


@pytest.mark.filterwarnings("ignore")
def test_dropout_adds_to_the_noise_what_it_adds_to_a_loops() -> None:
    """Two sets of masks: the two agree within their scatter, and differ from the noise without dropout by more."""
    cell = Cell("gru", "gradient_noise", "float32", dropout=0.5)
    assert cell.given is not None
    torch.manual_seed(3)
    module = cell.built().train()
    watch = GradientNoiseMonitor(batches=cell.given, stationarity=False, **cell.architecture.told)
    found = watch.measure(module, cell.given).trace
    module = module.double()
    masks = torch.tensor(
        [oracles.gradient_noise(module, cell.architecture.loss_of, cell.given, by_batch=False).trace for _ in range(12)]
    )
    without = oracles.gradient_noise(module.eval(), cell.architecture.loss_of, cell.given, by_batch=False).trace
    assert abs(found.value - float(masks.mean())) < 4 * float(masks.std())
    assert abs(found.value - without) > 4 * float(masks.std())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("monitor", ["hessian", "interpolation"])
def test_a_network_that_inductor_compiled_is_measured_as_the_plain_one(
    request: pytest.FixtureRequest, monitor: str
) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix: starts a C++ compiler")
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    assert Cell("gpt", monitor, "compiled network", backend="inductor").outcome() == "right"
