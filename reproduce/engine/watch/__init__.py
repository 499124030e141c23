"""What one sees of runs while they go on: the terminal's display, and the mirror in W&B."""
