"""How the names of classes are ordered, compared and told."""

import re
import unicodedata
from collections.abc import Iterable, Sequence


def normal(name: str) -> str:
    """Returns a name in Unicode's form NFC: macOS and Linux write an accent in two ways."""
    return unicodedata.normalize("NFC", name)


def same_names(first: Sequence[str], second: Sequence[str]) -> bool:
    """Returns whether two sequences of names are equal, however Unicode writes them."""
    return list(map(normal, first)) == list(map(normal, second))


def class_order(identities: Iterable[str]) -> list[str]:
    """Returns identities in the order of their indices: sorted; as numbers if all are, such as 0 to 999."""
    identities = list(identities)
    if all(re.fullmatch(r"0|[1-9]\d{0,17}", name) for name in identities):
        return sorted(identities, key=int)
    return sorted(identities)


def some(names: Sequence[str]) -> str:
    """Returns up to five names: a thousand are too many for a message."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
