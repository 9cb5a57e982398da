"""The pictures of chapter 3, drawn from the tensors that the notebook hands in."""
from itertools import pairwise

import matplotlib.pyplot as plt
from drawing import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    STRONG_BLUE,
    STRONG_GRAY,
    STRONG_GREEN,
    STRONG_ORANGE,
    STRONG_RED,
    arrow,
    box,
    canvas,
    heatmap,
    label,
    row,
)

HEAD_COLORS = [BLUE, ORANGE, GREEN, PURPLE]
STRONG = [STRONG_BLUE, STRONG_ORANGE, STRONG_GREEN, STRONG_GRAY]


def vector_text(values, digits=2):
    """Return a short row vector as text, such as (0.43, 0.15, 0.89)."""
    return "(" + ", ".join(f"{float(v):.{digits}f}" for v in values) + ")"


# --- heat maps ---------------------------------------------------------------------


def vectors(values, words, title, vmin=None, vmax=None):
    """Draw one vector a word, values (num_tokens, width)."""
    columns = [str(i) for i in range(len(values[0]))]
    _, ax = plt.subplots(figsize=(2.0 + 0.75 * len(columns), 3.2), layout="constrained",
                         facecolor=PAPER)
    heatmap(values.detach(), words, columns, title, "dimension", "token", ax=ax,
            vmin=vmin, vmax=vmax)
    ax.set_xticks(range(len(columns)), columns, rotation=0, ha="center")


def strip(values, words, title, query="journey"):
    """Draw what one query makes of every word, values (num_tokens,)."""
    _, ax = plt.subplots(figsize=(5.3, 1.6), layout="constrained", facecolor=PAPER)
    heatmap([values.detach()], [query], words, title, "looks at", ax=ax)


def _map(ax, values, words, title, vmin, vmax, hidden):
    """Draw one map (num_tokens, num_tokens); cells where hidden is 1 are empty."""
    values = values.detach()
    if hidden is not None:
        values = values.masked_fill(hidden.bool(), -float("inf"))
    heatmap(values, words, words, title, "looks at", ax=ax, vmin=vmin, vmax=vmax)
    if hidden is not None:
        for text in ax.texts:
            text.set_visible(text.get_text() != "-inf")


def attention_map(values, words, title, vmin=None, vmax=None, hidden=None):
    """Draw scores or weights (num_tokens, num_tokens): row looks at column."""
    _, ax = plt.subplots(figsize=(5.3, 3.8), layout="constrained", facecolor=PAPER)
    _map(ax, values, words, title, vmin, vmax, hidden)
    ax.set_ylabel("this word")


def two_maps(left, right, words, titles, vmin=None, vmax=None, hidden=None):
    """Draw two maps (num_tokens, num_tokens) side by side."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained", sharey=True,
                             facecolor=PAPER)
    for ax, values, title in zip(axes, (left, right), titles, strict=True):
        _map(ax, values, words, title, vmin, vmax, hidden)
    axes[0].set_ylabel("this word")


# --- why attention -----------------------------------------------------------------

SOURCE = ["Ich", "habe", "dich", "heute", "gesehen"]
TARGET = ["I", "saw", "you", "today"]


def _encoder(ax, y, fills=BLUE):
    """Draw the source words and the encoder's states; return the states' boxes."""
    names = [f"h{i + 1}" for i in range(len(SOURCE))]
    states = row(ax, 0.15, y, names, 0.55, 0.42, fills, gap=0.2)
    for word, state in zip(SOURCE, states, strict=True):
        label(ax, state.bottom[0], y - 0.5, word)
        arrow(ax, (state.bottom[0], y - 0.36), state.bottom)
    for before, after in pairwise(states):
        arrow(ax, before.right, after.left)
    label(ax, 1.95, y - 0.95, "encoder reads, one word a step", 9, STRONG_GRAY)
    return states


def _decoder(ax, y):
    """Draw the decoder's states and the words it writes; return the states' boxes."""
    names = [f"s{i + 1}" for i in range(len(TARGET))]
    states = row(ax, 4.1, y, names, 0.55, 0.42, GREEN, gap=0.2)
    for word, state in zip(TARGET, states, strict=True):
        arrow(ax, state.bottom, (state.bottom[0], y - 0.36))
        label(ax, state.bottom[0], y - 0.5, word)
    for before, after in pairwise(states):
        arrow(ax, before.right, after.left)
    label(ax, 5.5, y - 0.95, "decoder writes, one word a step", 9, STRONG_GRAY)
    return states


def bottleneck():
    """Draw an encoder-decoder RNN: one state carries the whole sentence across."""
    _, ax = canvas(7, 2.75, "Everything has to pass through one state")
    encoder = _encoder(ax, 1.35, [BLUE] * 4 + [RED])
    decoder = _decoder(ax, 1.35)
    arrow(ax, encoder[-1].right, decoder[0].left, STRONG_RED, width=2.2)
    label(ax, 3.62, 2.1, "the only link", 10, STRONG_RED, ha="center")


def direct_access():
    """Draw the same network with attention: a step may look at every encoder state."""
    _, ax = canvas(7, 3.05, "With attention, each step looks back at all states")
    encoder = _encoder(ax, 1.2)
    decoder = _decoder(ax, 1.2)
    arrow(ax, encoder[-1].right, decoder[0].left)
    looker = decoder[1]
    strengths = [0.8, 1.4, 1.0, 0.8, 4.0]
    for state, width in zip(encoder, strengths, strict=True):
        arrow(ax, state.top, looker.top, STRONG_ORANGE, bend=-0.28, width=width)
    label(ax, 6.1, 2.2, "to write 'saw':\nhow much does\neach state matter?", 10,
          STRONG_ORANGE)


def weighted_sum(words, weights, inputs, query):
    """Draw one context vector as the weighted sum of all input vectors.

    weights (num_tokens,) are those of the word at index query.
    """
    _, ax = canvas(7, 3.9, f"The context vector of {words[query]}")
    context = weights @ inputs
    target = box(ax, 2.25, 0.15, 2.5, 0.5, vector_text(context), GREEN, 11)
    label(ax, 2.1, 0.4, "context vector", 10, ha="right")
    label(ax, 4.9, 0.4, "sum of weight x vector", 9, STRONG_GRAY, ha="left")
    for i, word in enumerate(words):
        x = 0.1 + i * 1.15
        fill = ORANGE if i == query else BLUE
        text = "\n".join(f"{float(v):.2f}" for v in inputs[i])
        source = box(ax, x + 0.2, 2.25, 0.65, 0.75, text, fill)
        label(ax, source.top[0], 3.18, word, weight="bold" if i == query else "normal")
        weight = float(weights[i])
        chip = box(ax, x + 0.2, 1.55, 0.65, 0.34, f"{weight:.2f}", PAPER, 10,
                   STRONG_ORANGE)
        arrow(ax, source.bottom, chip.top, STRONG_ORANGE, style="-", width=14 * weight)
        end = (target.x + 0.25 + i * 0.4, target.top[1])
        arrow(ax, chip.bottom, end, STRONG_ORANGE, width=14 * weight)
    label(ax, 3.5, 3.44, "six input vectors (orange: the query itself), below each its "
          "weight", 9, STRONG_GRAY)


# --- queries, keys, values ---------------------------------------------------------


def qkv_flow(words, inputs, W_query, W_key, W_value, query=1):
    """Draw how one word's query meets every word's key and mixes their values."""
    queries, keys, values = inputs @ W_query, inputs @ W_key, inputs @ W_value
    scores = queries[query] @ keys.T
    weights = (scores / keys.shape[-1] ** 0.5).softmax(dim=-1)
    _, ax = canvas(7, 4.95, f"What {words[query]} does with the other words")
    columns = [("word", 0.1, 0.85), ("key = x W_key", 1.15, 1.2),
               ("score = query . key", 2.65, 0.75), ("weight", 4.05, 0.75),
               ("value = x W_value", 5.35, 1.2)]
    head_y = 3.85
    asker = box(ax, 0.1, 4.05, 0.85, 0.34, words[query], ORANGE)
    q_box = box(ax, 1.15, 4.05, 2.25, 0.34, f"query = {vector_text(queries[query])}",
                ORANGE)
    arrow(ax, asker.right, q_box.left, STRONG_ORANGE)
    for name, x, width in columns:
        label(ax, x + width / 2, head_y - 0.02, name, 9, STRONG_GRAY)
    for i, word in enumerate(words):
        y = 3.3 - i * 0.42
        cells = [word, vector_text(keys[i]), f"{float(scores[i]):.2f}",
                 f"{float(weights[i]):.2f}", vector_text(values[i])]
        fills = [BLUE, PURPLE, PAPER, ORANGE, GREEN]
        boxes = [box(ax, x, y, width, 0.33, cells[n], fills[n])
                 for n, (_, x, width) in enumerate(columns)]
        arrow(ax, boxes[0].right, boxes[1].left)
        arrow(ax, boxes[1].right, boxes[2].left)
        arrow(ax, boxes[2].right, boxes[3].left)
        label(ax, (boxes[3].right[0] + boxes[4].x) / 2, y + 0.165, "x", 11)
        lane = boxes[4].right[0] + 0.2
        arrow(ax, boxes[4].right, (lane, boxes[4].right[1]), STRONG_GREEN, style="-")
    label(ax, 3.72, 0.98, "softmax of score / sqrt(d_k)", 9, STRONG_GRAY)
    result = box(ax, 3.6, 0.2, 2.95, 0.4, f"context = {vector_text(weights @ values)}",
                 GREEN, 11)
    ax.plot([lane, lane], [3.465, result.right[1]], color=STRONG_GREEN, linewidth=1.8)
    arrow(ax, (lane, result.right[1]), result.right, STRONG_GREEN, width=1.8)
    label(ax, lane - 0.1, 0.85, "add up", 9, STRONG_GREEN, ha="right")


def saturation(sizes, raw, scaled):
    """Draw the mean largest weight over the key width, raw and with the division."""
    _, ax = plt.subplots(figsize=(5, 3), layout="constrained", facecolor=PAPER)
    ax.plot(sizes, raw, "o-", color=STRONG_RED)
    ax.plot(sizes, scaled, "o-", color=STRONG_BLUE)
    ax.annotate("scores as they are", (sizes[3], raw[3]), (0, -18), color=STRONG_RED,
                textcoords="offset points", ha="center")
    ax.annotate("divided by sqrt(d_k)", (sizes[3], scaled[3]), (0, -15),
                color=STRONG_BLUE, textcoords="offset points", ha="center")
    ax.axhline(1 / 6, color=STRONG_GRAY, linestyle=":")
    ax.annotate("1/6: all equal", (sizes[0], 1 / 6), (0, 4), color=STRONG_GRAY,
                textcoords="offset points")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="d_k, numbers per key", ylabel="largest of 6 weights", ylim=(0, 1.02),
           title="Without the division one word takes all")


# --- the causal mask ---------------------------------------------------------------


def causal_mask(mask, words):
    """Draw who may look at whom; mask (num_tokens, num_tokens) is 1 where hidden."""
    size = len(words)
    _, ax = canvas(7, 4.0, "Each word sees itself and what came before")
    width, height, left, top = 0.62, 0.4, 2.0, 2.75
    for c, word in enumerate(words):
        label(ax, left + (c + 0.5) * width, top + 0.62, word, rotation=25)
    for r, word in enumerate(words):
        y = top - r * height
        label(ax, left - 0.12, y + height / 2, word, ha="right")
        for c in range(size):
            hidden = bool(mask[r][c])
            box(ax, left + c * width + 0.02, y + 0.02, width - 0.04, height - 0.04,
                "hidden" if hidden else "sees", GRAY if hidden else GREEN, 9,
                color=STRONG_GRAY if hidden else INK)
    label(ax, 0.2, top - (size / 2 - 1) * height, "the word\nthat looks", ha="left",
          color=STRONG_GRAY)
    right = left + size * width
    for r, text in ((0, "1 word in sight"), (size - 1, f"{size} words")):
        y = top + (0.5 - r) * height
        label(ax, right + 0.12, y, text, 9, STRONG_GRAY, ha="left")
    label(ax, left + size * width / 2, 0.35, "the word it looks at", color=STRONG_GRAY)


def mask_meanings(mask):
    """Draw one boolean mask twice, as each of PyTorch's two interfaces reads it."""
    size = len(mask)
    _, ax = canvas(7, 3.3)
    readers = [("F.scaled_dot_product_attention", "True = may be seen", True),
               ("nn.MultiheadAttention", "True = is hidden", False)]
    for n, (name, rule, true_is_seen) in enumerate(readers):
        left, top = 0.45 + n * 3.5, 1.7
        label(ax, left + size * 0.32, 3.05, name, 11, weight="bold")
        label(ax, left + size * 0.32, 2.75, rule, 10,
              STRONG_GREEN if true_is_seen else STRONG_RED)
        for r in range(size):
            for c in range(size):
                value = bool(mask[r][c])
                seen = value == true_is_seen
                box(ax, left + c * 0.64, top + 0.45 - r * 0.42, 0.6, 0.38, str(value),
                    GREEN if seen else GRAY, 10, color=INK if seen else STRONG_GRAY)
        verdict = "sees only the future" if true_is_seen else "sees itself and the past"
        label(ax, left + size * 0.32, 0.35,
              f"green = takes part: each token\n{verdict}", 9,
              STRONG_RED if true_is_seen else STRONG_GREEN)


# --- several heads -----------------------------------------------------------------


def head_split(num_tokens, num_heads, head_dim):
    """Draw how (num_tokens, d_out) is cut into heads: view, then transpose."""
    _, ax = canvas(7, 3.55, "One wide result, cut into heads")
    side = 0.34

    def grid(x, y, rows, columns, color_of, text_of):
        for r in range(rows):
            for c in range(columns):
                box(ax, x + c * side, y + (rows - 1 - r) * side, side - 0.03,
                    side - 0.03, text_of(r, c), color_of(r, c), 9)

    d_out = num_heads * head_dim
    base = 0.95
    top = base + num_tokens * side
    label(ax, 0.1, top + 0.62, "after W_query", 10, ha="left", weight="bold")
    label(ax, 0.1, top + 0.38, "(num_tokens, d_out)", 9, STRONG_GRAY, ha="left")
    grid(0.1, base, num_tokens, d_out, lambda r, c: HEAD_COLORS[c // head_dim],
         lambda r, c: str(r * d_out + c))

    middle = 0.1 + d_out * side + 0.75
    arrow(ax, (middle - 0.7, base + num_tokens * side / 2),
          (middle - 0.1, base + num_tokens * side / 2), width=1.8)
    label(ax, middle - 0.4, base + num_tokens * side / 2 + 0.2, "view", 10)
    label(ax, middle, top + 0.62, "a token holds its heads", ha="left", weight="bold")
    label(ax, middle, top + 0.38, "(num_tokens, num_heads, head_dim)", 9, STRONG_GRAY,
          ha="left")
    for h in range(num_heads):
        grid(middle + h * (head_dim * side + 0.12), base, num_tokens, head_dim,
             lambda r, c, h=h: HEAD_COLORS[h],
             lambda r, c, h=h: str(r * d_out + h * head_dim + c))

    last = 7 - head_dim * side - 0.35
    width = num_heads * (head_dim * side + 0.12)
    arrow(ax, (middle + width, base + num_tokens * side / 2),
          (last - 0.1, base + num_tokens * side / 2), width=1.8)
    label(ax, (middle + width + last) / 2 - 0.05, base + num_tokens * side / 2 + 0.2,
          "transpose", 10)
    for h in range(num_heads):
        y = 1.78 - h * (num_tokens * side + 0.3)
        grid(last, y, num_tokens, head_dim, lambda r, c, h=h: HEAD_COLORS[h],
             lambda r, c, h=h: str(r * d_out + h * head_dim + c))
        label(ax, last + head_dim * side / 2, y + num_tokens * side + 0.1,
              f"head {h + 1}", 9, STRONG[h])
    label(ax, 6.85, 0.2, "(num_heads, num_tokens, head_dim)", 9, STRONG_GRAY,
          ha="right")
    label(ax, last - 0.15, 0.78, "a head holds\nits tokens", 10, ha="right",
          weight="bold")


def wrapper_versus_split():
    """Draw the two ways to have several heads."""
    _, ax = canvas(7, 4.6)
    label(ax, 1.6, 4.4, "MultiHeadAttentionWrapper", 11, weight="bold")
    label(ax, 1.6, 4.15, "one small module a head", 9, STRONG_GRAY)
    x_left = box(ax, 1.0, 3.45, 1.2, 0.4, "x", GRAY)
    joined = box(ax, 0.35, 0.75, 2.5, 0.45, "torch.cat", GRAY)
    for h in range(2):
        left = 0.15 + h * 1.5
        head = box(ax, left, 1.7, 1.4, 1.2, f"head {h + 1}\nown W_query\nown W_key\n"
                   "own W_value", HEAD_COLORS[h])
        arrow(ax, x_left.bottom, head.top)
        arrow(ax, head.bottom, (head.bottom[0], joined.top[1]))
    label(ax, 1.6, 0.4, "width num_heads x d_out\nd_out counts for one head", 9)

    label(ax, 5.2, 4.4, "MultiHeadAttention", 11, weight="bold")
    label(ax, 5.2, 4.15, "one wide module, cut into heads", 9, STRONG_GRAY)
    x_right = box(ax, 4.6, 3.45, 1.2, 0.4, "x", GRAY)
    for n, name in enumerate(("W_query", "W_key", "W_value")):
        left = 3.65 + n * 1.07
        box(ax, left, 2.95, 0.48, 0.34, "1", BLUE)
        box(ax, left + 0.48, 2.95, 0.48, 0.34, "2", ORANGE)
        label(ax, left + 0.48, 2.82, name, 9)
        arrow(ax, x_right.bottom, (left + 0.48, 3.31))
    split = box(ax, 3.85, 2.3, 2.7, 0.34, "view, transpose: cut into heads", GRAY)
    heads = box(ax, 3.85, 1.78, 2.7, 0.34, "attention of all heads at once", PURPLE)
    merged = box(ax, 3.85, 1.26, 2.7, 0.34, "transpose, reshape: join again", GRAY)
    mixed = box(ax, 3.85, 0.75, 2.7, 0.34, "out_proj mixes the heads", GREEN)
    arrow(ax, split.bottom, heads.top)
    arrow(ax, heads.bottom, merged.top)
    arrow(ax, merged.bottom, mixed.top)
    label(ax, 5.2, 0.4, "width d_out\nd_out counts for all heads together", 9)
    ax.plot([3.35, 3.35], [0.2, 4.5], color=STRONG_GRAY, linewidth=0.8, linestyle=":")
