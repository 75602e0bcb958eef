"""What a network computes: frozen dataclasses, and the paper's net (Krizhevsky, Sutskever, Hinton, 2012).

It says nothing about where towers are or how they are trained. Other nets are in presets.py.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, get_args

from alexnet_torch.errors import UserError

Activation = Literal["relu", "tanh"]
Operation = Literal["relu", "tanh", "norm", "spatial_norm", "pool", "avg_pool"]
POOLS = ("pool", "avg_pool")
Distribution = Literal["normal", "truncated_normal", "uniform"]


def _require(owner: object, must: str, holds: Callable[[Any], bool], *fields: str) -> None:
    for field in fields:
        if not holds(value := getattr(owner, field)):
            raise ValueError(f"{type(owner).__name__}.{field} must be {must}, not {value!r}")


_POSITIVE: tuple[str, Callable[[float], bool]] = ("positive", lambda value: value > 0)
_COUNT: tuple[str, Callable[[int], bool]] = ("at least 1", lambda value: value >= 1)


@dataclass(frozen=True)
class Init:
    """A layer's weights and biases before the first step.

    Attributes:
        std: standard deviation of the weights; for "truncated_normal" before values beyond two of
            them are drawn again, as in TensorFlow; for "uniform" the half-width.
        bias: value of the biases; None, only for "uniform", draws them like the weights.
        by_fan_in: whether `std` is in units of 1 / sqrt(the layer's inputs): then 1 is LeCun's
            rule, sqrt(2) He's, and 1 with "uniform" torch's default.
    """

    std: float = 0.01
    bias: float | None = 0.0
    distribution: Distribution = "normal"
    by_fan_in: bool = False

    def __post_init__(self) -> None:
        _require(self, *_POSITIVE, "std")
        known = get_args(Distribution)
        _require(self, f"one of {known}", known.__contains__, "distribution")
        if self.distribution != "uniform":
            _require(self, "a number", lambda bias: bias is not None, "bias")


@dataclass(frozen=True)
class Norm:
    """Response normalisation b = a / (k + alpha / window * sum of a^2 over the window)^beta.

    alpha is in PyTorch's convention, divided by the window: the paper's 1e-4 is 5e-4 here.

    Attributes:
        window: number of neighbouring channels in the sum, odd, clipped at the first and last; for
            the spatial norm, the side of a square in one channel, clipped at the borders.
        across_towers: whether neighbours are among the channels of all towers.
    """

    window: int = 5
    alpha: float = 5e-4
    beta: float = 0.75
    k: float = 2.0
    across_towers: bool = False

    def __post_init__(self) -> None:
        _require(self, "odd and at least 1", lambda window: window >= 1 and window % 2 == 1, "window")
        _require(self, "0 or more", lambda alpha: alpha >= 0, "alpha")
        _require(self, *_POSITIVE, "beta", "k")


@dataclass(frozen=True)
class Conv:
    """A convolution stage: the convolution, then the operations of `after` in their order.

    Attributes:
        channels: output channels of all towers together.
        padding: number of zeros at (left, right, top, bottom).
        reads_all_towers: whether each tower reads the channels of all towers, not only its own.
    """

    name: str
    channels: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    reads_all_towers: bool = False
    after: tuple[Operation, ...] = ("relu",)
    init: Init = Init()

    def __post_init__(self) -> None:
        _require(self, *_COUNT, "channels", "kernel", "stride")
        _require(self, "four numbers of 0 or more", lambda p: len(p) == 4 and min(p) >= 0, "padding")
        square = "as much across as down, so that maps stay square"
        _require(self, square, lambda p: sum(p[:2]) == sum(p[2:]), "padding")
        known = get_args(Operation)
        _require(self, f"among {known}", set(known).issuperset, "after")


@dataclass(frozen=True)
class Linear:
    """A fully connected stage. A `width` of None is the number of classes (in the last stage)."""

    name: str
    width: int | None
    reads_all_towers: bool = True
    init: Init = Init()

    def __post_init__(self) -> None:
        if self.width is not None:
            _require(self, *_COUNT, "width")


@dataclass(frozen=True)
class Architecture:
    """A full network: `convs` in order, then `linears`.

    Attributes:
        towers: number of towers, each with its part of every stage's output channels.
        norm, spatial_norm: what "norm" and "spatial_norm" in a stage's `after` compute.
        pool_size, pool_stride, pool_ceil: windows of "pool", which takes the maximum, and "avg_pool", the mean of
            what lies inside the map; `pool_ceil` keeps windows that reach past the right and bottom edge, in all
            stages or in those named.
        dropout: stages with dropout at `dropout_rate` after them in training.
        adaptive_pool: side to which the last convolution stage is average-pooled, as in torchvision.
        input_scale: factor for the images (0..255 less the mean image) before conv1.
        linear_activation: activation after each linear stage but the last.
    """

    name: str
    convs: tuple[Conv, ...]
    linears: tuple[Linear, ...]
    towers: int = 2
    norm: Norm = Norm()
    spatial_norm: Norm = Norm(window=5, alpha=0.001, beta=0.75, k=1.0)
    pool_size: int = 3
    pool_stride: int = 2
    pool_ceil: bool | tuple[str, ...] = False
    dropout: tuple[str, ...] = ("fc6", "fc7")
    dropout_rate: float = 0.5
    adaptive_pool: int | None = None
    input_scale: float = 1.0
    linear_activation: Activation = "relu"

    def __post_init__(self) -> None:
        _require(self, *_COUNT, "towers", "pool_size", "pool_stride")
        _require(self, "at least one stage", bool, "convs", "linears")
        _require(self, "in [0, 1)", lambda rate: 0 <= rate < 1, "dropout_rate")
        names, known = self.stage_names, get_args(Activation)
        named = ["dropout"] if isinstance(self.pool_ceil, bool) else ["dropout", "pool_ceil"]
        _require(self, f"among {names}", set(names).issuperset, *named)
        _require(self, *_POSITIVE, "input_scale")
        if self.adaptive_pool is not None:
            _require(self, *_COUNT, "adaptive_pool")
        _require(self, f"one of {known}", known.__contains__, "linear_activation")
        if len(set(names)) != len(names):
            raise ValueError(f"Architecture: stage names must differ, not {names!r}")
        *hidden, last = self.linears
        widths: dict[str, int | None] = {f"{conv.name}.channels": conv.channels for conv in self.convs}
        for field, width in (widths | {f"{linear.name}.width": linear.width for linear in hidden}).items():
            if width is None or width % self.towers:
                raise ValueError(f"{field} must be a multiple of {self.towers}, the number of towers, not {width}")
        if last.width is not None:
            raise ValueError(f"{last.name}.width must be None, the number of classes, not {last.width}")

    @property
    def stages(self) -> tuple[Conv | Linear, ...]:
        """All stages, in order."""
        return *self.convs, *self.linears

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of all stages, in order."""
        return tuple(stage.name for stage in self.stages)

    def stage_sides(self, image_size: int) -> Iterator[tuple[str, int]]:
        """Yields name and side of each convolution's and pooling's output; too small if below 1."""
        side = image_size
        for conv in self.convs:
            side = (side + sum(conv.padding[:2]) - conv.kernel) // conv.stride + 1
            yield conv.name, side
            for operation in conv.after:
                if operation in POOLS:
                    steps, rest = divmod(side - self.pool_size, self.pool_stride)
                    # torch drops a last window that would start past the edge
                    has_last = rest > 0 and (steps + 1) * self.pool_stride < side
                    side = steps + 1 + (self.pools_up(conv.name) and has_last)
                    yield f"{conv.name}'s pooling", side

    def pools_up(self, stage: str) -> bool:
        """Returns whether a stage's pooling keeps windows that reach past the edge."""
        return self.pool_ceil if isinstance(self.pool_ceil, bool) else stage in self.pool_ceil

    def fits(self, image_size: int) -> bool:
        """Returns whether every stage's output is at least 1x1 for images of this size."""
        return image_size >= 1 and all(side >= 1 for _, side in self.stage_sides(image_size))

    def smallest_image(self) -> int:
        """Returns the smallest image size that `fits`, in pixels."""
        return next(size for size in count(1) if self.fits(size))

    def final_side(self, image_size: int) -> int:
        """Returns the side of the map that the first linear stage reads; ValueError if too small."""
        for name, side in self.stage_sides(image_size):
            if side < 1:
                fix = f"the smallest that works is {self.smallest_image()}"
                raise ValueError(f"image_size {image_size} is too small for {name} in {self.name}; {fix}")
        return self.adaptive_pool or side

    def with_init(self, **inits: Init) -> "Architecture":
        """Returns this architecture with other initialisations, given by stage name."""
        if unknown := set(inits) - set(self.stage_names):
            raise ValueError(f"{self.name} has no stage {sorted(unknown)}, only {self.stage_names}")
        convs = tuple(replace(conv, init=inits.get(conv.name, conv.init)) for conv in self.convs)
        linears = tuple(replace(linear, init=inits.get(linear.name, linear.init)) for linear in self.linears)
        return replace(self, convs=convs, linears=linears)

    def computation_only(self) -> "Architecture":
        """Returns only what decides the output for given weights, of any scale in conv1."""
        used = {operation for conv in self.convs for operation in conv.after}
        return replace(
            self.with_init(**dict.fromkeys(self.stage_names, Init())),
            name="",
            dropout=(),
            dropout_rate=0.0,
            input_scale=1.0,
            norm=self.norm if "norm" in used else Norm(),
            spatial_norm=self.spatial_norm if "spatial_norm" in used else Norm(),
        )

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> "Architecture":
        """Returns the architecture of a description by `asdict`, or JSON of it; else ValueError."""
        values = dict(description)
        try:
            values["convs"] = tuple(_stage(Conv, conv) for conv in values["convs"])
            values["linears"] = tuple(_stage(Linear, linear) for linear in values["linears"])
            for norm in ("norm", "spatial_norm"):
                values[norm] = Norm(**values[norm])
            return cls(**_with_tuples(values))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an architecture: {error}") from error


def _stage(stage_type: Any, description: dict[str, Any]) -> Any:
    values = _with_tuples(description)
    if "meet" in values:  # the name in models saved before version 1
        values["reads_all_towers"] = values.pop("meet")
    return stage_type(**values | {"init": Init(**description["init"])})


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:  # JSON has lists
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def parse_stages(option: str, text: str | None, names: Sequence[str]) -> tuple[str, ...] | None:
    """Returns the stages of `names` that an option names: "conv1,conv2" or "conv1..conv5"."""
    if text is None:
        return None
    chosen: set[str] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        last = last if dots else first
        if first not in names or last not in names:
            wrong = first if first not in names else last
            number = re.search(r"\d+$", wrong)  # pool5 and relu5 are parts of conv5
            near = [name for name in names if number and name.endswith(number[0])]
            perhaps = "".join(f"perhaps {name}, with what follows its layer; " for name in near)
            raise UserError(f"{option} {text}: {wrong!r} is not a stage; {perhaps}choose from {', '.join(names)}")
        in_range = names[names.index(first) : names.index(last) + 1]
        if not in_range:
            raise UserError(f"{option} {text}: {last} comes before {first}; write {last}..{first}")
        chosen |= set(in_range)
    return tuple(name for name in names if name in chosen)


_LEARNS = Init(0.7, 0.1, by_fan_in=True)
PAPER = Architecture(
    name="paper",
    convs=(
        # "224 or 227?" The 2012 source reads 224 pixels without padding on the left and top; the last
        # of its 1 + ceil((224 - 11) / 4) = 55 windows reaches 3 pixels past the other edges.
        Conv("conv1", 96, 11, 4, (0, 3, 0, 3), after=("relu", "norm", "pool"), init=Init(0.01, 0.0)),
        Conv("conv2", 256, 5, 1, (2, 2, 2, 2), after=("relu", "norm", "pool"), init=_LEARNS),
        Conv("conv3", 384, 3, 1, (1, 1, 1, 1), reads_all_towers=True, init=Init(0.7, 0.0, by_fan_in=True)),
        Conv("conv4", 384, 3, 1, (1, 1, 1, 1), init=_LEARNS),
        Conv("conv5", 256, 3, 1, (1, 1, 1, 1), after=("relu", "pool"), init=_LEARNS),
    ),
    linears=(
        Linear("fc6", 4096, init=_LEARNS),
        Linear("fc7", 4096, init=_LEARNS),
        Linear("fc8", None, init=Init(0.01, 0.0)),
    ),
)
"""The paper's net, with initial weights that learn (recipes.catalogue.paper says why; the text's are
in presets.PAPER_LITERAL), and conv1's padding, which the text leaves open, from the 2012 source."""
