"""Published losses beside a run's own, and the authors' statistics of ILSVRC-2012."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.pca_noise import PCANoise
from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.evaluation.figures.curves import curves_figure
from alexnet_torch.evaluation.published import published_points, standing
from alexnet_torch.evaluation.runs import read_run
from alexnet_torch.training import run_log
from alexnet_torch.weights.inputs import mean_from_option
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images
from tests.support.paths import PROJECT
from tests.support.test_sets import evaluate_json

STATISTICS = PROJECT.parent / "shared/reference/ilsvrc-2012-statistics.npz"
WNIDS = [each.identity for each in imagenet_classes()]


def test_a_run_is_compared_at_some_steps_by_images_seen() -> None:
    # 4,824 steps of 128: cuda-convnet2's 5.305; caffenet128_lrn between 2,000 and 3,000 steps of 256
    line = standing(5000, 128, 5.2)
    assert line == "step 5000, 640,000 images seen: loss 5.2; published AlexNets had 5.3 to 6.1 there"
    assert "published AlexNets had 3.9 to 4.6 there" in str(standing(20_000, 128, 4.0))
    assert "published AlexNets had 6.8 there" in str(standing(1000, 128, 6.9))
    assert standing(5000, 256, 5.2) != line
    assert standing(4980, 128, 5.2) is None
    assert standing(20_000, 100_000, 1.0) is None  # nobody has published so many


def test_curves_on_imagenet_have_the_published_points(tmp_path: Path) -> None:
    config = {"settings": {"batch_size": 128}, "classes": WNIDS, "images": {"train": 1_281_167}}
    records = [
        {"split": split, "step": step, "epoch": step * 128 / 1_281_167, "loss": 5, "top1_error": 0.9}
        for step in (1000, 20_000)
        for split in ("train", "val")
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for classes, drawn in ((WNIDS, True), (WNIDS[1:], False)):
        (tmp_path / "config.json").write_text(json.dumps({**config, "classes": classes}))
        left, right = curves_figure({"run": [read_run(tmp_path)]}).axes
        grey = [line for axes in (left, right) for line in axes.lines if line.get_color() == "0.5"]
        points = {tuple(point) for line in grey for point in np.round(np.asarray(line.get_xydata()), 3)}
        assert ((round(10_000 * 256 / 1_281_167, 3), 84.4) in points) == drawn  # caffenet128_lrn's error
        assert ((round(10_000 * 256 / 1_281_167, 3), 4.393) in points) == drawn


@pytest.mark.usefixtures("narrow_demo_recipe")
def test_training_prints_the_line_and_writes_the_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "is_imagenet", lambda _: True)
    monkeypatch.setattr(run_log, "standing", lambda *given: f"compared {given[:2]}")
    images, options = make_images(tmp_path / "images"), ["--recipe", "demo", "--batch-size", "8", "--max-steps", "1"]
    assert "compared (1, 8)" in run_train("--data", images, *options, "--output", tmp_path / "run").stdout
    (folder,) = (tmp_path / "run/tensorboard").glob("published caffenet-benchmark, caffenet256_lrn")
    events = EventAccumulator(str(folder)).Reload()
    published = [p for p in published_points() if p.split == "val" and "caffenet256_lrn" in p.source]
    shown = [(each.step, each.value) for each in events.Scalars("val/loss")]
    assert shown == [(p.images // 8, pytest.approx(p.loss)) for p in published]


def test_evaluate_subtracts_another_mean(run_folder: Path) -> None:
    own, other = (evaluate_json(run_folder, *mean)["results"] for mean in ((), ("--mean", "ilsvrc-2012")))
    assert own != other
    assert "--mean x: must be R,G,B" in run_cli("evaluate", run_folder, "--mean", "x").stderr


def test_the_authors_mean_is_shipped_and_scaled() -> None:
    mean = mean_from_option("ilsvrc-2012", 224)
    assert mean.shape == (256, 256, 3)
    assert mean.mean((0, 1)) == pytest.approx([127.305, 119.715, 104.913], abs=0.02)
    small = mean_from_option("ilsvrc-2012", 64)
    assert small.shape == (73, 73, 3)
    assert small.mean((0, 1)) == pytest.approx(mean.mean((0, 1)), abs=0.5)


@pytest.mark.skipif(not STATISTICS.is_file(), reason="the statistics are not beside the project")
def test_our_conventions_are_those_of_the_authors_statistics(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """Ten classes of Tiny ImageNet stand for ILSVRC-2012: a few grey levels and degrees apart, but not BGR or 0..1."""
    statistics = np.load(STATISTICS)
    theirs, std, vectors = (statistics[name] for name in ("mean_image", "colour_std", "colour_vectors"))
    shipped = mean_from_option("ilsvrc-2012", 224)
    assert np.abs(shipped - theirs.transpose(1, 2, 0)).max() <= 0.5
    prepared = prepare(shared_data("tiny-imagenet-10"), 73, str(tmp_path))
    assert prepared.mean.mean((0, 1)) == pytest.approx(theirs.mean((1, 2)), abs=12)
    noise = PCANoise("source")
    expected = noise.components(vectors @ np.diag(std**2) @ vectors.T)
    assert 0.1 * np.linalg.norm(expected, axis=0) == pytest.approx(0.1 * std)  # 12.2 along the strongest
    ours = noise.components(prepared.covariance)
    assert np.linalg.norm(ours, axis=0) == pytest.approx(std, rel=0.4)
    cosines = np.abs((ours * vectors).sum(0)) / np.linalg.norm(ours, axis=0)
    assert cosines.min() > 0.95
