"""Tables made up, so that the answer is known, and the word that a finding alone is given."""

from dataclasses import replace

import pandas as pd

from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.table import Table
from three_factors.reproduce.engine.judge.verdicts import judge


def table(rows, curves=None, factors=None):
    """A table of (label, seed, values); one without values diverged."""
    found = [
        {"label": label, "seed": seed, "status": "ok" if values else "diverged"} | values
        for label, seed, values in rows
    ]
    return Table(pd.DataFrame(found), curves or {}, factors=factors or {})


def word(finding, seeds=4):
    """What a finding alone in its figure is judged to be at its first look."""
    alone = replace(finding, about=replace(finding.about, control_of=""))
    return judge([alone], look(seeds, seeds), [finding.about.id])[0].verdict
