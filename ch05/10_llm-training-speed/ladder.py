"""The ladder from the book's training loop to a fast one, one idea a rung.

A rung is a `Rung`: a handful of switches, all off at the bottom. `ladder()` switches one
more on at each step up, so what a rung adds is what two neighbours differ in. `Trainer`
is the one place that reads the switches: 00_orig.py trains with the lowest rung,
01_opt_single_gpu.py with the highest of one device, 02_opt_multi_gpu_ddp.py with the
highest of several, and measure.py measures them all.
"""
import argparse
import contextlib
import io
import itertools
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

# before the first large tensor: with large memory pages (Linux) the gigabytes that a step
# allocates and frees cost less. All rungs have them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from previous_chapters import (  # noqa: E402
    GELU,
    GPT_CONFIG_124M,
    GELUFast,
    GPTDatasetV1,
    GPTModel,
    LayerNorm,
    LayerNormFast,
    MultiHeadAttention,
    MultiHeadAttentionFast,
    OneLineParser,
    UserError,
    calc_loss_batch,
    evaluate_model,
    generate_and_print_sample,
    load_gpt2_bpe,
    named_device,
    pick_device,
    pick_dtype,
    positive_int,
    read_config,
    read_training_text,
)
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

SETTINGS = {
    "learning_rate": 5e-4,
    "weight_decay": 0.1,
    "num_epochs": 15,
    "max_steps": None,        # stop after so many steps; None: after num_epochs
    "eval_freq": 5,           # steps from one evaluation to the next
    "eval_iter": 1,           # batches in an evaluation
    "start_context": "Every effort moves you",
    "seed": 123,
    "batch_size": None,       # on the lower rungs; None: as SIZES says
    "text": None,             # a file; None: The Verdict, or the story of the course
    "device": "auto",
    "dtype": "auto",
    "without": (),            # names of rungs to leave out
    "out": None,              # folder of the run; None: runs/001, runs/002, ...
}
SIZES = {"cuda": (8, 1024), "mps": (4, 256), "cpu": (2, 256)}    # batch_size, context


# --- the rungs ------------------------------------------------------------------------

@dataclass(frozen=True)
class Rung:
    """What a training loop is made of; as it stands here, the book's."""

    name: str = "baseline"
    mask_on_the_fly: bool = False       # the causal mask is made where it is needed
    matmul_precision: str = "highest"   # "high": TF32 for products of float32 matrices
    fused_adamw: bool = False           # one kernel updates all weights
    prefetch: bool = False              # the next batch is ready before it is asked for
    autocast: bool = False              # products in bfloat16, weights in float32
    native_layers: bool = False         # LayerNorm and GELU, one kernel each
    sdpa: bool = False                  # attention without a table of weights
    compiled: bool = False              # torch.compile on model and loss
    vocab_multiple: int = 1             # rows of the head, rounded up to a multiple
    batch_factor: int = 1               # times the batch of the lower rungs
    processes: int = 1                  # each with a model and a batch of its own (DDP)
    # not on the ladder, but beside it:
    weights: str = "float32"            # "bfloat16": weights and AdamW's averages too
    dropout: bool = True                # False: the configuration's drop_rate is ignored


def ladder(without=(), processes=2):
    """Return the rungs from the baseline up; names in without are left out."""
    rungs = [Rung()]

    def up(name, **change):
        if name not in without:
            rungs.append(replace(rungs[-1], name=name, **change))

    up("mask", mask_on_the_fly=True)
    up("tf32", matmul_precision="high")
    up("fused", fused_adamw=True)
    up("prefetch", prefetch=True)
    up("bf16", autocast=True)
    up("native", native_layers=True)
    up("sdpa", sdpa=True)
    up("compile", compiled=True)
    up("vocab", vocab_multiple=64)
    up("batch", batch_factor=4)
    up("ddp", processes=processes)
    return rungs


def beside(rungs):
    """Return {rung: the name of the rung it is compared with} of two more experiments."""
    found = {}
    for rung in rungs:
        if rung.name == "bf16":
            change = {"autocast": False, "weights": "bfloat16"}
            found[replace(rung, name="bf16-weights", **change)] = rung.name
    top = [rung for rung in rungs if rung.processes == 1][-1]
    found[replace(top, name="no-dropout", dropout=False)] = top.name
    return found


def missing(device, settings, processes=None):
    """Return {name: reason} of the rungs that are unwanted or not for this machine."""
    names, dtype = [rung.name for rung in ladder()], settings["dtype"]
    for name in settings["without"]:
        if name not in names[1:]:
            raise UserError(f"--without has no {name}; there are {', '.join(names[1:])}")
    reasons = dict.fromkeys(settings["without"], "--without names it")
    if pick_dtype(dtype, device) == torch.float32:
        reasons["bf16"] = ("--dtype float32 was asked for" if dtype == "float32" else
                           f"this {device.type} has no bfloat16 instructions")
    if "compile" not in reasons and (reason := why_no_compiler(device)):
        reasons["compile"] = reason
    if device.type == "mps" or not dist.is_available():
        reasons["ddp"] = f"PyTorch here has no process groups for {device.type}"
    elif device.type == "cuda" and torch.cuda.device_count() < (processes or 2):
        reasons["ddp"] = (f"{torch.cuda.device_count()} GPU here, and every process "
                          "needs one of its own")
    return reasons


def why_no_compiler(device):
    """Return why torch.compile does not work here, in one line, or None if it does."""
    def function(x):
        return (x.sin() + 1).sum()

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            torch.compile(function)(torch.ones(64, device=device))
    except Exception as error:            # Inductor, g++ and Triton raise many kinds
        torch._dynamo.reset()
        lines = [line for line in str(error).splitlines() if line.strip()]
        return ("torch.compile finds no working compiler "
                f"({(lines or [type(error).__name__])[0][:100]})")
    return None


# --- the model of a rung --------------------------------------------------------------

class MultiHeadAttentionMaskOnTheFly(MultiHeadAttention):
    """MultiHeadAttention that stores no mask: `self.mask` is made when it is read."""

    @property
    def mask(self):
        """True above the diagonal, (context_length, context_length)."""
        device = self.W_query.weight.device
        ones = torch.ones(self.context_length, self.context_length, dtype=torch.bool,
                          device=device)
        return ones.triu(diagonal=1)


class GPTModelPadded(GPTModel):
    """GPTModel whose head has rows to spare, so that its products have round sizes."""

    def pad_head(self, multiple):
        """Add rows of zeros to the head until their number is a multiple."""
        self.vocab_size = self.out_head.out_features
        extra = -self.vocab_size % multiple
        rows = F.pad(self.out_head.weight.data, (0, 0, 0, extra))
        self.out_head.weight = nn.Parameter(rows)      # (vocab_size + extra, emb_dim)
        self.out_head.out_features += extra

    def forward(self, in_idx):
        """Map ids (b, num_tokens) to logits (b, num_tokens, vocab_size)."""
        # the spare logits end here: neither the loss nor a sample ever sees them
        return super().forward(in_idx)[..., :self.vocab_size]


def build_model(rung, gpt_config):
    """Return the GPT of rung; after one and the same seed, all have the same weights."""
    if not rung.dropout:
        gpt_config = {**gpt_config, "drop_rate": 0.0}
    model = GPTModel(gpt_config)
    swap = {}
    if rung.mask_on_the_fly:
        swap[MultiHeadAttention] = MultiHeadAttentionMaskOnTheFly
    if rung.native_layers:
        swap |= {LayerNorm: LayerNormFast, GELU: GELUFast}
    if rung.sdpa:
        swap[MultiHeadAttention] = MultiHeadAttentionFast
    for module in model.modules():
        if rung.mask_on_the_fly and type(module) is MultiHeadAttention:
            module.context_length = module.mask.shape[0]
            del module.mask
        # another class, the same weights (chapter 5 explains it with GPTModelFast)
        module.__class__ = swap.get(type(module), type(module))
    if rung.vocab_multiple > 1:
        model.__class__ = GPTModelPadded
        model.pad_head(rung.vocab_multiple)
    return model.to(getattr(torch, rung.weights))


def book_weights(model, gpt_config):
    """Return the state dict that the book's GPTModel loads: masks back, padding off."""
    state = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    state["out_head.weight"] = state["out_head.weight"][:gpt_config["vocab_size"]].clone()
    length = gpt_config["context_length"]
    for i in range(gpt_config["n_layers"]):
        state[f"trf_blocks.{i}.att.mask"] = torch.ones(length, length).triu(diagonal=1)
    return state


class WithLoss(nn.Module):
    """A model and its loss as one module, so that they are compiled as one."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs, targets):
        """Return the mean cross-entropy of inputs and targets (b, num_tokens)."""
        return calc_loss_batch(inputs, targets, self.model, inputs.device)


# --- one process of one or of several --------------------------------------------------

@dataclass(frozen=True)
class World:
    """Where this process stands among those that train together."""

    rank: int = 0             # number among all processes, on all hosts
    local_rank: int = 0       # number among those of this host: which GPU it takes
    size: int = 1

    @classmethod
    def from_torchrun(cls):
        """Return what torchrun says in the environment."""
        try:
            return cls(*(int(os.environ[name])
                         for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))
        except (KeyError, ValueError):
            raise UserError("this script is started by torchrun: torchrun --standalone "
                            "--nproc-per-node 2 02_opt_multi_gpu_ddp.py") from None


ALONE = World()


def ddp_setup(rank, world_size, device):
    """Join the process group: NCCL between GPUs, gloo between CPUs."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")     # torchrun has set both
    os.environ.setdefault("MASTER_PORT", "12345")
    if os.name == "nt":
        os.environ["USE_LIBUV"] = "0"                     # Windows wheels lack it
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", rank=rank, world_size=world_size,
                                device_id=device)
    else:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)


@contextlib.contextmanager
def process_group(world, device):
    """Join the process group, and leave it whatever happens."""
    ddp_setup(world.rank, world.size, device)
    try:
        yield
        dist.barrier()              # nobody leaves while another still works
    finally:
        dist.destroy_process_group()


def device_of(settings, world):
    """Return the torch.device of this process."""
    name = settings["device"]
    device = pick_device() if name == "auto" else named_device(name)
    if device.type == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise UserError(f"process {world.local_rank} of this host has no GPU; "
                            f"--nproc-per-node is at most {torch.cuda.device_count()}")
        device = torch.device("cuda", world.local_rank)
    return device


def synchronize(device):
    """Wait until the device has done all it was told."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


class Trainer:
    """The model, the optimizer and the step of one rung on one device."""

    def __init__(self, rung, gpt_config, settings, device, world=ALONE):
        self.rung, self.device, self.world = rung, device, world
        torch.set_float32_matmul_precision(rung.matmul_precision)
        torch.manual_seed(settings["seed"])
        self.model = build_model(rung, gpt_config).to(device)
        self.loss_of = WithLoss(self.model)
        if world.size > 1:
            self.loss_of = DistributedDataParallel(
                self.loss_of, gradient_as_bucket_view=True,
                device_ids=[device.index] if device.type == "cuda" else None)
        if rung.compiled:
            # sizes as constants: a second batch size is compiled anew
            self.loss_of = torch.compile(self.loss_of, dynamic=False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            fused=rung.fused_adamw or None)           # None: what PyTorch takes by itself
        torch.manual_seed(settings["seed"] + world.rank)     # dropout of its own a process

    def autocast(self):
        """Return the context in which products are computed in bfloat16, if so asked."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16,
                              enabled=self.rung.autocast)

    def batches(self, loader, epoch=0):
        """Yield the batches of one epoch on the device."""
        if isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(epoch)           # else every epoch has one order
        for inputs, targets in loader:
            # from pinned memory the copy needs no waiting: the GPU goes on with the step
            # before, while this process prepares the next one
            yield (inputs.to(self.device, non_blocking=self.rung.prefetch),
                   targets.to(self.device, non_blocking=self.rung.prefetch))

    def endless_batches(self, loader):
        """Yield batches, epoch after epoch."""
        for epoch in itertools.count():
            yield from self.batches(loader, epoch)

    def step(self, inputs, targets):
        """Train on one batch; return its loss on the device, without waiting for it."""
        self.optimizer.zero_grad()
        with self.autocast():
            loss = self.loss_of(inputs, targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def evaluate(self, loaders, eval_iter):
        """Return (train_loss, val_loss), dropout off, over all of the data's processes."""
        # the plain model: no recompilation for other sizes, no exchange of gradients.
        # All processes hold the same weights, so the first one's answer is everybody's.
        losses = torch.zeros(2, dtype=torch.float64)
        if self.world.rank == 0:
            with self.autocast():
                losses[:] = torch.tensor(evaluate_model(
                    self.model, loaders.evaluated, loaders.val, self.device, eval_iter))
        if self.world.size > 1:
            losses = losses.to(self.device)
            dist.broadcast(losses, src=0)             # nobody goes on before it is known
        return tuple(losses.tolist())


# --- data -----------------------------------------------------------------------------

@dataclass
class Loaders:
    """The batches to train on, the same data for evaluation, and data never trained on."""

    train: DataLoader
    evaluated: DataLoader
    val: DataLoader


def make_loaders(text, rung, gpt_config, batch_size, device, settings,
                 world=ALONE):
    """Return the Loaders of a text: nine tenths to train on, a tenth to evaluate."""
    split = int(0.9 * len(text))
    context, tokenizer = gpt_config["context_length"], load_gpt2_bpe()
    eval_batch_size = batch_size // rung.batch_factor      # the same for all rungs
    datasets = []
    for part, wanted in ((text[:split], 4 * batch_size * world.size), (text[split:], 1)):
        num_tokens = len(tokenizer.encode(part, allowed_special={"<|endoftext|>"}))
        # the last tenth of a short story may be shorter than a window
        length = min(context, num_tokens - 1) if datasets else context
        room = num_tokens - 1 - length
        if room < wanted - 1 or length < 1:
            raise UserError(
                f"the text is too short: {num_tokens} tokens in its "
                f"{'last' if datasets else 'first nine'} tenth{'' if datasets else 's'} "
                f"give no {wanted} windows of {context}; take a longer --text or a "
                "smaller --context or --batch-size")
        # windows side by side; closer in a short text, so that there are four batches
        stride = min(length, room // (wanted - 1)) if wanted > 1 else length
        datasets.append(GPTDatasetV1(part, tokenizer, length, max(1, stride)))
    if max(int(ids.max()) for ids in (datasets[0].input_ids, datasets[1].input_ids)) \
            >= gpt_config["vocab_size"]:
        raise UserError("the vocab_size of the configuration is smaller than GPT-2's "
                        "50257 and lacks ids of this text")
    train, val = datasets
    return Loaders(
        DataLoader(train, batch_size=batch_size, drop_last=True,
                   **sampling(train, settings["seed"], world), **feeding(rung, device)),
        DataLoader(train, eval_batch_size), DataLoader(val, eval_batch_size))


def sampling(dataset, seed, world):
    """Return the arguments of a DataLoader that say in which order, and whose part."""
    if world.size > 1:
        return {"sampler": DistributedSampler(dataset, world.size, world.rank, seed=seed,
                                              drop_last=True)}
    return {"shuffle": True, "generator": torch.Generator().manual_seed(seed)}


def feeding(rung, device):
    """Return the arguments of a DataLoader that say how batches are made ready."""
    if not rung.prefetch:
        return {}
    spare = max(1, (os.cpu_count() or 1) // rung.processes - 1)
    return {"num_workers": min(4, spare), "prefetch_factor": 2,
            "persistent_workers": True, "pin_memory": device.type == "cuda"}


# --- training with a clock ------------------------------------------------------------

class StepClock:
    """Time and tokens of training steps alone, evaluation and samples left out.

    The interval up to the first reading is the warm-up (memory, compilation): it is in no
    average.
    """

    def __init__(self, device):
        self.device = device
        self.seconds = self.tokens = 0          # of the current interval
        self.total_seconds = self.total_tokens = 0
        self.is_warm = False

    def start(self):
        """Begin, or go on."""
        synchronize(self.device)
        self.since = time.perf_counter()

    def stop(self):
        """Pause."""
        synchronize(self.device)
        self.seconds += time.perf_counter() - self.since

    def read(self):
        """Return tokens/s (of the interval, average without warm-up); begin another."""
        step = self.tokens / self.seconds
        if self.is_warm:
            self.total_seconds += self.seconds
            self.total_tokens += self.tokens
        self.is_warm, self.seconds, self.tokens = True, 0, 0
        average = self.total_tokens / self.total_seconds if self.total_tokens else None
        return step, average


def train_model_simple_with_timing(trainer, loaders, num_epochs, eval_freq, eval_iter,
                                   start_context, tokenizer, max_steps=None):
    """Train; return lists train_losses, val_losses, tokens_seen, one item an evaluation.

    As chapter 5's train_model_simple, and prints tokens/s: of the steps since the line
    before, and their average since the first line.
    """
    train_losses, val_losses, track_tokens_seen = [], [], []
    tokens_seen, global_step = 0, -1
    clock, is_first = StepClock(trainer.device), trainer.world.rank == 0
    for epoch in range(num_epochs):
        trainer.model.train()
        clock.start()
        for inputs, targets in trainer.batches(loaders.train, epoch):
            trainer.step(inputs, targets)
            num_tokens = inputs.numel() * trainer.world.size
            clock.tokens += num_tokens
            tokens_seen += num_tokens
            global_step += 1
            is_last = global_step + 1 == max_steps
            if global_step % eval_freq == 0 or is_last:
                clock.stop()
                train_loss, val_loss = trainer.evaluate(loaders, eval_iter)
                train_losses.append(train_loss)
                val_losses.append(val_loss)
                track_tokens_seen.append(tokens_seen)
                step_speed, average = clock.read()
                if is_first:
                    print(f"Ep {epoch + 1} (Step {global_step:06d}): "
                          f"Train loss {train_loss:.3f}, Val loss {val_loss:.3f}, "
                          f"{step_speed:,.0f} tok/s, " + (
                              f"average {average:,.0f}" if average else "warm-up"),
                          flush=True)
                clock.start()
            if is_last:
                break
        clock.stop()
        if is_first:
            with trainer.autocast():
                generate_and_print_sample(trainer.model, tokenizer, trainer.device,
                                          start_context)
        if max_steps is not None and global_step + 1 >= max_steps:
            break
    return train_losses, val_losses, track_tokens_seen


def train(rung, gpt_config, settings, world=ALONE):
    """Train rung on a text; return (train_losses, val_losses, tokens_seen, model)."""
    settings = {**SETTINGS, **settings}
    device = device_of(settings, world)
    batch_size = (settings["batch_size"] or SIZES[device.type][0]) * rung.batch_factor
    text = read_text_once(settings["text"], world)
    loaders = make_loaders(text, rung, gpt_config, batch_size, device, settings, world)
    is_first = world.rank == 0
    out = new_folder(settings["out"]) if is_first else None
    trainer = Trainer(rung, gpt_config, settings, device, world)
    if is_first:
        print(f"{out}: rung {rung.name}, {device.type}, {world.size} x {batch_size} x "
              f"{gpt_config['context_length']} tokens a step, {len(loaders.train)} steps "
              "an epoch", flush=True)
    found = train_model_simple_with_timing(
        trainer, loaders, settings["num_epochs"], settings["eval_freq"],
        settings["eval_iter"], settings["start_context"], load_gpt2_bpe(),
        settings["max_steps"])
    if is_first:
        write_whole(out / "model.pth", lambda path: torch.save(
            book_weights(trainer.model, gpt_config), path))
        write_whole(out / "loss.png", lambda path: plot_losses(*found, path))
        print(f"{out}: model.pth (for the book's GPTModel), loss.png")
    return *found, trainer.model


def read_text_once(name, world):
    """Return the text; where it is downloaded, one process of each host does it."""
    first_speaks = (contextlib.redirect_stdout(io.StringIO()) if world.rank
                    else contextlib.nullcontext())
    with first_speaks:
        if world.local_rank == 0:
            text = read_training_text(name)
        if world.size > 1:
            dist.barrier()
        if world.local_rank > 0:
            text = read_training_text(name)
    return text


# --- files and flags ------------------------------------------------------------------

def plot_losses(train_losses, val_losses, tokens_seen, path):
    """Draw both losses over the tokens seen into the PNG file at path."""
    from matplotlib.figure import Figure  # draws without a screen

    figure = Figure(figsize=(5, 3), layout="constrained", facecolor="white")
    ax = figure.subplots()
    ax.plot(tokens_seen, train_losses, label="Training")
    ax.plot(tokens_seen, val_losses, "-.", label="Validation")
    ax.set(xlabel="Tokens seen", ylabel="Loss (nats per token)")
    ax.legend()
    figure.savefig(path, dpi=140, format="png")


def new_folder(name):
    """Make and return the folder called name, or the next free runs/NNN for None."""
    if name is not None:
        folder = Path(name)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists already and is not overwritten; choose "
                            "another --out")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    for number in itertools.count(1):
        folder = Path("runs") / f"{number:03d}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:       # another run's; ours is a later number
            continue


def write_whole(path, write):
    """Call write(temporary path) and rename the result to path: whole, or not at all."""
    temporary = path.with_name(path.name + ".part")
    try:
        write(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:      # torch reports a full disk as Runtime
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise UserError(f"{path} could not be written: {reason}") from None


def make_parser(description):
    """Return a parser with the flags that all scripts of this folder share."""
    parser = OneLineParser(description=description,
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--text", metavar="FILE", help="UTF-8 text; default The Verdict, else our story")
    add("--config", metavar="FILE", help="JSON with the keys of GPT_CONFIG_124M")
    add("--context", type=positive_int, help="tokens a window; default 1024, on CPU 256")
    add("--batch-size", type=positive_int,
        help="windows a batch on the lower rungs; default 8, on CPU 2")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16"),
        help="bfloat16: also where the hardware is slow at it")
    add("--without", metavar="NAME", nargs="+", default=(),
        help="rungs to leave out, such as compile")
    add("--out", metavar="FOLDER", help="new folder for the run; default runs/001, ...")
    return parser


def read_flags(options, world=ALONE):
    """Return (gpt_config, settings) of the flags that all scripts share."""
    flags = ("text", "batch_size", "device", "dtype", "without", "out")
    settings = {**SETTINGS, **{name: getattr(options, name) for name in flags}}
    batch_size, context = SIZES[device_of(settings, world).type]
    settings["batch_size"] = settings["batch_size"] or batch_size
    config = {**GPT_CONFIG_124M, "context_length": context}
    if options.config:
        config = read_config(options.config)
    if options.context:
        config = {**config, "context_length": options.context}
    return config, settings


def training_command(main, description, world=ALONE):
    """Read the command line of a training script and call its main."""
    parser = make_parser(description)
    parser.add_argument("--epochs", type=positive_int, default=SETTINGS["num_epochs"])
    parser.add_argument("--steps", type=positive_int, help="stop after so many steps")
    options = parser.parse_args()
    config, settings = read_flags(options, world)
    main(config, {**settings, "num_epochs": options.epochs, "max_steps": options.steps})
