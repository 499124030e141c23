"""All results on one page: every figure beside its claims, and what became of each.

The page is one HTML file without anything from the network: OUT/report-SCALE.html. It shows what is there, at
gpu and paper scale (at the others with --archive) also what is in the archive; with --run the figures that are not are
made first. What is damaged is named, on the page too, and the exit status is then 2.

    python reproduce/report.py
    python reproduce/report.py --run --data-dir data
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.contents import CONTENTS
from three_factors.reproduce.engine.report import main

if __name__ == "__main__":
    main(__doc__, CONTENTS)
