"""Runs into the archive, or into a table: what has been made at great cost is kept beside the code.

The archive (reproduce/gallery/archive/) answers for the larger scales: figures are drawn and judged from it where their
runs, or even their data, are not there. Each call adds a block of what is finished and not in it; no block is written
again. With --csv the curves and ends of a results folder become a tidy table instead: a row a value.

    python reproduce/export.py fig5 --scale paper
    python reproduce/export.py fig4 --csv fig4.csv
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.contents import CONTENTS
from three_factors.reproduce.engine.export import main

if __name__ == "__main__":
    main(__doc__, CONTENTS)
