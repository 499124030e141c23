"""What a run leaves behind, compared to the bit."""

import json

import torch

from three_factors.reproduce.engine.contract.run_folder import RunFolder

# Of a run's own time, and what its rows are with that in them.
NOT_REPEATED = ("hessian/seconds", "training_hessian/seconds", "seconds", "provenance", "bytes", "sha256")


def left(folder):
    """Rows and weights, milestone -> state: what may not depend on kills, ranks or who has started the run."""
    rows = [{k: v for k, v in row.items() if k not in NOT_REPEATED} for row in RunFolder(folder).rows()]
    return rows, {file.stem: torch.load(file, weights_only=True) for file in (folder / "weights").iterdir()}


def assert_equal(a, b):
    (rows, weights), (others, their) = a, b
    assert rows == others
    assert weights.keys() == their.keys()
    for name, state in weights.items():
        assert all(torch.equal(state[key], their[name][key]) for key in state), name


def repeated(value):
    """A result without what every run has of its own."""
    if not isinstance(value, dict):
        return value
    return {key: repeated(part) for key, part in value.items() if key not in NOT_REPEATED}


def results(folder):
    """file -> what it holds, of a run's result and its measurements."""
    files = [folder / "result.json", *sorted(folder.glob("measured-*.json"))]
    return {file.name: repeated(json.loads(file.read_text())) for file in files}


def assert_same(a, b):
    """Of two folders of finished and measured runs."""
    assert_equal(left(a), left(b))
    assert results(a) == results(b)
