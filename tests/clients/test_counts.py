"""Clients that count parameters and operations."""

import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis
from torch.utils.flop_counter import FlopCounterMode

from tests.clients.networks import SIZE, Networks, client, make_images, make_net, on_both
from tests.clients.reference import float64_weights, multiply_adds

BATCHES = (2, 40)  # from 32 rows on, oneDNN computes linear layers


@client("torchinfo", "`summary`: parameters, multiply-adds", "torchinfo")
@on_both()
def test_torchinfo(network: Networks) -> None:
    net = make_net()
    parameters = sum(value.numel() for value in float64_weights(net).values())
    for batch in BATCHES:
        summary = torchinfo.summary(network(net), input_size=(batch, 3, SIZE, SIZE), verbose=0)
        assert summary.total_params == parameters
        # torchinfo counts the additions of biases too
        assert 0 <= summary.total_mult_adds - multiply_adds(batch) < 0.02 * multiply_adds(batch)


@client("fvcore", "`FlopCountAnalysis`", "fvcore")
@on_both()
def test_fvcore(network: Networks) -> None:
    for batch in BATCHES:
        analysis = FlopCountAnalysis(network(make_net()), make_images(batch)).unsupported_ops_warnings(False)
        counts = analysis.by_operator()
        assert sum(counts[name] for name in ("conv", "linear", "addmm")) == multiply_adds(batch)


@client("torch.utils.flop_counter", "`FlopCounterMode`")
@on_both()
def test_flop_counter(network: Networks) -> None:
    for batch in BATCHES:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(make_net())(make_images(batch))
        assert counter.get_total_flops() == 2 * multiply_adds(batch)
