"""Learning-rate schedules. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of a step.

    Attributes:
        weights, biases: of all stages.
        stages: the weights' rates of stages that differ, by stage name.
    """

    weights: float
    biases: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class PlateauSchedule:
    """Divides the rate when validation error stops improving (paper, section 5, by hand there).

    Attributes:
        patience: validations without a new best error after which the rate falls.
        drops: how often it falls at most; three times in the paper.
        factor: by which it is multiplied each time.
    """

    patience: int = 6
    drops: int = 3
    factor: float = 0.1

    def rate(self, base: float, epoch: int, errors: Sequence[float]) -> float:
        """The rate in an epoch (from 0), after the validation errors so far, oldest first."""
        del epoch
        best, stale, dropped = float("inf"), 0, 0
        for error in errors:
            stale = 0 if error < best else stale + 1
            best = min(best, error)
            if stale >= self.patience and dropped < self.drops:
                dropped, stale = dropped + 1, 0
        return base * self.factor**dropped

    def stage_rates(self, base: float, epoch: int) -> dict[str, float]:
        """No stage differs from the others."""
        del base, epoch
        return {}


@dataclass(frozen=True)
class EpochSchedule:
    """Changes the rate at given epochs.

    Attributes:
        factors: (epoch from 0, times the base rate from then on), in order.
        stage_factors: (epoch from 0, stage, times the base rate for its weights from then on), in order.
    """

    factors: tuple[tuple[int, float], ...] = ()
    stage_factors: tuple[tuple[int, str, float], ...] = ()

    def rate(self, base: float, epoch: int, errors: Sequence[float]) -> float:
        """The rate in an epoch (from 0); validation errors play no part."""
        del errors
        factor = 1.0
        for start, value in self.factors:
            if epoch >= start:
                factor = value
        return base * factor

    def stage_rates(self, base: float, epoch: int) -> dict[str, float]:
        """The weights' rates of the stages that differ in an epoch."""
        return {stage: base * factor for start, stage, factor in self.stage_factors if epoch >= start}


Schedule: TypeAlias = PlateauSchedule | EpochSchedule
