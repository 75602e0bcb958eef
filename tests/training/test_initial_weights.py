"""Initial weights and frozen stages, by train.py as a user runs it and by its functions."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from alexnet_torch import AlexNet
from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import PAPER, Architecture, Conv
from alexnet_torch.model.presets import CAFFE, TORCHVISION
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.recipe import with_tanh, without_norm
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints
from alexnet_torch.training.step import train_step
from alexnet_torch.weights import weight_file
from alexnet_torch.weights.model_file import TrainedModel, save_model
from alexnet_torch.weights.weight_file import copy_weights
from tests.support import caffe_files
from tests.support.commands import demo_options, one_line, resume, run_train, train_demo
from tests.support.folders import make_images
from tests.support.nets import narrow
from tests.support.placement_runs import require_same_run

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def train(folder: Path, *more: str | Path, run: str = "run") -> str:
    """Trains; returns what was printed."""
    done = train_demo(folder, *more, run=run)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def checkpoint(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(list_checkpoints(run / "checkpoints")[0], weights_only=True)
    return loaded


def random_weights(classes: int, seed: int = 0) -> dict[str, Tensor]:
    return AlexNet(RECIPES["demo"]().architecture, classes, 64, seed=seed).state_dict()


def stage(name: str) -> str:
    return name.split(".")[2]


def test_frozen_stages_stay_bitwise_equal_and_the_others_learn(tmp_path: Path) -> None:
    output = train(tmp_path, "--freeze", "conv1..conv2,conv2..conv3, conv5", "--max-steps", "4", "--lr", "0.01")
    assert "frozen, their weights and biases do not change: conv1, conv2, conv3, conv5" in output
    before, after = random_weights(3), checkpoint(tmp_path / "run")
    unchanged = {stage(name) for name in before if torch.equal(before[name], after["weights"][name])}
    assert unchanged == {"conv1", "conv2", "conv3", "conv5"}
    assert set(after["optimizer"]) == {name for name in before if stage(name) not in unchanged}


def test_a_run_with_frozen_stages_resumes_bitwise_and_only_with_the_same_option(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tmp_path, "--freeze", "conv1..conv5", "--max-steps", "5", run="full")
    train(tmp_path, "--freeze", "conv1..conv5", "--max-steps", "2")
    one_line(resume(run, "--freeze", "conv1"), "--resume: the run has --freeze conv1..conv5, not conv1;")
    resumed = resume(run, "--max-steps", "5")
    assert resumed.returncode == 0, resumed.stderr
    assert f"starting from {run}/checkpoints/step-00000002" in resumed.stdout
    assert "frozen" in resumed.stdout
    assert all(
        torch.equal(value, checkpoint(run)["weights"][name])
        for name, value in checkpoint(tmp_path / "full")["weights"].items()
    )


def test_a_run_starts_from_another_runs_weights_and_draws_its_last_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, start = tmp_path / "source", dict[str, Tensor]()
    train(tmp_path, "--max-steps", "3", run="source")
    make_images(tmp_path / "two", classes=2)
    renamed = Path(shutil.copytree(tmp_path / "images", tmp_path / "renamed"))
    for folder in renamed.glob("*/class1"):
        folder.rename(folder.with_name("class9"))

    def step(net: AlexNet, *given: Any) -> Any:
        start.update({name: value.clone() for name, value in net.state_dict().items()})
        return train_step(net, *given)

    monkeypatch.setattr(trainer, "train_step", step)
    learnt = torch.load(source / "model.pt", weights_only=True)
    for data, classes, told in (
        ("two", 2, "; fc8 has random weights, for 2 classes instead of 3"),
        ("renamed", 3, f"; fc8 has random weights, for 3 classes that are not those of {source}"),
        ("images", 3, ""),
    ):
        given = ("--data", tmp_path / data, "--init", source, "--max-steps", "1", "--seed", "7")
        output = train(tmp_path, *given, run=f"from-{data}")
        assert f"starting from the weights of {source}: conv1, conv2" in output
        assert told in output
        assert ("random" in output) == bool(told)
        drawn = random_weights(classes, seed=7)
        for name, value in start.items():
            assert torch.equal(value, drawn[name] if told and stage(name) == "fc8" else learnt[name]), name


def test_resume_uses_the_runs_own_checkpoint_and_init_before_there_is_one(tmp_path: Path) -> None:
    source, run = tmp_path / "source", tmp_path / "run"
    train(tmp_path, "--max-steps", "1", run="source")
    train(tmp_path, "--init", source, "--max-steps", "1")
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    for path in list_checkpoints(run / "checkpoints"):  # as if it had been killed before its first
        path.unlink()
    assert f"starting from the weights of {source}" in resume(run, "--max-steps", "1").stdout
    require_same_run(run, whole)
    (source / "model.pt").unlink()  # no longer needed
    assert f"starting from {run}/checkpoints/step-00000001" in resume(run, "--max-steps", "2").stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--init nowhere", "--init nowhere: no such file or folder; name a run's folder or a weight file"),
        ("--init-stages conv1", "--init-stages conv1: must be given with --init"),
        ("--init . --init-stages conv9", "--init-stages conv9: 'conv9' is not a stage; (perhaps.*)?choose from conv1,"),
        ("--freeze conv1,", "--freeze conv1,: '' is not a stage; (perhaps.*)?choose from conv1, .*, fc8"),
        ("--freeze conv1...conv3", "--freeze conv1...conv3: '.*' is not a stage"),
        ("--freeze conv5..conv1", "--freeze conv5..conv1: conv1 comes before conv5; write conv1..conv5"),
        ("--freeze conv1..fc8", "--freeze: names all stages, so that nothing can learn"),
        ("--init .", r"no model here \(model.json is missing\)"),
    ],
)
def test_wrong_start_options_get_one_line_and_leave_no_folder(
    given: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one_line(train_demo(tmp_path, *given.split()), message)
    assert not (tmp_path / "run").exists()


def test_an_imported_model_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    one_line(run_train(*demo_options(tmp_path), "--output", tmp_path), "holds a run already")


# what is copied into the network to train, and what does not fit


def save(net: AlexNet, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


def save_run(architecture: Architecture, folder: Path) -> AlexNet:
    net = AlexNet(architecture, 5, 64).eval()
    folder.mkdir(exist_ok=True)
    save_model(folder, TrainedModel(net, tuple("abcde"), np.zeros((73, 73, 3), np.float32)))
    return net


def test_weights_that_do_not_fit_are_refused_with_their_name_and_both_shapes(tmp_path: Path) -> None:
    net = narrow(PAPER)
    wide = replace(net, linears=(net.linears[0], replace(net.linears[1], width=48), net.linears[2]))
    source, five = save(AlexNet(wide, 5, 64), tmp_path / "wide.pt"), save(AlexNet(net, 5, 64), tmp_path / "five.pt")
    shapes = r"is \(48, 64\); in the network to train it is \(64, 64\)"
    with pytest.raises(UserError, match=rf"wide\.pt: fc7\.weight {shapes}"):
        copy_weights(AlexNet(net, 5, 64), str(source))
    assert copy_weights(AlexNet(net, 5, 64), str(source), CONVS).endswith("; random weights: fc6, fc7, fc8")
    with pytest.raises(UserError, match=r"fc8\.weight is \(5, 64\); in the network to train it is \(6, 64\)"):
        copy_weights(AlexNet(net, 6, 64), str(five), ("fc8",))


def test_the_first_five_layers_are_copied_into_the_net_with_a_sixth(tmp_path: Path) -> None:
    sixth = Conv("conv6", 16, 3, 1, (1, 1, 1, 1), reads_all_towers=True)
    with_sixth = replace(narrow(PAPER), convs=(*narrow(PAPER).convs, sixth))
    plain, net = AlexNet(narrow(PAPER), 5, 64, seed=1), AlexNet(with_sixth, 4, 64, seed=2)
    source, drawn = save(plain, tmp_path / "plain.pt"), AlexNet(with_sixth, 4, 64, seed=2).state_dict()
    with pytest.raises(UserError, match=r"has no conv6\.weight, which the network to train has"):
        copy_weights(net, str(source))
    output = copy_weights(net, str(source), CONVS)
    assert output == f"the weights of {source}: {', '.join(CONVS)}; random weights: conv6, fc6, fc7, fc8"
    for name, value in net.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name] if stage(name) in CONVS else drawn[name]), name
    with pytest.raises(UserError, match=r"conv6\.weight is not in the network to train"):
        copy_weights(AlexNet(narrow(PAPER), 4, 64), str(save(net, tmp_path / "six.pt")))


def test_torchvisions_weights_are_converted_to_our_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_file, "TORCHVISION", narrow(TORCHVISION))  # its own shapes are too wide for a test
    trained, net = AlexNet(narrow(TORCHVISION), 5, 64, seed=1), AlexNet(narrow(TORCHVISION), 3, 64, seed=2)
    with torch.device("meta"):
        names = list(torchvision.models.alexnet().state_dict())
    torch.save(dict(zip(names, trained.state_dict().values(), strict=True)), tmp_path / "alexnet.pth")
    copy_weights(net, str(tmp_path / "alexnet.pth"))
    scale = 255 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(net.stage_weights("conv1")[0] * scale, trained.stage_weights("conv1")[0])
    assert torch.equal(net.stage_weights("conv2")[0], trained.stage_weights("conv2")[0])


def test_nets_with_and_without_input_scale_compute_the_same(tmp_path: Path) -> None:
    images = 60 * torch.randn(2, 3, 64, 64)
    for source_scale, scale in ((1.0, 0.25), (0.25, 1.0)):
        run = tmp_path / f"run-{source_scale}"
        source = save_run(replace(narrow(PAPER), input_scale=source_scale), run)
        for given in (run, run / "model.pt"):
            net = AlexNet(replace(narrow(PAPER), input_scale=scale), 5, 64).eval()
            copy_weights(net, str(given))
            torch.testing.assert_close(net(images), source(images), rtol=1e-5, atol=1e-6)


def test_caffes_weights_are_converted_and_differences_of_the_networks_are_told(tmp_path: Path) -> None:
    weights, file = caffe_files.random_caffe_weights(), tmp_path / "bvlc_alexnet.caffemodel"
    file.write_bytes(caffe_files.caffemodel(weights))
    net = AlexNet(caffe_files.narrow(CAFFE), 3, caffe_files.SIZE)
    assert copy_weights(net, str(file)).endswith("; fc8 has random weights, for 3 classes instead of 7")
    assert torch.equal(torch.cat(net.stage_weights("conv1")), weights["conv1.weight"].flip(1))
    assert torch.equal(torch.cat(net.stage_weights("conv2")), weights["conv2.weight"])
    net = AlexNet(caffe_files.narrow(PAPER), caffe_files.CLASSES, caffe_files.SIZE)
    assert copy_weights(net, str(file)).endswith(
        "; they were trained in a network with pool_ceil True instead of False, "
        "norm.alpha 0.0001 instead of 0.0005, norm.k 1.0 instead of 2.0, norm.across_towers True instead of False, "
        "conv1.padding (0, 0, 0, 0) instead of (0, 3, 0, 3)"
    )
    assert copy_weights(net, str(file), ("fc6",)).endswith("norm.across_towers True instead of False")
    save_run(narrow(PAPER), tmp_path)
    relu = "conv1.after ('relu', 'norm', 'pool')"
    for change, difference in (
        (with_tanh(PAPER), f"linear_activation relu instead of tanh, {relu} instead of ('tanh', "),
        (without_norm(PAPER), f"a network with {relu} instead of ('relu', 'pool'), conv2.after "),
    ):
        assert difference in copy_weights(AlexNet(narrow(change), 5, 64), str(tmp_path))
    same = replace(PAPER, dropout=(), input_scale=0.5, name="other")
    assert copy_weights(AlexNet(narrow(same), 5, 64), str(tmp_path)).endswith("conv5, fc6, fc7, fc8")


def test_weights_for_unknown_images_are_refused_but_their_later_stages_are_copied(tmp_path: Path) -> None:
    trained, net = (AlexNet(replace(narrow(PAPER), towers=1), 5, 64, seed=seed) for seed in (0, 1))
    file, state = tmp_path / "a.pt", trained.state_dict()
    torch.save({name.removeprefix("towers.0."): value for name, value in state.items()}, file)
    with pytest.raises(UserError, match=r"does not say which images its weights read; make a run of it"):
        copy_weights(net, str(file))
    copy_weights(net, str(file), ("conv2", "fc8"))
    assert torch.equal(net.stage_weights("conv2")[0], trained.stage_weights("conv2")[0])
