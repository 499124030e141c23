"""One run by hand: what a figure has prepared in OUT/runs/KEY, or OUT/paths/KEY.

python reproduce/worker.py results/runs/KEY
torchrun --nproc-per-node 2 reproduce/worker.py results/runs/KEY
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.worker.process import main

if __name__ == "__main__":
    main()
