"""The pictures of this folder, drawn from the tensors that the notebooks hand in."""
import matplotlib.pyplot as plt
import numpy as np

from drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    STRONG_BLUE,
    STRONG_GRAY,
    STRONG_GREEN,
    STRONG_RED,
    arrow,
    box,
    canvas,
    label,
)


def names_and_storages(models):
    """Draw, for each (title, state dict), which names share the memory behind them."""
    names = list(models[0][1])
    fig, ax = canvas(7, 0.75 + 0.62 * len(names))
    fills = [BLUE, ORANGE, GREEN, PURPLE]
    for column, (title, state) in enumerate(models):
        x = 0.1 + 3.55 * column
        top = 0.45 + 0.62 * len(names)
        label(ax, x + 1.65, top, title, 11, weight="bold")
        label(ax, x + 0.75, top - 0.2, "names", 10, STRONG_GRAY)
        label(ax, x + 2.79, top - 0.2, "memory", 10, STRONG_GRAY)
        for i, (name, tensor) in enumerate(state.items()):
            y = 0.1 + 0.62 * (len(names) - 1 - i)
            rows = [k for k, t in enumerate(state.values())
                    if t.data_ptr() == tensor.data_ptr()]
            middle = 0.1 + 0.62 * (len(names) - 1 - sum(rows) / len(rows))
            left = box(ax, x, y, 1.5, 0.44, name, PAPER, 9, family="monospace")
            height = 0.44
            size = "x".join(str(n) for n in tensor.shape)
            right = (x + 2.3, middle + height / 2)
            if i == rows[0]:
                box(ax, x + 2.3, middle, 0.98, height, size, fills[i], 10)
            arrow(ax, left.right, right, STRONG_BLUE)
    plt.show()


def fused_split(c_attn, parts, marked):
    """Draw c_attn (emb_dim, 3 * emb_dim) to scale, its three parts below, transposed.

    c_attn and parts are arrays; marked is the range of inputs that stays bright.
    """
    emb_dim = c_attn.shape[0]
    fig = plt.figure(figsize=(7, 4.5), facecolor=PAPER)
    limit = 2.5 * float(np.std(c_attn))
    shown = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "aspect": "auto",
             "interpolation": "nearest", "extent": (0, 1, emb_dim, 0)}
    side = 1.35                                   # inches of one square
    first, size = marked.start, len(marked)
    colors = (STRONG_BLUE, "#c05621", STRONG_GREEN)
    names = ("W_query", "W_key", "W_value")

    def panel(x, y, width):
        return fig.add_axes((x / 7, y / 4.5, width / 7, side / 4.5))

    def frame(ax, color):
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(color=color, linewidth=2.5)

    def fade(ax, *areas):
        for x0, y0, x1, y1 in areas:
            ax.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=PAPER,
                                       alpha=0.6, edgecolor="none"))

    left, gap = 1.25, 0.62
    top = panel(left, 2.6, 3 * side)
    top.imshow(c_attn, **{**shown, "extent": (0, 3 * emb_dim, emb_dim, 0)})
    top.axis("off")
    for i, color in enumerate(colors):
        top.add_patch(plt.Rectangle((i * emb_dim + 0.1, 0), emb_dim - 0.2, emb_dim,
                                    fill=False, edgecolor=color, linewidth=2.5, zorder=3,
                                    clip_on=False))
    fade(top, (0, 0, 3 * emb_dim, first), (0, first + size, 3 * emb_dim, emb_dim))
    rows, columns = c_attn.shape
    fig.text(0.5, 4.22 / 4.5, f"h.0.attn.c_attn.weight, ({rows}, {columns}), (in, out)",
             ha="center", fontsize=11, weight="bold", color=INK)
    fig.text((left - 0.12) / 7, (2.6 + side / 2) / 4.5, f"in: {rows}", ha="right",
             va="center", fontsize=10, color=INK)
    fig.text((left + 3 * side + 0.12) / 7, (2.6 + side / 2) / 4.5, f"out: 3 x {rows}",
             va="center", fontsize=10, color=INK)
    for i, (part, name, color) in enumerate(zip(parts, names, colors)):
        x = 0.55 + i * (side + gap + 0.2)
        ax = panel(x, 0.38, side)
        ax.imshow(part, **{**shown, "extent": (0, emb_dim, emb_dim, 0)})
        frame(ax, color)
        fade(ax, (0, 0, first, emb_dim), (first + size, 0, emb_dim, emb_dim))
        fig.text((x + side / 2) / 7, 0.12 / 4.5, f"{name}.weight, {tuple(part.shape)}",
                 ha="center", fontsize=10, color=INK)
        start = ((left + (i + 0.5) * side) / 7, 2.53 / 4.5)
        end = ((x + side / 2) / 7, 1.85 / 4.5)
        fig.add_artist(plt.matplotlib.patches.FancyArrowPatch(
            start, end, transform=fig.transFigure, arrowstyle="-|>", mutation_scale=14,
            color=color, linewidth=1.8))
        fig.text((start[0] + end[0]) / 2 + 0.02, 2.2 / 4.5, "cut, .T", fontsize=10,
                 color=color, va="center")
    plt.show()


def difference_by_layer(right, wrong, wrong_label):
    """Draw the largest difference to transformers after each block, on a log axis."""
    fig, ax = plt.subplots(figsize=(5, 3), layout="constrained", facecolor=PAPER)
    places = range(len(right))
    floor = 1e-9                                  # equal to the last bit: no logarithm
    ax.semilogy(places, [max(d, floor) for d in wrong], "o-", color=STRONG_RED,
                label=wrong_label)
    ax.semilogy(places, [max(d, floor) for d in right], "s-", color=STRONG_GREEN,
                label="as it should be")
    ax.set_xticks(places, ["emb", *(str(i) for i in range(len(right) - 1))])
    ax.set(xlabel="after block", ylabel="largest difference")
    ax.axhline(floor, color=STRONG_GRAY, linewidth=0.8, linestyle=":")
    ax.text(len(right) - 1, floor * 2.2, "exactly equal", fontsize=9, ha="right",
            color=STRONG_GRAY)
    ax.set_ylim(floor / 3, 1e5)
    ax.legend(fontsize=9, loc="upper left")
    plt.show()
