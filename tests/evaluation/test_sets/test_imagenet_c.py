"""The arithmetic of ImageNet-C, on numbers that the paper gives."""

import numpy as np
import pytest

from alexnet_torch.evaluation.robustness import ALEXNET_ERRORS, SEVERITIES, CorruptionErrors

# ResNet-50's errors in % as the paper's table of corruptions has them: CE = error / AlexNet's error, mCE 76.7
RESNET_CE = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]


PAPER_TABLE = [88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7]


def test_alexnets_errors_are_the_papers() -> None:
    assert [100 * error for error in ALEXNET_ERRORS.values()] == pytest.approx(PAPER_TABLE, abs=0.0501)


def errors_of(means: dict[str, float]) -> CorruptionErrors:
    """Errors that rise with the severity, around each mean."""
    return CorruptionErrors({name: {s: mean + 0.01 * (s - 3) for s in SEVERITIES} for name, mean in means.items()})


def test_alexnet_itself_has_mce_1() -> None:
    assert errors_of(ALEXNET_ERRORS).mce == pytest.approx(1)


def test_mce_is_the_mean_of_the_ratios_not_the_ratio_of_the_means() -> None:
    scaled = {name: error * ce / 100 for (name, error), ce in zip(ALEXNET_ERRORS.items(), RESNET_CE, strict=True)}
    assert errors_of(scaled).mce == pytest.approx(np.mean(RESNET_CE) / 100)
    assert errors_of(scaled).mce == pytest.approx(0.767, abs=0.002)  # the paper's, from rounded ratios
    ratio_of_means = np.mean(list(scaled.values())) / np.mean(list(ALEXNET_ERRORS.values()))
    assert errors_of(scaled).mce != pytest.approx(ratio_of_means, abs=0.002)


def test_without_a_severity_there_is_no_mce_and_it_is_named() -> None:
    errors = errors_of(ALEXNET_ERRORS).by_severity
    partial = {name: dict(each) for name, each in errors.items() if name != "fog"}
    del partial["snow"][3]
    incomplete = CorruptionErrors(partial)
    assert incomplete.mce is None
    assert incomplete.missing == ["snow/3", "fog"]
    assert "snow" not in incomplete.means
    assert incomplete.means["frost"] == pytest.approx(ALEXNET_ERRORS["frost"])


def test_extra_corruptions_do_not_change_mce() -> None:
    errors = errors_of({**ALEXNET_ERRORS, "speckle_noise": 0.1})
    assert errors.mce == pytest.approx(1)
    assert errors.means["speckle_noise"] == pytest.approx(0.1)
