from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_torch import AlexNet
from benchmarks.experiments import figure1
from benchmarks.experiments.figure1 import FOUR_LAYERS, SIDE, Curve, Options, network, table
from tests.support.folders import make_images


def test_the_table_says_how_many_times_more_epochs_tanh_takes() -> None:
    curves = [
        Curve("photos", 4, "2012", "relu", 0.01, [0.6, 0.3, 0.2, 0.1]),
        Curve("photos", 4, "2012", "relu", 0.1, [0.9, 0.9, 0.9, 0.9]),
        Curve("photos", 4, "2012", "tanh", 0.01, [0.8, 0.7, 0.6, 0.5]),
        Curve("photos", 4, "2012", "tanh", 0.1, [0.9, 0.8, 0.7, 0.4]),
    ]
    text = table(curves, 0.65)
    assert "| relu | 0.01 | 0.9 | 10.0% |" in text
    assert "| relu | 0.1 | not in 4 | 90.0% |" in text
    # 0.35 / 0.4 of an epoch against 2.5
    assert "tanh's best takes 2.9 times as many epochs" in text
    assert "| relu | 0.01 | 2.5 | 10.0% |" in table(curves, 0.25), "interpolated"
    assert "times" not in table(curves, 0.25)


def test_lecuns_rule_saturates_no_tanh() -> None:
    pixels = 64 * torch.randn(8, 3, SIDE, SIDE)
    for stage in FOUR_LAYERS.stage_names[:3]:
        out = AlexNet(network("tanh", "lecun"), 10, SIDE, seed=0).features(pixels, stage)
        assert out.min() < 0
        assert 0.3 < out.abs().mean() < 0.9
    assert [side for _, side in FOUR_LAYERS.stage_sides(SIDE)] == [32, 16, 16, 8, 8, 4], "as in the 2012 source"


def test_both_activations_learn_and_saved_curves_are_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_images(tmp_path / "images", classes=2, train=8)
    options = Options(str(data), 4, "lecun", (0.01,), batch_size=4, output=tmp_path / "out")
    assert figure1.main(options) == 0
    saved = (tmp_path / "out/figure1.jsonl").read_text()
    curves = figure1.complete_curves(options)
    assert (tmp_path / "out/figure1.jsonl").read_text() == saved
    assert [c.activation for c in curves] == ["relu", "tanh"]
    assert all(c.errors[-1] < c.errors[0] for c in curves)
    assert (tmp_path / "out/figure1.png").exists()
    drawn = (tmp_path / "out/figure1.svg").read_text()
    assert all(label in drawn for label in ("ReLU, rate 0.01", "tanh, rate 0.01", "Training error", "Epochs"))
    assert figure1.main(replace(options, epochs=3)) == 2
    assert f"has results of data {data}, epochs 4, init lecun; name another folder" in capsys.readouterr().err
