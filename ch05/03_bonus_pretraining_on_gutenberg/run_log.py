"""A run's log: one JSON object a line, and a picture drawn from it."""
import json

from previous_chapters import UserError, write_whole


class Log:
    """log.jsonl: one JSON object a line, in the order of the steps."""

    def __init__(self, folder, step, use_tensorboard=False):
        self.path = folder / "log.jsonl"
        if step:                    # lines after the checkpoint are going to come again
            kept = [json.dumps(line) + "\n" for line in read_log(self.path)
                    if line["step"] <= step]
            write_whole(self.path, lambda part: part.write_text(
                "".join(kept), encoding="utf-8"))
        self.board = None
        if use_tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("--tensorboard needs the package tensorboard; "
                                "pip install -r requirements-extra.txt") from None
            self.board = SummaryWriter(folder / "tensorboard", purge_step=step or None)

    def write(self, kind, step, **values):
        """Append one line."""
        line = json.dumps({"kind": kind, "step": step, **values})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.board:
            flat = {**values, **values.get("losses", {})}
            for name, value in flat.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(f"{kind}/{name}", value, step)


def read_log(path):
    """Return the lines of log.jsonl as dicts, without one that broke off."""
    lines = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    except FileNotFoundError:
        pass
    return lines


def plot_log(folder):
    """Draw the losses and the learning rate of folder/log.jsonl into loss.png."""
    from matplotlib.figure import Figure      # draws without a screen

    lines = read_log(folder / "log.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    valid = [line for line in lines if line["kind"] == "valid"]
    figure = Figure(figsize=(6, 4.5), layout="constrained", facecolor="white")
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    millions = [line["tokens"] / 1e6 for line in train]
    ax.plot(millions, [line["loss"] for line in train], color="0.8", label="training, "
            "each step")
    for source in valid[0]["losses"] if valid else ():
        ax.plot([line["tokens"] / 1e6 for line in valid],
                [line["losses"][source] for line in valid], label=source)
    ax.set(ylabel="Loss (nats per token)")
    ax.legend()
    below.plot(millions, [line["lr"] for line in train], color="0.4")
    below.set(xlabel="Tokens seen (millions)", ylabel="Learning rate")
    write_whole(folder / "loss.png",
                lambda part: figure.savefig(part, dpi=140, format="png"))
