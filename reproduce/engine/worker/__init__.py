"""The process that a run lives in. It alone imports torch; with `contract` it is the code that a run depends on."""

from three_factors.reproduce.engine.worker import lighter

lighter.import_torchmetrics()
