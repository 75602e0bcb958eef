"""Learning-rate schedules, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of a step.

    Attributes:
        weights, biases: the rates of all stages.
        stages: the weights' rates of the stages that differ, by stage name.
    """

    weights: float
    biases: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class PlateauSchedule:
    """Lowers the rate when validation error stops improving (paper, section 5, by hand there).

    Attributes:
        patience: validations without a new best error before the rate is lowered.
        drops: how often it is lowered at most; three times in the paper.
        factor: what it is multiplied by each time.
    """

    patience: int = 6
    drops: int = 3
    factor: float = 0.1

    def rate(self, base: float, epoch: int, errors: Sequence[float]) -> float:
        """Returns the rate in an epoch (from 0), given the validation errors so far, oldest first."""
        del epoch
        best, without_best, dropped = float("inf"), 0, 0
        for error in errors:
            without_best = 0 if error < best else without_best + 1
            best = min(best, error)
            if without_best >= self.patience and dropped < self.drops:
                dropped, without_best = dropped + 1, 0
        return base * self.factor**dropped

    def stage_rates(self, base: float, epoch: int) -> dict[str, float]:
        """Returns nothing: all stages have the same rate."""
        del base, epoch
        return {}


@dataclass(frozen=True)
class EpochSchedule:
    """Changes the rate at given epochs.

    Attributes:
        factors: (first epoch, counted from 0; factor of the base rate), in order.
        stage_factors: (first epoch, counted from 0; stage; factor of the base rate for its weights), in order.
    """

    factors: tuple[tuple[int, float], ...] = ()
    stage_factors: tuple[tuple[int, str, float], ...] = ()

    def rate(self, base: float, epoch: int, errors: Sequence[float]) -> float:
        """Returns the rate in an epoch (from 0), whatever the validation errors."""
        del errors
        factor = 1.0
        for first_epoch, new_factor in self.factors:
            if epoch >= first_epoch:
                factor = new_factor
        return base * factor

    def stage_rates(self, base: float, epoch: int) -> dict[str, float]:
        """Returns the weights' rates of the stages that differ in an epoch."""
        return {stage: base * factor for first_epoch, stage, factor in self.stage_factors if epoch >= first_epoch}


Schedule: TypeAlias = PlateauSchedule | EpochSchedule
