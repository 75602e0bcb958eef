"""What real folders and archives have besides images and classes: passed over by one rule, and counted."""

import re
from dataclasses import dataclass, field

LISTED = 1000
"""Names that are kept for each reason: a folder copied by macOS has a ._ file beside each of a million images."""

SYSTEM = {
    "thumbs.db": "Windows",
    "ehthumbs.db": "Windows",
    "desktop.ini": "Windows",
    "$recycle.bin": "Windows",
    "system volume information": "Windows",
    "__macosx": "macOS",
    "icon\r": "macOS",
    "@eadir": "Synology",
    "#recycle": "Synology",
    "lost+found": "file system",
    "__pycache__": "Python",
}
"""Names of files and folders that systems write, in lower case, and who writes them."""
_APPLE = re.compile(r"\._|\.DS_Store$|\.AppleDouble$")


def junk_reason(name: str) -> str | None:
    """Returns why a file or folder of this name is passed over; None if it is not.

    Args:
        name: of one file or folder, without its parents.
    """
    if name.startswith("."):
        return "macOS" if _APPLE.match(name) else "hidden"
    system = SYSTEM.get(name.lower())
    return system and f"{system}'s"


def junk_path_reason(path: str) -> str | None:
    """Returns why a relative path, as of an archive's member, is passed over: by a name on it; None if it is not."""
    reasons = (junk_reason(part) for part in path.split("/") if part not in ("", ".", ".."))
    return next(filter(None, reasons), None)


@dataclass
class PassedOver:
    """Files and folders that are not taken for images or classes, by the reason."""

    counts: dict[str, int] = field(default_factory=dict)
    paths: dict[str, list[str]] = field(default_factory=dict)  # the first of each reason, at most LISTED

    def add(self, reason: str, path: str) -> None:
        """Counts a file or folder."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        listed = self.paths.setdefault(reason, [])
        if len(listed) < LISTED:
            listed.append(path)

    def __str__(self) -> str:
        """The end of the line that describes a source; empty if nothing was passed over."""
        if not self.counts:
            return ""
        parts = [f"{count:,} {reason} ({self.paths[reason][0]})" for reason, count in sorted(self.counts.items())]
        return f"; {sum(self.counts.values()):,} passed over: {', '.join(parts)}"
