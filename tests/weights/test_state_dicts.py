"""Networks in checkpoints of other programs are found by their tensors; refusals say what a file seems to be."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alexnet_torch import AlexNet
from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.weights.weight_file import WeightFile, copy_weights, read_weight_file
from tests.support.caffe_files import random_caffe_weights
from tests.support.nets import narrow

WEIGHTS = random_caffe_weights()


def read(tmp_path: Path, content: object, key: str | None = None) -> WeightFile:
    torch.save(content, tmp_path / "checkpoint.pt")
    return read_weight_file(tmp_path / "checkpoint.pt", key)


def error(tmp_path: Path, content: object, key: str | None = None) -> str:
    with pytest.raises(UserError) as raised:
        read(tmp_path, content, key)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def prefixed(prefix: str, weights: dict[str, Tensor] = WEIGHTS) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


def assert_is_read(file: WeightFile, weights: dict[str, Tensor] = WEIGHTS) -> None:
    assert list(file.weights) == list(weights)
    assert all(torch.equal(file.weights[name], value) for name, value in weights.items())


@pytest.mark.parametrize("key", ["model", "net", "model_state_dict", "ema", "state_dict", "anything"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "_orig_mod.module.", "a.b."])
def test_a_network_is_found_under_any_key_and_prefix(key: str, prefix: str, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(3, 3))], lr=0.1, momentum=0.9).state_dict()
    optimizer["state"] = {0: {"momentum_buffer": torch.zeros(3)}}
    file = read(tmp_path, {"epoch": 3, key: prefixed(prefix), "optimizer": optimizer, "lr_scheduler": {"step": 4}})
    assert_is_read(file)
    assert file.notes == (f"read {f'{key}.{prefix}'.rstrip('.')}",)
    assert_is_read(read(tmp_path, {**prefixed(prefix), "optimizer": optimizer}))


def test_lightnings_checkpoint_is_read_without_its_loss_and_metrics(tmp_path: Path) -> None:
    state = {**prefixed("net."), "criterion.weight": torch.ones(7), "accuracy.confusion": torch.zeros(7, 7)}
    content = {"state_dict": state, "loops": {"fit_loop": {}}, "hyper_parameters": {"lr": 0.1}, "callbacks": {}}
    file = read(tmp_path, content)
    assert_is_read(file)
    assert file.notes == ("read state_dict.net without 2 other tensors: criterion.weight, accuracy.confusion",)


def test_pytorchs_own_wrappers_are_removed(tmp_path: Path) -> None:
    net = nn.Sequential(*(nn.Conv2d(1, 2, 1) for _ in range(5)), *(nn.Linear(2, 2) for _ in range(3)))
    expected = [value.clone() for value in net.state_dict().values()]
    averaged = torch.optim.swa_utils.AveragedModel(net)
    for wrapped in (nn.DataParallel(net), averaged, torch.compile(net), torch.compile(nn.DataParallel(net))):
        assert isinstance(wrapped, nn.Module)
        file = read(tmp_path, wrapped.state_dict())
        assert all(map(torch.equal, file.weights.values(), expected))
    inside = {f"features.module.{name}": value for name, value in net.state_dict().items()}
    assert all(map(torch.equal, read(tmp_path, inside).weights.values(), expected))
    sharded = {"features._fsdp_wrapped_module.0.weight": torch.zeros(1)}
    assert "no network's weights" in error(tmp_path, sharded)


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.", "backbone._orig_mod.module."])
def test_our_own_network_is_found_in_another_programs_checkpoint(prefix: str, tmp_path: Path) -> None:
    net = AlexNet(narrow(PAPER), 5, 64, seed=0).half()
    state = {**prefixed(prefix, net.state_dict()), "head.weight": torch.ones(2, 2)}
    file = read(tmp_path, {"student": state})
    assert torch.equal(file.weights["conv2.weight"], torch.cat(net.stage_weights("conv2")).float())
    assert (file.inputs, file.weights["fc8.bias"].dtype) == ("rgb", torch.float32)
    cut = {**state, f"{prefix}towers.1.fc7.weight": torch.zeros(32, 63)}
    assert "is damaged (Sizes of tensors must match" in error(tmp_path, cut)
    read(tmp_path, {"student": state})
    fresh = AlexNet(narrow(PAPER), 5, 64, seed=1)
    message = copy_weights(fresh, str(tmp_path / "checkpoint.pt"))
    if prefix:
        assert f"(read student.{prefix.rstrip('.')} without 1 other tensors: head.weight): conv1" in message
    assert torch.equal(fresh.stage_weights("fc6")[1], net.stage_weights("fc6")[1].float())


def test_several_networks_are_listed_and_chosen_by_key(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in WEIGHTS.items()}
    content = {"model": WEIGHTS, "model_ema": other, "teacher": {"net": prefixed("module.", other)}}
    message = error(tmp_path, content)
    assert "it contains 3 networks, model, model_ema, teacher.net.module; choose one with import --key" in message
    assert_is_read(read(tmp_path, content, "model_ema"), other)
    assert_is_read(read(tmp_path, content, "teacher.net.module"), other)
    known = "--key ema: it contains no such network; choose one of model, model_ema, teacher.net.module"
    assert known in error(tmp_path, content, "ema")
    in_one = {**prefixed("student."), **prefixed("teacher.", other)}
    assert "2 networks, student, teacher" in error(tmp_path, in_one)
    assert_is_read(read(tmp_path, in_one, "teacher"), other)
    assert_is_read(read(tmp_path, {"state_dict": WEIGHTS, "best": dict(WEIGHTS)}))  # the same twice


def test_the_alexnet_is_taken_from_beside_another_network(tmp_path: Path) -> None:
    vgg = nn.Sequential(*(nn.Conv2d(2, 2, 2) for _ in range(13)), *(nn.Linear(2, 2) for _ in range(3))).state_dict()
    file = read(tmp_path, {"teacher": vgg, "student": WEIGHTS})
    assert_is_read(file)
    assert "in teacher it has 13 convolutions and 3 linear layers, not AlexNet's" in error(tmp_path, {"teacher": vgg})


def test_safetensors_of_other_programs_are_searched_too(tmp_path: Path) -> None:
    save_file(prefixed("model."), tmp_path / "net.safetensors")
    assert_is_read(read_weight_file(tmp_path / "net.safetensors"))


def test_namespaces_and_numpy_scalars_beside_the_weights_are_no_hindrance(tmp_path: Path) -> None:
    plain = {"args": argparse.Namespace(lr=0.1, data=Path("photos")), "best": np.float64(0.5), "seen": np.int64(3)}
    plain |= {"curve": np.zeros(3), "flag": np.bool_(True), "loss": np.float32(0.5)}
    for new_format in (True, False):
        torch.save({"model": WEIGHTS, **plain}, tmp_path / "a.pt", _use_new_zipfile_serialization=new_format)
        assert_is_read(read_weight_file(tmp_path / "a.pt"))


class Config:
    """A class whose objects are not unpickled."""


def module() -> nn.Module:
    net = nn.ModuleDict()
    for name, value in WEIGHTS.items():
        stage, kind = name.split(".")
        if kind == "weight":
            net[stage] = nn.Conv2d(1, 1, 1) if value.ndim == 4 else nn.Linear(1, 1)
        setattr(net[stage], kind, nn.Parameter(value))
    return net


@pytest.mark.parametrize(
    ("content", "new_format", "named"),
    [
        ({"model": WEIGHTS, "config": Config()}, True, "tests.weights.test_state_dicts.Config, which is not unpickled"),
        ({"model": WEIGHTS, "config": Config()}, False, "tests.weights.test_state_dicts.Config, which is not unp"),
        (module(), True, "torch.nn.modules."),
    ],
    ids=["object", "old format", "module"],
)
def test_the_error_for_other_objects_names_the_way_out(
    content: object, new_format: bool, named: str, tmp_path: Path
) -> None:
    """Runs the statement in the error, whose file is read."""
    torch.save(content, tmp_path / "checkpoint.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match=re.escape(f"contains more than tensors, {named}")) as raised:
        read_weight_file(tmp_path / "checkpoint.pt")
    statement = re.search(r"torch\.save\(.*\)$", str(raised.value))
    assert statement is not None
    exec(statement[0].replace("'weights.pt'", repr(str(tmp_path / "weights.pt"))), {"torch": torch})
    assert_is_read(read_weight_file(tmp_path / "weights.pt"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.write_text("version https://git-lfs.github.com/spec\n"), "it begins with b'version https"),
        (lambda file: file.write_text("<!DOCTYPE html>\n<html>"), "it begins with b'<!DOCTYPE html>"),
        (
            lambda file: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file),
            "is of torch.export, TorchScript or another program; name a saved state_dict()",
        ),
        (lambda file: torch.save({}, file), "it contains nothing, and no network's weights"),
        (lambda file: torch.save(torch.zeros(2, 3), file), "it contains a Tensor, and no network's weights"),
        (lambda file: torch.save({"epoch": 1, "loss": 2.0}, file), "it contains a dictionary of epoch, loss, and no"),
    ],
)
def test_refusals_say_what_the_file_seems_to_be(write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    write(file)
    with pytest.raises(UserError, match=rf"^{file}: .*{re.escape(message)}.*$"):
        read_weight_file(file)


def test_a_wrong_checksum_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(WEIGHTS, file)
    content = bytearray(file.read_bytes())
    content[content.index(WEIGHTS["fc7.weight"].numpy().tobytes()) + 40] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pt: is damaged \(the checksum of weights/data/.* is wrong\)"):
        read_weight_file(file)
