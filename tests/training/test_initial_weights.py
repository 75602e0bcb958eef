"""Initial weights and frozen stages, by train.py as a user runs it and by its functions."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from alexnet_torch import AlexNet
from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import PAPER, Architecture, Conv, parse_stages
from alexnet_torch.model.presets import CAFFE, TORCHVISION
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.recipe import with_tanh, without_norm
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints
from alexnet_torch.training.initial_weights import copy_weights
from alexnet_torch.training.step import train_step
from alexnet_torch.weights import weight_file
from alexnet_torch.weights.model_file import TrainedModel, save_model
from tests.support import caffe_files
from tests.support.commands import run_train
from tests.support.folders import make_images
from tests.support.nets import narrow

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def train(*options: str | Path) -> tuple[int, str]:
    """Runs train.py in this process; returns its exit status and what it printed."""
    done = run_train(*options)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("three") / "images")


def options(images: Path, output: Path, *more: str | Path) -> list[str | Path]:
    cache = images.parent / "cache"  # decoded once for all tests
    return ["--data", images, "--output", output, "--recipe", "demo", "--batch-size", "8", "--cache", cache, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(list_checkpoints(run / "checkpoints")[0], weights_only=True)["weights"]
    return loaded


def random_weights(classes: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return AlexNet(RECIPES["demo"]().architecture, classes, 64, seed=seed).state_dict()


def stage(name: str) -> str:
    return name.split(".")[2]


def test_frozen_stages_stay_bitwise_equal_and_the_others_learn(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    status, output = train(*options(images, run, "--freeze", "conv1..conv3,conv5", "--max-steps", "4", "--lr", "0.01"))
    assert status == 0, output
    assert "frozen, their weights and biases do not change: conv1, conv2, conv3, conv5" in output
    before, after = random_weights(3), weights(run)
    unchanged = {stage(name) for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {"conv1", "conv2", "conv3", "conv5"}
    state = torch.load(list_checkpoints(run / "checkpoints")[0], weights_only=True)["optimizer"]
    learning = {
        f"towers.{k}.{s}.{p}" for k in (0, 1) for s in ("conv4", "fc6", "fc7", "fc8") for p in ("weight", "bias")
    }
    assert set(state) == learning


def test_a_run_with_frozen_stages_resumes_bitwise_and_only_with_the_same_option(images: Path, tmp_path: Path) -> None:
    full, interrupted = tmp_path / "full", tmp_path / "interrupted"
    frozen = ("--freeze", "conv1..conv5")
    assert train(*options(images, full, *frozen, "--max-steps", "5"))[0] == 0
    assert train(*options(images, interrupted, *frozen, "--max-steps", "2"))[0] == 0
    status, output = train("--output", interrupted, "--resume", "--freeze", "conv1")
    assert status == 2
    assert "--resume: the run has --freeze conv1..conv5, not conv1;" in output
    status, output = train("--output", interrupted, "--resume", "--max-steps", "5")
    assert status == 0, output
    assert f"starting from {interrupted}/checkpoints/step-00000002" in output
    assert "frozen" in output
    assert all(torch.equal(value, weights(interrupted)[name]) for name, value in weights(full).items())


def test_a_run_starts_from_another_runs_weights_and_draws_its_last_stage(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = tmp_path / "source", make_images(tmp_path / "two", classes=2)
    assert train(*options(images, source, "--max-steps", "3"))[0] == 0
    start: dict[str, torch.Tensor] = {}
    inner = train_step

    def step(net: AlexNet, *given: Any) -> Any:
        start.update(
            {name: value.clone() for name, value in net.state_dict().items() if not start or name not in start}
        )
        return inner(net, *given)

    monkeypatch.setattr(trainer, "train_step", step)
    status, output = train(*options(other, tmp_path / "tuned", "--init", source, "--max-steps", "1", "--seed", "7"))
    assert status == 0, output
    assert f"starting from the weights of {source}: conv1, conv2" in output
    assert "; fc8 has random weights, for 2 classes instead of 3" in output
    source_weights, drawn = torch.load(source / "model.pt", weights_only=True), random_weights(2, seed=7)
    for name, value in start.items():
        assert torch.equal(value, drawn[name] if stage(name) == "fc8" else source_weights[name]), name
    start.clear()
    others = images.parent / "others"
    shutil.copytree(images, others)
    for folder in others.glob("*/class1"):
        folder.rename(folder.with_name("class9"))
    status, output = train(*options(others, tmp_path / "others", "--init", source, "--max-steps", "1", "--seed", "7"))
    assert status == 0
    assert f"; fc8 has random weights, for 3 classes that are not those of {source}" in output
    assert all(torch.equal(start[name], value) == (stage(name) != "fc8") for name, value in source_weights.items())
    start.clear()
    status, output = train(*options(images, tmp_path / "same", "--init", source, "--max-steps", "1"))
    assert status == 0
    assert "random" not in output
    assert all(torch.equal(value, source_weights[name]) for name, value in start.items())


def test_resume_uses_the_runs_own_checkpoint_and_init_before_there_is_one(images: Path, tmp_path: Path) -> None:
    source, run = tmp_path / "source", tmp_path / "run"
    assert train(*options(images, source, "--max-steps", "1"))[0] == 0
    assert train(*options(images, run, "--init", source, "--max-steps", "1"))[0] == 0
    expected = weights(run)
    for path in list_checkpoints(run / "checkpoints"):  # as if it had been killed before its first
        path.unlink()
    status, output = train("--output", run, "--resume", "--max-steps", "1")
    assert status == 0
    assert f"starting from the weights of {source}" in output
    assert all(torch.equal(value, weights(run)[name]) for name, value in expected.items())
    (source / "model.pt").unlink()  # no longer needed
    status, output = train("--output", run, "--resume", "--max-steps", "2")
    assert status == 0
    assert "starting from" in output
    assert "checkpoints/step-00000001" in output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--init", "nowhere"], "--init nowhere: no such file or folder; name a run's folder or a weight file"),
        (["--init-stages", "conv1"], "--init-stages conv1: must be given with --init"),
        (["--init", ".", "--init-stages", "conv9"], "--init-stages conv9: 'conv9' is not a stage; choose from conv1,"),
        (["--freeze", "conv5..conv1"], "--freeze conv5..conv1: conv1 comes before conv5; write conv1..conv5"),
        (["--freeze", "conv1..fc8"], "--freeze: names all stages, so that nothing can learn"),
        (["--init", "."], "no model here (model.json is missing)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_start_options_get_one_line_and_leave_no_folder(
    given: list[str], message: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output = train(*options(images, tmp_path / "run", *given))
    assert status == 2
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_an_imported_model_is_not_overwritten(images: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    status, output = train(*options(images, tmp_path))
    assert (status, "holds a run already" in output) == (2, True)


def save(net: AlexNet, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


def test_weights_that_do_not_fit_are_refused_with_their_name_and_both_shapes(tmp_path: Path) -> None:
    net = narrow(PAPER)
    wide = replace(net, linears=(net.linears[0], replace(net.linears[1], width=48), net.linears[2]))
    source = save(AlexNet(wide, 5, 64), tmp_path / "wide.pt")
    with pytest.raises(
        UserError, match=r"wide\.pt: fc7\.weight is \(48, 64\); in the network to train it is \(64, 64\)"
    ):
        copy_weights(AlexNet(net, 5, 64), str(source))
    assert copy_weights(AlexNet(net, 5, 64), str(source), CONVS).endswith("; random weights: fc6, fc7, fc8")
    with pytest.raises(UserError, match=r"fc8\.weight is \(5, 64\); in the network to train it is \(6, 64\)"):
        copy_weights(AlexNet(net, 6, 64), str(save(AlexNet(net, 5, 64), tmp_path / "five.pt")), ("fc8",))


def with_sixth() -> Architecture:
    """The source's net with a sixth convolution layer over the last pooling layer."""
    net = narrow(PAPER)
    return replace(net, convs=(*net.convs, Conv("conv6", 16, 3, 1, (1, 1, 1, 1), reads_all_towers=True)))


def test_the_first_five_layers_are_copied_into_the_net_with_a_sixth(tmp_path: Path) -> None:
    plain, net = AlexNet(narrow(PAPER), 5, 64, seed=1), AlexNet(with_sixth(), 4, 64, seed=2)
    source, drawn = save(plain, tmp_path / "plain.pt"), AlexNet(with_sixth(), 4, 64, seed=2).state_dict()
    with pytest.raises(UserError, match=r"has no conv6\.weight, which the network to train has"):
        copy_weights(net, str(source))
    output = copy_weights(net, str(source), CONVS)
    assert output == f"the weights of {source}: {', '.join(CONVS)}; random weights: conv6, fc6, fc7, fc8"
    for name, value in net.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name] if stage(name) in CONVS else drawn[name]), name
    back = save(net, tmp_path / "six.pt")
    with pytest.raises(UserError, match=r"conv6\.weight is not in the network to train"):
        copy_weights(AlexNet(narrow(PAPER), 4, 64), str(back))


def test_torchvisions_weights_are_converted_to_our_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_file, "TORCHVISION", narrow(TORCHVISION))  # its own shapes are too wide for a test
    trained, net = AlexNet(narrow(TORCHVISION), 5, 64, seed=1), AlexNet(narrow(TORCHVISION), 3, 64, seed=2)
    with torch.device("meta"):
        names = list(torchvision.models.alexnet().state_dict())
    torch.save(dict(zip(names, trained.state_dict().values(), strict=True)), tmp_path / "alexnet.pth")
    copy_weights(net, str(tmp_path / "alexnet.pth"))
    scale = 255 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    (torchvision_weight,), (weight,) = trained.stage_weights("conv1"), net.stage_weights("conv1")
    torch.testing.assert_close(weight * scale, torchvision_weight)
    assert torch.equal(net.stage_weights("conv2")[0], trained.stage_weights("conv2")[0])


def test_nets_with_and_without_input_scale_compute_the_same(tmp_path: Path) -> None:
    images = 60 * torch.randn(2, 3, 64, 64)
    for source_scale, scale in ((1.0, 0.25), (0.25, 1.0)):
        source = AlexNet(replace(narrow(PAPER), input_scale=source_scale), 5, 64).eval()
        run = tmp_path / f"run-{source_scale}"
        run.mkdir()
        save_model(run, TrainedModel(source, tuple("abcde"), np.zeros((73, 73, 3), np.float32)))
        for given in (run, run / "model.pt"):
            net = AlexNet(replace(narrow(PAPER), input_scale=scale), 5, 64).eval()
            copy_weights(net, str(given))
            torch.testing.assert_close(net(images), source(images), rtol=1e-5, atol=1e-6)


def test_caffes_weights_are_converted_to_our_images(tmp_path: Path) -> None:
    weights, file = caffe_files.random_caffe_weights(), tmp_path / "bvlc_alexnet.caffemodel"
    file.write_bytes(caffe_files.caffemodel(weights))
    net = AlexNet(caffe_files.narrow(CAFFE), 3, caffe_files.SIZE)
    assert copy_weights(net, str(file)).endswith("; fc8 has random weights, for 3 classes instead of 7")
    assert torch.equal(torch.cat(net.stage_weights("conv1")), weights["conv1.weight"].flip(1))
    assert torch.equal(torch.cat(net.stage_weights("conv2")), weights["conv2.weight"])


def test_differences_to_the_network_of_the_weights_are_printed(tmp_path: Path) -> None:
    file = tmp_path / "bvlc_alexnet.caffemodel"
    file.write_bytes(caffe_files.caffemodel(caffe_files.random_caffe_weights()))
    net = AlexNet(caffe_files.narrow(PAPER), caffe_files.CLASSES, caffe_files.SIZE)
    assert copy_weights(net, str(file)).endswith(
        "; they were trained in a network with pool_ceil True instead of False, "
        "norm.alpha 0.0001 instead of 0.0005, norm.k 1.0 instead of 2.0, norm.across_towers True instead of False, "
        "conv1.padding (0, 0, 0, 0) instead of (0, 3, 0, 3)"
    )
    output = copy_weights(net, str(file), ("fc6",))
    assert output.endswith("norm.across_towers True instead of False")
    source = AlexNet(narrow(PAPER), 5, 64)
    save_model(tmp_path, TrainedModel(source, tuple("abcde"), np.zeros((73, 73, 3), np.float32)))
    relu = "conv1.after ('relu', 'norm', 'pool')"
    for change, difference in (
        (with_tanh(PAPER), f"linear_activation relu instead of tanh, {relu} instead of ('tanh', "),
        (without_norm(PAPER), f"a network with {relu} instead of ('relu', 'pool'), conv2.after "),
    ):
        assert difference in copy_weights(AlexNet(narrow(change), 5, 64), str(tmp_path))
    same = replace(PAPER, dropout=(), input_scale=0.5, name="other")
    assert copy_weights(AlexNet(narrow(same), 5, 64), str(tmp_path)).endswith("conv5, fc6, fc7, fc8")


def test_weights_for_unknown_images_are_refused_but_their_later_stages_are_copied(
    tmp_path: Path,
) -> None:
    trained = AlexNet(replace(narrow(PAPER), towers=1), 5, 64)
    torch.save(
        {name.removeprefix("towers.0."): value for name, value in trained.state_dict().items()}, tmp_path / "a.pt"
    )
    net = AlexNet(replace(narrow(PAPER), towers=1), 5, 64)
    with pytest.raises(UserError, match=r"does not say which images its weights read; make a run of it"):
        copy_weights(net, str(tmp_path / "a.pt"))
    copy_weights(net, str(tmp_path / "a.pt"), ("conv2", "fc8"))
    assert torch.equal(net.stage_weights("conv2")[0], trained.stage_weights("conv2")[0])


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("conv1", ("conv1",)),
        ("conv3, conv1", ("conv1", "conv3")),
        ("conv1..conv5", CONVS),
        ("conv1..conv2,conv2..conv3,fc8", ("conv1", "conv2", "conv3", "fc8")),
        (None, None),
    ],
)
def test_options_name_single_stages_and_ranges(text: str | None, stages: tuple[str, ...] | None) -> None:
    assert parse_stages("--freeze", text, PAPER.stage_names) == stages


@pytest.mark.parametrize("text", ["", "conv1,", "conv", "conv1..", "..conv2", "conv1...conv3", "conv0..conv2"])
def test_an_unknown_stage_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--freeze .*: '.*' is not a stage; (perhaps.*)?choose from conv1, .*, fc8"):
        parse_stages("--freeze", text, PAPER.stage_names)
