"""The gallery: each figure as it was measured at its highest scale, small enough to keep; verdicts in the README.

Takes what is in the results folder, on the paper's own data and complete; writes reproduce/gallery/ (pictures, and a
page with every claim) and the outcome between the README's markers. Run the figures first, with report.py --run.

    python reproduce/gallery.py
    python reproduce/gallery.py --out results
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.contents import CONTENTS
from three_factors.reproduce.engine.gallery import main

if __name__ == "__main__":
    main(__doc__, CONTENTS)
