# Generated from the notebooks below by `python tools/sync.py`; edit those.
#   ch03.ipynb: MultiHeadAttention
#   ch04.ipynb: LayerNorm, GELU, FeedForward, TransformerBlock, GPTModel
#   memory-efficient-state-dict.ipynb: CONFIG, peak_bytes, start_memory_tracking,
#     print_memory_usage, model_only, baseline, load_then_move, copy_and_drop,
#     load_sequentially, load_sequentially_with_meta, best_practices, assign_tensor,
#     load_individual_weights, load_with_safe_open, names_on_meta, STRATEGIES,
#     write_checkpoints
#   tools/command_line.py: UserError, OneLineParser, run_command, named_device,
#     read_config
"""Measure the memory that one way of loading a GPTModel needs, in a fresh process.

    python measure_loading.py write FOLDER          # 1.2 GB of random weights
    python measure_loading.py baseline FOLDER
    python measure_loading.py best_practices FOLDER

Each call prints one line: the peak while loading and after the first use, in GB above
what the process had before. The logits go to FOLDER/logits-STRATEGY.pth.
"""

import argparse
import gc
import json
import sys
from pathlib import Path

import psutil
import torch
import torch.nn as nn
from safetensors import safe_open
from safetensors.torch import save_file


class MultiHeadAttention(nn.Module):
    """Causal multi-head attention with one set of projections split into heads."""

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        assert d_out % num_heads == 0, "d_out must be divisible by num_heads"
        self.d_out = d_out
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)          # mixes the heads' results
        self.dropout = nn.Dropout(dropout)
        # persistent, so it is part of every checkpoint that readers saved
        self.register_buffer(
            "mask", torch.triu(torch.ones(context_length, context_length), diagonal=1)
        )

    def split_heads(self, x):
        """Map (b, num_tokens, d_out) to (b, num_heads, num_tokens, head_dim)."""
        b, num_tokens, _ = x.shape
        x = x.view(b, num_tokens, self.num_heads, self.head_dim)
        return x.transpose(1, 2)                 # (b, num_heads, num_tokens, head_dim)

    def forward(self, x):
        """Map x (b, num_tokens, d_in) to (b, num_tokens, d_out)."""
        b, num_tokens, _ = x.shape
        keys = self.split_heads(self.W_key(x))   # (b, num_heads, num_tokens, head_dim)
        queries = self.split_heads(self.W_query(x))
        values = self.split_heads(self.W_value(x))

        # scores and weights: (b, num_heads, num_tokens, num_tokens)
        attn_scores = queries @ keys.transpose(2, 3)
        future = self.mask[:num_tokens, :num_tokens].bool()  # (num_tokens, num_tokens)
        attn_scores = attn_scores.masked_fill(future, -torch.inf)
        attn_weights = torch.softmax(attn_scores / self.head_dim ** 0.5, dim=-1)
        attn_weights = self.dropout(attn_weights)

        context_vec = attn_weights @ values      # (b, num_heads, num_tokens, head_dim)
        context_vec = context_vec.transpose(1, 2)
        context_vec = context_vec.reshape(b, num_tokens, self.d_out)
        return self.out_proj(context_vec)                      # (b, num_tokens, d_out)


class LayerNorm(nn.Module):
    """Normalise the last dimension to mean 0 and variance 1, then scale and shift."""

    def __init__(self, emb_dim):
        super().__init__()
        self.eps = 1e-5                  # keeps a constant row from dividing by zero
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        """Map x (..., emb_dim) to the same shape."""
        mean = x.mean(dim=-1, keepdim=True)                                  # (..., 1)
        var = x.var(dim=-1, keepdim=True, unbiased=False)                    # (..., 1)
        return self.scale * (x - mean) / torch.sqrt(var + self.eps) + self.shift


class GELU(nn.Module):
    """Gaussian error linear unit, GPT-2's tanh form (Hendrycks and Gimpel 2016)."""

    def forward(self, x):
        """Map x (any shape) to the same shape."""
        inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + torch.tanh(inner))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between: emb_dim to 4 * emb_dim and back."""

    def __init__(self, cfg):
        super().__init__()
        emb_dim = cfg["emb_dim"]
        self.layers = nn.Sequential(
            nn.Linear(emb_dim, 4 * emb_dim),
            GELU(),
            nn.Linear(4 * emb_dim, emb_dim),
        )

    def forward(self, x):
        """Map x (b, num_tokens, emb_dim) to the same shape, each token on its own."""
        return self.layers(x)


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each normalised before and added to its input."""

    def __init__(self, cfg):
        super().__init__()
        self.att = MultiHeadAttention(
            d_in=cfg["emb_dim"],
            d_out=cfg["emb_dim"],
            context_length=cfg["context_length"],
            dropout=cfg["drop_rate"],
            num_heads=cfg["n_heads"],
            qkv_bias=cfg["qkv_bias"],
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg["emb_dim"])
        self.norm2 = LayerNorm(cfg["emb_dim"])
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x):
        """Map x (b, num_tokens, emb_dim) to the same shape."""
        x = x + self.drop_shortcut(self.att(self.norm1(x)))  # (b, num_tokens, emb_dim)
        x = x + self.drop_shortcut(self.ff(self.norm2(x)))   # (b, num_tokens, emb_dim)
        return x


class GPTModel(nn.Module):
    """GPT-2 (Radford et al. 2019): embeddings, transformer blocks, norm and head."""

    def __init__(self, cfg):
        super().__init__()
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(
            *[TransformerBlock(cfg) for _ in range(cfg["n_layers"])]
        )
        self.final_norm = LayerNorm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx):
        """Map token ids (b, num_tokens) to logits (b, num_tokens, vocab_size)."""
        num_tokens = in_idx.shape[1]
        context_length = self.pos_emb.num_embeddings
        if num_tokens > context_length:
            raise ValueError(
                f"{num_tokens} tokens do not fit the context of {context_length}; "
                "keep the last ones: in_idx[:, -context_length:]"
            )
        positions = torch.arange(num_tokens, device=in_idx.device)
        x = self.tok_emb(in_idx) + self.pos_emb(positions)   # (b, num_tokens, emb_dim)
        x = self.drop_emb(x)
        x = self.trf_blocks(x)                               # (b, num_tokens, emb_dim)
        x = self.final_norm(x)
        return self.out_head(x)                           # (b, num_tokens, vocab_size)


CONFIG = {
    "vocab_size": 5000, "context_length": 256, "emb_dim": 768, "n_heads": 12,
    "n_layers": 12, "drop_rate": 0.0, "qkv_bias": True,
}


def peak_bytes():
    """Return the high-water mark of this process's resident memory, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():                                                    # Linux
        text = status.read_text(encoding="utf-8")
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):                                         # Windows
        return info.peak_wset
    import resource                                                        # macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def start_memory_tracking():
    """Return the memory of this process now (.rss); forget a GPU's peak so far."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return psutil.Process().memory_info()


def print_memory_usage(row):
    """Print the peaks in row, a result of measure_loading.py, as one line."""
    gpu = "" if row["gpu_gb"] is None else f", GPU {row['gpu_gb']:.2f} GB"
    print(f"{row['strategy']:28} loading {row['loading_gb']:.2f} GB, "
          f"first use {row['used_gb']:.2f} GB{gpu}")


def model_only(folder, config, device):
    """No loading at all: a random model, for comparison."""
    return GPTModel(config).to(device)


def baseline(folder, config, device):
    """The usual way: a random model, a state dict beside it, numbers copied over."""
    model = GPTModel(config).to(device)
    state = torch.load(folder / "model.pth", map_location=device, weights_only=True)
    model.load_state_dict(state)
    return model


def load_then_move(folder, config, device):
    """Load in CPU memory, then move the finished model to the device."""
    model = GPTModel(config)
    state = torch.load(folder / "model.pth", map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return model.to(device)


def copy_and_drop(model, state):
    """Copy state into model's parameters and buffers, emptying state on the way."""
    targets = model.state_dict()               # the tensors themselves, not copies
    for name in list(state):
        targets[name].copy_(state.pop(name))


def load_sequentially(folder, config, device):
    """A random model on the device, filled tensor by tensor from CPU memory."""
    model = GPTModel(config).to(device)
    state = torch.load(folder / "model.pth", map_location="cpu", weights_only=True)
    copy_and_drop(model, state)
    return model


def load_sequentially_with_meta(folder, config, device):
    """A skeleton, then empty memory, filled tensor by tensor from CPU memory."""
    with torch.device("meta"):
        model = GPTModel(config)
    model = model.to_empty(device=device)
    state = torch.load(folder / "model.pth", map_location="cpu", weights_only=True)
    copy_and_drop(model, state)
    return model


def best_practices(folder, config, device):
    """Recommended: a skeleton, tensors that are pages of the file, no copy."""
    with torch.device("meta"):
        model = GPTModel(config)
    state = torch.load(folder / "model.pth", map_location="cpu", mmap=True,
                       weights_only=True)
    model.load_state_dict(state, assign=True)
    return model.to(device)                     # tensor by tensor; on a CPU nothing


def assign_tensor(model, name, tensor):
    """Make tensor the parameter or buffer of model that is called name."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, last)
    if old.shape != tensor.shape:
        raise ValueError(f"{name}: {tuple(tensor.shape)}, not {tuple(old.shape)}")
    is_parameter = isinstance(old, nn.Parameter)
    setattr(module, last, nn.Parameter(tensor) if is_parameter else tensor)


def load_individual_weights(folder, config, device):
    """A skeleton, filled from one file a tensor."""
    with torch.device("meta"):
        model = GPTModel(config)
    for name in model.state_dict():
        path = folder / "tensors" / f"{name}.pth"
        assign_tensor(model, name, torch.load(path, map_location=device, weights_only=True))
    return model


def load_with_safe_open(folder, config, device):
    """A skeleton, filled from a safetensors file tensor by tensor."""
    with torch.device("meta"):
        model = GPTModel(config)
    with safe_open(folder / "model.safetensors", framework="pt",
                   device=str(device)) as file:
        for name in file.keys():
            assign_tensor(model, name, file.get_tensor(name))
    return model


def names_on_meta(model):
    """Return the names of parameters and buffers that still have no numbers."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in tensors if tensor.is_meta]


STRATEGIES = {
    function.__name__: function
    for function in (
        model_only, baseline, load_then_move, load_sequentially,
        load_sequentially_with_meta, best_practices, load_individual_weights,
        load_with_safe_open)
}


def write_checkpoints(folder, config):
    """Write a random GPTModel into folder in three forms, and its config."""
    torch.manual_seed(123)
    state = GPTModel(config).state_dict()
    (folder / "tensors").mkdir()
    for name, tensor in state.items():
        torch.save(tensor, folder / "tensors" / f"{name}.pth")
    torch.save(state, folder / "model.pth")
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return {name: tensor.nbytes for name, tensor in state.items()}


class UserError(Exception):
    """What the user gave cannot be used; the message names it and the fix."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; --batch_size is taken for --batch-size."""

    def error(self, message):
        """Print one line and leave with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")

    def parse_known_args(self, args=None, namespace=None):
        """Parse args after turning underscores in flags into dashes."""
        args = sys.argv[1:] if args is None else list(args)
        for i, word in enumerate(args):
            if word.startswith("--"):
                flag, equals, value = word.partition("=")
                args[i] = flag.replace("_", "-") + equals + value
        return super().parse_known_args(args, namespace)


def run_command(command):
    """Call command(); a UserError becomes one line on stderr and exit code 2."""
    try:
        command()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}:", *str(error).split(), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def named_device(name):
    """Return the torch.device called name (cpu, cuda, mps) if this machine has it."""
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(name):
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise UserError(f"--device {name} is not on this machine; take auto or {there}")
    return torch.device(name)


def read_config(name):
    """Return the dict for GPTModel in the JSON file called name, its values checked."""
    problem = None
    try:
        cfg = json.loads(Path(name).read_text(encoding="utf-8"))
        for key in ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"):
            if type(cfg[key]) is not int or cfg[key] < 1:
                problem = f"{key} cannot be {cfg[key]!r}"
        if not problem and cfg["emb_dim"] % cfg["n_heads"]:
            heads = cfg["n_heads"]
            problem = (f"n_heads {heads} is wrong, {heads} heads do not divide emb_dim "
                       f"{cfg['emb_dim']}")
        if not 0 <= cfg["drop_rate"] <= 1 or type(cfg["qkv_bias"]) is not bool:
            problem = "drop_rate or qkv_bias has no usable value"
    except KeyError as error:
        problem = f"{error} is missing"
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
    except (ValueError, TypeError):
        problem = "it is not a JSON object"
    if problem:
        raise UserError(f"{name}: {problem}; take a file like the config.json that "
                        "gpt_train.py writes")
    return cfg


# --- written by hand ---

def parse_arguments():
    """Return the command line's options."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("strategy", choices=["write", *STRATEGIES],
                        help="a way of loading; write makes the files to load from")
    parser.add_argument("folder", type=Path, help="where those files are")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser.parse_args()


def write(folder):
    """Make folder and write the notebook's random model into it."""
    if folder.exists():
        raise UserError(f"{folder} exists already; name a new folder")
    folder.mkdir(parents=True)
    sizes = write_checkpoints(folder, CONFIG)
    print(f"{len(sizes)} tensors, {sum(sizes.values()) / 1e9:.2f} GB in each of 3 forms")


def measure(strategy, folder, device):
    """Load, use, and return what that took, a dict; sizes in GB."""
    config = read_config(folder / "config.json")
    ids = torch.arange(8, device=device)[None] % config["vocab_size"]
    with torch.device("meta"):     # its first use brings code, 80 MB whatever the model
        GPTModel({**config, "n_layers": 1})
    before = start_memory_tracking()
    try:
        model = STRATEGIES[strategy](folder, config, device)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; write makes the files") from None
    loading = peak_bytes()
    if forgotten := names_on_meta(model):
        raise UserError(f"{strategy} left without numbers: {', '.join(forgotten)}")
    with torch.no_grad():
        logits = model.eval()(ids)                       # (1, 8, vocab_size)
    used, at_end = peak_bytes(), psutil.Process().memory_info()
    is_cuda = device.type == "cuda"
    torch.save(logits.cpu(), folder / f"logits-{strategy}.pth")
    # Linux alone tells apart what is a copy of a file
    shared = getattr(at_end, "shared", None)
    return {
        "strategy": strategy,
        "loading_gb": (loading - before.rss) / 1e9,
        "used_gb": (used - before.rss) / 1e9,
        "end_gb": (at_end.rss - before.rss) / 1e9,
        "file_backed_gb": None if shared is None else (shared - before.shared) / 1e9,
        "gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if is_cuda else None,
    }


def main():
    """Run the command line."""
    options = parse_arguments()
    if options.strategy == "write":
        return write(options.folder)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = named_device(found if options.device == "auto" else options.device)
    row = measure(options.strategy, options.folder, device)
    if options.json:
        print(json.dumps(row))
    else:
        print_memory_usage(row)


if __name__ == "__main__":
    run_command(main)
