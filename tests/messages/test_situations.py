"""Situations of messages that no other test gives, and of those whose fix was wrong or unsafe."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_torch.data.decode import UnreadableImage, decode_bytes
from alexnet_torch.data.sources.tar_sets import open_tar_set
from alexnet_torch.errors import UserError
from alexnet_torch.weights.caffe_file import read_mean_image
from alexnet_torch.weights.input_convention import mean_from_option
from tests.support.caffe_files import field, packed_data
from tests.support.commands import run_cli
from tests.support.image_sets import small_set, tar_of, write_official, write_shards


def caffe_mean_with_few_values(folder: Path) -> None:
    shape = field(7, field(1, b"\x03\x08\x08"))
    (folder / "mean.binaryproto").write_bytes(shape + packed_data(np.zeros(5, np.float32)))
    read_mean_image(folder / "mean.binaryproto")


def mean_of_two_dimensions(folder: Path) -> None:
    np.save(folder / "mean.npy", np.zeros((8, 8), np.float32))
    mean_from_option(str(folder / "mean.npy"), 8)


def one_split_in_shards(folder: Path) -> None:
    write_official(folder, small_set())
    (folder / "ILSVRC2012_img_train.tar").unlink()
    write_shards(folder / "shards", small_set())
    for file in (folder / "shards").glob("*train*"):
        file.rename(folder / file.name)
    open_tar_set(folder)


def shard_with_a_member_twice(folder: Path) -> None:
    write_shards(folder, small_set())
    shard = next(folder.glob("*train-0000.tar"))
    shard.write_bytes(tar_of([("a.jpg", b"x"), ("a.cls", b"1"), ("a.jpg", b"x")]))
    open_tar_set(folder)


def image_that_memory_cannot_hold(folder: Path) -> None:
    content = next(each.content for each in small_set())

    def no_memory(_: object) -> None:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "open", no_memory)
        decode_bytes(content, 8, folder / "large.png")


def graph_that_onnxruntime_cannot_run(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from alexnet_torch.weights.onnx_check import check_with_onnxruntime

    images, logits = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 4, 4]) for n in "xy")
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [images], [logits])), folder / "net.onnx")
    random = torch.zeros(1, 3, 4, 4)
    check_with_onnxruntime(folder / "net.onnx", None, torch.nn.Identity(), random, random)


SITUATIONS: list[tuple[Callable[[Path], None], str]] = [
    (
        caffe_mean_with_few_values,
        r"binaryproto: the mean has shape \(3, 8, 8\) but 5 values; copy the file again",
    ),
    (mean_of_two_dimensions, r"its shape is \(8, 8\), but must be \(S, S, 3\) RGB or \(3, S, S\) BGR"),
    (one_split_in_shards, r"has .* to train on and .* to validate; give both splits in one form"),
    (shard_with_a_member_twice, r"contains a\.jpg twice; make the shard again"),
    (graph_that_onnxruntime_cannot_run, r"net\.onnx: onnxruntime cannot run it \(.*\); name an AlexNet weight file"),
    (image_that_memory_cannot_hold, r"large\.png: its header gives a size beyond memory"),
]


@pytest.mark.parametrize(("situation", "message"), SITUATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_situation_gives_its_message(situation: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    with pytest.raises((UserError, UnreadableImage), match=message):
        situation(tmp_path)


@pytest.mark.parametrize(
    "command", ["predict RUN/model.pt IMAGE", "export RUN/model.json OUT.onnx", "evaluate RUN/model.pt --data IMAGES"]
)
def test_a_file_of_a_run_in_place_of_the_run_names_the_run(command: str, run_folder: Path, tmp_path: Path) -> None:
    """The fix was to train the run again, or to restore its model from a backup."""
    words = {"RUN": str(run_folder), "IMAGES": str(tmp_path / "images"), "OUT": str(tmp_path / "out")}
    words["IMAGE"] = f"{words['IMAGES']}/val/class0/000.png"
    for name in ("IMAGES", "IMAGE", "RUN", "OUT"):
        command = command.replace(name, words[name]) if name in command else command
    done = run_cli(*command.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(f": is a file; name its run, {run_folder}"), line


def test_a_file_of_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"x")
    done = run_cli("predict", tmp_path / "weights.pt", "x.png")
    assert done.stderr.endswith("weights.pt: is a file; name the folder of a run\n")
