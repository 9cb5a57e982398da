"""Pictures of chapter 2: each function draws what it is given and returns nothing."""
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
    STRONG_ORANGE,
    STRONG_RED,
    arrow,
    box,
    canvas,
    label,
)
from matplotlib.textpath import TextPath

PALETTE = [BLUE, ORANGE, GREEN, PURPLE, RED, GRAY]
ROOM = 6.7             # inches of a 7-inch canvas that may be drawn on
MOST_COLUMNS = 11      # tokens that fit side by side with their words
MOST_WINDOWS = 4


def word_map(places):
    """Draw words as points; places is a dict from word to its two numbers."""
    _, ax = plt.subplots(figsize=(5, 3.2), layout="constrained", facecolor=PAPER)
    for word, (x, y) in places.items():
        ax.scatter(x, y, s=40, color=STRONG_BLUE)
        ax.annotate(word, (x, y), xytext=(7, 4), textcoords="offset points",
                    fontsize=10, color=INK)
    ax.set(xlim=(-0.05, 1.15), ylim=(-0.05, 1.1), xlabel="first number",
           ylabel="second number", title="Near in meaning, near in numbers")
    ax.title.set_fontsize(11)


def tokenisation(text, tokens, ids):
    """Draw the way from text to tokens to ids, and back."""
    _, ax = canvas(7, 2.6, "encode goes down, decode comes back up")
    tokens = _fitting([visible(token) for token in tokens], ROOM - 0.9)
    ids = ids[:len(tokens)]
    widths = [max(_width(token), _width(i))
              for token, i in zip(tokens, ids, strict=True)]
    total = sum(widths) + 0.06 * (len(widths) - 1)
    left = (7 - total - 0.75) / 2 + 0.75       # the names of the rows take 0.75
    for y, name in ((1.75, "text"), (1.0, "tokens"), (0.25, "ids")):
        label(ax, left - 0.75, y + 0.19, name, ha="left", weight="bold")
    most = max(3, int((total - 0.2) / 0.085))
    shown = visible(text.strip())
    if len(shown) > most:
        shown = shown[:most - 2] + " …"
    box(ax, left, 1.75, total, 0.38, shown, GRAY)
    x = left
    for token, i, width in zip(tokens, ids, widths, strict=True):
        above = box(ax, x, 1.0, width, 0.38, token, BLUE)
        below = box(ax, x, 0.25, width, 0.38, str(i), GREEN)
        arrow(ax, (above.top[0], 1.75), above.top, STRONG_GRAY, style="<|-|>")
        arrow(ax, above.bottom, below.top, STRONG_GRAY, style="<|-|>")
        x += width + 0.06


def vocabulary(tokens, vocab):
    """Draw tokens in the order of the text and, once each, in that of their ids.

    Only tokens that occur more than once are coloured.
    """
    _, ax = canvas(7, 2.9, "Every distinct token once, sorted, then numbered")
    tokens = _fitting(tokens, ROOM - 0.2)
    label(ax, 0.15, 2.28, "in the order of the text", ha="left", color=STRONG_GRAY)
    label(ax, 0.15, 0.22, "in the order of the vocabulary, with their ids",
          ha="left", color=STRONG_GRAY)
    unique = sorted(set(tokens), key=vocab.get)
    repeated = [token for token in unique if tokens.count(token) > 1]
    fills = {token: PALETTE[1 + i % 3] for i, token in enumerate(repeated)}
    widths = [max(_width(token), _width(vocab[token])) for token in unique]
    places, x = {}, (7 - sum(widths) - 0.06 * (len(widths) - 1)) / 2
    for token, width in zip(unique, widths, strict=True):
        places[token] = box(ax, x, 0.78, width, 0.36, token, fills.get(token, GRAY))
        box(ax, x, 0.42, width, 0.36, str(vocab[token]), PAPER)
        x += width + 0.06
    x = (7 - sum(map(_width, tokens)) - 0.06 * (len(tokens) - 1)) / 2
    for token in tokens:
        above = box(ax, x, 1.75, _width(token), 0.36, token, fills.get(token, GRAY))
        arrow(ax, above.bottom, places[token].top, STRONG_GRAY, width=0.9)
        x += _width(token) + 0.06


def bpe_merges(steps, numbers, ids):
    """Draw how merges build a word.

    steps is a list of lists of symbols, bytes first, one more per merge; numbers
    holds the place of each merge in the table; ids those of the last list.
    """
    _, ax = canvas(7, 1.1 + 0.42 * len(steps), "From bytes to tokens, one merge per line")
    column = min(0.42, 3.7 / sum(map(len, steps[0])))

    def draw(y, first, last, text, fill):
        box(ax, 1.0 + column * first + 0.02, y, column * (last - first) - 0.04, 0.33,
            text, fill, family="DejaVu Sans Mono")

    for line, symbols in enumerate(steps):
        y = 0.2 + 0.42 * (len(steps) - line)
        label(ax, 0.15, y + 0.16, f"merge {line}" if line else "bytes", ha="left",
              color=STRONG_GRAY)
        before = _spans(steps[line - 1]) if line else _spans(symbols)
        for symbol, (first, last) in zip(symbols, sorted(_spans(symbols)), strict=True):
            is_new = (first, last) not in before
            draw(y, first, last, visible(symbol), ORANGE if is_new else BLUE)
            if is_new:
                new = f"{visible(symbol)}, row {numbers[line - 1]:,} of the table"
        if line:
            label(ax, 1.15 + column * last, y + 0.16, new, ha="left")
    label(ax, 0.15, 0.36, "ids", ha="left", color=STRONG_GRAY)
    for i, (first, last) in zip(ids, sorted(_spans(steps[-1])), strict=True):
        draw(0.2, first, last, str(i), GREEN)


def sliding_window(ids, max_length, stride, decode=None):
    """Draw the first windows over ids, and how often each token is an input.

    decode turns a list of ids into text; without it only the ids are shown.
    """
    ids = [int(i) for i in ids]
    starts = range(0, len(ids) - max_length, stride)
    if not starts:
        raise ValueError(f"{len(ids)} ids are too few for max_length={max_length}")
    if starts[:2][-1] + max_length < MOST_COLUMNS:      # two windows fit as boxes
        _window_boxes(ids, max_length, stride, starts, decode)
    else:
        end = starts[:MOST_WINDOWS][-1] + max_length + 1
        _window_bars(end, max_length, stride, starts)


def _window_boxes(ids, max_length, stride, starts, decode):
    """Draw short windows with each id in a box."""
    columns = min(len(ids), MOST_COLUMNS)
    drawn = [s for s in starts if s + max_length < columns][:MOST_WINDOWS]
    columns = min(columns, drawn[-1] + max_length + 2)
    width, left = 0.49, 1.42
    words = [_short(decode([i])) if decode else "" for i in ids[:columns]]
    slanted = 0.65 * max(map(_width, words)) if decode else 0.1
    height = 1.5 + slanted + 0.82 * len(drawn)
    _, ax = canvas(7, height, _headline(max_length, stride))
    top = height - 0.75 - slanted
    label(ax, 0.15, top + 0.15, "text", ha="left", weight="bold")
    for c, (i, word) in enumerate(zip(ids, words, strict=False)):
        box(ax, left + c * width + 0.015, top, width - 0.03, 0.3, str(i), GRAY, 9)
        if decode:
            label(ax, left + (c + 0.35) * width, top + 0.36, word, 9, ha="left",
                  va="bottom", rotation=40, rotation_mode="anchor")
    if columns < len(ids):
        label(ax, left + columns * width + 0.03, top + 0.15, "…", ha="left")
    for n, start in enumerate(drawn):
        y = top - 0.5 - 0.82 * n
        label(ax, 0.15, y - 0.03, f"{n + 1}.", ha="left", weight="bold")
        for shift, name, fill in ((0, "input", BLUE), (1, "target", ORANGE)):
            below = y - 0.34 * shift
            color = STRONG_ORANGE if shift else STRONG_BLUE
            label(ax, left - 0.12, below + 0.15, name, 10, color, ha="right")
            for c in range(start + shift, start + shift + max_length):
                box(ax, left + c * width + 0.015, below, width - 0.03, 0.3, str(ids[c]),
                    fill, 9)
    label(ax, 0.15, 0.27, "times an input", ha="left", weight="bold")
    others = starts[len(drawn):]                # windows for which there is no room
    for c in range(columns):
        if others and c >= others[0]:
            label(ax, left + (c + 0.5) * width, 0.27, "…", 10, STRONG_GRAY)
            continue
        times = sum(start <= c < start + max_length for start in starts)
        label(ax, left + (c + 0.5) * width, 0.27, str(times), 10,
              INK if times else STRONG_RED, weight="normal" if times else "bold")


def _window_bars(end, max_length, stride, starts):
    """Draw long windows as bars over the positions 0 to end."""
    drawn = starts[:MOST_WINDOWS]
    _, ax = plt.subplots(figsize=(7, 1.3 + 0.5 * len(drawn)), layout="constrained",
                         facecolor=PAPER)
    for n, start in enumerate(drawn):
        for shift, fill, edge in ((0, BLUE, STRONG_BLUE), (1, ORANGE, STRONG_ORANGE)):
            ax.barh(n + 0.36 * shift, max_length, left=start + shift, height=0.32,
                    color=fill, edgecolor=edge,
                    label=("target" if shift else "input") if n == 0 else None)
    ax.set(xlim=(0, end), yticks=[n + 0.18 for n in range(len(drawn))],
           yticklabels=[f"window {n + 1}" for n in range(len(drawn))],
           xlabel="position of the token in the text")
    ax.invert_yaxis()
    ax.set_title(_headline(max_length, stride), fontsize=12, weight="bold")
    ax.legend(loc="lower left", fontsize=9, ncols=2)


def _headline(max_length, stride):
    """Return in words whether windows overlap and whether tokens are skipped."""
    shared = max_length - stride
    start = f"length {max_length}, stride {stride}: "
    if shared == 0:
        return start + "no overlap, nothing skipped"
    tokens = "token" if abs(shared) == 1 else "tokens"
    if shared > 0:
        return start + f"neighbours share {shared} {tokens}"
    return start + f"{-shared} {tokens} skipped between windows"


def embedding_lookup(weight, ids):
    """Draw the rows of weight (vocab_size, output_dim) that ids pick."""
    vocab_size, output_dim = weight.shape
    cell, step = min(0.6, 2 / output_dim), 0.36
    height = 1.0 + step * vocab_size
    _, ax = canvas(7, height, "An id picks a row; nothing is multiplied")
    top = height - 0.75
    fills = {int(i): PALETTE[n % len(PALETTE)] for n, i in enumerate(ids)}
    table, right = 2.0, 2.0 + cell * output_dim + 1.1
    label(ax, 0.75, top + 0.12, "ids")
    label(ax, table + cell * output_dim / 2, top + 0.12, "weight")
    label(ax, right + cell * output_dim / 2, top + 0.12, "vectors")
    for r in range(vocab_size):
        y = top - step * (r + 1)
        label(ax, table - 0.2, y + step / 2, str(r), color=STRONG_GRAY)
        _cells(ax, table, y, weight[r], cell, step, fills.get(r, PAPER))
    offset = (vocab_size - len(ids)) / 2
    for n, i in enumerate(int(i) for i in ids):
        y = top - step * (n + 1 + offset)
        row_middle = top - step * (i + 0.5)
        box(ax, 0.55, y + 0.03, 0.4, step - 0.06, str(i), fills[i])
        arrow(ax, (0.97, y + step / 2), (table - 0.32, row_middle), STRONG_GRAY)
        arrow(ax, (table + cell * output_dim + 0.03, row_middle),
              (right - 0.05, y + step / 2), STRONG_GRAY)
        _cells(ax, right, y, weight[i], cell, step, fills[i])


def input_embedding(tokens, token_vectors, position_vectors, shown=3):
    """Draw token vectors + position vectors = input, the first numbers of each."""
    cell, step = 0.5, 0.36
    height = 1.5 + step * len(tokens)
    _, ax = canvas(7, height, "Who it is + where it stands = what the model sees")
    top = height - 0.85
    parts = (
        ("token", token_vectors, BLUE, ""),
        ("position", position_vectors, ORANGE, "+"),
        ("input", token_vectors + position_vectors, GREEN, "="),
    )
    label(ax, 0.15, 0.25, f"the first {shown} of {token_vectors.shape[-1]} numbers "
          "of each vector", 9, STRONG_GRAY, ha="left")
    for r, token in enumerate(tokens):
        label(ax, 0.15, top - step * (r + 0.5), visible(token), ha="left")
    x = 1.05
    for name, vectors, fill, sign in parts:
        if sign:
            label(ax, x - 0.13, top - step * len(tokens) / 2, sign, 15, weight="bold")
        label(ax, x + cell * shown / 2, top + 0.14, name)
        for r in range(len(tokens)):
            y = top - step * (r + 1)
            _cells(ax, x, y, vectors[r][:shown], cell, step, fill)
            label(ax, x + cell * shown + 0.1, y + step / 2, "…", 9)
        x += cell * shown + 0.45


def _short(text, most=11):
    """Return text as visible characters, cut off after most of them."""
    return visible(text if len(text) <= most else text[:most - 1] + "…")


def visible(text):
    """Return text with its spaces and line breaks made visible."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("$", r"\$")


def _cells(ax, x, y, values, width, height, fill):
    """Draw one row of numbers as touching cells."""
    for c, value in enumerate(values):
        ax.add_patch(plt.Rectangle((x + c * width, y), width, height, facecolor=fill,
                                   edgecolor=STRONG_GRAY, linewidth=0.8))
        label(ax, x + (c + 0.5) * width, y + height / 2, f"{float(value):.2f}", 9)


def _spans(symbols):
    """Return the (start, end) of each symbol in the joined word."""
    spans, start = set(), 0
    for symbol in symbols:
        spans.add((start, start + len(symbol)))
        start += len(symbol)
    return spans


def _width(text, size=10):
    """Return the width of a box that holds text, in inches."""
    path = TextPath((0, 0), str(text), size=size)
    return max(0.3, path.get_extents().width / 72 + 0.14)


def _fitting(texts, room):
    """Return the first of texts, as many as fit side by side into room inches."""
    kept, used = [], 0.0
    for text in texts:
        used += _width(text) + 0.06
        if used > room:
            break
        kept.append(text)
    return kept
