"""Pieces of an HTML page that needs no other file: text, tables, pictures."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from alexnet_torch.evaluation.figures.style import Figure, render, svg_text

STYLE_SHEET = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; } td, th { padding: 0.15em 0.9em 0.15em 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre, code { font: 13px/1.5 ui-monospace, monospace; background: #f4f4f4; } pre { padding: 0.7em; overflow-x: auto; }
img, svg { max-width: 100%; height: auto; } .note { color: #555; } .scroll { max-height: 26em; overflow-y: auto; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; } figure { margin: 0; width: 118px; font-size: 12px; }
figure img { width: 112px; height: 112px; image-rendering: pixelated; } figcaption { overflow-wrap: anywhere; }
.bar { display: inline-block; height: 0.7em; background: #0072B2; } .changed { font-weight: 600; }
""".strip()


def text(value: object) -> str:
    """Returns text for a page; bytes of file names that are not UTF-8 become question marks."""
    return escape(str(value).encode(errors="replace").decode())


def paragraph(content: str, kind: str = "") -> str:
    """Returns a paragraph of text."""
    return f'<p class="{kind}">{text(content)}</p>' if kind else f"<p>{text(content)}</p>"


def section(title: str, *content: str) -> str:
    """Returns a heading and what is under it, of HTML."""
    return "\n".join([f"<h2>{text(title)}</h2>", *content])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """Returns a table of HTML cells; the last `numbers` columns are aligned to the right."""
    kinds = [""] * (len(headings) - numbers) + [' class="number"'] * numbers
    head = "".join(f"<th{kind}>{text(heading)}</th>" for kind, heading in zip(kinds, headings, strict=True))
    body = []
    for row in rows:
        cells = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        body.append(f"<tr>{cells}</tr>")
    return "\n".join(["<table>", f"<tr>{head}</tr>", *body, "</table>"])


def picture(pixels: np.ndarray, description: str) -> str:
    """Returns an image (H, W, 3) uint8, inside the page; the description is for those who cannot see it."""
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{text(description)}" src="data:image/png;base64,{data}">'


def drawing(figure: Figure, description: str) -> str:
    """Returns a figure as an image inside the page."""
    return picture(render(figure), description)


def vector_drawing(figure: Figure) -> str:
    """Returns a figure as SVG inside the page: sharp at any size, and small if it is of few lines."""
    svg = svg_text(figure)
    return svg[svg.index("<svg") :]


def page(title: str, content: Sequence[str]) -> str:
    """Returns a full page."""
    head = f'<meta charset="utf-8"><title>{text(title)}</title><style>{STYLE_SHEET}</style>'
    body = "\n".join(content)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
