"""Pretrain a small GPT on a prepared corpus: on one core, or on many GPUs.

    python prepare_dataset.py --data-dir FOLDER --output-dir tokens
    python pretraining_simple.py --data-dir tokens
    torchrun --nproc-per-node 2 pretraining_simple.py --data-dir tokens --output-dir one

The loop is chapter 5's. What is new: the learning rate warms up and decays, gradients
are accumulated and clipped, the loss never holds all logits (chunked_loss.py), several
processes can share the work, and a run that was killed goes on as if nothing had been.
For the last point one rule holds everywhere: what can be computed from the number of
the step is not saved but computed again: the batch, the learning rate, the random seed.
A checkpoint then needs the weights, the optimizer's two averages, and that number.
"""
import argparse
import math
import os
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from pathlib import Path

# with large memory pages (Linux) the kernel hands out the big buffers of a step faster
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import prepare_dataset
import torch
import torch.distributed as dist
import torch.nn as nn
from previous_chapters import (
    OneLineParser,
    UserError,
    generate,
    load_gpt2_bpe,
    named_device,
    new_folder,
    pick_device,
    pick_dtype,
    positive,
    positive_int,
    read_config,
    run_command,
    stop_after_step,
    text_to_token_ids,
    token_ids_to_text,
    write_whole,
)
from run_log import Log, plot_log
from tied_gpt import GPTModelTied, save_as_gpt2, write_json
from token_shards import ShardError, WindowOrder, plain_windows, read_shards
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from tqdm import tqdm

# the shape of gpt2-mini: 16,090,880 weights, 12.9 million of them word embeddings
CONFIG = {
    "vocab_size": 50257,
    "context_length": 256,
    "emb_dim": 256,
    "n_heads": 4,
    "n_layers": 4,
    "drop_rate": 0.0,       # no text is seen often enough to be learnt by heart
    "qkv_bias": True,       # as in GPT-2
}
DEBUG_CONFIG = {**CONFIG, "context_length": 16, "emb_dim": 12, "n_heads": 2,
                "n_layers": 2}
MUON_RATE = 20 / 3          # Muon's learning rate, as a multiple of AdamW's
PROMPTS = ("Once upon a time, there was a", "The king said to his daughter,",
           "In the middle of the forest", "Every effort moves you")


@dataclass
class Settings:
    """All that decides how a run goes; lengths in windows of context_length tokens."""

    data_dir: str = "gutenberg_preprocessed"
    output_dir: str | None = None      # None: runs/001, runs/002, ...
    resume: str | None = None          # folder of a run
    repeat: dict = field(default_factory=dict)    # source -> times an epoch
    n_epochs: float = 1.0
    steps: int | None = None           # None: as many as n_epochs need
    batch_size: int = 16               # windows in a step, of all processes together
    micro_batch_size: int | None = None      # in one forward pass; None: all at once
    lr: float = 3e-3                   # at its highest
    min_lr: float = 3e-5
    warmup_steps: int = 100
    weight_decay: float = 0.1
    max_norm: float = 1.0              # longer gradients are shortened to this
    seed: int = 123
    eval_freq: int = 250
    eval_iter: int = 20                # batches of each source; 0: all of them
    print_sample_iter: int = 1000
    save_ckpt_freq: int = 250
    log_freq: int = 1
    device: str = "auto"
    dtype: str = "auto"
    compile: bool = False
    optimizer: str = "adamw"           # or muon
    parallel: str = "ddp"              # or fsdp; with several processes only
    tensorboard: bool = False


# what a resumed run takes from its checkpoint, whatever the command line says
KEPT = ("repeat", "n_epochs", "steps", "batch_size", "lr", "min_lr", "warmup_steps",
        "weight_decay", "max_norm", "optimizer", "seed", "dtype")


# ---- the recipe ----------------------------------------------------------------------
def make_optimizers(model, settings):
    """Return a fused AdamW; with optimizer="muon" also a Muon for the blocks' matrices.

    Weight decay pulls matrices towards 0, not biases and norms. Muon (Jordan et al.,
    2024) turns each matrix of gradients into the nearest one whose singular values are
    all 1, so that a step moves every direction alike; embeddings are no such matrices.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizers = []
    if settings.optimizer == "muon":
        blocks = [p for name, p in model.named_parameters()
                  if p.dim() >= 2 and "trf_blocks" in name]
        matrices = [p for name, p in model.named_parameters()
                    if p.dim() >= 2 and "trf_blocks" not in name]
        optimizers.append(torch.optim.Muon(blocks, lr=MUON_RATE * settings.lr,
                                           weight_decay=settings.weight_decay))
    groups = [{"params": matrices, "weight_decay": settings.weight_decay},
              {"params": vectors, "weight_decay": 0.0}]
    optimizers.append(torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95),
                                        fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest"] = group["lr"]       # the schedule scales it
    return optimizers


def learning_rate(step, settings):
    """Return the rate of step (from 0): a straight rise, then half a cosine wave."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(
        settings.steps - settings.warmup_steps, 1)
    wave = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))           # from 1 to 0
    return settings.min_lr + (settings.lr - settings.min_lr) * wave


# ---- several processes ---------------------------------------------------------------
@dataclass
class World:
    """Which process this is, of how many, and what it computes on."""

    device: torch.device
    rank: int = 0            # over all hosts
    size: int = 1

    @property
    def is_first(self):
        """Whether this process prints and writes for all."""
        return self.rank == 0


@contextmanager
def joined_world(settings):
    """Yield the World; torchrun's processes join in a group and leave it at the end."""
    if "RANK" not in os.environ:
        device = (pick_device() if settings.device == "auto"
                  else named_device(settings.device))
        yield World(device)
        return
    use_cuda = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    device = torch.device("cpu")
    if use_cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))   # on this host
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if use_cuda else "gloo",
                            timeout=timedelta(minutes=10))
    try:
        yield World(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def spread(model, world, parallel):
    """Return the model as all processes train it together."""
    if world.size == 1:
        return model
    if parallel == "ddp":              # a whole copy each, gradients averaged
        ids = [world.device.index] if world.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.trf_blocks:     # 1/size of the weights each; a block is gathered
        fully_shard(block, mesh=mesh)  # when it is its turn
    return fully_shard(model, mesh=mesh)


# ---- one run -------------------------------------------------------------------------
class Run:
    """All that one training run holds, and how it is saved and taken up again."""

    def __init__(self, gpt_config, settings, world):
        state = None
        if settings.resume:
            path, state = newest_checkpoint(Path(settings.resume))
            gpt_config = state["gpt_config"]
            for name in KEPT:
                setattr(settings, name, state["settings"][name])
        self.gpt_config, self.settings, self.world = gpt_config, settings, world
        self.dtype = pick_dtype(settings.dtype, world.device)
        settings.dtype = str(self.dtype).removeprefix("torch.")
        self.open_data()

        torch.manual_seed(settings.seed)
        self.bare = GPTModelTied(gpt_config).to(world.device)     # for keys and samples
        self.model = spread(self.bare, world, settings.parallel)
        self.optimizers = make_optimizers(self.model, settings)
        if settings.compile:
            self.model.compile()
        self.tokenizer = load_gpt2_bpe()
        self.step, self.num_tokens = 0, 0
        if state:
            self.restore(state, path)
        self.out = self.make_folder()
        self.log = None
        if world.is_first:
            self.log = Log(self.out, self.step, settings.tensorboard)
        num_weights = sum(p.numel() for p in self.bare.parameters())
        self.say(f"{self.out}: {num_weights:,} weights, "
                 f"{world.size} x {world.device.type}, {settings.dtype}, "
                 f"{settings.steps:,} steps of {settings.batch_size} x "
                 f"{self.length} tokens, {len(self.order):,} windows an epoch")

    def say(self, text):
        """Print text, once for all processes, without tearing the progress bar."""
        if self.world.is_first:
            tqdm.write(text)

    def open_data(self):
        """Open both splits, and work out how many steps there are."""
        settings, world = self.settings, self.world
        self.length = self.gpt_config["context_length"]
        first_time = world.is_first and not settings.resume
        train = read_shards(settings.data_dir, "train", verify=first_time)
        valid = read_shards(settings.data_dir, "valid", verify=first_time)
        self.data_sha256 = [shard.sha256 for shard in train]
        sources = {shard.source for shard in train}
        if unknown := set(settings.repeat) - sources:
            raise UserError(
                f"--repeat: no source {', '.join(sorted(unknown))} in "
                f"{settings.data_dir}; there are {', '.join(sorted(sources))}")
        self.order = WindowOrder(train, self.length, settings.seed, settings.repeat)
        self.valid = plain_windows(valid, self.length)
        if not len(self.order):
            raise UserError(f"{settings.data_dir} holds no shard of more than "
                            f"{self.length} tokens; add text or lower context_length")
        if settings.steps is None:
            settings.steps = max(
                1, round(settings.n_epochs * len(self.order) / settings.batch_size))
        micro = settings.micro_batch_size or settings.batch_size // world.size
        if micro < 1 or settings.batch_size % (micro * world.size):
            raise UserError(f"--batch-size {settings.batch_size} cannot be shared by "
                            f"{world.size} processes with --micro-batch-size {micro}; "
                            f"take a multiple of {max(micro, 1) * world.size}")
        self.micro = micro

    def make_folder(self):
        """Return the run's folder, made by the first process."""
        settings = self.settings
        if settings.resume:
            return Path(settings.resume)
        if not self.world.is_first:
            return Path(settings.output_dir)
        folder = new_folder(settings.output_dir)
        write_json(folder / "config.json", self.gpt_config)
        write_json(folder / "settings.json", asdict(settings))
        return folder

    # -- a step --
    def batches(self):
        """Yield this process's micro-batches (inputs, targets) of the current step."""
        share = self.settings.batch_size // self.world.size
        first = self.step * self.settings.batch_size + self.world.rank * share
        for start in range(first, first + share, self.micro):
            yield self.on_device(self.order.batch(start, self.micro))

    def on_device(self, windows):
        """Return (inputs, targets), each (b, length), of windows (b, length + 1)."""
        windows = torch.from_numpy(windows)
        if self.world.device.type == "cuda":     # copied while the GPU still computes
            windows = windows.pin_memory().to(self.world.device, non_blocking=True)
        else:
            windows = windows.to(self.world.device)
        return windows[:, :-1], windows[:, 1:].contiguous()

    def autocast(self):
        """Return the context in which the forward pass uses the run's dtype."""
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16,
                              enabled=self.dtype == torch.bfloat16)

    def train_step(self, stop=()):
        """Train on one global batch; return (loss, gradient norm, wish to stop)."""
        seed_everything(self.settings.seed, self.step, self.world.rank)
        self.model.train()
        share = learning_rate(self.step, self.settings) / self.settings.lr
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * share
        num_micro = self.settings.batch_size // self.world.size // self.micro
        total = torch.zeros((), device=self.world.device)
        for i, (inputs, targets) in enumerate(self.batches()):
            with self.sharing(is_last=i == num_micro - 1):
                with self.autocast():
                    loss = self.model(inputs, targets) / num_micro
                loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        loss, wish = self.agree(total, bool(stop))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.stop_at_bad_value(loss)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.num_tokens += self.settings.batch_size * self.length
        return loss, float(norm), wish

    @contextmanager
    def sharing(self, is_last):
        """Exchange gradients between processes after the last micro-batch only."""
        if self.world.size == 1:
            yield
        elif self.settings.parallel == "ddp":
            with nullcontext() if is_last else self.model.no_sync():
                yield
        else:
            self.model.set_requires_gradient_sync(is_last)
            yield

    def agree(self, loss, wish):
        """Return the processes' mean loss, and whether any of them wants to stop."""
        both = torch.stack([loss.double(), loss.new_tensor(float(wish)).double()])
        if self.world.size > 1:
            dist.all_reduce(both)
        loss, wishes = both.tolist()
        return loss / self.world.size, wishes > 0

    def stop_at_bad_value(self, loss):
        """End the run before a value that is not finite reaches the weights."""
        name = None
        for batch in self.batches():
            found = first_bad_tensor(self.model, self.bare, batch, self.autocast())
            name = name or found
        raise UserError(
            f"step {self.step}: loss {loss}; first tensor with a value that is not "
            f"finite: {name or 'none on this process'}. The weights were not changed, "
            f"the last checkpoint in {self.out} is whole; lower --lr, lengthen "
            "--warmup-steps, or try --dtype float32")

    # -- looking at it --
    def evaluate(self, num_batches=None):
        """Return {source: mean loss in nats per token} on held-out windows."""
        num_batches = self.settings.eval_iter if num_batches is None else num_batches
        self.model.eval()
        losses = {}
        for source, windows in self.valid.items():
            if num_batches:
                windows = windows[:num_batches * self.settings.batch_size]
            losses[source] = self.mean_loss(windows)
        self.model.train()
        return losses

    def mean_loss(self, windows):
        """Return the mean loss over windows (shard, start), shared by all processes."""
        size = self.world.size * self.micro
        sums = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        for first in range(0, len(windows), size):
            mine = windows[first:first + size][self.world.rank::self.world.size]
            # with nothing left for it a process still takes part: FSDP needs them all
            ids = np.stack([shard.ids[start:start + self.length + 1].astype(np.int64)
                            for shard, start in mine or windows[:1]])
            with torch.no_grad(), self.autocast():
                loss = self.model(*self.on_device(ids))
            sums += torch.tensor([loss.item() * len(mine), len(mine)]).to(sums)
        if self.world.size > 1:
            dist.all_reduce(sums)
        total, count = sums.tolist()
        return total / count if count else math.nan

    def sample(self, max_new_tokens=40):
        """Return [(prompt, continuation)] for the fixed panel of prompts."""
        self.model.eval()
        found = []
        for prompt in PROMPTS:
            seed_everything(self.settings.seed, self.step)    # the same everywhere
            ids = text_to_token_ids(prompt, self.tokenizer).to(self.world.device)
            with self.autocast():
                out = generate(self.model, ids, max_new_tokens, self.length,
                               temperature=0.7, top_k=40)
            text = token_ids_to_text(out.cpu(), self.tokenizer)
            found.append((prompt, text.removeprefix(prompt)))
        self.model.train()
        return found

    # -- saving it --
    def save(self):
        """Write checkpoint-STEP.pth, then drop all but the last two."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model = get_model_state_dict(self.model, options=options)
        optimizer = get_optimizer_state_dict(self.model, self.optimizers,
                                             options=options)
        if self.world.is_first:
            state = {"model": model, "optimizer": optimizer, "step": self.step,
                     "num_tokens": self.num_tokens, "gpt_config": self.gpt_config,
                     "data_sha256": self.data_sha256,
                     "settings": {name: getattr(self.settings, name) for name in KEPT}}
            write_whole(self.out / f"checkpoint-{self.step:07d}.pth",
                        lambda path: torch.save(state, path))
            for old in checkpoints(self.out)[:-2]:
                old.unlink()
        if self.world.size > 1:
            dist.barrier()

    def restore(self, state, path):
        """Take up what save() wrote."""
        if state["data_sha256"] != self.data_sha256:
            raise UserError(f"{path} was trained on other shards than those in "
                            f"{self.settings.data_dir}; give the same --data-dir")
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, state["model"], options=options)
        set_optimizer_state_dict(self.model, self.optimizers, state["optimizer"],
                                 options=options)
        self.step, self.num_tokens = state["step"], state["num_tokens"]

    def finish(self):
        """Evaluate on all held-out text, and write the model as GPT-2 is published."""
        losses = self.evaluate(num_batches=0)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.model, options=options)
        if self.world.is_first:
            save_as_gpt2(weights, self.gpt_config, self.out / "model")
            self.log.write("final", self.step, tokens=self.num_tokens, losses=losses)
            plot_log(self.out)
            self.say("held-out loss, nats per token: " + "; ".join(
                f"{source} {loss:.3f}" for source, loss in losses.items()))
            self.say(f"{self.out}: model/ (weights, float16), checkpoint-*.pth (to "
                     "--resume), log.jsonl, loss.png")


def seed_everything(*numbers):
    """Seed torch's generators (CPU and GPUs) with a mixture of whole numbers."""
    seed = np.random.SeedSequence(numbers).generate_state(1, dtype=np.uint64)[0]
    torch.manual_seed(int(seed))


def first_bad_tensor(model, bare, batch, context):
    """Return the name of the first tensor with a value that is not finite, or None.

    Looks at the weights, then at the outputs of a forward pass in order, then at the
    gradients: a bad weight spoils every output, a bad output every gradient. bare is
    the model without its wrapper for several processes, for the names.
    """
    def is_bad(tensor):
        tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return not torch.isfinite(tensor).all()

    for name, parameter in bare.named_parameters():
        if is_bad(parameter.detach()):
            return f"weight {name}"
    found = []

    def note(name):
        def hook(module, args, output):
            if isinstance(output, torch.Tensor) and is_bad(output.detach()):
                found.append(f"output of {name or 'the loss'}")
        return hook

    handles = [module.register_forward_hook(note(name))
               for name, module in bare.named_modules()]
    with torch.no_grad(), context:
        model(*batch)
    for handle in handles:
        handle.remove()
    if found:
        return found[0]
    for name, parameter in bare.named_parameters():
        if parameter.grad is not None and is_bad(parameter.grad):
            return f"gradient of {name}"
    return None


# ---- files ---------------------------------------------------------------------------
def checkpoints(folder):
    """Return the checkpoints in folder, the oldest first."""
    return sorted(folder.glob("checkpoint-*.pth"))


def newest_checkpoint(folder):
    """Return (path, state) of the last checkpoint in folder that can be read."""
    found = checkpoints(folder)
    if not found:
        raise UserError(f"{folder} holds no checkpoint-*.pth; start without --resume")
    for path in reversed(found):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state["step"], state["optimizer"], state["settings"]
            return path, state
        except Exception as error:        # truncated, foreign: torch raises many kinds
            print(f"{path} cannot be read ({type(error).__name__}); trying the one "
                  "before", file=sys.stderr)
    raise UserError(f"no checkpoint in {folder} can be read; start without --resume")


# ---- the loop ------------------------------------------------------------------------
def main(gpt_config, settings):
    """Train a GPT as settings say; return the Run."""
    with joined_world(settings) as world:
        run = Run(gpt_config, settings, world)
        with stop_after_step() as stop:
            stopped = train(run, stop)
        if stopped:
            run.save()
            raise KeyboardInterrupt(f"stopped at step {run.step}; go on with "
                                    f"--resume {run.out}")
        run.finish()
    return run


def train(run, stop=()):
    """Train until the last step; return True if somebody asked to stop before."""
    settings, seconds, wish = run.settings, 0.0, False
    bar = tqdm(total=settings.steps, initial=run.step, unit="step", dynamic_ncols=True,
               disable=not run.world.is_first)
    started_at = run.num_tokens
    while run.step < settings.steps and not wish:
        start = time.perf_counter()
        loss, norm, wish = run.train_step(stop)
        seconds += time.perf_counter() - start
        rate = (run.num_tokens - started_at) / seconds
        bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tok/s", refresh=False)
        bar.update()
        is_last = run.step == settings.steps
        if run.log and (is_last or run.step % settings.log_freq == 0):
            run.log.write("train", run.step, tokens=run.num_tokens, loss=loss,
                          norm=norm, lr=learning_rate(run.step - 1, settings),
                          tokens_per_second=round(rate))
        look_and_save(run, is_last)
    bar.close()
    return wish and run.step < settings.steps


def look_and_save(run, is_last):
    """Evaluate, sample and save, each when its time has come."""
    settings = run.settings
    if is_last or run.step % settings.eval_freq == 0:
        losses = run.evaluate()
        run.say(f"Step {run.step:06d}: " + ", ".join(
            f"{source} {loss:.3f}" for source, loss in losses.items()))
        if run.log:
            run.log.write("valid", run.step, tokens=run.num_tokens, losses=losses)
    if is_last or run.step % settings.print_sample_iter == 0:
        for prompt, text in run.sample():
            run.say(f"  {prompt}|{text}".replace("\n", " "))
            if run.log:
                run.log.write("sample", run.step, prompt=prompt, text=text)
    if is_last or run.step % settings.save_ckpt_freq == 0:
        run.save()


# ---- the command line ----------------------------------------------------------------
def one_repeat(text):
    """Return (source, times) of SOURCE=TIMES."""
    source, equals, times = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not SOURCE=TIMES")
    return source, positive(times)


def yes_or_no(text):
    """Return True or False for true, yes, 1 or false, no, 0."""
    answers = {"true": True, "yes": True, "1": True,
               "false": False, "no": False, "0": False}
    if text.lower() not in answers:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return answers[text.lower()]


def not_negative(text):
    """Return text as a whole number, 0 included."""
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")


HELP = {
    "data_dir": "prepared corpus (prepare_dataset.py), or a folder of raw text",
    "output_dir": "new folder for the run; default runs/001, ...",
    "resume": "go on with the run in this folder",
    "repeat": "show a source this many times an epoch",
    "n_epochs": "times through the corpus",
    "steps": "steps in all; overrides --n-epochs",
    "batch_size": "windows in a step, of all processes together",
    "micro_batch_size": "windows in one forward pass of one process",
    "lr": "highest learning rate",
    "min_lr": "learning rate at the end",
    "max_norm": "longer gradients are shortened to this",
    "eval_freq": "steps from one evaluation to the next",
    "eval_iter": "batches of each held-out source; 0: all",
    "print_sample_iter": "steps from one panel of samples to the next",
    "save_ckpt_freq": "steps from one checkpoint to the next",
    "log_freq": "steps from one line of log.jsonl to the next",
    "compile": "torch.compile the model (needs a C++ compiler on a CPU)",
    "parallel": "how several processes share the work",
    "optimizer": "muon: for the matrices of the blocks, AdamW for the rest",
    "tensorboard": "write a TensorBoard log as well",
}
TYPES = {"repeat": one_repeat, "n_epochs": positive, "steps": positive_int,
         "batch_size": positive_int, "micro_batch_size": positive_int, "lr": positive,
         "min_lr": float, "warmup_steps": not_negative, "weight_decay": float,
         "max_norm": positive, "seed": not_negative, "eval_freq": positive_int,
         "eval_iter": not_negative, "print_sample_iter": positive_int,
         "save_ckpt_freq": positive_int, "log_freq": positive_int}
CHOICES = {"device": ("auto", "cpu", "cuda", "mps"),
           "dtype": ("auto", "float32", "bfloat16"), "parallel": ("ddp", "fsdp"),
           "optimizer": ("adamw", "muon")}
ALIASES = {"data_dir": ["--data"], "output_dir": ["--out"]}


def read_command_line():
    """Return (gpt_config or None, Settings) of the command line."""
    parser = OneLineParser(description="Pretrain a GPT on a prepared corpus.")
    for setting in fields(Settings):
        name, flag = setting.name, "--" + setting.name.replace("_", "-")
        default = None if name == "repeat" else setting.default
        text = HELP.get(name, "")
        if default not in (None, False):
            text = f"{text} (default {default})".strip()
        how = {"action": "store_true"} if default is False else {
            "type": TYPES.get(name, str), "choices": CHOICES.get(name),
            "nargs": "*" if name == "repeat" else None}
        parser.add_argument(flag, *ALIASES.get(name, ()), default=default, help=text,
                            **how)
    parser.add_argument("--config", metavar="FILE", help="JSON with the keys of CONFIG")
    parser.add_argument("--debug", nargs="?", const=True, default=False, type=yes_or_no,
                        help="a tiny model, to see whether everything runs")
    options = vars(parser.parse_args())
    config_file, debug = options.pop("config"), options.pop("debug")
    options["repeat"] = dict(options["repeat"] or ())
    settings = Settings(**options)
    if settings.resume and (settings.output_dir or config_file or debug):
        raise UserError("--resume goes on in its own folder with its own model; leave "
                        "out --output-dir, --config and --debug")
    config = DEBUG_CONFIG if debug else CONFIG
    return read_config(config_file) if config_file else config, settings


def settle_for_torchrun(settings):
    """Under torchrun: check what must be, and resume after a restart."""
    if "RANK" not in os.environ:
        return
    if not (settings.output_dir or settings.resume):
        raise UserError("under torchrun give --output-dir, so that a restarted process "
                        "finds its run")
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts and settings.output_dir and checkpoints(Path(settings.output_dir)):
        settings.resume, settings.output_dir = settings.output_dir, None


def prepared(data_dir):
    """Return the prepared corpus at data_dir, or one made now from its raw text."""
    folder = Path(data_dir)
    if (folder / "index.json").is_file():
        return str(folder)
    if not folder.exists():
        raise UserError(f"{folder} does not exist; give --data-dir a prepared corpus "
                        "or a folder of text")
    ready = Path(f"{folder.resolve().name}-tokens")
    if not (ready / "index.json").is_file():
        if "RANK" in os.environ:
            raise UserError(
                f"{folder} is not prepared; run prepare_dataset.py --data-dir {folder} "
                f"--output-dir {ready} first, once for all processes")
        try:
            prepare_dataset.prepare([folder], ready)
        except prepare_dataset.UserError as error:      # a class of that file's own
            raise UserError(str(error)) from None
    print(f"{folder}: its tokens are in {ready}")
    return str(ready)


def command():
    """Read the command line and train."""
    try:
        config, settings = read_command_line()
        settle_for_torchrun(settings)
        settings.data_dir = prepared(settings.data_dir)
    except UserError:
        if os.environ.get("RANK", "0") != "0":       # the first process says it for all
            sys.exit(2)
        raise
    try:
        main(config, settings)
    except ShardError as error:
        raise UserError(str(error)) from None
    except KeyboardInterrupt as stopped:
        if stopped.args and os.environ.get("RANK", "0") == "0":
            print(stopped, file=sys.stderr)
        raise


if __name__ == "__main__":
    run_command(command)
