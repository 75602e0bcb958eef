"""Clients that train: each does the steps of a plain loop over torch's own operations."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from alexnet_torch import PAPER, AlexNet
from alexnet_torch.model.presets import PRESETS
from tests.clients.networks import CLASSES, SIZE, Networks, client, make_images, make_net, on_both
from tests.clients.reference import assert_near, float64_weights, stage_outputs
from tests.support.commands import run_cli
from tests.support.nets import narrow
from tests.support.rank_pool import RankPool, returned_values

RATE, STEPS, BATCH = 1e-3, 3, 8


def batches() -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(BATCH) % CLASSES
    return [(make_images(BATCH, seed), labels) for seed in range(STEPS)]


def plain_loop(net: AlexNet) -> dict[str, Tensor]:
    """The weights after steps of gradient descent with torch's plain operations, in float64."""
    weights = float64_weights(net)
    for images, labels in batches():
        loss = F.cross_entropy(stage_outputs(weights, images)["fc8"], labels)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            weight.data -= RATE * gradient
    return weights


def assert_trained(state: dict[str, Tensor], net: AlexNet) -> None:
    """Asserts that a state dict, of AlexNet or of its plain copy, has changed as in the plain loop."""
    for name, expected in plain_loop(make_net(dropout=False)).items():
        parts = [value for own, value in sorted(state.items()) if own.endswith(name)]
        start = float64_weights(net)[name]
        assert (expected - start).abs().max() > 0
        assert_near(torch.cat(parts).double() - start, expected - start, 2e-3)  # float32 weights less themselves


def train(model: nn.Module, rank: int, ranks: int) -> None:
    """Trains on one rank's rows of each batch."""
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for images, labels in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(images[rank::ranks]), labels[rank::ranks]).backward()
        optimizer.step()


def train_with_ddp(network: Networks) -> dict[str, Tensor]:
    """One rank's part; returns its weights."""
    distributed.init_process_group("gloo")
    try:
        model = network(make_net(dropout=False))
        train(DistributedDataParallel(model), distributed.get_rank(), 2)
        return {name: value.detach().clone() for name, value in model.state_dict().items()}
    finally:
        distributed.destroy_process_group()


def train_with_fsdp(network: Networks) -> dict[str, Tensor]:
    """One rank's part; returns all weights."""
    distributed.init_process_group("gloo")
    try:
        model, mesh = network(make_net(dropout=False)), init_device_mesh("cpu", (2,))
        for module in list(model.modules())[1:]:
            if list(module.parameters(recurse=False)):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        train(model, distributed.get_rank(), 2)
        return {name: value.full_tensor() for name, value in model.state_dict().items()}
    finally:
        distributed.destroy_process_group()


@client("DistributedDataParallel", "training in two processes")
@on_both()
def test_ddp(network: Networks, two_ranks: RankPool) -> None:
    for state in returned_values(two_ranks.run(train_with_ddp, network, ranks=2)):
        assert_trained(state, make_net(dropout=False))


@client("FSDP2", "`fully_shard`, training in two processes")
@on_both()
def test_fsdp2(network: Networks, two_ranks: RankPool) -> None:
    for state in returned_values(two_ranks.run(train_with_fsdp, network, ranks=2)):
        assert_trained(state, make_net(dropout=False))


class Classifier(lightning.LightningModule):
    """A network as Lightning's documentation shows it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        del batch_idx
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), RATE)


def fit(model: nn.Module, folder: Path) -> lightning.Trainer:
    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet
    )
    trainer.fit(Classifier(model).train(), DataLoader(TensorDataset(images, labels), BATCH))
    return trainer


@client("Lightning", "`Trainer.fit`", "lightning")
@on_both()
def test_lightning(network: Networks, tmp_path: Path) -> None:
    model = network(make_net(dropout=False))
    fit(model, tmp_path)
    assert_trained(model.state_dict(), make_net(dropout=False))


@client("Lightning", "`import` reads its checkpoint", "lightning")
@on_both()
def test_lightning_checkpoint(network: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "paper", narrow(PAPER))
    model = network(make_net(dropout=False))
    fit(model, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    options = ("--image-size", str(SIZE), "--inputs", "rgb", "--mean", "120,120,120")
    done = run_cli("import", tmp_path / "last.ckpt", *options, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    imported = torch.load(tmp_path / "run/model.pt", weights_only=True)
    assert_trained(imported, make_net(dropout=False))
