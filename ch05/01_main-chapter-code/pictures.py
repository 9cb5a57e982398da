"""The pictures of chapter 5, drawn from what the notebook hands in."""
import math

import matplotlib.pyplot as plt
import numpy as np

from drawing import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    SMALLEST_FONT,
    STRONG_BLUE,
    STRONG_GRAY,
    STRONG_GREEN,
    STRONG_ORANGE,
    STRONG_RED,
    arrow,
    box,
    canvas,
    label,
)


def next_token_loss(inputs, targets, target_probas, vocab_size):
    """Draw, a row a position, the probability of the token that really follows."""
    num_rows = len(inputs)
    fig, ax = canvas(7, 1.3 + 0.62 * num_rows)
    left, width, decades = 3.0, 2.7, 6              # the axis from 1e-6 to 1
    top = 0.35 + 0.62 * num_rows

    def place(p):
        return left + width * (1 + math.log10(p) / decades)

    label(ax, 0.8, top + 0.38, "model has read", 10, weight="bold")
    label(ax, 2.23, top + 0.38, "then comes", 10, weight="bold")
    label(ax, left + width / 2, top + 0.72, "its probability", 10, weight="bold")
    label(ax, 6.4, top + 0.38, "-ln(p)", 10, weight="bold")
    for i, (word, p) in enumerate(zip(targets, target_probas, strict=True)):
        y = 0.62 * (num_rows - 1 - i) + 0.47
        read = "".join(inputs[: i + 1])
        box(ax, 0.08, y, 1.45, 0.42, read if len(read) < 20 else "…" + read[-18:], BLUE,
            9)
        box(ax, 1.8, y, 0.86, 0.42, word.strip(), GREEN, 10)
        ax.barh(y + 0.21, place(p) - left, 0.26, left=left, color=STRONG_BLUE)
        label(ax, place(p) + 0.08, y + 0.21, f"{p:.1e}", 9, ha="left", zorder=4,
              bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})
        arrow(ax, (place(p) + 0.78, y + 0.21), (left + width, y + 0.21), STRONG_GREEN,
              width=2)
        label(ax, 6.4, y + 0.21, f"{-math.log(p):.2f}", 11)
    for decade in (-6, -4, -2, 0):
        x = place(10.0**decade)
        ax.plot([x, x], [0.4, top + 0.22], color=GRAY, linewidth=1, zorder=0)
        label(ax, x, top + 0.38, f"$10^{{{decade}}}$" if decade else "1", 9)
    x = place(1 / vocab_size)
    ax.plot([x, x], [0.33, top + 0.22], color=STRONG_RED, linewidth=1.2, linestyle="--",
            zorder=3)
    label(ax, x + 0.12, 0.17, f"blind: 1 / {vocab_size:,}", 9, STRONG_RED, ha="right")
    label(ax, left + width, 0.17, "training pushes to 1", 9, STRONG_GREEN, ha="right")
    plt.show()


def perplexity(choices):
    """Draw fair choices among N things, for pairs (name, N), as fields of squares."""
    fig, ax = canvas(7, 2.75)
    step = 7 / len(choices)
    for i, (name, n) in enumerate(choices):
        middle, side = step * (i + 0.5), 1.3
        columns = math.ceil(math.sqrt(n))
        rows = math.ceil(n / columns)
        cell = side / columns if n > 6 else min(0.42, side / columns)
        x, y = middle - columns * cell / 2, 1.72 - rows * cell / 2
        if n > 1000:                                 # too many to draw one by one
            field = np.full((rows, columns), 0.62)
            field[::2, ::2] = 0.4
            ax.imshow(field, cmap="Blues", vmin=0, vmax=1, aspect="equal",
                      extent=(x, x + columns * cell, y, y + rows * cell))
        else:
            for k in range(n):
                row, column = divmod(k, columns)
                ax.add_patch(plt.Rectangle(
                    (x + column * cell, y + (rows - 1 - row) * cell), cell, cell,
                    facecolor=BLUE, edgecolor=STRONG_BLUE, linewidth=1))
        label(ax, middle, 2.6, name, 11, weight="bold")
        label(ax, middle, 0.78, f"1 of {n:,}", 11)
        label(ax, middle, 0.5, f"loss  ln({n:,}) = {math.log(n):.2f}", 9)
        label(ax, middle, 0.24, f"perplexity {n:,}", 10, STRONG_BLUE)
    ax.set(xlim=(0, 7), ylim=(0, 2.75))
    plt.show()


def data_split(train_tokens, val_tokens, train_windows, val_windows, max_length):
    """Draw the text as one bar: windows for training, windows kept back, leftovers."""
    fig, ax = canvas(7, 2.1)
    total, left, width = train_tokens + val_tokens, 0.2, 6.3
    scale = width / total
    y, height = 0.95, 0.5
    seam = left + train_tokens * scale
    for start, tokens, windows, fill, edge in (
        (left, train_tokens, train_windows, BLUE, STRONG_BLUE),
        (seam, val_tokens, val_windows, ORANGE, STRONG_ORANGE),
    ):
        ax.add_patch(plt.Rectangle((start, y), tokens * scale, height,
                                   facecolor=STRONG_GRAY, edgecolor="none"))
        step = max_length * scale
        for i in range(windows):
            ax.add_patch(plt.Rectangle((start + i * step, y), step, height,
                                       facecolor=fill, edgecolor=edge, linewidth=0.8))
    ax.plot([seam, seam], [y - 0.06, y + height + 0.06], color=INK, linewidth=2.5)
    label(ax, (left + seam) / 2, 1.72, f"training: {train_tokens:,} tokens", 11,
          STRONG_BLUE, weight="bold")
    label(ax, left + width, 1.72, f"validation: {val_tokens:,}", 11, STRONG_ORANGE,
          ha="right", weight="bold")
    label(ax, (left + seam) / 2, 0.72,
          f"{train_windows} windows of {max_length}, seen again in every epoch", 10)
    label(ax, left + width, 0.72, f"{val_windows} windows", 10, ha="right")
    train_over = train_tokens - train_windows * max_length
    val_over = val_tokens - val_windows * max_length
    label(ax, left + width, 0.27, f"in no window: {train_over} training tokens, "
          f"{val_over} validation tokens", 9, STRONG_GRAY, ha="right")
    arrow(ax, (left + width + 0.08, 0.27), (left + width + 0.02, y + height / 2),
          STRONG_GRAY, bend=0.6)
    plt.show()


def training_loop():
    """Draw one step of training as a cycle of five boxes."""
    fig, ax = canvas(7, 3.9)
    steps = [
        ("1  take a batch", "inputs, targets", BLUE),
        ("2  forget", "optimizer.zero_grad()", GRAY),
        ("3  how wrong?", "calc_loss_batch(...)", ORANGE),
        ("4  who is to blame?", "loss.backward()", RED),
        ("5  move the weights", "optimizer.step()", GREEN),
    ]
    centre_x, centre_y, radius_x, radius_y = 3.5, 1.82, 2.35, 1.6
    centres = []
    for i, (what, code, fill) in enumerate(steps):
        angle = math.pi / 2 - 2 * math.pi * i / len(steps)
        x = centre_x + radius_x * math.cos(angle)
        y = centre_y + radius_y * math.sin(angle)
        box(ax, x - 1.08, y - 0.32, 2.16, 0.64, "", fill)
        label(ax, x, y + 0.13, what, 11, weight="bold")
        label(ax, x, y - 0.14, code, 9, family="monospace")
        centres.append((x, y))
    ends = [      # where each arrow leaves and meets the boxes
        ((1.08, -0.05), (-0.1, 0.34)), ((0.1, -0.34), (0.45, 0.34)),
        ((-1.1, 0.0), (1.1, 0.0)), ((-0.45, 0.34), (-0.1, -0.34)),
        ((0.1, 0.34), (-1.08, -0.05)),
    ]
    for i, ((dx, dy), (ex, ey)) in enumerate(ends):
        (x, y), (u, v) = centres[i], centres[(i + 1) % len(centres)]
        bend = -0.25 if i in (0, 4) else 0
        arrow(ax, (x + dx, y + dy), (u + ex, v + ey), STRONG_BLUE, bend, width=2)
    label(ax, centre_x, centre_y + 0.28, "once for every batch", 11, STRONG_BLUE,
          weight="bold")
    label(ax, centre_x, centre_y + 0.02, "every few steps: measure both losses", 9)
    label(ax, centre_x, centre_y - 0.2, "after each epoch: write a sample", 9)
    plt.show()


def top_k(words, logits, probas, k):
    """Draw all logits with a cut below the k-th, and the probabilities that remain."""
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(7, 3), sharey=True, layout="constrained", facecolor=PAPER)
    order = sorted(range(len(words)), key=lambda i: logits[i])
    names = [words[i] for i in order]
    kept = [rank >= len(words) - k for rank in range(len(words))]
    colors = [STRONG_BLUE if keep else "#b8c0c8" for keep in kept]
    left.barh(names, [logits[i] for i in order], color=colors)
    left.axhline(len(words) - k - 0.5, color=STRONG_RED, linestyle="--")
    left.text(max(logits), 0.5, "below the line:\nset to -inf", color=STRONG_RED,
              fontsize=10, ha="right", va="center")
    left.axvline(0, color=INK, linewidth=0.8)
    left.set_xticks(range(2 * round(min(logits) / 2), int(max(logits)) + 1, 2))
    left.set_title(f"logits, the {k} largest kept", fontsize=11)
    right.barh(names, [probas[i] for i in order], color=colors)
    for rank, i in enumerate(order):
        right.text(probas[i] + 0.02, rank, f"{probas[i]:.4f}" if kept[rank] else "0",
                   va="center", fontsize=SMALLEST_FONT)
    right.axhline(len(words) - k - 0.5, color=STRONG_RED, linestyle="--")
    right.set_xlim(0, 1)
    right.set_title("probabilities after softmax", fontsize=11)
    plt.show()


def sampling_step(words, logits, top_k, temperature):
    """Draw the stages of one sampling step as four columns of bars and a draw."""
    fig, ax = canvas(7, 3.45)
    raw = np.array(logits.tolist())
    threshold = np.sort(raw)[-top_k]
    cut = np.where(raw < threshold, -np.inf, raw)
    scaled = cut / temperature
    exponents = np.exp(scaled - scaled.max())
    probas = exponents / exponents.sum()
    stages = [
        ("logits", raw, "model(...)[:, -1, :]", ".2f"),
        (f"top {top_k}", cut, "rest: -inf", ".2f"),
        (f"/ {temperature}", scaled, "temperature", ".2f"),
        ("softmax", probas, "sums to 1", ".3f"),
    ]
    row_height, top, wide = 0.26, 2.78, 1.08
    for r, word in enumerate(words):
        label(ax, 0.78, top - r * row_height, word, 10, ha="right")
    for c, (title, values, note, form) in enumerate(stages):
        x = 0.95 + c * (wide + 0.25)
        label(ax, x + wide / 2, 3.2, title, 11, weight="bold")
        label(ax, x + wide / 2, 0.27, note, 9, STRONG_GRAY)
        finite = np.abs(values[np.isfinite(values)])
        for r, value in enumerate(values):
            y = top - r * row_height
            dead = not np.isfinite(value) or (form == ".3f" and value == 0)
            share = 0 if dead else max(value, 0) / finite.max()
            fill = GRAY if dead else (GREEN if form == ".3f" else BLUE)
            ax.add_patch(plt.Rectangle((x, y - 0.11), wide, 0.22, facecolor="#f5f7f8",
                                       edgecolor="none"))
            ax.add_patch(plt.Rectangle((x, y - 0.11), wide * share, 0.22,
                                       facecolor=fill, edgecolor="none"))
            text = "-inf" if not np.isfinite(value) else f"{value:{form}}"
            label(ax, x + wide - 0.06, y, text, 9, STRONG_GRAY if dead else INK,
                  ha="right")
        if c + 1 < len(stages):
            arrow(ax, (x + wide + 0.02, 3.2), (x + wide + 0.23, 3.2), STRONG_BLUE)
    x = 0.95 + len(stages) * (wide + 0.25)
    arrow(ax, (x - 0.23, 3.2), (x - 0.02, 3.2), STRONG_BLUE)
    label(ax, x + 0.27, 3.2, "draw", 11, weight="bold")
    for r, p in enumerate(probas):
        if p > 0:
            label(ax, x + 0.27, top - r * row_height, f"1 in {1 / p:.1f}", 9)
    plt.show()


def checkpoint(weights, averages):
    """Draw the two files to scale (float32 numbers), and what neither of them has."""
    fig, ax = canvas(7, 2.65)
    scale = 5.0 / (weights + averages)
    for y, name, parts in (
        (1.75, "model.pth", [(weights, "weights", BLUE)]),
        (0.95, "model_and\n_optimizer.pth",
         [(weights, "weights", BLUE), (averages / 2, "mean of gradients", ORANGE),
          (averages / 2, "mean of squares", PURPLE)]),
    ):
        x = 1.75
        label(ax, 1.62, y + 0.25, name, 9, ha="right", family="monospace")
        for count, text, fill in parts:
            box(ax, x, y, count * scale, 0.5, text, fill, 9)
            x += count * scale
        size = sum(count for count, _, _ in parts) * 4 / 1e6
        shown = f"{size / 1000:.2f} GB" if size > 1000 else f"{size:.0f} MB"
        label(ax, 1.75, y + 0.63, f"{shown} at 4 bytes a number", 9, STRONG_GRAY,
              ha="left")
    label(ax, 1.62, 0.35, "in neither file", 10, STRONG_RED, ha="right")
    for x, text in ((1.75, "state of the\nrandom generator"),
                    (3.45, "place in\nthe data"), (5.15, "epoch and step")):
        box(ax, x, 0.08, 1.58, 0.54, text, PAPER, 9, STRONG_RED)
    plt.show()


def weight_map():
    """Draw which of OpenAI's arrays goes to which attribute of our model."""
    fig, ax = canvas(7, 6.1)
    rows = [
        ("wte", "(V, D)", [("tok_emb.weight", ""), ("out_head.weight", "")], GREEN),
        ("wpe", "(T, D)", [("pos_emb.weight", "")], GREEN),
        ("attn c_attn w", "(D, 3D)", [("att.W_query.weight", ".T"),
                                      ("att.W_key.weight", ".T"),
                                      ("att.W_value.weight", ".T")], BLUE),
        ("attn c_proj w", "(D, D)", [("att.out_proj.weight", ".T")], BLUE),
        ("mlp c_fc w", "(D, 4D)", [("ff.layers[0].weight", ".T")], ORANGE),
        ("mlp c_proj w", "(4D, D)", [("ff.layers[2].weight", ".T")], ORANGE),
        ("ln_1 g, b", "(D,)", [("norm1.scale, .shift", "")], PURPLE),
        ("ln_2 g, b", "(D,)", [("norm2.scale, .shift", "")], PURPLE),
        ("g, b", "(D,)", [("final_norm.scale, .shift", "")], GREEN),
    ]
    height, gap, step = 0.31, 0.07, 0.42
    y = 5.4
    label(ax, 1.75, 5.92, "OpenAI's arrays (params)", 11, weight="bold")
    label(ax, 5.65, 5.92, "our attributes", 11, weight="bold")
    block_top = block_bottom = None
    for name, shape, targets, fill in rows:
        in_block = fill != GREEN
        if in_block and block_top is None:
            y -= 0.1
            block_top = y + height + 0.06
        if not in_block and block_top is not None and block_bottom is None:
            block_bottom = y + step - 0.04
            y -= 0.1
        tall = len(targets) * height + (len(targets) - 1) * gap
        lowest = y - tall + height
        box(ax, 0.75, lowest, 1.45, tall, name, fill, 10)
        label(ax, 2.28, lowest + tall / 2, shape, 9, STRONG_GRAY, ha="left")
        for i, (attribute, operation) in enumerate(targets):
            target = box(ax, 4.6, y - i * (height + gap), 2.1, height, attribute, fill,
                         9)
            start = (2.95, lowest + tall / 2)
            arrow(ax, start, target.left, STRONG_BLUE if operation else INK)
            if operation:
                x = 4.2                              # on the arrow
                share = (x - start[0]) / (target.left[0] - start[0])
                label(ax, x, start[1] + share * (target.left[1] - start[1]), operation,
                      9, STRONG_BLUE, weight="bold",
                      bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})
        y = lowest - height - (step - height)
    ax.plot([0.6, 0.6], [block_bottom, block_top], color=STRONG_GRAY, linewidth=2)
    label(ax, 0.3, (block_top + block_bottom) / 2, "in every block", 10, STRONG_GRAY,
          rotation=90)
    label(ax, 3.5, 0.48, "D emb_dim, T context_length, V vocab_size;  "
          ".T: transposed;  black: copied", 9)
    label(ax, 3.5, 0.22, "every w has its b (bias), which takes the same way, "
          "without .T", 9)
    plt.show()


def split_and_transpose(c_attn, weights):
    """Draw c_attn (emb_dim, 3 * emb_dim) and the three square matrices made of it."""
    rows, columns = len(c_attn), len(c_attn[0])
    cell, tall = 0.5, 0.34
    fig, ax = canvas(7, 4.15)
    fills = [BLUE, ORANGE, GREEN]

    def matrix(values, x, y, fill_of):
        for r, line in enumerate(values):
            for c, value in enumerate(line):
                ax.add_patch(plt.Rectangle(
                    (x + c * cell, y - (r + 1) * tall), cell, tall,
                    facecolor=fill_of(r, c), edgecolor=PAPER, linewidth=1))
                label(ax, x + (c + 0.5) * cell, y - (r + 0.5) * tall, f"{value:.0f}", 9)

    left, top = 0.6, 3.68
    label(ax, left + columns * cell / 2, 3.95, "c_attn, stored as (in, out)", 11,
          weight="bold")
    label(ax, 0.3, top - rows * tall / 2, "in", 10, STRONG_GRAY, rotation=90)
    matrix(c_attn, left, top, lambda r, c: fills[c // rows])
    below = top - rows * tall
    names = ("W_query", "W_key", "W_value")
    for i, (name, values) in enumerate(zip(names, weights, strict=True)):
        x = left + i * rows * cell
        middle = x + rows * cell / 2
        arrow(ax, (middle, below - 0.03), (middle, below - 0.43), STRONG_BLUE)
        label(ax, middle + 0.12, below - 0.23, "cut, .T", 9, STRONG_BLUE, ha="left")
        shrink = 0.06

        def fill_of(r, c, fill=fills[i]):
            return fill

        matrix(values, x + shrink * (i - 1), below - 0.5, fill_of)
        label(ax, middle + shrink * (i - 1), below - 0.5 - rows * tall - 0.17,
              f"{name}.weight, (out, in)", 9, weight="bold")
    plt.show()
