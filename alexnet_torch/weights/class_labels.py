"""What predictions call classes."""

from collections import Counter
from collections.abc import Sequence


def distinct_names(identities: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of classes; those that occur twice have their identities added: "crane (n02012849)"."""
    count = Counter(names)
    pairs = zip(identities, names, strict=True)
    return tuple(name if count[name] == 1 else f"{name} ({identity})" for identity, name in pairs)
