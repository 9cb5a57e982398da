# from tools/drawing.py
"""The few shapes that every picture of the course is drawn with.

Original: tools/drawing.py; the copies beside the notebooks are generated. A picture is
a function that draws and returns nothing, so that a one-line cell shows it once. One
unit of a canvas is one inch, and 7 inches are 700 pixels in a notebook.
"""
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK = "#1f2933"        # text and outlines
PAPER = "#ffffff"      # opaque, so that dark mode cannot swallow the ink
BLUE, ORANGE, GREEN = "#cfe3f7", "#fde0c2", "#d3edd4"      # three kinds of thing
PURPLE, RED, GRAY = "#e5d9f2", "#f8d0d0", "#e8ebee"        # and three more
STRONG_BLUE, STRONG_ORANGE, STRONG_GREEN = "#2b6cb0", "#c05621", "#2f855a"
STRONG_RED, STRONG_GRAY = "#c53030", "#66727f"
SMALLEST_FONT = 9      # points; smaller letters vanish at 700 pixels

Point = tuple[float, float]


class Box(NamedTuple):
    """A drawn box and the four points at which arrows may meet it."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> Point:
        return self.x + self.width / 2, self.y + self.height

    @property
    def bottom(self) -> Point:
        return self.x + self.width / 2, self.y


def canvas(width: float = 7, height: float = 3, title: str = "") -> tuple[Figure, Axes]:
    """Return an empty sheet of width x height inches, origin at the bottom left."""
    fig, ax = plt.subplots(figsize=(width, height), facecolor=PAPER)
    fig.subplots_adjust(left=0, right=1, bottom=0, top=1)
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    if title:
        label(ax, width / 2, height - 0.2, title, size=12, weight="bold")
    return fig, ax


def label(ax: Axes, x: float, y: float, text: str, size: float = 10, color: str = INK,
          ha: str = "center", va: str = "center", **font) -> None:
    """Write text centred on (x, y), unless ha and va say otherwise."""
    if size < SMALLEST_FONT:
        raise ValueError(f"font size {size} is below {SMALLEST_FONT} points: {text!r}")
    ax.text(x, y, text, fontsize=size, color=color, ha=ha, va=va, **font)


def box(ax: Axes, x: float, y: float, width: float, height: float, text: str = "",
        fill: str = BLUE, size: float = 10, edge: str = INK, **font) -> Box:
    """Draw a rounded box with its lower left corner at (x, y) and text in its middle."""
    ax.add_patch(FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06",
        facecolor=fill, edgecolor=edge, linewidth=1))
    if text:
        label(ax, x + width / 2, y + height / 2, text, size, **font)
    return Box(x, y, width, height)


def arrow(ax: Axes, start: Point, end: Point, color: str = INK, bend: float = 0,
          style: str = "-|>", width: float = 1.2, line: str = "-") -> None:
    """Draw an arrow from start to end; bend curves it (0.3 is a gentle arc)."""
    ax.add_patch(FancyArrowPatch(
        start, end, arrowstyle=style, mutation_scale=11, color=color, linewidth=width,
        linestyle=line, connectionstyle=f"arc3,rad={bend}", shrinkA=1, shrinkB=1))


def row(ax: Axes, x: float, y: float, texts: list, width: float = 0.8,
        height: float = 0.4, fills: str | list = BLUE, size: float = 10,
        gap: float = 0.06) -> list[Box]:
    """Draw boxes side by side from (x, y); fills is one colour or one a box."""
    fills = [fills] * len(texts) if isinstance(fills, str) else fills
    return [
        box(ax, x + i * (width + gap), y, width, height, str(text), fill, size)
        for i, (text, fill) in enumerate(zip(texts, fills))
    ]


def heatmap(values, rows: list, columns: list, title: str = "", xlabel: str = "",
            ylabel: str = "", ax: Axes | None = None, digits: int = 2,
            cmap: str = "Blues", vmin: float | None = None,
            vmax: float | None = None) -> None:
    """Draw values (len(rows), len(columns)) as coloured, numbered cells.

    Cells that hold minus infinity are grey and say so.
    """
    values = [[float(v) for v in line] for line in values]
    finite = [v for line in values for v in line if abs(v) != float("inf")]
    vmin = min(finite) if vmin is None else vmin
    vmax = max(finite) if vmax is None else vmax
    if ax is None:
        size = (1.6 + 0.62 * len(columns), 1.3 + 0.42 * len(rows))
        _, ax = plt.subplots(figsize=size, layout="constrained", facecolor=PAPER)
    colors = plt.get_cmap(cmap).with_extremes(bad=GRAY)
    shown = [[v if abs(v) != float("inf") else float("nan") for v in line]
             for line in values]
    ax.imshow(shown, cmap=colors, vmin=vmin, vmax=vmax, aspect="auto")
    ax.set_title(title, fontsize=11)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.set_xticks(range(len(columns)), columns, rotation=35, ha="right",
                  rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    middle = vmin + 0.6 * (vmax - vmin)
    for r, line in enumerate(values):
        for c, v in enumerate(line):
            text = "-inf" if v == -float("inf") else f"{v:.{digits}f}"
            ax.text(c, r, text, ha="center", va="center", fontsize=SMALLEST_FONT,
                    color="white" if middle < v < float("inf") else INK)
