"""The pictures of this folder, drawn from what the notebook measured."""
import matplotlib.pyplot as plt

from drawing import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    STRONG_BLUE,
    STRONG_GRAY,
    STRONG_GREEN,
    STRONG_RED,
    arrow,
    box,
    canvas,
    label,
)


def worst_moments(megabytes, largest):
    """Draw what is in memory when each way of loading needs most (sizes in MB)."""
    fig, ax = canvas(7, 4.0)
    unit = 1.05                                        # inches for one whole model
    ground = 1.55
    columns = [
        ("load_state_dict", [(unit, f"random\nmodel\n{megabytes:.0f} MB", ORANGE),
                             (unit, f"state dict\n{megabytes:.0f} MB", BLUE)]),
        ("meta, copied\none by one", [(0.55 * unit, "model\nso far", GREEN),
                                      (0.45 * unit, "state dict,\nthe rest", BLUE)]),
        ("meta, tensor\nby tensor", [(0.76 * unit, "model\nso far", GREEN),
                                     (0.24 * unit, f"1 tensor, {largest:.0f} MB", BLUE)]),
        ("meta, mmap,\nassign", []),
    ]
    for i, (title, parts) in enumerate(columns):
        x = 0.95 + i * 1.53
        label(ax, x + 0.65, 0.18, title, 9, weight="bold")
        if not parts:                 # the model is the file, pages are borrowed from it
            box(ax, x, 0.5, 1.3, 0.62, f"the file,\n{megabytes:.0f} MB", GRAY, 10)
            ax.add_patch(plt.Rectangle((x, ground), 1.3, unit, fill=False, linestyle="--",
                                       edgecolor=STRONG_GREEN, linewidth=1.5))
            label(ax, x + 0.65, ground + unit / 2, "model = pages\nof the file,\n"
                  "when used", 9)
            arrow(ax, (x + 0.65, 1.14), (x + 0.65, ground - 0.02), STRONG_GREEN)
            continue
        if i == 2:
            for k in range(5):
                box(ax, x + 0.27 * k, 0.5, 0.22, 0.62, "", GRAY)
        else:
            box(ax, x, 0.5, 1.3, 0.62, f"the file,\n{megabytes:.0f} MB", GRAY, 10)
        y = ground
        for height, text, fill in parts:
            box(ax, x, y, 1.3, height, text, fill, 9)
            y += height
        arrow(ax, (x + 0.65, 1.14), (x + 0.65, ground - 0.02), STRONG_BLUE)
    for times in (1, 2):
        y = ground + times * unit
        ax.plot([0.75, 6.9], [y, y], color=STRONG_GRAY, linewidth=0.8, linestyle=":",
                zorder=0)
        label(ax, 0.68, y, f"{times} x", 10, STRONG_GRAY, ha="right")
    label(ax, 0.42, 0.81, "disk", 10, STRONG_GRAY)
    label(ax, 0.42, ground + 0.25, "memory", 10, STRONG_GRAY)
    plt.show()


def peak_bars(rows, model_gb):
    """Draw the measured peaks of rows (dicts of measure_loading.py), one bar each."""
    has_gpu = rows[0]["gpu_gb"] is not None
    fig, ax = plt.subplots(figsize=(7, 0.55 * len(rows) * (1 + 0.4 * has_gpu) + 1.2),
                           layout="constrained", facecolor=PAPER)
    names = [row["strategy"] for row in rows]
    places = range(len(rows))
    height = 0.36 if has_gpu else 0.6
    loading = [row["loading_gb"] for row in rows]
    first_use = [max(row["used_gb"] - row["loading_gb"], 0) for row in rows]
    ax.barh(places, loading, height, color=STRONG_BLUE, label="while loading")
    ax.barh(places, first_use, height, left=loading, color=ORANGE, edgecolor=INK,
            linewidth=0.6, label="more, when first used")
    widest = max(row["used_gb"] for row in rows)
    if has_gpu:
        lower = [place + height for place in places]
        gpu = [row["gpu_gb"] for row in rows]
        ax.barh(lower, gpu, height, color=GREEN, edgecolor=INK, linewidth=0.6,
                label="on the GPU")
        for place, value in zip(lower, gpu):
            ax.text(value + 0.01 * widest, place, f"{value:.2f}", va="center", fontsize=9)
        widest = max([widest, *gpu])
    for place, row in zip(places, rows):
        ax.text(row["used_gb"] + 0.01 * widest, place, f"{row['used_gb']:.2f}",
                va="center", fontsize=9,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5})
    for times in (1, 2):
        ax.axvline(times * model_gb, color=STRONG_RED, linewidth=1, linestyle="--",
                   zorder=0)
        ax.text(times * model_gb, 1.02, f"{times} x the weights", fontsize=9,
                ha="center", va="bottom", color=STRONG_RED,
                transform=ax.get_xaxis_transform())
    ax.set_yticks(places, names, fontsize=9, family="monospace")
    ax.set_ylim(len(rows) - 0.3, -0.6)
    ax.set_xlim(0, 1.3 * max(widest, 2 * model_gb))
    ax.set_xlabel("GB above what the process had before")
    ax.legend(fontsize=9, loc="lower right", facecolor=PAPER, framealpha=1)
    plt.show()


