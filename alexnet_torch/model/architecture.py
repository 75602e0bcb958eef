"""What a network computes: frozen dataclasses, and the paper's net (Krizhevsky, Sutskever, Hinton, 2012).

An architecture says nothing about where towers are or how they are trained. Other nets are in presets.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, get_args

from alexnet_torch.errors import UserError

Activation = Literal["relu", "tanh"]
Operation = Literal["relu", "tanh", "norm", "spatial_norm", "pool"]
Distribution = Literal["normal", "truncated_normal", "uniform"]


def _require(holds: bool, owner: object, field: str, must: str) -> None:
    if not holds:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} must be {must}, not {value!r}")


@dataclass(frozen=True)
class Init:
    """A layer's weights and biases before the first step.

    Attributes:
        std: standard deviation of the weights; for "truncated_normal" before truncation (values beyond two of
            them are drawn again, as in TensorFlow); for "uniform" the half-width of the interval.
        bias: initial value of the biases; None, only for "uniform", draws them like the weights.
        distribution: distribution of the weights.
        by_fan_in: whether `std` is in units of 1 / sqrt(number of the layer's inputs): then 1 is LeCun's rule,
            sqrt(2) He's, and 1 with "uniform" torch's default.
    """

    std: float = 0.01
    bias: float | None = 0.0
    distribution: Distribution = "normal"
    by_fan_in: bool = False

    def __post_init__(self) -> None:
        _require(self.std > 0, self, "std", "positive")
        known = get_args(Distribution)
        _require(self.distribution in known, self, "distribution", f"one of {known}")
        _require(self.bias is not None or self.distribution == "uniform", self, "bias", "a number")


@dataclass(frozen=True)
class Norm:
    """Response normalisation b = a / (k + alpha / window * sum of a^2 over the window)^beta.

    alpha is in PyTorch's convention, divided by the window: the paper's 1e-4 is 5e-4 here.

    Attributes:
        window: number of neighbouring channels in the sum, odd, clipped at the first and last channel; for
            the spatial norm, the side of a square in one channel, clipped at the borders.
        across_towers: whether neighbours are among the channels of all towers, not only of the same tower.
    """

    window: int = 5
    alpha: float = 5e-4
    beta: float = 0.75
    k: float = 2.0
    across_towers: bool = False

    def __post_init__(self) -> None:
        _require(self.window >= 1 and self.window % 2 == 1, self, "window", "odd and at least 1")
        _require(self.alpha >= 0, self, "alpha", "0 or more")
        _require(self.beta > 0, self, "beta", "positive")
        _require(self.k > 0, self, "k", "positive")


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
        _require(self.channels >= 1, self, "channels", "at least 1")
        _require(self.kernel >= 1, self, "kernel", "at least 1")
        _require(self.stride >= 1, self, "stride", "at least 1")
        _require(len(self.padding) == 4 and min(self.padding) >= 0, self, "padding", "four numbers of 0 or more")
        if sum(self.padding[:2]) != sum(self.padding[2:]):
            _require(False, self, "padding", "as much across as down, so that maps stay square")
        _require(set(self.after) <= set(get_args(Operation)), self, "after", f"among {get_args(Operation)}")


@dataclass(frozen=True)
class Linear:
    """A fully connected stage. A `width` of None is the number of classes (in the last stage)."""

    name: str
    width: int | None
    reads_all_towers: bool = True
    init: Init = Init()

    def __post_init__(self) -> None:
        _require(self.width is None or self.width >= 1, self, "width", "at least 1, or None for the classes")


@dataclass(frozen=True)
class Architecture:
    """A full network: `convs` in order, then `linears`.

    Attributes:
        towers: number of towers, each with its part of every stage's output channels.
        norm: normalisation by "norm" in a stage's `after`.
        spatial_norm: normalisation by "spatial_norm": its window is a square within one channel.
        pool_size, pool_stride, pool_ceil: max-pooling by "pool"; `pool_ceil` keeps windows that reach past
            the right and bottom edge, in all stages or in those named.
        dropout: stages with dropout at `dropout_rate` after them in training.
        adaptive_pool: side to which the last convolution stage is average-pooled for any image size, as in
            torchvision; None for no such pooling.
        input_scale: factor for the images (0..255 less the mean image) before conv1.
        linear_activation: activation after each linear stage but the last; convolutions have theirs in `after`.
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
        for field in ("towers", "pool_size", "pool_stride"):
            _require(getattr(self, field) >= 1, self, field, "at least 1")
        _require(bool(self.convs and self.linears), self, "convs" if self.linears else "linears", "at least one stage")
        _require(0 <= self.dropout_rate < 1, self, "dropout_rate", "in [0, 1)")
        names = self.stage_names
        for field, named in (("dropout", self.dropout), ("pool_ceil", self.pool_ceil)):
            _require(isinstance(named, bool) or set(named) <= set(names), self, field, f"among {names}")
        _require(self.input_scale > 0, self, "input_scale", "positive")
        _require(self.adaptive_pool is None or self.adaptive_pool >= 1, self, "adaptive_pool", "at least 1")
        known = get_args(Activation)
        _require(self.linear_activation in known, self, "linear_activation", f"one of {known}")
        if len(set(names)) != len(names):
            raise ValueError(f"Architecture: stage names must differ, not {names!r}")
        *hidden, last = self.linears
        widths = [(f"{conv.name}.channels", conv.channels) for conv in self.convs]
        for field, width in (*widths, *((f"{linear.name}.width", linear.width) for linear in hidden)):
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
        """Yields the name and side of the output of each convolution and pooling; below 1 for too small an image."""
        side = image_size
        for conv in self.convs:
            side = (side + sum(conv.padding[:2]) - conv.kernel) // conv.stride + 1
            yield conv.name, side
            for operation in conv.after:
                if operation == "pool":
                    side = self.pooled(side, self.pools_up(conv.name))
                    yield f"{conv.name}'s pooling", side

    def pools_up(self, stage: str) -> bool:
        """Returns whether a stage's max-pooling keeps windows that reach past the right and bottom edge."""
        return self.pool_ceil if isinstance(self.pool_ceil, bool) else stage in self.pool_ceil

    def pooled(self, side: int, ceil: bool) -> int:
        """Returns the side of a map after max-pooling, without or with the windows that reach past the edge."""
        steps, rest = divmod(side - self.pool_size, self.pool_stride)
        # torch drops a last window that would start past the edge
        return steps + 1 + (ceil and rest > 0 and (steps + 1) * self.pool_stride < side)

    def fits(self, image_size: int) -> bool:
        """Returns whether every stage's output is at least 1x1 for images of this size."""
        return image_size >= 1 and all(side >= 1 for _, side in self.stage_sides(image_size))

    def smallest_image(self) -> int:
        """Returns the smallest image size that `fits`, in pixels."""
        return next(size for size in count(1) if self.fits(size))

    def final_side(self, image_size: int) -> int:
        """Returns the side of the map that the first linear stage reads; ValueError names the smallest image."""
        for name, side in self.stage_sides(image_size):
            if side < 1:
                reason = f"image_size {image_size} is too small for {name} in {self.name}"
                raise ValueError(f"{reason}; the smallest that works is {self.smallest_image()}")
        return self.adaptive_pool or side

    def with_init(self, **inits: Init) -> "Architecture":
        """Returns this architecture with other initialisations for some stages, given by stage name."""
        if unknown := set(inits) - set(self.stage_names):
            raise ValueError(f"{self.name} has no stage {sorted(unknown)}, only {self.stage_names}")
        convs = tuple(replace(conv, init=inits.get(conv.name, conv.init)) for conv in self.convs)
        linears = tuple(replace(linear, init=inits.get(linear.name, linear.init)) for linear in self.linears)
        return replace(self, convs=convs, linears=linears)

    def computation_only(self) -> "Architecture":
        """Returns this architecture with only what decides the output for given weights of any scale in conv1."""
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
        """Returns the architecture of a description by `dataclasses.asdict`, which may have been JSON since.

        Raises:
            ValueError: a field is unknown or its value is invalid.
        """
        values = dict(description)
        try:
            values["convs"] = tuple(_stage(Conv, conv) for conv in values["convs"])
            values["linears"] = tuple(_stage(Linear, linear) for linear in values["linears"])
            values["norm"] = Norm(**values["norm"])
            values["spatial_norm"] = Norm(**values["spatial_norm"])
            values["dropout"] = tuple(values["dropout"])
            values["pool_ceil"] = tuple(ceil) if isinstance(ceil := values.get("pool_ceil", False), list) else ceil
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an architecture: {error}") from error


def _stage(stage_type: Any, description: dict[str, Any]) -> Any:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in description.items()}
    if "meet" in values:  # the name in models saved before version 1
        values["reads_all_towers"] = values.pop("meet")
    return stage_type(**values | {"init": Init(**description["init"])})


def parse_stages(option: str, text: str | None, names: Sequence[str]) -> tuple[str, ...] | None:
    """Returns the stages that an option names, such as "conv1,conv2" or "conv1..conv5", in the order of `names`."""
    if text is None:
        return None
    chosen: set[str] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        last = last if dots else first
        if first not in names or last not in names:
            raise UserError(f"{option} {text}: {part.strip()!r} is not a stage; choose from {', '.join(names)}")
        in_range = names[names.index(first) : names.index(last) + 1]
        if not in_range:
            raise UserError(f"{option} {text}: {last} comes before {first}; write {last}..{first}")
        chosen |= set(in_range)
    return tuple(name for name in names if name in chosen)


PAPER = Architecture(
    name="paper",
    convs=(
        # "224 or 227?" The 2012 source reads 224 pixels without padding on the left and top; the last of its
        # 1 + ceil((224 - 11) / 4) = 55 windows reaches 3 pixels past the right and bottom edge.
        Conv("conv1", 96, 11, 4, (0, 3, 0, 3), after=("relu", "norm", "pool"), init=Init(0.01, 0.0)),
        Conv("conv2", 256, 5, 1, (2, 2, 2, 2), after=("relu", "norm", "pool"), init=Init(0.7, 0.1, by_fan_in=True)),
        Conv("conv3", 384, 3, 1, (1, 1, 1, 1), reads_all_towers=True, init=Init(0.7, 0.0, by_fan_in=True)),
        Conv("conv4", 384, 3, 1, (1, 1, 1, 1), init=Init(0.7, 0.1, by_fan_in=True)),
        Conv("conv5", 256, 3, 1, (1, 1, 1, 1), after=("relu", "pool"), init=Init(0.7, 0.1, by_fan_in=True)),
    ),
    linears=(
        Linear("fc6", 4096, init=Init(0.7, 0.1, by_fan_in=True)),
        Linear("fc7", 4096, init=Init(0.7, 0.1, by_fan_in=True)),
        Linear("fc8", None, init=Init(0.01, 0.0)),
    ),
)
"""The paper's net with initial weights that learn (recipes.catalogue.paper says why; presets.PAPER_LITERAL has the
text's), and with conv1's padding, which the text leaves open, from the 2012 source."""
