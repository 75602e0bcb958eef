"""A network's parameters and what its optimizer keeps of each: whole on the first rank, in parts on all."""

import io
from typing import Any

import torch
from torch import Tensor

from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.parameter_names import stage_of

Held = dict[str, dict[str, Tensor]]
"""By a parameter's name everywhere: its "value", and what the optimizer keeps by its own names."""


def held(net: AlexNet, optimizer: torch.optim.Optimizer, ranks: Ranks, stage: str | None = None) -> Held:
    """What this process answers for, on the CPU: of what several have, the first of them answers.

    Args:
        net, optimizer: of this process.
        ranks: the run's.
        stage: which alone; None for all.
    """
    conv_names = {conv.name for conv in net.architecture.convs}
    state = optimizer.state
    copied = ranks.placement.scores_all_rows and not ranks.is_main  # every process has all convolutions then
    return {
        name: {"value": parameter.detach().cpu()} | {key: kept.cpu() for key, kept in state.get(parameter, {}).items()}
        for name, parameter in net.named_parameters()
        if stage in (None, stage_of(name)) and not (copied and stage_of(name) in conv_names)
    }


def gather(net: AlexNet, optimizer: torch.optim.Optimizer, ranks: Ranks, stage: str | None = None) -> Held:
    """Everything whole, on the first rank; on the others nothing.

    All ranks call it together. Arguments as for `held`.
    """
    if ranks.is_single_process:
        return held(net, optimizer, ranks, stage)
    brought = ranks.gather_to_main(lambda: pack(held(net, optimizer, ranks, stage)))
    return merge([held(net, optimizer, ranks, stage), *map(unpack, brought)]) if ranks.is_main else {}


def merge(parts: list[Held]) -> Held:
    """Joins what ranks hold; pieces of one parameter, in the ranks' order, along their first dimension."""
    pieces: dict[str, list[dict[str, Tensor]]] = {}
    for part in parts:
        for name, kept in part.items():
            pieces.setdefault(name, []).append(kept)
    return {name: {key: _whole([piece[key] for piece in found]) for key in found[0]} for name, found in pieces.items()}


def _whole(pieces: list[Tensor]) -> Tensor:
    """One tensor; a scalar, such as Adam's count of steps, is the same in all pieces."""
    return pieces[0] if len(pieces) == 1 or pieces[0].ndim == 0 else torch.cat(pieces)


def weights(whole: Held) -> dict[str, Tensor]:
    """The parameters alone, as a state dict."""
    return {name: kept["value"] for name, kept in whole.items()}


def kept(whole: Held) -> Held:
    """What the optimizer keeps alone, of those parameters of which it does."""
    of_each = {name: {key: v for key, v in one.items() if key != "value"} for name, one in whole.items()}
    return {name: one for name, one in of_each.items() if one}


def take(net: AlexNet, optimizer: torch.optim.Optimizer, weights: dict[str, Tensor], kept: Held) -> None:
    """Copies what of the whole lives here into the network and its optimizer.

    Args:
        net, optimizer: of this process.
        weights: of all towers.
        kept: what an optimizer kept of each; of frozen ones nothing.
    """
    net.load_full_parameters(weights)
    for name, parameter in net.named_parameters():
        for key, value in kept.get(name, {}).items():
            ours = value if value.ndim == 0 else torch.empty_like(parameter).copy_(value[net.held_rows(name)])
            optimizer.state[parameter][key] = ours.to(parameter.device)


def pack(plain: Any) -> Tensor:
    """Tensors and plain values as bytes (n,) uint8."""
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def unpack(packed: Tensor) -> Any:
    """What `pack` packed; tensors and plain values alone, on the CPU."""
    return torch.load(io.BytesIO(packed.numpy().tobytes()), map_location="cpu", weights_only=True)
