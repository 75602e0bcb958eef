"""Figures as PNG and SVG files and in TensorBoard, and the style that all of them share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_os_error

# The palette of Okabe and Ito (2008), which people with any kind of colour vision can distinguish; without its
# yellow, which is faint on white. Even so, no figure shows anything by colour only.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK)
MARKERS = "os^Dv*Xp"  # 8 markers and 7 colours give 56 different pairs

FALLBACK_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "IPAGothic", "Hiragino Sans", "Noto Sans Devanagari", "Noto Sans Bengali"),
    *("Noto Sans Tamil", "Noto Sans Thai", "Noto Emoji", "Arial Unicode MS", "Unifont"),
)
"""Fonts for class and file names in scripts that DejaVu Sans lacks. matplotlib draws each character with the first
font that has it, and prints a warning and draws a box if none has it."""


def font_families(installed: Iterable[str]) -> list[str]:
    """Returns the fonts to draw with: DejaVu Sans, which matplotlib includes, then the installed fallback fonts."""
    available = set(installed)
    return ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in available)]


DPI = 150
STYLE: Any = {  # only newer versions of matplotlib have a type for its keys
    "font.family": font_families(font_manager.get_font_names()),  # only installed ones: others cause warnings
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "alexnet_torch",  # the same figure gives the same file
    "text.parse_math": False,  # class and file names may contain dollar signs
    "text.usetex": False,
}
"""For matplotlib.rc_context, as a decorator of drawing functions: matplotlib's own settings do not change."""


class FigureWriter:
    """Writes the figures of one run.

    Args:
        folder: where PNG and SVG files go; created if it does not exist.
        tensorboard: folder of the figures' TensorBoard events, from which earlier events are removed.
        step: training step of the weights, for TensorBoard.

    Raises:
        UserError: a folder cannot be written.
    """

    def __init__(self, folder: Path, tensorboard: Path, step: int) -> None:
        self.folder, self._step = folder, step
        self.written: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for events in tensorboard.glob("events.out.tfevents.*"):
                events.unlink()
            self._writer = SummaryWriter(str(tensorboard))
        except OSError as error:
            raise UserError(f"--output {folder}: {explain_os_error(error)}") from error

    def add(self, name: str, figure: Figure) -> None:
        """Writes a figure as <name>.png, <name>.svg and TensorBoard image figures/<name>."""
        pixels = render(figure)
        figure.set_layout_engine("none")  # the SVG keeps the layout of the pixels
        png, svg = self.folder / f"{name}.png", self.folder / f"{name}.svg"
        Image.fromarray(pixels).save(png, dpi=(DPI, DPI))
        with matplotlib.rc_context(STYLE):
            figure.savefig(svg, dpi=DPI, metadata={"Date": None})  # the same figure gives the same file
        self.written += [png, svg]
        self._writer.add_image(f"figures/{name}", pixels, self._step, dataformats="HWC")

    def remove_old(self, names: Iterable[str]) -> None:
        """Removes figures of these names that an earlier command wrote and this one did not."""
        for name in names:
            for suffix in (".png", ".svg"):
                if (path := self.folder / f"{name}{suffix}") not in self.written:
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Writes the events that TensorBoard's writer still holds."""
        self._writer.close()


def render(figure: Figure) -> np.ndarray:
    """Returns a figure's pixels, (height, width, 3) uint8, as in its PNG file."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def printable_name(name: str, width: int = 24) -> str:
    """Returns a class or file name that fonts can draw, shortened in the middle to at most `width` characters."""
    text = name.encode(errors="replace").decode()  # file names may contain bytes that are not UTF-8
    return text if len(text) <= width else f"{text[: width - width // 3 - 1]}…{text[-(width // 3) :]}"
