"""A policy's choices for many prompts at once, as arrays: the rule of ``Policy.decide``, for the objectives that tuning
tries tens of thousands of times."""

import numpy as np
from numpy.typing import NDArray

from router.policy.table import LEVELS, ROUNDING, Objective, Policy


class Choices:
    """Of one policy; (n,) indices into its ``arms`` for (n, 5) level probabilities."""

    def __init__(self, policy: Policy):
        self._policy = policy
        cells, shape = policy.cells, (len(LEVELS), len(policy.arms))
        self._budgets = np.array([arm.budget for arm in policy.arms])
        self._accuracy = np.array([cell.accuracy for cell in cells]).reshape(shape)
        self._generations = np.array([cell.cost.generations for cell in cells]).reshape(shape)
        self._flops = np.array([cell.cost.flops for cell in cells]).reshape(shape)

    def within(self, budget: float, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """Under a fixed budget. Raises InvalidRequest."""
        self._policy.check(Objective("budget", budget))
        weights = self._weights(probabilities)
        accuracy = weights @ self._accuracy
        worth = np.where(self._budgets <= budget, accuracy, -np.inf)
        return self._cheapest(worth, weights @ self._flops, accuracy, self._policy.tolerance)

    def at_price(self, price: float, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """Where a generation costs so many right answers: under the average budget whose price that is."""
        weights = self._weights(probabilities)
        accuracy = weights @ self._accuracy
        return self._cheapest(accuracy - price * (weights @ self._generations), weights @ self._flops, accuracy)

    def _weights(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._policy.deciding == "mode":
            return np.asarray(np.eye(len(LEVELS))[probabilities.argmax(axis=1)])
        return probabilities

    @staticmethod
    def _cheapest(
        worth: NDArray[np.float64], flops: NDArray[np.float64], accuracy: NDArray[np.float64], tolerance: float = 0.0
    ) -> NDArray[np.int64]:
        """Of each row's columns that are as good as its best, the cheapest; the most accurate of equally cheap ones."""
        good = worth >= worth.max(axis=1, keepdims=True) - tolerance - ROUNDING
        cost = np.where(good, flops, np.inf)
        cheapest = cost == cost.min(axis=1, keepdims=True)
        return np.asarray(np.where(cheapest, accuracy, -np.inf).argmax(axis=1))
