"""Logistic regression of genuine against impostor scores, both classes of the same weight, not regularised by default.

The classes weigh half each whatever their sizes, so that the linear predictor is a log likelihood ratio as it is
(Brümmer and du Preez 2006; Morrison 2013).
"""

from __future__ import annotations

import numpy as np

from utils.errors import ReIDError

_STEPS = 200
_GRADIENT = 1e-12
_SEPARATED = 1e-8


class SeparableError(ReIDError):
    """Genuine and impostor training scores do not overlap, so that no finite weights are the best."""


def fit_logistic(features: np.ndarray, genuine: np.ndarray, ridge: float = 0.0) -> tuple[np.ndarray, float]:
    """Weights [K] and intercept that minimise the class-balanced cross-entropy, by Newton's method with step halving.

    Args:
        features: [N, K].
        genuine: [N], true for comparisons of one person.
        ridge: half of it times the squared weights of the standardised features is added to the cross-entropy, which
            keeps them finite where a plane separates the classes; 0: nothing is added.

    Raises:
        SeparableError: a plane separates the classes and ``ridge`` is 0.
        ReIDError: a class is missing, or a feature depends on the others.
    """
    features, genuine = np.asarray(features, dtype=np.float64), np.asarray(genuine, dtype=bool)
    if genuine.all() or not genuine.any():
        raise ReIDError("calibration needs genuine and impostor training scores; there is only one kind.")
    # Standardised columns keep the Hessian well-conditioned whatever the range of the scores.
    mean, std = features.mean(0), features.std(0)
    if not (std > 0).all():
        raise ReIDError("all training scores are equal: nothing can be calibrated on them.")
    columns = np.column_stack([(features - mean) / std, np.ones(len(features))])
    weight = np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum())
    sign = np.where(genuine, 1.0, -1.0)
    weights = _newton(columns * sign[:, None], weight, ridge)
    slopes = weights[:-1] / std
    return slopes, float(weights[-1] - slopes @ mean)


def _newton(signed: np.ndarray, weight: np.ndarray, ridge: float) -> np.ndarray:
    """The minimum of sum weight log(1 + exp(-signed w)) + ridge |w|^2 / 2, the last w, the intercept, not penalised."""
    w, penalty = np.zeros(signed.shape[1]), np.full(signed.shape[1], ridge)
    penalty[-1] = 0
    loss = _loss(signed, weight, w, penalty)
    for _ in range(_STEPS):
        if not ridge and (loss < _SEPARATED or (signed @ w).min() > 0):
            raise SeparableError(
                "the genuine and impostor training scores are separable: every genuine one is beyond every impostor "
                "one, so their likelihood ratio has no limit. Calibrate on more people, or on harder pairs."
            )
        wrong = 1 / (1 + np.exp(np.clip(signed @ w, -700, 700)))
        gradient = -signed.T @ (weight * wrong) + penalty * w
        if np.abs(gradient).max() < _GRADIENT:
            break
        hessian = (signed * (weight * wrong * (1 - wrong))[:, None]).T @ signed + np.diag(penalty)
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            raise ReIDError("the training scores of two modalities are the same: leave one of them out.") from None
        size = 1.0
        while (found := _loss(signed, weight, w - size * step, penalty)) > loss and size > 1e-10:
            size /= 2
        if size <= 1e-10:
            break
        w, loss = w - size * step, found
    return w


def _loss(signed: np.ndarray, weight: np.ndarray, w: np.ndarray, penalty: np.ndarray) -> float:
    return float(weight @ np.logaddexp(0, -(signed @ w)) + penalty @ w**2 / 2)
