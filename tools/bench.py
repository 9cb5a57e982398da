"""Measure speed: medians and ratios, the variants in turn within one run.

Usage: python tools/bench.py [--rounds N] [--batch-size N] [--threads N]
                             [--only NAME ...] [--pretraining]

One training step of the 124M model at chapter 5's settings (2 x 256 tokens) as
- chapter:   the classes of chapters 3 and 4 in float32, plain AdamW;
- float32:   gpt_train.py --dtype float32;
- auto:      gpt_train.py --dtype auto (bfloat16 where the hardware has it);
- hf:        transformers' GPT2LMHeadModel (SDPA, untied head, dropout 0.1) under the
             same autocast, with a fused AdamW.
With --pretraining: one step of pretraining_simple.py, gpt2-mini's shape, 16 x 256 tokens
out of memory-mapped shards, as
- script:    what the script does in a step, data and log included;
- bare:      forward, backward, clipping and optimizer on a batch that is there already;
- data:      nothing but fetching the step's batch.
Shared machines are noisy: the variants alternate, step by step, and the ratios are of
medians of one run. Absolute numbers belong to the machine that the first line names.
"""
import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# as gpt_train.py does, before the first large tensor
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "ch05" / "01_main-chapter-code"
PRETRAINING = ROOT / "ch05" / "03_bonus_pretraining_on_gutenberg"
Step = Callable[[torch.Tensor, torch.Tensor], None]


def load(name: str):
    """Return the module in chapter 5's folder called name."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer,
            dtype: torch.dtype, logits_of: Callable) -> Step:
    """Return a function that trains on one batch of inputs and targets (b, tokens)."""
    device = next(model.parameters()).device

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16,
                            enabled=dtype == torch.bfloat16):
            logits = logits_of(model(inputs))
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        loss.item()                       # wait for the device, as the progress bar does

    return step


def variants(script, device: torch.device) -> dict[str, Callable[[], Step]]:
    """Return name -> function that builds the variant and returns its step."""
    auto = script.pick_dtype("auto", device)
    config = script.GPT_CONFIG_124M

    def ours(model_class: type, dtype: torch.dtype, fused: bool) -> Step:
        model = model_class(config).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1,
                                      fused=fused)
        return step_of(model, optimizer, dtype, lambda logits: logits)

    def huggingface() -> Step:
        from transformers import GPT2Config, GPT2LMHeadModel

        theirs = GPT2Config(
            n_positions=config["context_length"], tie_word_embeddings=False,
            attn_pdrop=0.1, resid_pdrop=0.1, embd_pdrop=0.1)
        theirs._attn_implementation = "sdpa"
        model = GPT2LMHeadModel(theirs).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1,
                                      fused=True)
        return step_of(model, optimizer, auto, lambda output: output.logits)

    return {
        "chapter": lambda: ours(script.GPTModel, torch.float32, False),
        "float32": lambda: ours(script.GPTModelFast, torch.float32, True),
        "auto": lambda: ours(script.GPTModelFast, auto, True),
        "hf": huggingface,
    }


def write_random_corpus(folder: Path, num_tokens: int) -> None:
    """Write a prepared corpus of random ids into folder."""
    rng = np.random.default_rng(123)
    shards = []
    for split, size in (("train", num_tokens), ("valid", 10_000)):
        data = rng.integers(0, 50257, size, dtype="<u2").tobytes()
        (folder / f"{split}.bin").write_bytes(data)
        shards.append({"file": f"{split}.bin", "split": split, "source": split,
                       "tokens": size, "documents": 1,
                       "sha256": hashlib.sha256(data).hexdigest()})
    index = {"format": 1, "vocab_size": 50257, "end_of_text": 50256, "shards": shards}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def pretraining(rounds: int, optimizer: str = "adamw", config: dict | None = None,
                num_tokens: int = 20_000_000) -> dict[str, float]:
    """Print and return the median seconds of a step of script, bare and data."""
    sys.path.insert(0, str(PRETRAINING))
    import pretraining_simple as script
    from torch.nn.utils import clip_grad_norm_

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_random_corpus(folder, num_tokens)
        settings = script.Settings(data_dir=name, steps=rounds + 1, device="cpu",
                                   output_dir=str(folder / "run"), optimizer=optimizer)
        with contextlib.redirect_stdout(io.StringIO()):
            run = script.Run(config or script.CONFIG, settings,
                             script.World(torch.device("cpu")))
        model = script.GPTModelTied(run.gpt_config)
        optimizers = script.make_optimizers(model, settings)
        ready = run.on_device(run.order.batch(0, settings.batch_size))

        def bare() -> None:
            with run.autocast():
                loss = model(*ready)
            loss.backward()
            clip_grad_norm_(model.parameters(), settings.max_norm)
            for each in optimizers:
                each.step()
                each.zero_grad()
            loss.item()

        def whole() -> None:
            loss, norm, _ = run.train_step()
            run.log.write("train", run.step, loss=loss, norm=norm)

        steps = {"script": whole, "bare": bare, "data": lambda: list(run.batches())}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if number:
                    seconds[name].append(time.perf_counter() - start)
        tokens = settings.batch_size * run.length
        run.order = run.valid = None     # Windows removes no file that is still mapped
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:8s} {1000 * value:8.1f} ms a step, {tokens / value:10,.0f} tokens/s")
    print(f"script takes {medians['script'] / medians['bare']:.3f} times as long as bare; "
          f"data is {medians['data'] / medians['script']:.2%} of a step")
    return medians


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", help="some of: chapter float32 auto hf")
    parser.add_argument("--pretraining", action="store_true",
                        help="measure pretraining_simple.py instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.pretraining:
        for optimizer in ("adamw", "muon"):
            print(f"{optimizer}, {options.threads} threads, torch {torch.__version__}")
            pretraining(options.rounds, optimizer)
        return 0
    script, device = load("gpt_train"), torch.device(options.device)
    chosen = {name: build for name, build in variants(script, device).items()
              if name in (options.only or name)}
    if not chosen or options.rounds < 1:
        print("--only takes chapter, float32, auto, hf; --rounds at least 1",
              file=sys.stderr)
        return 2
    length = script.GPT_CONFIG_124M["context_length"]
    torch.manual_seed(123)
    ids = torch.randint(0, 50257, (options.batch_size, length + 1), device=device)
    steps = {name: build() for name, build in chosen.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(ids[:, :-1], ids[:, 1:])
            if number:                               # the first round warms up
                seconds[name].append(time.perf_counter() - start)

    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, "
          f"auto is {script.pick_dtype('auto', device)}, {options.rounds} rounds of "
          f"{options.batch_size} x {length} tokens")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:8s} {medians[name]:6.2f} s a step (from {min(values):.2f} to "
              f"{max(values):.2f}), {options.batch_size * length / medians[name]:6.0f} "
              "tokens/s")
    for a, b in (("auto", "float32"), ("auto", "hf"), ("auto", "chapter")):
        if a in medians and b in medians:
            print(f"{a} makes {medians[b] / medians[a]:.2f} times the tokens/s of {b}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
