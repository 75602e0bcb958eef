"""The network: towers, and the walk over their stages.

Every stage runs on each tower; where it must see all towers, the exchange turns the towers' parts
into each tower's next input. Where towers live is the exchange's business alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.model.architecture import PAPER, Architecture, Conv, Linear, Norm, Operation
from alexnet_torch.model.devices import tower_devices
from alexnet_torch.model.exchange import Exchange, TowerParts, part_sizes
from alexnet_torch.model.layers.dropout import dropout_mask
from alexnet_torch.model.layers.initialisation import initialise
from alexnet_torch.model.layers.response_norm import response_norm, response_norm_pool, spatial_response_norm
from alexnet_torch.model.parameter_names import stage_of, tower_of
from alexnet_torch.model.tower import Tower
from alexnet_torch.randomness import key


@dataclass(frozen=True)
class DropoutKey:
    """Names one step's dropout masks: those of the global batch, of which `first_row` on are ours."""

    seed: int
    step: int
    first_row: int = 0


def _pad_odd(x: Tensor, conv: Conv) -> Tensor:
    """The part of a stage's padding that is on one side only."""
    left, right, top, bottom = conv.padding
    if left == right and top == bottom:
        return x
    across, down = min(left, right), min(top, bottom)
    return F.pad(x, (left - across, right - across, top - down, bottom - down))


class AlexNet(nn.Module):
    """AlexNet in towers.

    Args:
        architecture: what the network is; PAPER by default.
        num_classes: outputs, at least one for each tower.
        image_size: height and width of the images in pixels, on which the first linear stage's
            input depends.
        devices: one device for all towers, or one for each; the first takes the images' labels and
            returns logits. The CPU by default.
        seed: of the initial weights; by default they are drawn from torch's generator.
        exchange: between the towers; by default the one of `devices`, which has all of them in this process.

    Raises:
        ValueError: `image_size` or `num_classes` is too small; the message names what works.
        UserError: the number of devices does not fit the towers.
    """

    def __init__(
        self,
        architecture: Architecture = PAPER,
        num_classes: int = 1000,
        image_size: int = 224,
        devices: Sequence[str | torch.device] | None = None,
        seed: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        super().__init__()
        if num_classes < architecture.towers:
            raise ValueError(f"num_classes must be at least {architecture.towers}, one a tower, not {num_classes}")
        self.architecture, self.num_classes, self.image_size = architecture, num_classes, image_size
        self.exchange = exchange or Exchange(tower_devices(devices, architecture.towers))
        self.towers = nn.ModuleDict(
            {str(share.tower): Tower(architecture, share, num_classes, image_size) for share in self.exchange.shares}
        )
        self.reset_parameters(seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draws all weights anew, as the architecture's `Init`s say.

        Args:
            seed: each layer's are a function of (seed, tower, stage), of which a piece takes its rows; None draws
                from torch's generator.
        """
        for tower in self._towers():
            for stage_index, stage in enumerate(self.architecture.stages):
                if stage.name not in tower:
                    continue
                generator = None
                if seed is not None:
                    generator = torch.Generator().manual_seed(key(seed, "init", tower.share.tower, stage_index))
                outputs = part_sizes(self._channels(stage.name), self.architecture.towers)[tower.share.tower]
                initialise(tower.layer(stage.name), stage.init, generator, outputs, tower.rows(stage.name))

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Copies, of whole towers' weights by their names everywhere, what is here; others stay as they are."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name][self.rows(name)])

    def rows(self, name: str) -> slice:
        """Which rows of a tower's whole parameter, by its name everywhere, are in this process."""
        tower = self.towers[str(tower_of(name))]
        assert isinstance(tower, Tower)
        return tower.rows(stage_of(name))

    def forward(self, images: Tensor, dropout: DropoutKey | None = None) -> Tensor:
        """Logits (N, classes) on the first device.

        Args:
            images: (N, 3, H, W) floating-point, mean image subtracted, from values in 0..255.
            dropout: in training mode, the step's key; without it masks come from torch's generator.
        """
        keys = None if dropout is None or not self.training else self._dropout_keys(dropout)
        return self._walk(images, self.architecture.stage_names[-1], keys, dropout.first_row if dropout else 0)

    def compile_walk(self) -> None:
        """Has torch compile the walk over the stages; names of parameters and results stay as they are."""
        self._walk = torch.compile(self._walk)  # type: ignore[method-assign]

    def features(self, images: Tensor, stage: str) -> Tensor:
        """One stage's output of all towers together, on the first device.

        Args:
            images: as for `forward`.
            stage: such as "conv5" (N, 256, 6, 6), after its pooling, or "fc7" (N, 4096), after its
                ReLU; the last one's are the logits.

        Raises:
            ValueError: there is no such stage; the message lists those that there are.
        """
        if stage not in self.architecture.stage_names:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(self.architecture.stage_names)}")
        return self._walk(images, stage, None, 0)

    def stage_weights(self, stage: str) -> list[Tensor]:
        """A stage's weights that are in this process, one tensor a tower, each on its tower's device."""
        return [tower.layer(stage).weight for tower in self._towers() if stage in tower]

    def _towers(self) -> list[Tower]:
        return [tower for tower in self.towers.values() if isinstance(tower, Tower)]

    def _channels(self, stage: str) -> int:
        """What all towers put out together in a stage, at one position of its map."""
        a = self.architecture
        widths = {linear.name: linear.width or self.num_classes for linear in a.linears}
        return (widths | {conv.name: conv.channels for conv in a.convs})[stage]

    def _dropout_keys(self, dropout: DropoutKey) -> list[Tensor]:
        """A key for each stage (stages,) int64, on each tower's device."""
        stages = range(len(self.architecture.stages))
        return [
            torch.tensor([key(dropout.seed, "dropout", dropout.step, share.tower, stage) for stage in stages]).to(
                share.device, non_blocking=True
            )
            for share in self.exchange.shares
        ]

    def _walk(self, images: Tensor, last: str, keys: list[Tensor] | None, first_row: int) -> Tensor:
        size = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(f"images must be (N, 3, {size}, {size}), not {tuple(images.shape)}")
        a, exchange, channels = self.architecture, self.exchange, 3
        parts = exchange.scatter(images * a.input_scale if a.input_scale != 1 else images)
        for conv in a.convs:
            if conv is not a.convs[0]:
                parts = (exchange.all_gather_channels if conv.meet else exchange.keep_own_channels)(
                    parts, channels, conv.name
                )
            parts, channels = self._conv_stage(conv, parts), conv.channels
            if conv is a.convs[-1] and conv.name != last and a.adaptive_pool is not None:
                parts = [F.adaptive_avg_pool2d(part, a.adaptive_pool) for part in parts]
            parts = self._drop(conv.name, parts, keys, first_row)
            if conv.name == last:
                return exchange.gather_output(parts, channels, "the output")
        channels *= parts[0].shape[2] * parts[0].shape[3]
        parts = [part.flatten(1) for part in parts]  # (N, 4608) a tower, channel by channel
        parts, first_row = exchange.all_gather_rows(parts, first_row, a.linears[0].name)
        for linear in a.linears:
            parts = (exchange.all_gather_channels if linear.meet else exchange.keep_own_channels)(
                parts, channels, linear.name
            )
            parts = self._drop(linear.name, self._linear_stage(linear, parts), keys, first_row)
            channels = self._channels(linear.name)
            if linear.name == last:
                break
        return exchange.gather_output(parts, channels, "the output")

    def _conv_stage(self, conv: Conv, parts: TowerParts) -> TowerParts:
        if all(part is parts[0] for part in parts):  # towers that share their input share its padding
            parts = [_pad_odd(parts[0], conv)] * len(parts)
        else:
            parts = [_pad_odd(part, conv) for part in parts]
        parts = [tower.layer(conv.name)(part) for tower, part in self._each(conv.name, parts)]
        return self._after(list(conv.after), parts, conv.name)

    def _after(self, operations: list[Operation], parts: TowerParts, stage: str) -> TowerParts:
        """What follows a convolution; a norm takes in the ReLU before it and the pooling after it."""
        a = self.architecture
        pool = (a.pool_size, a.pool_stride, a.pool_ceil)
        while operations:
            match operations:
                case ["relu", "norm", "pool", *operations] if not a.norm.across_towers:
                    parts = [response_norm_pool(part, a.norm, True, *pool) for part in parts]
                case ["norm", "pool", *operations] if not a.norm.across_towers:
                    parts = [response_norm_pool(part, a.norm, False, *pool) for part in parts]
                case ["relu", "norm", *operations]:
                    parts = self._norm(parts, a.norm, True, stage)
                case ["norm", *operations]:
                    parts = self._norm(parts, a.norm, False, stage)
                case ["relu", *operations]:
                    # in place would change what hooks on the layers saw
                    parts = [F.relu(part) for part in parts]
                case ["tanh", *operations]:
                    parts = [torch.tanh(part) for part in parts]
                case ["spatial_norm", *operations]:
                    parts = [spatial_response_norm(part, a.spatial_norm) for part in parts]
                case ["pool", *operations]:
                    parts = [F.max_pool2d(part, pool[0], pool[1], ceil_mode=pool[2]) for part in parts]
        return parts

    def _linear_stage(self, linear: Linear, parts: TowerParts) -> TowerParts:
        parts = [tower.layer(linear.name)(part) for tower, part in self._each(linear.name, parts)]
        if linear is self.architecture.linears[-1]:
            return parts
        activation = torch.tanh if self.architecture.linear_activation == "tanh" else F.relu
        return [activation(part) for part in parts]

    def _norm(self, parts: TowerParts, norm: Norm, relu: bool, stage: str) -> TowerParts:
        if not norm.across_towers:
            return [response_norm(part, norm, relu) for part in parts]
        widened = self.exchange.channel_halo(parts, norm.window // 2, f"{stage}'s norm")
        return [
            response_norm(wide, norm, relu)[:, before : before + part.shape[1]]
            for part, (wide, before) in zip(parts, widened, strict=True)
        ]

    def _drop(self, stage: str, parts: TowerParts, keys: list[Tensor] | None, first_row: int) -> TowerParts:
        a = self.architecture
        if not self.training or stage not in a.dropout or a.dropout_rate == 0:
            return parts
        if keys is None:
            return [F.dropout(part, a.dropout_rate) for part in parts]
        index, dropped = a.stage_names.index(stage), []
        for (tower, part), k in zip(self._each(stage, parts), self._having(stage, keys), strict=True):
            mask = dropout_mask(part.shape, a.dropout_rate, k[index], first_row, tower.rows(stage).start)
            dropped.append(part * mask * (1 / (1 - a.dropout_rate)))
        return dropped

    def _having(self, stage: str, of_shares: list[Tensor]) -> list[Tensor]:
        """Of a list with one for each share, those of shares that have something of a stage."""
        return [one for tower, one in zip(self._towers(), of_shares, strict=True) if stage in tower]

    def _each(self, stage: str, parts: TowerParts) -> list[tuple[Tower, Tensor]]:
        return list(zip([tower for tower in self._towers() if stage in tower], parts, strict=True))


def count_parameters(net: nn.Module) -> int:
    """The number of weights and biases."""
    return sum(parameter.numel() for parameter in net.parameters())
