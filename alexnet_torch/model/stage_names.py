"""Lists of stages as options and users write them."""

from collections.abc import Sequence

from alexnet_torch.errors import UserError


def parse_stages(option: str, text: str | None, names: Sequence[str]) -> tuple[str, ...] | None:
    """Returns the stages that an option names, in the network's order; None without the option.

    Args:
        option: its name for messages, such as "--freeze".
        text: stages and ranges of stages, separated by commas: "conv1,conv2", "conv1..conv5" or both.
        names: all stages of the network, first to last.

    Raises:
        UserError: a stage does not exist, or a range is empty.
    """
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
