"""Names of what is logged and measured; a name means the same in every experiment."""

from __future__ import annotations

TEST, VALID, VALID_LOSS = "test/accuracy", "val/accuracy", "val/loss"
LOSS = "train_subset/loss"  # on un-augmented training images, in eval mode
STEP_LOSS = "train/loss"  # an epoch's mean of its steps' losses
NORM, TRACE = "hessian/frobenius", "hessian/trace"
DIFFERENCES = "hessian/finite_difference"  # the norm as the paper measures it


def end(metric: str) -> str:
    """Returns the name of a metric where the run ended."""
    return f"end {metric}"


def best(metric: str) -> str:
    """Returns the name of a metric at the best validation accuracy."""
    return f"best {metric}"


END_NORM, BEST_NORM, BEST_LOSS = end(NORM), best(NORM), best(LOSS)
