"""Spec, run, measure, draw, claim: what every figure script stands on. Only `train` and `worker` import torch."""

from three_factors.reproduce.engine.surroundings import usable_backend

usable_backend()  # before anything imports matplotlib, in every process
