"""The style that all figures share; figures as pixels and as SVG."""

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alexnet_torch.data.sources.classes import in_one_line

__all__ = ["Axes", "Figure", "printable_name", "render", "styled", "svg_text"]  # all matplotlib comes from here

# the palette of Okabe and Ito (2008), for people with any kind of colour vision, without its yellow, which is faint on
# white; even so, no figure shows anything by colour only
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK)
MARKERS = "os^Dv*Xp"  # 8 markers and 7 colours give 56 different pairs

# for class and file names in scripts that DejaVu Sans lacks
FALLBACK_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "IPAGothic", "Hiragino Sans", "Noto Sans Devanagari", "Noto Sans Bengali"),
    *("Noto Sans Tamil", "Noto Sans Thai", "Noto Emoji", "Arial Unicode MS", "Unifont"),
)


def font_families(installed: Iterable[str]) -> list[str]:
    """Returns matplotlib's own font and the installed fallbacks; others would cause warnings."""
    return ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in set(installed))]


DPI = 150
STYLE: Any = {  # only newer versions of matplotlib have a type for its keys
    "font.family": font_families(font_manager.get_font_names()),
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "alexnet_torch",  # the same figure gives the same file
    "text.parse_math": False,  # names may contain dollar signs
    "text.usetex": False,
}
styled = matplotlib.rc_context(STYLE)  # decorates the functions that draw: the caller's settings do not change


def render(figure: Figure) -> np.ndarray:
    """Returns a figure's pixels, (height, width, 3) uint8, as in its PNG file."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@styled
def svg_text(figure: Figure) -> str:
    """Returns a figure as SVG; the same figure gives the same text."""
    content = BytesIO()
    figure.savefig(content, format="svg", dpi=DPI, metadata={"Date": None})
    return content.getvalue().decode()


def printable_name(name: str, width: int = 24) -> str:
    """Returns the first synonym of a name as fonts can draw it, shortened in the middle to `width` characters."""
    # names of files may contain bytes that are not UTF-8
    text = in_one_line(name.split(", ")[0]).encode(errors="replace").decode()
    return text if len(text) <= width else f"{text[: width - width // 3 - 1]}…{text[-(width // 3) :]}"
