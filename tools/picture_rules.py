"""Rules for pictures, checked while a notebook runs: letters, overlaps, background."""
from itertools import combinations

SMALLEST_FONT = 9      # points, at a width of 700 pixels
SLACK = 2              # pixels by which two texts may touch
found: list[str] = []


def install() -> None:
    """Check every figure at the moment it is turned into a picture."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:                    # a notebook without pictures
        return
    draw = FigureCanvasBase.print_figure

    def checked(self, *args, **kwargs):
        result = draw(self, *args, **kwargs)
        found.extend(p for p in problems(self.figure) if p not in found)
        return result

    FigureCanvasBase.print_figure = checked


def report() -> None:
    """Raise ValueError with all broken rules, if any."""
    if found:
        raise ValueError("; ".join(found))


def problems(figure) -> list[str]:
    """Return the broken rules of one figure, a line each."""
    from matplotlib.text import Text

    lines = []
    if figure.get_facecolor()[3] < 1:
        lines.append("the background is not opaque, so dark mode shows through")
    if figure.get_size_inches()[0] > 8:
        lines.append("wider than 8 inches, so letters shrink at 700 pixels")
    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(Text) if visible(t)]
    lines += [f"{t.get_text()!r} is set in {t.get_fontsize():g} points, "
              f"below {SMALLEST_FONT}"
              for t in texts if t.get_fontsize() < SMALLEST_FONT]
    boxes = [(t, t.get_window_extent(renderer)) for t in texts
             if t.get_rotation() % 90 == 0]
    for (a, first), (b, second) in combinations(boxes, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        if width > SLACK and height > SLACK:
            lines.append(f"{a.get_text()!r} and {b.get_text()!r} overlap")
    return lines


def visible(text) -> bool:
    """Tell whether a text shows at all (axes switched off hide their labels)."""
    if not text.get_visible() or not text.get_text().strip():
        return False
    axes = text.axes
    if axes is None:
        return True
    if not axes.get_visible():
        return False
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-6 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if text in (tick.label1, tick.label2):     # those outside are not drawn
                inside = low - slack <= tick.get_loc() <= high + slack
                return axes.axison and inside
        if text is axis.label:
            return axes.axison
    return True
