"""What TensorBoard gets from a run, as its own readers see it."""

import errno
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.summary.writer.record_writer import RecordWriter

from alexnet_torch import load_model
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.training.tracking import network_graph
from tests.support.browser import browser
from tests.support.commands import one_line, read_metrics, resume, train_demo
from tests.support.nets import narrow_net
from tests.support.paths import PROJECT
from tests.support.placement_runs import free_port

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 epochs of 3 steps, in a folder of runs."""
    folder = tmp_path_factory.mktemp("tensorboard")
    done = train_demo(folder, "--epochs", "2", "--log-every", "1", "--seed", "3", run="runs/a")
    assert done.returncode == 0, done.stderr
    return folder / "runs/a"


def events_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "histograms": 0}).Reload()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_is_full_in_tensorboards_thread_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    done = train_demo(tmp_path, "--epochs", "1")
    one_line(done, "No space left on device.*make room on its disk")


def test_there_is_one_chart_for_each_quantity_and_none_of_one_point(finished: Path) -> None:
    events = events_of(finished / "tensorboard")
    train = {"train/loss", "train/top1_error", "train/lr", "work/images_per_second", "work/data_wait"}
    val = {"val/loss", "val/top1_error", "val/top5_error", "val/best_top1_error"}
    ratios = {f"weights/update_ratio_{stage}" for stage in narrow_net().architecture.stage_names}
    test = {"test/loss", "test/top1_error", "test/top5_error"}
    assert set(events.Tags()["scalars"]) == train | val | test | ratios
    assert {len(events.Scalars(tag)) for tag in train} == {6}
    assert {len(events.Scalars(tag)) for tag in val | ratios} == {2}
    assert set(events.Tags()["images"]) == {"weights/conv1/tower0", "weights/conv1/tower1", "train/samples"}
    assert [image.step for image in events.Images("weights/conv1/tower1")] == [0, 3, 6]
    stages = narrow_net().architecture.stage_names
    assert set(events.Tags()["histograms"]) == {f"weights/{stage}/tower{k}/values" for stage in stages for k in (0, 1)}
    last = load_model(finished).net.state_dict()["towers.1.fc6.weight"]  # of the best epoch, one of two
    counted = [each.histogram_value for each in events.Histograms("weights/fc6/tower1/values")]
    assert any((each.min, each.max, each.num) == (last.min(), last.max(), last.numel()) for each in counted)
    *centre, ten = (r for r in read_metrics(finished) if r["split"] == "val")
    assert [e.value for e in events.Scalars("val/top1_error")] == pytest.approx([r["top1_error"] for r in centre])
    best = [min(r["top1_error"] for r in centre[: n + 1]) for n in range(2)]
    assert [e.value for e in events.Scalars("val/best_top1_error")] == pytest.approx(best)
    (point,) = events.Scalars("test/top1_error")
    assert (point.step, point.value) == (ten["step"], pytest.approx(ten["top1_error"]))
    (event,) = events.Tensors("custom_scalars__config__")  # training and validation are in one chart
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["loss (nats)"] == ["train/loss", "val/loss"]
    assert charts["top-1 error"] == ["train/top1_error", "val/top1_error", "val/best_top1_error"]
    assert {tag for tags in charts.values() for tag in tags} == (train | val | ratios) - {"val/top5_error"}


def session_groups(runs: Path) -> list[Any]:
    """The rows of the tab HPARAMS, as TensorBoard's own server makes them."""
    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 1000})
    multiplexer.AddRunsFromDirectory(str(runs))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(runs))))
    request = api_pb2.ListSessionGroupsRequest(slice_size=100, allowed_statuses=[api_pb2.STATUS_UNKNOWN])
    return list(Handler(RequestContext(), context, "", request).run().session_groups)


def test_the_table_of_runs_has_settings_and_final_errors(finished: Path) -> None:
    (group,) = session_groups(finished.parent)
    assert group.hparams["seed"].number_value == 3
    assert group.hparams["recipe"].string_value == "demo"
    assert group.hparams["ablation"].string_value == "none"
    assert group.hparams["no_mirror"].bool_value is False
    assert "output" not in group.hparams
    *centre, ten = (r for r in read_metrics(finished) if r["split"] == "val")
    assert {value.name.tag: value.value for value in group.metric_values} == {
        "val/best_top1_error": pytest.approx(min(r["top1_error"] for r in centre)),
        "test/top1_error": pytest.approx(ten["top1_error"]),
        "test/top5_error": pytest.approx(ten["top5_error"]),
    }


def test_a_resumed_run_has_no_second_curve(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    resumed = resume(run, "--epochs", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert [event.step for event in events_of(run / "tensorboard").Scalars("val/loss")] == [3, 6, 9]
    assert len(session_groups(run)) == 1


@pytest.mark.parametrize("name", PRESETS)
def test_the_graph_has_the_edges_of_the_network(name: str) -> None:
    architecture, towers = PRESETS[name], range(PRESETS[name].towers)
    nodes = {node.name: node for node in network_graph(architecture, 10, 224)}
    boxes = {node.partition("/")[0] for node in nodes} - {"images", "logits"}
    assert boxes == {f"T{k}.{stage}" for k in towers for stage in architecture.stage_names}
    read_by = {  # which towers' boxes the boxes of a stage read
        box: {source[:2] for node in nodes.values() if node.name.startswith(f"{box}/") for source in node.input}
        for box in boxes
    }
    for stage in architecture.stages[1:]:
        meets = stage.reads_all_towers or (architecture.norm.across_towers and "norm" in getattr(stage, "after", ()))
        for k in towers:
            expected = {f"T{other}" for other in towers if meets or other == k}
            assert read_by[f"T{k}.{stage.name}"] == expected, stage.name
    assert all(source in nodes for node in nodes.values() for source in node.input)


def test_the_graph_has_the_shapes_that_the_network_computes() -> None:
    net = narrow_net().eval()
    nodes = network_graph(net.architecture, net.num_classes, net.image_size)
    last = {node.name.split("/")[0]: node for node in nodes}  # of each box
    for stage in net.architecture.stage_names:
        computed = net.features(torch.zeros(2, 3, 64, 64), stage).shape[1:]
        shapes = [[dim.size for dim in last[f"T{k}.{stage}"].attr["_output_shapes"].list.shape[0].dim] for k in (0, 1)]
        (_, channels0, *sides), (_, channels1, *sides1) = shapes
        assert [channels0 + channels1, *sides] == list(computed), stage
        assert sides == sides1


SEEN = {
    "timeseries": ("train 4 cards train /loss", "val 4 cards", "val /loss", "weights 26 cards"),
    "custom_scalars": ("loss (nats)", "top-1 error", "learning rate", "update / weight", "images/s", "waiting"),
    "hparams": ("a/tensorboard", "demo", "val/best_top1_error", "test/top1_error"),
    "graphs": ("T0.conv1", "T1.conv1", "T0.fc8", "logits"),
    "images": ("weights/conv1/tower0", "weights/conv1/tower1"),
}


@pytest.mark.slow
def test_a_browser_shows_the_panels(finished: Path) -> None:
    """Keeps screenshots of the tabs in runs/screenshots, which git ignores."""
    screenshots, port = PROJECT / "runs/screenshots", free_port()
    screenshots.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "tensorboard.main", "--logdir", str(finished.parent), "--port", str(port)]
    with browser() as page, subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert any("Press CTRL+C to quit" in text for text in server.stderr)
            for tab, words in SEEN.items():
                page.open("about:blank")
                page.open(f"http://127.0.0.1:{port}/#{tab}")
                page.wait_for(*words)
                time.sleep(2)  # for the curves to be drawn
                page.screenshot(screenshots / f"tensorboard-{tab}.png")
                assert (screenshots / f"tensorboard-{tab}.png").stat().st_size > 20_000
        finally:
            server.terminate()
