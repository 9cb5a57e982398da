"""The pictures of chapter 4, each drawn from what the notebook hands in."""
import matplotlib.pyplot as plt
from drawing import (
    BLUE, GRAY, GREEN, INK, ORANGE, PAPER, PURPLE, RED, STRONG_BLUE, STRONG_GRAY,
    STRONG_GREEN, STRONG_ORANGE, STRONG_RED, arrow, box, canvas, label,
)

MONO = {"family": "monospace"}


def gpt_overview(cfg):
    """Draw the whole model as a tower, with what each floor is for beside it."""
    vocab, context, emb = cfg["vocab_size"], cfg["context_length"], cfg["emb_dim"]
    floors = [          # from the bottom up: text, colour, height, remark
        ("token ids", GRAY, 0.42, "what the tokenizer made of the text"),
        (f"token embedding\n{vocab:,} rows of {emb}", BLUE, 0.62,
         "chapter 2: a row of numbers for each token"),
        (f"+ position embedding\n{context:,} rows of {emb}", BLUE, 0.62,
         "chapter 2: a row of numbers for each place"),
        ("dropout", GRAY, 0.42, "only in training: zeroes some values"),
        (f"transformer block\n{cfg['n_layers']} of them, one after another",
         ORANGE, 0.75, "4.5: attention (chapter 3), then feed-forward (4.3),\n"
         "with layer norm (4.2) and shortcuts (4.4)"),
        ("final layer norm", GREEN, 0.42, "4.2: brings every token to the same scale"),
        (f"output head\nlinear, {emb} to {vocab:,}", PURPLE, 0.62,
         "4.6: a score for each token of the vocabulary"),
        ("logits", GRAY, 0.42, "4.7: the highest score names the next token"),
    ]
    gap = 0.2
    height = sum(floor[2] for floor in floors) + gap * len(floors) + 0.35
    _, ax = canvas(7, height, "A GPT model, read from the bottom up")
    y, below = 0.1, None
    for text, fill, tall, remark in floors:
        here = box(ax, 0.2, y, 2.7, tall, text, fill)
        label(ax, 3.1, y + tall / 2, remark, ha="left", color=STRONG_GRAY)
        if below:
            arrow(ax, below.top, here.bottom)
        below, y = here, y + tall + gap


def spread_through_depth(curves):
    """Draw curves {label: standard deviation after 0, 1, 2, ... layers}."""
    colors = [STRONG_RED, STRONG_ORANGE, STRONG_BLUE, STRONG_GREEN]
    styles = ["-", "--", "-", "--"]
    _, ax = plt.subplots(figsize=(6, 3.2), layout="constrained", facecolor=PAPER)
    for (name, spreads), color, style in zip(
            curves.items(), colors, styles, strict=True):
        ax.plot(spreads, style, color=color, label=name, linewidth=2)
    ax.set_yscale("log")
    ax.set(xlabel="layer", ylabel="standard deviation (log scale)",
           title="How large the numbers are, layer by layer")
    ax.legend(fontsize=9)
    ax.grid(alpha=0.3)


def layer_norm_bars(before, after):
    """Draw the rows of before and after (rows, values) as bars, with their mean."""
    fig, axes = plt.subplots(len(before), 2, figsize=(6.4, 3.4), sharex=True,
                             sharey=True, layout="constrained", facecolor=PAPER)
    for r, line in enumerate(axes):
        for ax, values, name, color in zip(
            line, (before[r], after[r]), ("before", "after"),
            (STRONG_ORANGE, STRONG_BLUE), strict=True,
        ):
            values = [float(v) for v in values]
            mean = sum(values) / len(values)
            var = sum((v - mean) ** 2 for v in values) / len(values)
            ax.bar(range(len(values)), values, color=color)
            ax.axhline(0, color=INK, linewidth=0.8)
            ax.axhline(mean, color=STRONG_RED, linestyle="--", linewidth=1.2)
            ax.set_title(f"row {r} {name}: mean {abs(mean):.2f}, variance {var:.2g}",
                         fontsize=10)
            ax.set_xticks(range(len(values)))
            ax.set_yticks([-1, 0, 1])
    fig.supxlabel("place in the row (dashed line: the mean of the row)", fontsize=10)


def gelu_and_slope(x, curves, slopes):
    """Draw two activations {name: y over x} on the left, their slopes on the right."""
    _, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained", facecolor=PAPER)
    titles = ("the activation", "its slope: what training can feel")
    for ax, lines, title in zip(axes, (curves, slopes), titles, strict=True):
        ax.axhline(0, color=STRONG_GRAY, linewidth=0.8)
        for (name, y), color, style in zip(
            lines.items(), (STRONG_BLUE, STRONG_ORANGE), ("-", "--"), strict=True
        ):
            ax.plot(x, y, style, color=color, label=name, linewidth=2)
        ax.set(title=title, xlabel="input", xticks=range(-3, 4))
        low, high = ax.get_ylim()
        ax.set_yticks([tick for tick in ax.get_yticks() if low < tick < high])
        ax.grid(alpha=0.3)
        ax.legend(fontsize=9, loc="upper left")


def feed_forward(emb_dim, hidden_dim):
    """Draw the feed-forward net: wide in the middle, narrow at both ends."""
    _, ax = canvas(7, 2.9, "Feed-forward: out to a wide space and back")
    low, high = 0.8, 2.0
    middle = 1.3
    columns = [(0.25, low, emb_dim, BLUE), (2.35, high, hidden_dim, ORANGE),
               (4.05, high, hidden_dim, ORANGE), (6.15, low, emb_dim, BLUE)]
    boxes = [box(ax, x, middle - tall / 2, 0.6, tall, f"{size:,}", fill)
             for x, tall, size, fill in columns]
    for i, text in enumerate(("linear", "GELU", "linear")):
        left, right = boxes[i : i + 2]
        arrow(ax, left.right, right.left)
        label(ax, (left.right[0] + right.left[0]) / 2, middle + 0.2, text)
    label(ax, boxes[0].bottom[0] - 0.3, 0.6, "one token in", ha="left",
          color=STRONG_GRAY)
    label(ax, boxes[3].bottom[0] + 0.3, 0.6, "one token out", ha="right",
          color=STRONG_GRAY)


def gradient_bars(without, with_shortcut):
    """Draw the mean gradient of each layer's weight for the two networks."""
    _, ax = plt.subplots(figsize=(7, 3.2), layout="constrained", facecolor=PAPER)
    places = range(len(without))
    for values, name, color, shift in (
        (without, "without shortcuts", STRONG_ORANGE, -0.22),
        (with_shortcut, "with shortcuts", STRONG_BLUE, 0.22),
    ):
        bars = ax.bar([p + shift for p in places], values, 0.4, label=name,
                      color=color)
        if len(values) <= 6:
            ax.bar_label(bars, [f"{v:.2g}" for v in values], fontsize=9, padding=1)
    ax.set_yscale("log")
    ax.set_ylim(top=max(*without, *with_shortcut) * 30)
    ax.set_xticks(list(places) if len(without) <= 10 else list(places)[::2])
    ax.set(xlabel="layer (0 is the first)", ylabel="mean gradient (log scale)",
           title="How large the gradient is in each layer")
    ax.legend(fontsize=9, loc="upper left", ncols=2)


def transformer_block(cfg):
    """Draw one block: two parts, each behind a norm and bridged by a shortcut."""
    _, ax = canvas(7, 6.3, "One transformer block, read from the bottom up")
    emb = cfg["emb_dim"]
    x, wide, tall, gap = 1.3, 2.6, 0.42, 0.18
    parts = [
        [("layer norm 1", GREEN, "each token to mean 0, variance 1"),
         (f"attention, {cfg['n_heads']} heads", ORANGE,
          "tokens gather from earlier tokens"),
         ("dropout", GRAY, "only in training")],
        [("layer norm 2", GREEN, "again, on what the sum has become"),
         (f"feed-forward, {emb} → {4 * emb:,} → {emb}", ORANGE,
          "each token works alone"),
         ("dropout", GRAY, "only in training")],
    ]
    center = x + wide / 2
    y = 0.55
    label(ax, center, 0.22, f"x (b, num_tokens, {emb})", **MONO)
    start = (center, 0.38)
    for part in parts:
        fork = (center, y + 0.08)
        arrow(ax, start, (center, y + 0.3))
        y += 0.3
        for i, (text, fill, remark) in enumerate(part):
            here = box(ax, x, y, wide, tall, text, fill)
            label(ax, x + wide + 0.25, y + tall / 2, remark, ha="left",
                  color=STRONG_GRAY)
            if i:
                arrow(ax, (center, y - gap), here.bottom)
            y += tall + gap
        plus = (center, y + 0.12)
        arrow(ax, (center, y - gap), (center, y))
        ax.add_patch(plt.Circle(plus, 0.12, facecolor=PAPER, edgecolor=INK))
        label(ax, *plus, "+", size=12)
        side = 0.85
        ax.plot([fork[0], side, side], [fork[1], fork[1], plus[1]],
                color=STRONG_BLUE, linewidth=2)
        arrow(ax, (side, plus[1]), (plus[0] - 0.13, plus[1]), STRONG_BLUE, width=2)
        label(ax, side - 0.2, (fork[1] + plus[1]) / 2, "shortcut", rotation=90,
              color=STRONG_BLUE)
        label(ax, x + wide + 0.25, plus[1], "the part's result is added to x",
              ha="left", color=STRONG_GRAY)
        start = (center, plus[1] + 0.12)
        y = plus[1] + 0.17
    arrow(ax, start, (center, start[1] + 0.3))
    label(ax, center, start[1] + 0.42, f"same shape (b, num_tokens, {emb})", **MONO)


def shapes_on_the_way(steps):
    """Draw steps [(name, shape)], the first one at the bottom, as a ladder."""
    height = 0.56 * len(steps) + 0.55
    _, ax = canvas(7, height, "The shapes on the way, read from the bottom up")
    below, y = None, 0.15
    for name, shape in steps:
        wide = {2: 0.9, 3: 1.7}.get(len(shape), 1.7)
        wide = 3.0 if shape[-1] > 5000 else wide
        here = box(ax, 0.2, y, 3.1, 0.38, name, GRAY if len(shape) == 2 else BLUE)
        text = "(" + ", ".join(f"{size:,}" for size in shape) + ")"
        fill = PURPLE if shape[-1] > 5000 else GREEN
        box(ax, 3.55, y, wide, 0.38, text, fill, **MONO)
        if below:
            arrow(ax, below.top, here.bottom)
        below, y = here, y + 0.56


def parameter_budget(budgets):
    """Draw budgets {model: {part: count}} as stacked bars of 100 percent each."""
    names = list(budgets)
    parts = list(next(iter(budgets.values())))
    fills = [BLUE, GRAY, ORANGE, GREEN, RED, PURPLE]
    _, ax = plt.subplots(figsize=(7, 3.4), layout="constrained", facecolor=PAPER)
    left = [0.0] * len(names)
    for part, fill in zip(parts, fills, strict=True):
        share = [100 * budgets[n][part] / sum(budgets[n].values()) for n in names]
        ax.barh(names, share, left=left, color=fill, edgecolor=INK, linewidth=0.6,
                label=part)
        for row, (start, width) in enumerate(zip(left, share, strict=True)):
            if width > 4:
                label(ax, start + width / 2, row, f"{width:.0f}", size=9)
        left = [a + b for a, b in zip(left, share, strict=True)]
    for row, name in enumerate(names):
        total = sum(budgets[name].values()) / 1e6
        label(ax, 101.5, row, f"{total:,.0f} M", ha="left")
    ax.set(xlim=(0, 116), xlabel="percent of the parameters (total in millions right)")
    ax.set_xticks(range(0, 101, 20))
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.46, 1.0),
              frameon=False)


def next_token(candidates, vocab_size):
    """Draw candidates [(id, text, logit, probability)], best first, as a table."""
    rows = len(candidates)
    height = 0.36 * rows + 1.6
    _, ax = canvas(7, height, "From the last token's logits to the next token")
    top = height - 0.62
    for x, text in ((0.75, "id"), (1.95, "token"), (3.1, "logit")):
        label(ax, x, top, text, color=STRONG_GRAY)
    label(ax, 3.7, top, "probability = softmax of the logits", color=STRONG_GRAY,
          ha="left")
    largest = max(c[3] for c in candidates)
    for i, (number, text, logit, probability) in enumerate(candidates):
        y = top - 0.38 - 0.36 * i
        best = probability == largest
        label(ax, 0.75, y, f"{number}", **MONO)
        box(ax, 1.35, y - 0.14, 1.2, 0.28, text, ORANGE if best else BLUE)
        label(ax, 3.1, y, f"{logit:.3f}", **MONO)
        ax.add_patch(plt.Rectangle((3.7, y - 0.11), 2.0 * probability / largest, 0.22,
                                   color=STRONG_ORANGE if best else STRONG_BLUE))
        label(ax, 5.8, y, f"{100 * probability:.4f} %", ha="left", **MONO)
    y = top - 0.38 - 0.36 * rows
    label(ax, 1.95, y, f"and {vocab_size - rows:,} more, each less likely",
          color=STRONG_GRAY)
    label(ax, 3.7, y, f"all equal would be {100 / vocab_size:.4f} % each",
          color=STRONG_GRAY, ha="left")
    label(ax, 3.5, y - 0.34, "argmax: the largest wins, and its id is the next token",
          color=STRONG_ORANGE, weight="bold")


def generation_loop(steps, window):
    """Draw steps (lists of tokens, one longer each time) and the window of each."""
    columns = max(len(step) for step in steps)
    wide = min(0.9, (6.8 - 0.04 * columns) / columns)
    height = 0.55 * len(steps) + 1.0
    _, ax = canvas(7, height, f"The loop, with a context of {window} tokens")
    y = height - 0.9
    for tokens in steps:
        for place, token in enumerate(tokens):
            seen = len(tokens) - 1 - window <= place < len(tokens) - 1
            new = place == len(tokens) - 1
            box(ax, 0.1 + place * (wide + 0.04), y, wide, 0.34, token.strip(),
                ORANGE if new else BLUE if seen else GRAY, size=9)
        y -= 0.55
    y += 0.12
    for x, fill, text in ((0.1, BLUE, "what the model reads"),
                          (2.4, ORANGE, "what it adds"),
                          (4.2, GRAY, "too old: cut off before the call")):
        box(ax, x, y, 0.3, 0.24, "", fill)
        label(ax, x + 0.4, y + 0.12, text, ha="left")
