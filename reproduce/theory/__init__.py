"""Potentials, the SGD simulator and its references."""
