"""The network: towers, and the walk over their stages.

Every stage runs on each tower; where it reads all towers, the exchange turns the towers' outputs
into each tower's next input. A tower is where its parameters are.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.model.architecture import PAPER, Architecture, Conv, Linear, Norm, Operation
from alexnet_torch.model.dropout import DropoutKey, MaskPosition, dropout
from alexnet_torch.model.exchange import Devices, Exchange, TowerTensors, copied_to, tower_devices
from alexnet_torch.model.presets import preset
from alexnet_torch.model.response_norm import response_norm, response_norm_pool, spatial_response_norm
from alexnet_torch.model.tower import Tower, allocate, pad_asymmetric, stage_of, tower_of
from alexnet_torch.randomness import random_key

StageOperation = Callable[[TowerTensors, Exchange], TowerTensors]


class AlexNet(nn.Module):
    """AlexNet in towers.

    Args:
        architecture: the network's architecture, or a preset's name, such as "caffe".
        num_classes: number of outputs, at least one for each tower.
        image_size: height and width of the images in pixels.
        devices: one device for all towers, or one for each; the first takes the labels and returns
            logits. torch's default by default. Later the parameters decide: see `net.to(device)`.
        seed: seed of the initial weights; without one they are drawn from torch's generator.
        exchange: the exchange between the towers; by default one that has all towers.

    Parameters are contiguous; convolutions compute channels_last, which is faster. Arguments that do
    not fit raise ValueError or TypeError, whose messages name what works.
    """

    def __init__(
        self,
        architecture: Architecture | str = PAPER,
        num_classes: int = 1000,
        image_size: int = 224,
        devices: Devices | None = None,
        seed: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        super().__init__()
        architecture = preset(architecture) if isinstance(architecture, str) else architecture
        if not isinstance(architecture, Architecture):
            raise TypeError(f"architecture must be an Architecture or a name, not {type(architecture).__name__}")
        if num_classes < architecture.towers:
            raise ValueError(f"num_classes must be at least {architecture.towers}, one a tower, not {num_classes}")
        self.architecture, self.num_classes, self.image_size = architecture, num_classes, image_size
        self.exchange = exchange or Exchange(architecture.towers)
        self.towers, shards = nn.ModuleDict(), self.exchange.shards
        for shard, device in zip(shards, tower_devices(devices, len(shards)), strict=True):
            self.towers[str(shard.tower)] = Tower(architecture, shard, device, num_classes, image_size)
        self._stages_compiled = False
        self._operations = {stage.name: operations_after(stage, architecture) for stage in architecture.stages}
        self.reset_parameters(seed)

    @property
    def devices(self) -> list[torch.device]:
        """The device of each local tower."""
        return [tower.device for tower in self._local_towers()]

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draws all weights and biases again, as functions of (seed, tower, stage) if there is a seed."""
        for tower in self._local_towers():
            tower.reset_parameters(self.architecture, seed)

    def load_full_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Copies the local rows of full parameters, given by name, and leaves others as they are."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name in parameters:
                    parameter.copy_(parameters[name][self.local_rows(name)])

    def local_rows(self, name: str) -> slice:
        """Returns which rows of a full parameter, such as `towers.1.fc7.bias`, are local."""
        tower = self.towers[str(tower_of(name))]
        assert isinstance(tower, Tower)
        return tower.local_rows[stage_of(name)]

    def forward(self, images: Tensor | list[Tensor], dropout: DropoutKey | None = None) -> Tensor:
        """Returns logits (N, classes) on the first device.

        Args:
            images: (N, 3, H, W) floating-point, values of 0..255 less the mean image; or a list of them for the
                towers, each on its device.
            dropout: the step's key; without it masks come from torch's generator.
        """
        keys = self._keys_by_tower(dropout) if dropout and self.training and self.architecture.dropout else None
        last = self.architecture.stage_names[-1]
        return self._walk(images, (last,), keys, dropout.first_row if dropout else 0)[last]

    def features(self, images: Tensor, stage: str) -> Tensor:
        """Returns one stage's output of all towers together, on the first device.

        Such as "conv5" (N, 256, 6, 6), after its pooling, or "fc7" (N, 4096), after its ReLU; the
        last stage's are the logits. Raises ValueError if there is no such stage.
        """
        return self.stage_outputs(images, (stage,))[stage]

    def stage_outputs(self, images: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        """Returns the `features` of several stages, by name, from one pass, before dropout."""
        names = self.architecture.stage_names
        if not stages or not set(stages) <= set(names):
            raise ValueError(f"stages must be among {', '.join(names)}, not {', '.join(stages) or 'none'}")
        return self._walk(images, tuple(stages), None, 0)

    def stage_weights(self, stage: str) -> list[Tensor]:
        """Returns a stage's local weights, one tensor for each tower."""
        return [tower.layer(stage).weight for tower in self._local_towers(stage)]

    def compile_stages(self) -> None:
        """Makes torch compile the walk over the stages; names and results stay the same."""
        self._stages_compiled = True

    def dropout_keys(self, seed: int, step: int) -> Tensor:
        """Returns a step's keys, (local towers, stages with dropout) int64, on the CPU."""
        net, towers = self.architecture, self._local_towers()
        positions = [(tower.shard.tower, net.stage_names.index(stage)) for tower in towers for stage in net.dropout]
        keys = [random_key(seed, "dropout", step, *position) for position in positions]
        return torch.tensor(keys, dtype=torch.int64).view(len(towers), len(net.dropout))

    def _keys_by_tower(self, dropout: DropoutKey) -> list[Tensor]:  # (stages with dropout,) each
        keys = self.dropout_keys(dropout.seed, dropout.step) if dropout.values is None else dropout.values
        sent = {device: copied_to(device, keys) for device in dict.fromkeys(self.devices)}
        return [sent[device][row] for row, device in enumerate(self.devices)]

    def _local_towers(self, stage: str | None = None) -> list[Tower]:
        """Returns the local towers, or those that have rows of a stage."""
        towers = [tower for tower in self.towers.values() if isinstance(tower, Tower)]
        return [tower for tower in towers if stage is None or stage in tower.local_rows]

    def _walk(
        self, images: Tensor | list[Tensor], stages: tuple[str, ...], keys: list[Tensor] | None, first_row: int
    ) -> dict[str, Tensor]:
        run_stages = _compiled_run_stages() if self._stages_compiled else AlexNet._run_stages
        return run_stages(self, images, stages, keys, first_row)

    def _run_stages(
        self, images: Tensor | list[Tensor], stages: tuple[str, ...], keys: list[Tensor] | None, first_row: int
    ) -> dict[str, Tensor]:
        """Returns the outputs of `stages` before dropout, of all towers, on the first device."""
        size, net, exchange, outputs = self.image_size, self.architecture, self.exchange, dict[str, Tensor]()

        def checked(x: Tensor) -> Tensor:
            if x.ndim != 4 or tuple(x.shape[1:]) != (3, size, size):
                raise ValueError(f"images must be (N, 3, {size}, {size}), not {tuple(x.shape)}")
            x = x * net.input_scale if net.input_scale != 1 else x
            # channels_last; transposed, because vmap supports no memory formats; an exported graph is for any machine
            return x if torch.compiler.is_exporting() else x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)

        if isinstance(images, list):
            xs = [checked(x) for x in images]
        else:
            image = checked(images)
            xs = [copied_to(device, image) for device in self.devices]
        channels = 3  # of all towers together
        for stage in net.stages:
            if stage is net.linears[0]:
                channels *= xs[0].shape[2] * xs[0].shape[3]
                xs = [x.flatten(1) for x in xs]  # (N, C, H, W) to (N, C * H * W): in the paper 4608 a tower
                xs, first_row = exchange.all_gather_rows(xs, first_row, stage.name)
            if stage is not net.stages[0]:  # every tower reads all of the images
                xs = exchange.stage_inputs(xs, channels, stage)
            drops = self.training and stage.name in net.dropout and net.dropout_rate > 0
            relu_follows = stage in net.linears[:-1] and net.linear_activation == "relu"
            drops_with_relu = drops and keys is not None and relu_follows  # one kernel computes both
            xs = self._run_stage(stage, xs, activate=not drops_with_relu)
            channels = stage.channels if isinstance(stage, Conv) else stage.width or self.num_classes
            if stage.name in stages:
                outputs[stage.name] = exchange.gather_output(xs, channels, f"the output of {stage.name}")
                if len(outputs) == len(set(stages)):
                    break
            if stage is net.convs[-1] and net.adaptive_pool is not None:
                xs = [F.adaptive_avg_pool2d(x, net.adaptive_pool) for x in xs]
            if drops:
                xs = self._apply_dropout(stage.name, xs, keys, first_row, drops_with_relu)
        return outputs

    def _run_stage(self, stage: Conv | Linear, inputs: TowerTensors, activate: bool = True) -> TowerTensors:
        """Returns the towers' outputs of a stage's layer, and if `activate` of what follows it."""
        if isinstance(stage, Conv):
            shared = all(x is inputs[0] for x in inputs)  # then towers also share one padded copy
            padded = [pad_asymmetric(x, stage) for x in (inputs[:1] if shared else inputs)]
            inputs = padded * len(inputs) if shared else padded
        towers = self._local_towers(stage.name)
        xs = [tower.run_layer(stage.name, x) for tower, x in zip(towers, inputs, strict=True)]
        for operation in self._operations[stage.name] if activate else ():
            xs = operation(xs, self.exchange)
        return xs

    def _apply_dropout(
        self, stage: str, xs: TowerTensors, keys: list[Tensor] | None, first_row: int, relu: bool
    ) -> TowerTensors:
        index, rate = self.architecture.dropout.index(stage), self.architecture.dropout_rate
        if keys is None:
            return [F.dropout(x, rate) for x in xs]
        positions = [
            MaskPosition(rate, key[index], first_row, tower.local_rows[stage].start)
            for key, tower in zip(keys, self._local_towers(), strict=True)
            if stage in tower.local_rows  # hybrid ranks have a shard of a linear stage in one tower
        ]
        return [dropout(x, position, relu) for x, position in zip(xs, positions, strict=True)]

    def _replicate_for_data_parallel(self) -> NoReturn:
        """Refuses nn.DataParallel: all its slices would use the first one's dropout masks."""
        raise RuntimeError("AlexNet does not support nn.DataParallel; use DistributedDataParallel or torchrun train.py")


@functools.cache
def _compiled_run_stages() -> Callable[..., dict[str, Tensor]]:
    """Returns the compiled walk of all networks: stored in one, copies would use its weights."""
    return torch.compile(AlexNet._run_stages)


def empty_network(
    architecture: Architecture, num_classes: int, image_size: int, devices: Sequence[torch.device]
) -> AlexNet:
    """Returns a network of any weights: drawing 61 million takes half a second."""
    net = AlexNet(architecture, num_classes, image_size, torch.device("meta"))
    for tower, device in zip(net.towers.values(), devices, strict=True):
        allocate(tower, device)
    return net


def operations_after(stage: Conv | Linear, net: Architecture) -> list[StageOperation]:
    """Returns the functions to call in order on the outputs of a stage's layer, several operations in one."""
    names: tuple[Operation, ...] = stage.after if isinstance(stage, Conv) else (net.linear_activation,)
    functions, operations = _functions(net, stage.name), []
    while names and stage is not net.linears[-1]:
        count = max(count for count in range(1, len(names) + 1) if names[:count] in functions)
        operations.append(functions[names[:count]])
        names = names[count:]
    return operations


def _functions(net: Architecture, stage: str) -> dict[tuple[Operation, ...], StageOperation]:
    """Returns a function for each operation, and for each sequence that one function computes."""
    norm, size, stride, ceil = net.norm, net.pool_size, net.pool_stride, net.pools_up(stage)
    functions: dict[tuple[Operation, ...], StageOperation] = {  # no lambdas: networks are pickled
        ("relu",): partial(_by_tower, F.relu),  # not in place: hooks on the layers have seen the input
        ("tanh",): partial(_by_tower, torch.tanh),
        ("pool",): partial(_by_tower, nn.MaxPool2d(size, stride, ceil_mode=ceil)),
        ("avg_pool",): partial(_by_tower, nn.AvgPool2d(size, stride, ceil_mode=ceil, count_include_pad=False)),
        ("spatial_norm",): partial(_by_tower, partial(spatial_response_norm, norm=net.spatial_norm)),
    }
    for before, relu in (((), False), (("relu",), True)):
        if norm.across_towers:
            functions[*before, "norm"] = partial(_norm_across_towers, norm=norm, relu=relu, stage=stage)
        else:
            pooled = partial(response_norm_pool, norm=norm, relu=relu, size=size, stride=stride, ceil=ceil)
            functions[*before, "norm"] = partial(_by_tower, partial(response_norm, norm=norm, relu=relu))
            functions[*before, "norm", "pool"] = partial(_by_tower, pooled)
    return functions


def _by_tower(function: Callable[[Tensor], Tensor], xs: TowerTensors, _: Exchange) -> TowerTensors:
    return [function(x) for x in xs]


def _norm_across_towers(xs: TowerTensors, exchange: Exchange, norm: Norm, relu: bool, stage: str) -> TowerTensors:
    widened = exchange.channel_halo(xs, norm.window // 2, f"{stage}'s norm")
    return [
        response_norm(wide, norm, relu)[:, before : before + x.shape[1]]  # (N, C, H, W)
        for x, (wide, before) in zip(xs, widened, strict=True)
    ]
