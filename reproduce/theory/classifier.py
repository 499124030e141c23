"""A loss of real examples with all its derivatives: softmax regression with L2, exact and vectorised over chains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LARGEST = 300.0  # of a logit, in gradients: its exponential must not overflow, and beyond 40 nothing changes
TOLERANCE, ITERATIONS = 1e-12, 100  # of Newton's method
TOGETHER = 500  # chains whose losses are evaluated together: a few MB


@dataclass(frozen=True)
class SoftmaxRegression:
    """Tells which examples and which regulariser; the content of the data is in `fingerprint`, the data are not.

    L = mean_i(-log p(y_i | x_i)) + l2 |θ|^2/2. The last class's logit is 0: a weight vector for every class would leave
    directions in which no example's gradient differs, and whose noise is 0 for no deeper reason. θ holds
    (classes - 1) x (features + 1) numbers, the last of each row its bias.

    Attributes:
        fingerprint: of the whole data set.
        classes: labels that are told apart; the others are left out.
        examples: the first so many training images of these classes.
        features: principal components of those images.
    """

    fingerprint: str
    classes: tuple[int, ...]
    examples: int
    features: int
    l2: float

    def __post_init__(self) -> None:
        if len(set(self.classes)) < 2 or sorted(set(self.classes)) != list(self.classes):
            raise ValueError(f"classes: {self.classes!r} are not two or more ascending labels")
        for name in ("examples", "features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        if not self.l2 > 0:
            raise ValueError(f"l2: {self.l2!r} is not positive, so there may be no minimum")

    @property
    def dim(self) -> int:
        return (len(self.classes) - 1) * (self.features + 1)

    def on(self, arrays: Mapping[str, np.ndarray]) -> Classifier:
        """Returns the loss on a data set's `train_images` (N, ...) and `train_labels` (N,). ValueError if those are too
        few.

        The principal components are fitted to these examples alone; all are divided by one number, so that their mean
        square is 1 and their proportions stay.
        """
        labels = np.asarray(arrays["train_labels"])
        chosen = np.flatnonzero(np.isin(labels, self.classes))[: self.examples]
        labels = labels[chosen]
        if len(chosen) < self.examples or len(np.unique(labels)) < len(self.classes):
            raise ValueError(f"data: not {self.examples} training images of the classes {self.classes}")
        images = np.asarray(arrays["train_images"][chosen], dtype=float).reshape(len(chosen), -1) / 255
        if self.features >= min(images.shape):
            raise ValueError(f"features: {self.features} components of {images.shape[1]} pixels cannot be had")
        images -= images.mean(axis=0)
        left, singular, _ = np.linalg.svd(images, full_matrices=False)
        scores = left[:, : self.features] * singular[: self.features]
        x = np.column_stack([scores / np.sqrt((scores**2).mean()), np.ones(len(scores))])
        return Classifier(x, np.searchsorted(self.classes, labels), len(self.classes), self.l2)


class Classifier:
    """The loss of given inputs x (N, d) and labels (N,) in 0..classes - 1. `theta` is (chains, q), row by row of θ."""

    def __init__(self, x: np.ndarray, labels: np.ndarray, classes: int, l2: float) -> None:
        self.x, self.l2, self.rows = np.ascontiguousarray(x, dtype=float), l2, classes - 1
        self.truth = np.eye(classes)[labels][:, : self.rows]  # (N, rows): all 0 for the last class
        self._transposed = np.ascontiguousarray(self.x.T)
        self._pull = (self.truth.T @ self.x / len(self.x)).ravel()  # the labels' part of the gradient

    @property
    def dim(self) -> int:
        return self.rows * self.x.shape[1]

    def _weights(self, theta: np.ndarray) -> np.ndarray:
        return theta.reshape(len(theta), self.rows, -1)

    def _probabilities(self, theta: np.ndarray) -> np.ndarray:
        """Returns the probabilities of all classes but the last, (rows, chains, N)."""
        weights = self._weights(theta)
        logits = np.empty((self.rows, len(theta), len(self.x)))
        for k in range(self.rows):
            np.matmul(weights[:, k], self._transposed, out=logits[k])
        return _softmax(logits, axis=0)

    def loss(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([self._loss(part) for part in _parts(theta)])

    def _loss(self, theta: np.ndarray) -> np.ndarray:
        logits = self._weights(theta) @ self._transposed  # (chains, rows, N)
        top = np.maximum(logits.max(axis=1), 0)
        total = np.log(np.exp(-top) + np.exp(logits - top[:, None]).sum(axis=1)) + top
        own = (theta @ self._pull)[:, None]
        return total.mean(axis=1) - own[:, 0] + self.l2 / 2 * (theta**2).sum(axis=1)

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        p, found = self._probabilities(theta), np.empty((len(theta), self.rows, self.x.shape[1]))
        for k in range(self.rows):
            found[:, k] = p[k] @ self.x
        found /= len(self.x)
        flat = found.reshape(theta.shape)
        flat -= self._pull
        flat += self.l2 * theta
        return flat

    def batch_gradient(self, theta: np.ndarray, batches: np.ndarray) -> np.ndarray:
        """Returns the gradient of every chain on examples of its own, `batches` (chains, S)."""
        inputs = self.x.take(batches, axis=0, mode="clip")  # (chains, S, d)
        residuals = _softmax(inputs @ self._weights(theta).transpose(0, 2, 1), axis=2)
        residuals -= self.truth.take(batches, axis=0, mode="clip")
        found = (residuals.transpose(0, 2, 1) @ inputs).reshape(theta.shape)
        found /= batches.shape[1]
        found += self.l2 * theta
        return found

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Returns the Hessian at one point (q,), (q, q)."""
        p = self._probabilities(theta[None])[:, 0].T  # (N, rows)
        curvature = p[:, :, None] * (np.eye(self.rows) - p[:, None, :])
        found = np.einsum("nkl,ni,nj->kilj", curvature, self.x, self.x, optimize=True) / len(self.x)
        return found.reshape(self.dim, self.dim) + self.l2 * np.eye(self.dim)

    def example_gradients(self, theta: np.ndarray) -> np.ndarray:
        """Returns the gradients at one point (q,), (N, q)."""
        residuals = self._probabilities(theta[None])[:, 0].T - self.truth
        return (residuals[:, :, None] * self.x[:, None, :]).reshape(len(self.x), -1) + self.l2 * theta

    def covariance(self, theta: np.ndarray) -> np.ndarray:
        """Returns C of the examples' gradients about their mean, at one point (q,): (q, q).

        A batch that is drawn has C/S.
        """
        gradients = self.example_gradients(theta)
        gradients = gradients - gradients.mean(axis=0)
        return gradients.T @ gradients / len(gradients)

    def noise_trace(self, theta: np.ndarray) -> np.ndarray:
        """Returns tr C at many points, (chains,)."""
        return np.concatenate([self._noise_trace(part) for part in _parts(theta)])

    def _noise_trace(self, theta: np.ndarray) -> np.ndarray:
        residuals = self._probabilities(theta) - self.truth.T[:, None]
        squares = (residuals**2).sum(axis=0) @ (self.x**2).sum(axis=1) / len(self.x)
        means = residuals @ self.x / len(self.x)  # (rows, chains, d)
        return squares - (means**2).sum(axis=(0, 2))

    @cached_property
    def minimum(self) -> np.ndarray:
        """Returns it, (q,), by Newton's method with halved steps where a whole one climbs."""
        theta = np.zeros(self.dim)
        for _ in range(ITERATIONS):
            gradient = self.gradient(theta[None])[0]
            if np.abs(gradient).max() < TOLERANCE:
                return theta
            step, share, before = np.linalg.solve(self.hessian(theta), gradient), 1.0, self.loss(theta[None])[0]
            while self.loss((theta - share * step)[None])[0] > before + 1e-14 and share > 1e-6:
                share /= 2
            theta = theta - share * step
        raise ValueError(f"l2: no minimum was found in {ITERATIONS} steps of Newton's method at {self.l2!r}")


def _softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """Returns exp(z_k)/(1 + sum exp(z)), in place."""
    np.minimum(logits, LARGEST, out=logits)
    np.exp(logits, out=logits)
    total = logits.sum(axis=axis, keepdims=True)
    total += 1
    logits /= total
    return logits


def _parts(theta: np.ndarray) -> list[np.ndarray]:
    return [theta[start : start + TOGETHER] for start in range(0, len(theta), TOGETHER)]
