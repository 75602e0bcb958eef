"""Quantisation: torch's own, and torchao's."""

import copy

import torch
from torch import nn
from torch.ao.nn.quantized.dynamic import Linear
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from tests.clients.networks import Networks, client, make_images, make_net, on_both
from tests.clients.reference import assert_near, float64_weights, logits, stage_outputs

_LAYERS = ("fc6", "fc7", "fc8")


@client("torch.ao.quantization", "`quantize_dynamic` of linear layers")
@on_both()
def test_dynamic(network: Networks) -> None:
    net, images = make_net(), make_images(8)
    quantised = quantize_dynamic(network(net), {nn.Linear}, dtype=torch.qint8)
    weights = float64_weights(net)
    for layer in _LAYERS:
        modules = [module for name, module in quantised.named_modules() if name.split(".")[-1] == layer]
        assert all(type(module) is Linear for module in modules)
        stored = [module.weight() for module in modules]
        error = torch.cat([part.dequantize() for part in stored]) - weights[f"{layer}.weight"].detach()
        assert error.abs().max() <= 0.51 * max(part.q_scale() for part in stored)
    assert_near(quantised(images), logits(net, images), 0.05)  # 8 bits in three layers, of weights and of activations


@client("torch.ao.quantization", "static, by `prepare_fx` and `convert_fx`")
@on_both(AlexNet="fx cannot trace it")
def test_static(network: Networks) -> None:
    net, images = make_net(), make_images(8)
    prepared = prepare_fx(network(net), get_default_qconfig_mapping("x86"), (images,))
    prepared(images)
    quantised = convert_fx(prepared)
    layers = [module for module in quantised.modules() if "quantized" in type(module).__module__]
    assert len([module for module in layers if hasattr(module, "weight")]) == 8
    assert_near(quantised(images), logits(net, images), 0.1)  # 8 bits in eight layers, of weights and of activations


@client("torchao", "`quantize_` with `Int8WeightOnlyConfig`", "torchao")
@on_both()
def test_torchao(network: Networks) -> None:
    net, images = make_net(), make_images(8)
    weights = float64_weights(net)
    for layer in _LAYERS:  # a scale for each output
        weight = weights[f"{layer}.weight"].detach()
        scale = weight.abs().amax(1, keepdim=True) / 127.5
        weights[f"{layer}.weight"] = (weight / scale).round().clamp(-128, 127) * scale
    model = copy.deepcopy(network(net))
    quantize_(model, Int8WeightOnlyConfig())
    assert_near(model(images), stage_outputs(weights, images)["fc8"], 2e-3)  # ties round either way
