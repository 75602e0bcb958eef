"""Where figures go: PNG and SVG files, and TensorBoard; and how all of them look."""

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

# Okabe and Ito's palette (2008), told apart with any kind of colour vision; without its yellow, which is faint
# on white. Nothing is said by colour alone all the same.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
)
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK)
MARKERS = "os^Dv*Xp"  # another number of them than of colours: 56 pairs before one comes again

FALLBACKS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans CJK KR",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "IPAGothic",
    "Hiragino Sans",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Sans Thai",
    "Noto Emoji",
    "Arial Unicode MS",
    "Unifont",
)
"""Fonts with scripts that DejaVu Sans lacks, for class and file names: matplotlib takes each sign from the first that
has it, and draws a box, with a warning, where none has."""


def families(installed: Iterable[str]) -> list[str]:
    """The fonts to draw with: DejaVu Sans, which comes with matplotlib, then those of FALLBACKS that are there."""
    there = set(installed)
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in there)]


DPI = 150
STYLE: Any = {  # its keys have a type of their own in newer versions of matplotlib alone
    "font.family": families(font_manager.get_font_names()),  # of those alone: matplotlib warns of any other
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "alexnet_torch",  # the same figure is the same file
    "text.parse_math": False,  # class and file names have dollars in them
    "text.usetex": False,
}
"""For matplotlib.rc_context, as a decorator of what draws: settings of matplotlib are left as they were."""


class Album:
    """Figures of one run.

    Args:
        folder: where PNG and SVG files go; made if need be.
        board: TensorBoard's folder for them, from which earlier ones are removed.
        step: of the weights, for TensorBoard.

    Raises:
        UserError: a folder cannot be written.
    """

    def __init__(self, folder: Path, board: Path, step: int) -> None:
        self.folder, self._step = folder, step
        self.written: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for earlier in board.glob("events.out.tfevents.*"):
                earlier.unlink()
            self._writer = SummaryWriter(str(board))
        except OSError as error:
            raise UserError(f"--output {folder}: cannot be written ({error.strerror}); name another folder") from error

    def add(self, name: str, figure: Figure) -> None:
        """Keeps a figure as <name>.png, <name>.svg and an image in TensorBoard, figures/<name>."""
        image = pixels(figure)
        figure.set_layout_engine("none")  # what has been laid out for the pixels stays
        png, svg = self.folder / f"{name}.png", self.folder / f"{name}.svg"
        Image.fromarray(image).save(png, dpi=(DPI, DPI))
        with matplotlib.rc_context(STYLE):
            figure.savefig(svg, dpi=DPI, metadata={"Date": None})  # the same figure is the same file
        self.written += [png, svg]
        self._writer.add_image(f"figures/{name}", image, self._step, dataformats="HWC")

    def remove_earlier(self, names: Iterable[str]) -> None:
        """Removes figures of these names that an earlier command left and this one has not drawn."""
        for name in names:
            for ending in (".png", ".svg"):
                if (path := self.folder / f"{name}{ending}") not in self.written:
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Writes what is pending for TensorBoard."""
        self._writer.close()


def pixels(figure: Figure) -> np.ndarray:
    """A figure as (height, width, 3) uint8, as in its PNG file."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def printable(name: str, width: int = 24) -> str:
    """A class or file name that fonts can draw and that fits, its middle left out if it is long."""
    shown = name.encode(errors="replace").decode()  # stray bytes in file names
    return shown if len(shown) <= width else f"{shown[: width - width // 3 - 1]}…{shown[-(width // 3) :]}"
