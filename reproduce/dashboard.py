"""The W&B workspace: noise, curvature, accuracy, figures and claims of the mirrored runs, a line a setting.

Every call saves a new view; the runs themselves come from the figures' --wandb online, or `wandb sync`.

    python reproduce/dashboard.py --dry-run
    python reproduce/dashboard.py --entity NAME
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.watch.dashboard import main

if __name__ == "__main__":
    main(__doc__)
