"""Search for the training settings of a small GPT, with a budget, pruning and a resume.

    python hparam_search.py                       # 60 trials or 5 minutes
    python hparam_search.py --resume runs/001 --trials 200 --minutes 30

optuna's TPE sampler proposes settings (it prefers the neighbourhood of what worked), a
small GPT is trained with them on the bytes of a text, and its validation loss is the
score. A trial that, after some epochs, is worse than the median of those before it at
the same epoch is pruned. In the end the best three are trained again from other seeds,
which tells how far the scores are luck. Everything is in one folder: study.db (SQLite,
written after each epoch, so that a kill loses one trial at most), trials.csv,
curves.png, slices.png.
"""
import argparse
import csv
import hashlib
import math
import statistics
import sys
import time
from pathlib import Path

import torch
from previous_chapters import (
    ByteTokenizer,
    GPTDatasetV1,
    GPTModelFast,
    OneLineParser,
    UserError,
    calc_loss_batch,
    evaluate_model,
    named_device,
    new_folder,
    pick_device,
    positive,
    positive_int,
    read_training_text,
    run_command,
    warmup_cosine,
    write_whole,
)
from torch.utils.data import DataLoader, RandomSampler, Subset

try:
    import optuna
    from optuna.trial import TrialState
except ModuleNotFoundError:
    optuna = None

MODEL = {          # 136,576 weights
    "vocab_size": 256, "context_length": 64, "emb_dim": 64, "n_heads": 4,
    "n_layers": 2, "qkv_bias": False,
}
# trial 0: chapter 5's settings, as the mark to beat
CHAPTER_5 = {"peak_lr": 5e-4, "warmup_share": 0.0, "weight_decay": 0.1,
             "drop_rate": 0.1, "batch_size": 4}
NAMES = tuple(CHAPTER_5)
LOGARITHMIC = ("peak_lr", "weight_decay")
STUDY = "hparam_search"
SEED = 123         # of every trial of the search; the runs after it take the next ones
NUM_EPOCHS = 20


# --- one training ---------------------------------------------------------------------

def suggest(trial):
    """Return the settings of a trial; here stands what is searched."""
    return {
        # a rate twice as high matters as much at 0.001 as at 0.01: logarithmic
        "peak_lr": trial.suggest_float("peak_lr", 3e-4, 5e-2, log=True),
        "warmup_share": trial.suggest_float("warmup_share", 0.0, 0.3),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
        "drop_rate": trial.suggest_float("drop_rate", 0.0, 0.3),
        "batch_size": trial.suggest_categorical("batch_size", [4, 8, 16, 32]),
    }


def make_datasets(text, context_length):
    """Return (train_set, val_set): four fifths of the characters and the last fifth."""
    split = int(0.8 * len(text))
    tokenizer = ByteTokenizer()
    try:
        # training windows overlap, so that no byte always stands at the same place
        return (GPTDatasetV1(text[:split], tokenizer, context_length, context_length // 8),
                GPTDatasetV1(text[split:], tokenizer, context_length, context_length))
    except ValueError as error:
        raise UserError(f"the text is too short: {error}") from None


def make_loaders(train_set, val_set, batch_size):
    """Return (train_loader, val_loader) for batches of batch_size windows.

    An epoch is as many bytes as the training text has, in windows drawn at random.
    """
    num_windows = math.ceil(len(train_set) / 8)
    batch_size = min(batch_size, num_windows)
    sampler = RandomSampler(train_set, num_samples=num_windows)
    train_loader = DataLoader(train_set, batch_size, sampler=sampler, drop_last=True)
    # calc_loss_loader averages over batches, so those of the validation set get one
    # size; fewer than num_batches windows of the text are left out
    num_batches = math.ceil(len(val_set) / 64)
    size = len(val_set) // num_batches
    val_set = Subset(val_set, range(size * num_batches))
    return train_loader, DataLoader(val_set, size)


def train_model(model, train_loader, val_loader, optimizer, device, n_epochs, eval_iter,
                warmup_steps, peak_lr, initial_lr, min_lr, report=None):
    """Train with warm-up, cosine and clipping; return (train_loss, val_loss).

    report(epoch, val_loss) is called after each epoch and may raise to end the run. A
    loss that is not finite is returned (or reported) as infinity.
    """
    total_steps, step = n_epochs * len(train_loader), 0
    train_loss = val_loss = math.inf
    for epoch in range(1, n_epochs + 1):
        model.train()
        for input_batch, target_batch in train_loader:
            lr = warmup_cosine(
                step, total_steps, warmup_steps, peak_lr, initial_lr, min_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
            loss = calc_loss_batch(input_batch, target_batch, model, device)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            step += 1
        train_loss, val_loss = evaluate_model(
            model, train_loader, val_loader, device, eval_iter)
        if not math.isfinite(val_loss):
            train_loss = val_loss = math.inf
        if report:
            report(epoch, val_loss)
        if val_loss == math.inf:
            break
    return train_loss, val_loss


def train_once(settings, seed, datasets, n_epochs, device, report=None):
    """Train a fresh GPT with settings from seed; return (train_loss, val_loss).

    Every trial sees the same number of bytes, whatever its batch size.
    """
    torch.manual_seed(seed)
    train_loader, val_loader = make_loaders(*datasets, settings["batch_size"])
    model = GPTModelFast({**MODEL, "drop_rate": settings["drop_rate"]}).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=settings["weight_decay"], fused=True)
    peak_lr = settings["peak_lr"]
    return train_model(
        model, train_loader, val_loader, optimizer, device, n_epochs,
        eval_iter=len(val_loader),
        warmup_steps=round(settings["warmup_share"] * n_epochs * len(train_loader)),
        peak_lr=peak_lr, initial_lr=peak_lr / 100, min_lr=peak_lr / 100, report=report)


# --- the search -----------------------------------------------------------------------

def open_study(folder, resume=False):
    """Return the study stored in folder; a new one begins with chapter 5's settings."""
    from sqlalchemy.engine import URL      # comes with optuna

    path = folder / "study.db"
    if resume and not path.is_file():
        raise UserError(f"there is no study in {folder} ({path.name} is missing); "
                        "name the folder of a search, such as runs/001")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # str(path) alone would trip over "?" in the name of a folder
    url = URL.create("sqlite", database=str(path)).render_as_string()
    try:
        study = optuna.create_study(
            study_name=STUDY, storage=url, direction="minimize",
            load_if_exists=resume)
    except Exception as error:         # damaged, foreign: sqlite raises many kinds
        raise UserError(f"{path} is no whole study ({type(error).__name__}); start anew "
                        "without --resume") from None
    if not resume:
        study.enqueue_trial(CHAPTER_5)
    return study


def same_conditions(study, folder, text, n_epochs):
    """Return the epochs of a trial after checking that scores will compare."""
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    kept = study.user_attrs.get("conditions")
    if kept is None:
        n_epochs = n_epochs or NUM_EPOCHS
        study.set_user_attr("conditions", {"text": sha256, "epochs": n_epochs})
        return n_epochs
    if kept["text"] != sha256:
        raise UserError(f"{folder} holds a search on another text; give the same --text, "
                        "or start anew without --resume")
    if n_epochs not in (None, kept["epochs"]):
        raise UserError(f"the trials in {folder} have {kept['epochs']} epochs, with "
                        f"{n_epochs} their scores would not compare; leave out --epochs")
    return kept["epochs"]


def make_pruner(name, n_epochs):
    """Return the pruner called name: median, halving or none."""
    if name == "median":
        # nothing is judged before a quarter of the epochs: a long warm-up looks bad there
        return optuna.pruners.MedianPruner(
            n_startup_trials=5, n_warmup_steps=max(1, n_epochs // 4))
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=max(1, n_epochs // 4), reduction_factor=2)
    return optuna.pruners.NopPruner()


def finished(study):
    """Return the trials that count: run to the end, or pruned."""
    return study.get_trials(deepcopy=False,
                            states=(TrialState.COMPLETE, TrialState.PRUNED))


def complete(study):
    """Return the trials that ran to the end, best first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.value)


def search(study, objective, num_trials, minutes, seed=SEED, show=print):
    """Run trials until the study has num_trials, or the minutes are over.

    A trial that is stopped by Ctrl-C, or was running when an earlier search was
    killed, does not count, and its settings are the next to be tried.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):     # of a killed search
        study.tell(trial.number, state=TrialState.FAIL)
    end = time.monotonic() + 60 * minutes
    while (done := len(finished(study))) < num_trials and time.monotonic() < end:
        # what comes next depends on the finished trials alone, not on how often the
        # search was stopped; one sampler with one seed would, after a resume, draw
        # its first random settings once more
        study.sampler = optuna.samplers.TPESampler(seed=seed + done)
        if done == 0 and not study.get_trials(deepcopy=False,
                                              states=(TrialState.WAITING,)):
            study.enqueue_trial(CHAPTER_5)       # stopped within the very first trial
        trial = study.ask()
        start = time.perf_counter()
        try:
            value = objective(trial)
            state = TrialState.COMPLETE if math.isfinite(value) else TrialState.PRUNED
        except optuna.TrialPruned:
            value, state = None, TrialState.PRUNED
        except BaseException:                    # Ctrl-C too
            study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr("seconds", round(time.perf_counter() - start, 2))
        study.tell(trial, value if state == TrialState.COMPLETE else None, state)
        show(line_of(study.get_trials(deepcopy=False)[trial.number]))


def line_of(trial):
    """Return one line about a finished trial."""
    value = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else "pruned"
    epochs = len(trial.intermediate_values)
    return (f"trial {trial.number:3}: {value:>7} after {epochs:2} epochs, "
            f"{trial.user_attrs.get('seconds', 0):5.1f} s | {describe(trial.params)}")


def describe(params):
    """Return settings as one line."""
    return ", ".join(f"{name} {value:.2g}" if isinstance(value, float)
                     else f"{name} {value}" for name, value in params.items())


def make_objective(datasets, n_epochs, device):
    """Return the function that optuna minimises: settings in, validation loss out."""
    def objective(trial):
        def report(epoch, val_loss):
            if not math.isfinite(val_loss):
                raise optuna.TrialPruned
            trial.report(val_loss, epoch)
            if epoch < n_epochs and trial.should_prune():
                raise optuna.TrialPruned

        settings = suggest(trial)
        train_loss, val_loss = train_once(
            settings, SEED, datasets, n_epochs, device, report)
        trial.set_user_attr("train_loss", train_loss)
        return val_loss
    return objective


def run_again(study, train, num_best, num_seeds, show=print):
    """Train the best trials and trial 0 from other seeds; return number -> losses.

    The losses are kept in the study, so that a resume does not compute them again.
    """
    chosen = complete(study)[:num_best]
    chosen += [t for t in complete(study) if t.number == 0 and t not in chosen]
    losses = {}
    for trial in chosen:
        kept = dict(study.user_attrs.get(f"again {trial.number}", {}))
        for seed in range(SEED + 1, SEED + 1 + num_seeds):
            if str(seed) not in kept:
                kept[str(seed)] = train(trial.params, seed)
                study.set_user_attr(f"again {trial.number}", kept)
        losses[trial.number] = [kept[str(s)] for s in range(SEED + 1, SEED + 1 + num_seeds)]
        show(f"trial {trial.number:3}: search {trial.value:.4f}, other seeds "
             + " ".join(f"{loss:.4f}" for loss in losses[trial.number])
             + f", mean {statistics.mean(losses[trial.number]):.4f}")
    return losses


def noise_of(losses):
    """Return the standard deviation over seeds, pooled over trials number -> losses."""
    variances = [statistics.variance(values) for values in losses.values()
                 if len(values) > 1]
    return math.sqrt(statistics.mean(variances)) if variances else math.nan


def conclusion(losses, num_best):
    """Return in words what the runs from other seeds say about the num_best first."""
    losses = dict(list(losses.items())[:num_best])
    noise = noise_of(losses)
    if not math.isfinite(noise):
        return "one seed each: no spread, so no noise floor"
    means = sorted((statistics.mean(values), number)
                   for number, values in losses.items())
    num_seeds = len(next(iter(losses.values())))
    limit = 2 * noise * math.sqrt(2 / num_seeds)
    best = means[0]
    near = [str(number) for mean, number in means[1:] if mean - best[0] < limit]
    text = (f"noise floor: {noise:.4f} (standard deviation over seeds); means closer "
            f"than {limit:.4f} cannot be told apart\n"
            f"best by its mean: trial {best[1]} with {best[0]:.4f}")
    return text + (f", inside the noise: trial {', '.join(near)}" if near else "")


# --- what it leaves behind ------------------------------------------------------------

def write_table(study, path):
    """Write every trial as a line of a CSV file, in the order they ran."""
    def write(temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["trial", "state", "val_loss", "train_loss", "epochs",
                           "seconds", *NAMES])
            for t in study.get_trials(deepcopy=False):
                last = list(t.intermediate_values.values())[-1:] or [""]
                rows.writerow([
                    t.number, t.state.name.lower(), *last,
                    t.user_attrs.get("train_loss", ""), len(t.intermediate_values),
                    t.user_attrs.get("seconds", ""), *(t.params.get(n, "") for n in NAMES)])
    write_whole(path, write)


def plot_curves(study, path):
    """Draw the validation loss of every trial over its epochs; pruned ones in grey."""
    from matplotlib.figure import Figure      # draws without a screen

    figure = Figure(figsize=(7, 4), layout="constrained", facecolor="white")
    ax = figure.subplots()
    ranked = complete(study)
    pruned = [t for t in finished(study) if t.state == TrialState.PRUNED]
    groups = [(pruned, "#b8c0c8", 0.8, f"pruned ({len(pruned)})"),
              (ranked[1:], "#2b6cb0", 0.8, f"to the end ({len(ranked)})"),
              (ranked[:1], "#c05621", 2.5, "best")]
    for trials, color, width, name in groups:
        for i, trial in enumerate(trials):
            values = trial.intermediate_values
            ax.plot(list(values), list(values.values()), color=color, linewidth=width,
                    marker="." if len(values) == 1 else None,
                    label=name if i == 0 else None)
    losses = [v for t in ranked for v in t.intermediate_values.values()]
    if losses:                                   # a diverged trial must not set the scale
        low, high = min(losses), sorted(losses)[int(0.98 * (len(losses) - 1))]
        ax.set_ylim(low - 0.05 * (high - low + 0.1), high + 0.05 * (high - low + 0.1))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="Epoch", ylabel="Validation loss (nats per byte)")
    if ranked or pruned:
        ax.legend(fontsize=10)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=140, format="png"))


def plot_slices(study, path):
    """Draw the score of the trials over each setting, the later ones darker."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 3, sharey=True).flat
    trials = complete(study)
    for name, ax in zip(NAMES, panels):
        values = [t.params[name] for t in trials]
        ax.scatter(values, [t.value for t in trials], s=18, cmap="Blues", vmin=-20,
                   c=[t.number for t in trials])
        if trials:
            ax.plot(values[:1], [trials[0].value], "*", color="#c05621", markersize=13)
        if name == "batch_size":
            ax.set_xscale("log", base=2)
            ax.minorticks_off()
            ax.xaxis.set_major_formatter("{x:.0f}")
        elif name in LOGARITHMIC:
            ax.set_xscale("log")
        ax.set_title(name, fontsize=10)
        ax.tick_params(labelsize=9)
        for axis, ends in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            axis.set_ticks([t for t in axis.get_ticklocs() if ends[0] <= t <= ends[1]])
    last = figure.axes[-1]
    last.axis("off")
    last.text(0, 0.5, "A dot: a trial that ran\nto the end; the darker,\nthe later. "
              "Star: the best.\nHeight: validation loss\n(nats per byte).", fontsize=10,
              va="center", transform=last.transAxes)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=140, format="png"))


def report_all(study, folder):
    """Print the best trials and write table and plots."""
    write_table(study, folder / "trials.csv")
    plot_curves(study, folder / "curves.png")
    plot_slices(study, folder / "slices.png")
    trials = finished(study)
    ranked = complete(study)
    epochs = sum(len(t.intermediate_values) for t in trials)
    full = max((len(t.intermediate_values) for t in trials), default=0) * len(trials)
    print(f"\n{len(trials)} trials, {len(trials) - len(ranked)} of them pruned; {epochs} "
          f"epochs trained instead of {full}")
    for place, trial in enumerate(ranked[:5], 1):
        print(f"{place}. {line_of(trial)}")
    print(f"{folder}: study.db (to --resume), trials.csv, curves.png, slices.png")


def main(options):
    """Search, train the best again, and report."""
    device = pick_device() if options.device == "auto" else named_device(options.device)
    text = read_training_text(options.text)
    datasets = make_datasets(text, MODEL["context_length"])
    folder = Path(options.resume) if options.resume else new_folder(options.out)
    study = open_study(folder, resume=bool(options.resume))
    n_epochs = same_conditions(study, folder, text, options.epochs)
    study.pruner = make_pruner(options.pruner, n_epochs)
    num_bytes = datasets[1].target_ids.numel()
    print(f"{folder}: {options.trials} trials or {options.minutes:g} minutes, {device}; "
          f"validation on {num_bytes:,} bytes")
    try:
        search(study, make_objective(datasets, n_epochs, device), options.trials,
               options.minutes)
        print("\nThe best once more, from other seeds:")
        losses = run_again(
            study, lambda params, seed: train_once(
                params, seed, datasets, n_epochs, device)[1],
            options.best, options.seeds)
        if losses:
            print(conclusion(losses, options.best))
    except KeyboardInterrupt:
        report_all(study, folder)
        print(f"stopped; go on with --resume {folder}", file=sys.stderr)
        raise
    report_all(study, folder)


def command():
    """Read the command line and search."""
    parser = OneLineParser(description=__doc__.splitlines()[0],
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--trials", type=positive_int, default=60,
        help="trials that the study shall have in the end")
    add("--minutes", type=positive, default=5.0, help="begin no trial after this time")
    add("--epochs", type=positive_int, help=f"of one trial; by default {NUM_EPOCHS}")
    add("--pruner", default="median", choices=("median", "halving", "none"))
    add("--best", type=positive_int, default=3, help="trials to train again")
    add("--seeds", type=positive_int, default=3, help="how often to train them again")
    add("--text", metavar="FILE", help="UTF-8 text; default The Verdict, else our story")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    add("--out", metavar="FOLDER", help="new folder; default runs/001, ...")
    add("--resume", metavar="RUN", help="go on with the search in this folder")
    add("--quick", action="store_true", help="3 trials of 1 epoch, to see that it runs")
    options = parser.parse_args()
    if optuna is None:
        raise UserError("optuna is not installed; run: python -m pip install -r "
                        "requirements-extra.txt")
    if options.resume and options.out:
        raise UserError("--resume goes on in its own folder; leave out --out")
    if options.quick:
        options.trials, options.epochs, options.best, options.seeds = 3, 1, 1, 2
    torch.set_num_threads(1)      # matrices this small are faster on one core than on many
    main(options)


if __name__ == "__main__":
    run_command(command)
