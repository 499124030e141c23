"""Spec, run, measure, draw, claim: what every figure script stands on. Only `train` and `worker` import torch."""
