"""Clients that read and write files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tbparse import SummaryReader

from tests.clients.networks import Networks, client, make_images, make_net, on_both
from tests.clients.reference import assert_near, logits
from tests.support.commands import run_train
from tests.support.folders import make_images as make_image_files


@client("safetensors", "`save_file(net.state_dict())`, `load_file`", "safetensors")
@on_both()
def test_safetensors(network: Networks, tmp_path: Path) -> None:
    net, images = make_net(), make_images(3)
    save_file(network(net).state_dict(), tmp_path / "net.safetensors")
    other = network(make_net())
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(load_file(tmp_path / "net.safetensors"))
    assert_near(other(images), logits(net, images))


@client("tbparse", "`SummaryReader` of a run's folder", "tbparse")
@pytest.mark.usefixtures("narrow_demo_recipe")
def test_tbparse(tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = make_image_files(tmp_path / "photos", classes=2, train=8, val=2)
    done = run_train("--data", data, "--recipe", "demo", "--epochs", "2", "--output", run, "--devices", "cpu")
    assert done.returncode == 0, done.stderr
    # the final test has a folder of its own
    scalars = SummaryReader(str(run), extra_columns={"dir_name"}).scalars
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {report["step"]: report["loss"] for report in reports if report.get("crops") == 1}
    assert len(losses) == 2
    shown = scalars[(scalars.tag == "val/loss") & (scalars.dir_name == "tensorboard")]
    assert dict(zip(shown.step, shown.value, strict=True)) == pytest.approx(losses, rel=1e-6)
