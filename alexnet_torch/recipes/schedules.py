"""Learning-rate schedules, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of a step."""

    weights: float  # of all stages but those in `stages`
    biases: float  # of all stages
    stages: Mapping[str, float]  # the weights' rates of the stages that differ, by stage name


@dataclass(frozen=True)
class PlateauSchedule:
    """Lowers the rate when validation error stops improving (paper, section 5, by hand there)."""

    patience: int = 6  # validations without a new best error before the rate is lowered
    drops: int = 3  # how often it is lowered at most; three times in the paper
    factor: float = 0.1  # what it is multiplied by each time

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
    """Changes the rate at given epochs, counted from 0, in their order."""

    factors: tuple[tuple[int, float], ...] = ()  # (first epoch, factor of the base rate)
    stage_factors: tuple[tuple[int, str, float], ...] = ()  # (first epoch, stage, factor for its weights)

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
