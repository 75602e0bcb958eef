import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alexnet_torch.errors import Diverged, TrainingError
from alexnet_torch.recipes.catalogue import demo
from alexnet_torch.recipes.recipe import ABLATIONS, EpochSchedule, sixth_conv
from alexnet_torch.training.trainer import Trainer
from benchmarks.experiments import ablations
from benchmarks.experiments.ablations import FULL, PAPER, Options, Result, recipe, saved_results, table
from tests.support.folders import make_images
from tests.support.nets import narrow_demo


def test_every_ablation_is_compared_with_a_schedule_in_proportion() -> None:
    assert set(ABLATIONS) < set(PAPER)
    nets = {net: recipe(net, 8).architecture for net in PAPER}
    assert nets["full"] == nets["full-init"] == nets["no-colour"] == demo().architecture
    assert nets["sixth-conv-init"] == nets["sixth-conv"] == sixth_conv(demo().architecture)
    assert [net for net in PAPER if recipe(net, 8).colour is None] == ["no-colour"]
    assert recipe("full", 24).schedule == demo().schedule
    assert recipe("full", 8).schedule == EpochSchedule(((4, 0.3), (5, 0.1), (6, 0.03), (7, 0.01)))


def test_the_table_has_means_deviations_paired_differences_and_diverged_nets() -> None:
    errors: dict[str, list[float | None]] = {"full": [0.18, 0.20, 0.22], "no-norm": [None], "tanh": [0.3, None]}
    errors["one-tower"] = [0.20, 0.24, 0.22]
    runs = [(net, seed, error) for net, of_seeds in errors.items() for seed, error in enumerate(of_seeds)]
    assert table([Result("photos", 8, *run, run[2] and 0.1, 1.0) for run in runs]).splitlines()[2:] == [
        "| full | 3 | 20.0 ± 2.0 | 10.0 ± 0.0 |  | 40.7% |",
        "| no-norm | 0 of 1 | diverged |  |  | +1.4 |",
        # 2, 4 and 0 points: their standard deviation is 2, its mean's error 2 / sqrt(3)
        "| one-tower | 3 | 22.0 ± 2.0 | 10.0 ± 0.0 | +2.0 ± 1.2 | +1.7 (ILSVRC-2010) |",
        "| tanh | 1 of 2 | 30.0 | 10.0 | +12.0 | 6 times slower (CIFAR-10) |",
    ]


def test_saved_results_are_not_trained_again_and_nets_continue_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts, fit = list[dict[str, Tensor]](), Trainer.fit

    def watched_fit(trainer: Trainer) -> None:
        starts.append({name: value.clone() for name, value in trainer.net.state_dict().items()})
        fit(trainer)

    monkeypatch.setattr(ablations, "demo", narrow_demo)
    monkeypatch.setattr(Trainer, "fit", watched_fit)
    data, output = make_images(tmp_path / "images"), tmp_path / "out"
    options = Options(str(data), 1, (0,), ("full-init", "sixth-conv-init", FULL), 1, output)
    there = Result(str(data), 1, FULL, 1, 0.5, 0.5, 1.0)
    (output / "full-0").mkdir(parents=True)
    (output / "results.jsonl").write_text(json.dumps(asdict(there)) + "\n")
    (output / "full-0/metrics.jsonl").write_text("half a line")
    assert ablations.main(options) == 0
    first, *trained = results = saved_results(options)
    assert first == there
    assert [(result.net, result.seed) for result in trained] == [(FULL, 0), ("full-init", 0), ("sixth-conv-init", 0)]
    assert all(result.top1_error is not None and 0 <= result.top1_error <= 1 for result in trained)
    assert not (output / "full-0/checkpoints").exists()
    assert "| full | 2 |" in capsys.readouterr().out
    full = torch.load(output / "full-0/model.pt", weights_only=True)
    for start in starts[1:]:
        same = {name.split(".")[2] for name, value in start.items() if torch.equal(value, full.get(name, value + 1))}
        assert same == {"conv1", "conv2", "conv3", "conv4", "conv5"}
    assert "towers.1.conv6.weight" in starts[2]
    assert ablations.main(replace(options, jobs=2)) == 0
    assert saved_results(options) == results
    assert ablations.main(replace(options, epochs=2)) == 2
    assert f"has results of data {data}, epochs 1; name another folder" in capsys.readouterr().err


@pytest.mark.parametrize("why", [Diverged("the loss is nan"), TrainingError("cannot write the run")])
def test_a_diverged_training_is_a_result_and_a_failed_one_is_none(
    why: TrainingError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Trainer) -> None:
        raise why

    monkeypatch.setattr(ablations, "demo", narrow_demo)
    monkeypatch.setattr(Trainer, "fit", fail)
    options = Options(str(make_images(tmp_path / "images")), 1, (0,), (FULL,), 1, tmp_path / "out")
    diverged = isinstance(why, Diverged)
    assert ablations.main(options) == (0 if diverged else 1)
    assert [result.top1_error for result in saved_results(options)] == ([None] if diverged else [])
    assert (str(why) in capsys.readouterr().err) == (not diverged)
