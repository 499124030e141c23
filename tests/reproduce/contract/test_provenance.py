"""What a half-done run depends on is what the code does, not how it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from three_factors.reproduce.engine.contract import provenance

SOURCE = b'''"""A module."""

import math


def area(r: float) -> float:
    """Returns the area of a circle."""
    return math.pi * r**2  # of a disc


class Circle:
    """A circle."""

    def __init__(self):
        self.r = "1"
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"A module.", b"Another text."),
        (b'"""A circle."""\n', b""),
        (b"  # of a disc", b""),
        (b"Returns the area of a circle.", b"Returns a number."),
        (b"math.pi * r**2", b"(\n        math.pi\n        * r**2\n    )"),
    ],
)
def test_words_and_line_breaks_change_nothing(old, new):
    assert old in SOURCE
    assert provenance.meaning(SOURCE.replace(old, new)) == provenance.meaning(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"r**2", b"r**3"),
        (b"r: float", b"r: float = 1.0"),
        (b'"1"', b"1"),
        (b'"1"', b'"2"'),
        (b"import math", b"import cmath as math"),
        (b"    def __init__", b"    @staticmethod\n    def __init__"),
        (b"class Circle:", b"class Circle(int):"),
        (b'self.r = "1"', b'self.r = "1"\n        """no docstring"""'),
    ],
)
def test_whatever_may_do_something_else_changes_it(old, new):
    assert old in SOURCE
    assert provenance.meaning(SOURCE.replace(old, new)) != provenance.meaning(SOURCE)


@pytest.mark.slow
def test_all_of_a_workers_code_is_in_it(monkeypatch, tmp_path):
    before = provenance.bits("-")["code"]
    assert before == provenance.bits("-")["code"]
    read = Path.read_bytes
    for name in (
        "reproduce/engine/worker/train.py",
        "reproduce/engine/contract/spec.py",
        "callbacks/functional/lanczos.py",
        "datamodules/plan.py",
    ):
        changed = provenance.CHECKOUT / name

        def other(self, changed=changed):
            return read(self) + (b"\nX = 1\n" if self == changed else b"")

        monkeypatch.setattr(Path, "read_bytes", other)
        assert provenance.bits("-")["code"] != before
