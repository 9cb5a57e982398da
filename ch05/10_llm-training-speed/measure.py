"""Measure all rungs of the ladder in one run; write the table and the bar chart.

Usage: python measure.py [--rungs NAME ...] [--rounds N] [--steps N] [--out FOLDER]

The rungs take turns, round after round, and are compared within a round, so that a
machine that is busy for a minute does not spoil one rung alone. A turn builds the model
anew from the same seed, warms up (memory, compilation), and then times steps and nothing
else. The table holds medians.
"""
import contextlib
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ladder import (
    ALONE,
    Rung,
    Trainer,
    World,
    beside,
    device_of,
    ladder,
    make_loaders,
    make_parser,
    missing,
    new_folder,
    process_group,
    read_flags,
    synchronize,
    write_whole,
)
from previous_chapters import (
    GPTModel,
    UserError,
    pick_dtype,
    positive_int,
    read_training_text,
    run_command,
)

IDEAS = {
    "baseline": "the book's model and loop, float32",
    "mask": "causal mask made on the fly, not stored",
    "tf32": 'float32 products may use TF32 (precision "high")',
    "fused": "AdamW as one fused kernel",
    "prefetch": "batches made ahead by workers, pinned, copied without waiting",
    "bf16": "bfloat16 autocast, weights stay float32",
    "native": "native LayerNorm and GELU",
    "sdpa": "scaled_dot_product_attention (FlashAttention)",
    "compile": "torch.compile on model and loss",
    "vocab": "head padded to 50,304 rows",
    "batch": "four times the batch",
    "ddp": "a second process with its own batch (DDP)",
    "bf16-weights": "beside bf16: weights and AdamW's averages in bfloat16",
    "no-dropout": "beside the top: no dropout",
}
# why a rung brings nothing, or costs, on a CPU; printed only where it was measured so
ON_CPU = {
    "mask": "Making the mask costs what reading it cost. The idea saves memory, and a "
            "few hundred kilobytes do not show.",
    "tf32": "TF32 is a number format of NVIDIA's tensor cores; this CPU has nothing of "
            "the kind and computes as before.",
    "fused": "The update is a small part of a step on a CPU.",
    "prefetch": "There is no copy to a device that could be hidden, batches of ids are "
                "made in under a millisecond, and the worker process wants the cores "
                "that train.",
    "bf16": "This CPU has no fast bfloat16 products, and autocast converts the weights "
            "at each step.",
    "native": "At this size the products dominate.",
    "sdpa": "With dropout in the attention weights PyTorch has no fused kernel for CPUs: "
            "it takes the plain formula, with a table of all weights, and some overhead.",
    "compile": "The products, most of the step, are the same library calls as before, and "
               "there are no kernel launches to save.",
    "vocab": "The CPU's product library copies its blocks into a layout of its own "
             "anyway, so an odd number of rows costs it little.",
    "batch": "Two windows already keep few cores busy, so a larger batch only spreads the "
             "update of the weights over more tokens.",
    "ddp": "The processes share the same cores and the same memory, and add the exchange "
           "of 650 MB of gradients: DDP pays where each process has a device of its own.",
    "bf16-weights": "PyTorch converts inside each kernel, and an AdamW in bfloat16 is "
                    "no faster on a CPU.",
    "no-dropout": "Random numbers are a small part of the step.",
}
COLORS = {"start": "gray", "faster": "tab:blue", "no difference": "lightsteelblue",
          "slower": "tab:orange"}
NO_CHANGE = 0.03          # ratios closer to 1 than this are called no difference
# dense bfloat16 products with float32 sums, from NVIDIA's data sheets, in TFLOPS;
# the first name found in the device's name counts
PEAKS = [("B200", 2250), ("H200", 989), ("H100 PCIe", 756), ("H100 NVL", 835),
         ("H100", 989), ("A100", 312), ("L40S", 362), ("RTX 4090", 165), ("L4", 121),
         ("RTX 3090", 71)]


@dataclass
class Job:
    """What all turns have in common."""

    text: str
    gpt_config: dict
    settings: dict
    device: torch.device
    warmup: int
    steps: int


# --- a turn ---------------------------------------------------------------------------

def take_turn(rung, job, world=ALONE, with_loss=True):
    """Train rung from the start; return its speed, peak memory and loss as a dict."""
    device, settings = job.device, job.settings
    batch_size = settings["batch_size"] * rung.batch_factor
    loaders = make_loaders(job.text, rung, job.gpt_config, batch_size, device, settings,
                           world)
    forget_peak(device)
    trainer = Trainer(rung, job.gpt_config, settings, device, world)
    trainer.model.train()
    batches = trainer.endless_batches(loaders.train)
    start = time.perf_counter()
    train_steps(trainer, batches, job.warmup)
    warmup_seconds = time.perf_counter() - start
    start = time.perf_counter()
    train_steps(trainer, batches, job.steps)
    seconds = time.perf_counter() - start
    tokens = job.steps * batch_size * job.gpt_config["context_length"] * world.size
    result = {"tokens_per_second": tokens / seconds, "step_seconds": seconds / job.steps,
              "warmup_seconds": warmup_seconds, "peak_gb": peak_gb(device)}
    if with_loss:
        result["loss"] = trainer.evaluate(loaders, eval_iter=1)[1]
    return result


def train_steps(trainer, batches, num_steps):
    """Train num_steps; the device is idle before and after."""
    synchronize(trainer.device)
    for _ in range(num_steps):
        trainer.step(*next(batches))
    synchronize(trainer.device)


def clean_up(device):
    """Give back what a turn held, so that the next one starts alike."""
    gc.collect()
    torch.set_float32_matmul_precision("highest")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):      # glibc keeps freed memory
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak(device):
    """Begin to measure peak memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):                  # Linux only
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_gb(device):
    """Return the peak memory since forget_peak in GB, or None where it is not known.

    On a GPU, what tensors took; on a CPU, what the whole process took.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    with contextlib.suppress(OSError, IndexError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    return None


def guarded_turn(rung, job, with_loss):
    """Take a turn in this process, or in several; a turn without memory is no crash."""
    try:
        if rung.processes > 1:
            return run_processes(rung, job, with_loss)
        return take_turn(rung, job, with_loss=with_loss)
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    finally:
        clean_up(job.device)


def run_processes(rung, job, with_loss):
    """Take a turn in rung.processes processes under torchrun; return rank 0's result."""
    with tempfile.TemporaryDirectory(prefix="ladder-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({
            **asdict(job), "device": job.device.type, "rung": asdict(rung),
            "with_loss": with_loss}), encoding="utf-8")
        cores = max(1, torch.get_num_threads() // rung.processes)
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             "--nproc-per-node", str(rung.processes), __file__, "--turn", str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": str(cores), "PYTHONUTF8": "1"},
            capture_output=True, text=True, encoding="utf-8", errors="replace")
        result = folder / "result.json"
        if done.returncode or not result.exists():
            lines = [line for line in done.stderr.splitlines() if "Error" in line]
            return {"error": (lines or ["the processes failed"])[0].strip()[:200]}
        return json.loads(result.read_text(encoding="utf-8"))


def turn_of_a_process(folder):
    """Take the turn that run_processes wrote to folder, as one of its processes."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    rung, with_loss = Rung(**job.pop("rung")), job.pop("with_loss")
    world = World.from_torchrun()
    job["device"] = device_of({"device": job["device"]}, world)
    with process_group(world, job["device"]):
        result = take_turn(rung, Job(**job), world, with_loss)
        if world.rank == 0:
            write_whole(folder / "result.json", lambda path: path.write_text(
                json.dumps(result), encoding="utf-8"))


# --- what the numbers are compared with -----------------------------------------------

def flops_per_token(gpt_config):
    """Return the floating-point operations that training on one token needs.

    Two for each weight of a matrix and as much again twice in the backward pass; and the
    same for queries with keys and weights with values, where a token sees half of the
    window on average. (Counts without causality, as in PaLM's appendix B, take twice the
    last term: 7 percent more for GPT-2 124M at 1,024 tokens.)
    """
    with torch.device("meta"):
        model = GPTModel(gpt_config)
    matrices = sum(m.weight.numel() for m in model.modules()
                   if isinstance(m, torch.nn.Linear))
    attention = (gpt_config["n_layers"] * gpt_config["emb_dim"]
                 * gpt_config["context_length"])
    return 6 * matrices + 6 * attention


def published_peak(device):
    """Return the data sheet's dense bfloat16 FLOPS of a GPU, or None if not known."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for key, tera in PEAKS:
            if key in name:
                return tera * 1e12
    return None


def measured_peak(device, dtype):
    """Return the FLOPS of a product of two large square matrices, the best of five."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(10 if device.type == "cuda" else 1):
            a @ b
        synchronize(device)
        times.append((time.perf_counter() - start) / (10 if device.type == "cuda" else 1))
    return 2 * size**3 / min(times[1:])


def name_of(device):
    """Return the machine in words, for the head of the table."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = info.split("model name")[1].split(":")[1].splitlines()[0].strip()
    return f"{model}, {plural(torch.get_num_threads(), 'thread')}"


# --- all rungs ------------------------------------------------------------------------

def measure(rungs, compared, job, rounds):
    """Let the rungs take turns; return one row a rung, in order."""
    turns = {rung: [] for rung in rungs}
    for number in range(rounds):
        for rung in rungs:
            result = guarded_turn(rung, job, with_loss=number == 0)
            turns[rung].append(result)
            print(f"round {number + 1}/{rounds}  {rung.name:12s} " + (
                result.get("error") or
                f"{result['tokens_per_second']:9,.0f} tokens/s, warm-up "
                f"{result['warmup_seconds']:.1f} s"), flush=True)
    rows = {}
    for rung, results in turns.items():
        rows[rung.name] = row_of(rung, results, rows, compared, job)
    return list(rows.values())


def row_of(rung, results, rows, compared, job):
    """Return the row of rung: medians, ratios to other rows, and what they mean."""
    row = {"rung": rung.name, "idea": IDEAS[rung.name], "switches": asdict(rung),
           "turns": results, "verdict": "start", "note": ""}
    if errors := [r["error"] for r in results if "error" in r]:
        return {**row, "verdict": "failed", "note": errors[0]}
    row["tokens_per_second"] = statistics.median(r["tokens_per_second"] for r in results)
    peaks = [r["peak_gb"] for r in results if r["peak_gb"] is not None]
    row["peak_gb"] = statistics.median(peaks) if peaks else None
    row["loss"] = results[0]["loss"]
    there = {name: other for name, other in rows.items() if "tokens_per_second" in other}
    before = compared.get(rung) or next(
        (name for name in reversed(there) if name not in ("bf16-weights", "no-dropout")),
        None)
    if before in there:
        ratios = round_by_round(row, there[before])
        row["compared_with"], row["ratio"] = before, statistics.median(ratios)
        row["verdict"], row["note"] = verdict(ratios, rung.name, job.device)
    if there:
        row["total_ratio"] = statistics.median(
            round_by_round(row, next(iter(there.values()))))
    return row


def round_by_round(row, other):
    """Return how many times faster row was than other in each round."""
    return [mine["tokens_per_second"] / theirs["tokens_per_second"]
            for mine, theirs in zip(row["turns"], other["turns"])]


def verdict(ratios, name, device):
    """Return (verdict, sentence why) on the ratios of all rounds.

    Faster or slower is what was so in every round; the rest may be noise. The reasons are
    those of a CPU.
    """
    if min(ratios) > 1 + NO_CHANGE:
        return "faster", ""
    word = "slower" if max(ratios) < 1 - NO_CHANGE else "no difference"
    return word, ON_CPU[name] if device.type == "cpu" else ""


def shares(rows, job, dtype):
    """Add each row's share of the peaks; return the peaks as a dict."""
    flops = flops_per_token(job.gpt_config)
    peaks = {"flops_per_token": flops, "published": published_peak(job.device),
             "measured": measured_peak(job.device, dtype),
             "dtype": str(dtype).removeprefix("torch.")}
    for row in rows:
        if "tokens_per_second" in row:
            devices = (row["switches"]["processes"] if job.device.type == "cuda" else 1)
            for kind in ("published", "measured"):
                if peaks[kind]:
                    row[f"share_of_{kind}_peak"] = (
                        row["tokens_per_second"] * flops / peaks[kind] / devices)
    return peaks


# --- table and chart ------------------------------------------------------------------

def table(report):
    """Return the report as a page of Markdown."""
    job, peaks = report["job"], report["peaks"]
    num_steps = job["warmup"] + job["steps"]
    lines = [
        f"{report['machine']}; torch {report['torch']}; {job['batch_size']} x "
        f"{job['context_length']} tokens a step on the lower rungs; "
        f"{plural(job['rounds'], 'round')} of {plural(job['steps'], 'timed step')} after "
        f"{plural(job['warmup'], 'step')} of warm-up.",
        f"One token costs {peaks['flops_per_token'] / 1e9:.2f} GFLOP; a product of large "
        f"{peaks['dtype']} matrices reaches {peaks['measured'] / 1e12:.2f} TFLOPS here"
        + (f", the data sheet says {peaks['published'] / 1e12:.0f}."
           if peaks["published"] else "."),
        "",
        f"| rung | idea | tokens/s | step up | in all | memory | loss after {num_steps} "
        "steps | share of peak |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        if "tokens_per_second" not in row:
            lines.append(f"| {row['rung']} | {row['idea']} | | | | | | |")
            continue
        share = [f"{row[key]:.0%}" for key in
                 ("share_of_published_peak", "share_of_measured_peak") if key in row]
        memory = "" if row["peak_gb"] is None else f"{row['peak_gb']:.1f} GB"
        lines.append(
            f"| {row['rung']} | {row['idea']} | {row['tokens_per_second']:,.0f} | "
            f"{times(row.get('ratio'))} | {times(row.get('total_ratio'))} | {memory} | "
            f"{row['loss']:.3f} | {' / '.join(share)} |")
    notes = [f"- {row['rung']}, **{row['verdict']}**: {row['note'] or 'measured so'}"
             for row in report["rows"] if row["verdict"] not in ("faster", "start")]
    notes += [f"- {name} left out: {why}" for name, why in report["left_out"].items()]
    return "\n".join(lines + [""] * bool(notes) + notes) + "\n"


def plural(number, word):
    """Return number and word, with an s where it belongs."""
    return f"{number} {word}" + "s" * (number != 1)


def times(ratio):
    """Return a ratio as it stands in the table."""
    return "" if ratio is None else f"{ratio:.2f}x"


def chart(report, path):
    """Draw tokens/s of each rung as bars into the PNG file at path."""
    from matplotlib.figure import Figure  # draws without a screen

    rows = [row for row in report["rows"] if "tokens_per_second" in row]
    figure = Figure(figsize=(7, 1.3 + 0.32 * len(rows)), layout="constrained",
                    facecolor="white")
    ax = figure.subplots()
    seen = {}
    for i, row in enumerate(rows):
        bar = ax.barh(i, row["tokens_per_second"], color=COLORS[row["verdict"]])
        ratio = f"  ({row['ratio']:.2f}x)" if "ratio" in row else ""
        ax.bar_label(bar, [f"{row['tokens_per_second']:,.0f}{ratio}"], padding=4,
                     fontsize=9)
        seen[row["verdict"]] = bar
    ax.set_yticks(range(len(rows)), [row["rung"] for row in rows])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.25 * max(row["tokens_per_second"] for row in rows))
    ax.set_xlabel("tokens a second (and times the rung it is compared with)")
    ax.set_title(report["machine"], fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    words = [word for word in ("faster", "no difference", "slower") if word in seen]
    if words:
        figure.legend([seen[word] for word in words], words, loc="outside lower center",
                      ncols=len(words), fontsize=9)
    figure.savefig(path, dpi=140, format="png")


def write_report(report, out):
    """Write ladder.json, ladder.md and ladder.png into the folder out."""
    write_whole(out / "ladder.json", lambda path: path.write_text(
        json.dumps(report, indent=1) + "\n", encoding="utf-8"))
    write_whole(out / "ladder.md", lambda path: path.write_text(
        table(report), encoding="utf-8"))
    if any("tokens_per_second" in row for row in report["rows"]):
        write_whole(out / "ladder.png", lambda path: chart(report, path))


# --- the command ----------------------------------------------------------------------

def choose(names, with_asides, device, settings, processes):
    """Return (rungs, {aside rung: compared with}, {name: why left out}).

    names are those to measure, None for all of the ladder (and, with_asides, beside it).
    """
    left_out = missing(device, settings, processes)
    rungs = ladder(left_out, processes)
    asides = beside(rungs)
    everything = [*rungs, *asides]
    if names is None:
        return everything if with_asides else rungs, asides, left_out
    known = [*IDEAS]
    for name in names:
        if name not in known:
            raise UserError(f"--rungs has no {name}; there are {', '.join(known)}")
    chosen = [rung for rung in everything if rung.name in names]
    left_out = {name: why for name, why in left_out.items() if name in names}
    if not chosen:
        raise UserError("; ".join(f"{n}: {why}" for n, why in left_out.items()))
    return chosen, asides, left_out


def command():
    """Read the command line and measure."""
    parser = make_parser("Measure the rungs from the book's loop to a fast one.")
    parser.add_argument("--rungs", nargs="+", metavar="NAME", help=", ".join(IDEAS))
    parser.add_argument("--beside", action="store_true",
                        help="also measure bf16-weights and no-dropout")
    parser.add_argument("--rounds", type=positive_int, help="default 3, on CPU 2")
    parser.add_argument("--steps", type=positive_int,
                        help="timed steps a turn; default 20, on CPU 2")
    parser.add_argument("--processes", type=positive_int,
                        help="of the rung ddp; default one a GPU, on CPU 2")
    options = parser.parse_args()
    config, settings = read_flags(options)
    device = device_of(settings, ALONE)
    is_gpu = device.type == "cuda"
    processes = options.processes or (torch.cuda.device_count() if is_gpu else 2)
    job = Job(read_training_text(settings["text"]), config, settings, device,
              warmup=5 if is_gpu else 1, steps=options.steps or (20 if is_gpu else 2))
    rungs, asides, left_out = choose(
        options.rungs, options.beside, device, settings, max(2, processes))
    widest = max(rungs, key=lambda rung: rung.batch_factor * rung.processes)
    make_loaders(job.text, widest, config, settings["batch_size"] * widest.batch_factor,
                 device, settings, World(size=widest.processes))       # is the text enough?
    out = new_folder(settings["out"])
    start = time.perf_counter()
    rounds = options.rounds or (3 if is_gpu else 2)
    rows = measure(rungs, asides, job, rounds)
    dtype = pick_dtype(settings["dtype"], device)
    report = {
        "machine": name_of(device), "torch": torch.__version__, "rows": rows,
        "peaks": shares(rows, job, dtype), "left_out": left_out,
        "job": {"batch_size": settings["batch_size"], "warmup": job.warmup,
                "steps": job.steps, "rounds": rounds, **config}}
    write_report(report, out)
    print(table(report))
    print(f"{out}: ladder.md, ladder.json, ladder.png "
          f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--turn"]:
        turn_of_a_process(Path(sys.argv[2]))
    else:
        run_command(command)
