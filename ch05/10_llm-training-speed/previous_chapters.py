# Generated from the notebooks below by `python tools/sync.py`; edit those.
#   ch02.ipynb: GPT2_MERGES, GPT2_ADDRESS, rebuild_gpt2_files, find_in_course,
#     load_gpt2_bpe, GPTDatasetV1
#   ch03.ipynb: MultiHeadAttention
#   ch04.ipynb: LayerNorm, GELU, FeedForward, TransformerBlock, GPTModel,
#     generate_text_simple
#   ch05.ipynb: GPT_CONFIG_124M, pick_device, LayerNormFast, GELUFast,
#     MultiHeadAttentionFast, text_to_token_ids, token_ids_to_text, calc_loss_batch,
#     calc_loss_loader, evaluate_model, generate_and_print_sample
#   ch05/01_main-chapter-code/gpt_train.py: read_training_text, default_text,
#     positive_int
#   tools/command_line.py: UserError, OneLineParser, run_command, named_device,
#     pick_dtype, read_config

import argparse
import itertools
import json
import os
import sys
import tempfile
from hashlib import sha1
from pathlib import Path

import numpy as np
import tiktoken
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import Dataset


GPT2_MERGES = "ch02/01_main-chapter-code/gpt2_merges.npz"
GPT2_ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"


def rebuild_gpt2_files(merges):
    """Return OpenAI's vocab.bpe and encoder.json (bytes) from merges (50000, 2)."""
    # GPT-2 numbers the 256 bytes in this order and writes each as one visible
    # character: printable bytes as themselves, the others as chr(256), chr(257), ...
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    num_hidden = 256 - len(printable)
    tokens = [chr(b) for b in printable] + [chr(256 + i) for i in range(num_hidden)]
    lines = ["#version: 0.2"]
    for left, right in merges.tolist():
        lines.append(f"{tokens[left]} {tokens[right]}")
        tokens.append(tokens[left] + tokens[right])      # the pair is the next token
    tokens.append("<|endoftext|>")
    vocab_bpe = "\n".join(lines) + "\n"
    encoder_json = json.dumps({token: i for i, token in enumerate(tokens)})
    return vocab_bpe.encode("utf-8"), encoder_json.encode("utf-8")


def find_in_course(relative_path):
    """Return a course file's path, looked for from here upwards, or None."""
    here = Path(globals().get("__file__", "notebook")).resolve().parent
    for folder in (here, *here.parents):
        for path in (folder / relative_path, folder / Path(relative_path).name):
            if path.is_file():
                return path
    return None


def load_gpt2_bpe():
    """Return GPT-2's tokenizer (50,257 tokens) without needing a network."""
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    cache = os.environ.get("DATA_GYM_CACHE_DIR", default)
    cache = os.environ.get("TIKTOKEN_CACHE_DIR", cache)
    table = find_in_course(GPT2_MERGES)
    sizes = {"vocab.bpe": 456_318, "encoder.json": 1_042_301}       # bytes

    def fill(folder):
        """Put both files into folder, unless they are there."""
        # tiktoken names a cached file by the sha1 of its address
        targets = {folder / sha1((GPT2_ADDRESS + name).encode()).hexdigest(): size
                   for name, size in sizes.items()}
        # a file of another size is a download that broke off
        if all(os.access(target, os.R_OK) and target.stat().st_size == size
               for target, size in targets.items()):
            return
        folder.mkdir(parents=True, exist_ok=True)
        merges = np.load(table)["merges"]                               # (50000, 2)
        for target, content in zip(targets, rebuild_gpt2_files(merges), strict=True):
            temporary = target.with_name(f"{target.name}.{os.getpid()}")
            temporary.write_bytes(content)
            os.replace(temporary, target)       # a reader never sees half a file

    if table is not None and cache:             # an empty name asks for no cache
        try:
            fill(Path(cache))
        except OSError:
            # not ours to write, often another user's folder in a shared /tmp:
            # this process takes a folder of its own
            os.environ["TIKTOKEN_CACHE_DIR"] = tempfile.mkdtemp(prefix="tiktoken-")
            fill(Path(os.environ["TIKTOKEN_CACHE_DIR"]))
    return tiktoken.get_encoding("gpt2")        # checks both files' sha256 itself


class GPTDatasetV1(Dataset):
    """Pairs (input, target) of max_length token ids; the target is one id ahead."""

    def __init__(self, txt, tokenizer, max_length, stride):
        special = {"<|endoftext|>"}
        if hasattr(tokenizer, "encode_to_numpy"):       # no Python int per token
            ids = tokenizer.encode_to_numpy(txt, allowed_special=special)
            ids = torch.from_numpy(ids.astype(np.int64))                # (num_tokens,)
        else:
            ids = torch.tensor(tokenizer.encode(txt, allowed_special=special))
        if len(ids) <= max_length:
            raise ValueError(
                f"The text has {len(ids)} tokens; windows of max_length={max_length} "
                f"and their targets need at least {max_length + 1}. "
                "Use a longer text or a smaller max_length."
            )
        # unfold returns views: the windows overlap in memory, no token is copied
        self.input_ids = ids[:-1].unfold(0, max_length, stride)  # (windows, max_length)
        self.target_ids = ids[1:].unfold(0, max_length, stride)  # (windows, max_length)

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, idx):
        return self.input_ids[idx], self.target_ids[idx]


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


def generate_text_simple(model, idx, max_new_tokens, context_size):
    """Extend idx (b, num_tokens) by max_new_tokens ids, the likeliest each time."""
    for _ in range(max_new_tokens):
        idx_cond = idx[:, -context_size:]             # the model sees no more than this
        with torch.no_grad():
            logits = model(idx_cond)                      # (b, num_tokens, vocab_size)
        idx_next = logits[:, -1, :].argmax(dim=-1, keepdim=True)               # (b, 1)
        idx = torch.cat((idx, idx_next), dim=1)                   # (b, num_tokens + 1)
    return idx


GPT_CONFIG_124M = {
    "vocab_size": 50257,      # tokens that the tokenizer knows
    "context_length": 256,    # tokens that the model can look back on (GPT-2: 1024)
    "emb_dim": 768,           # numbers that describe one token
    "n_heads": 12,            # attention heads in a block
    "n_layers": 12,           # transformer blocks
    "drop_rate": 0.1,         # share of values zeroed by dropout in training
    "qkv_bias": False,        # biases in the query, key and value projections
}


def pick_device():
    """Return the fastest device that computes right: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if torch.backends.mps.is_available() and (major, minor) >= (2, 9):
        return torch.device("mps")
    return torch.device("cpu")


class LayerNormFast(LayerNorm):
    """LayerNorm with mean, variance and scaling in one kernel."""

    def forward(self, x):
        """Map x (..., emb_dim) to the same shape."""
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class GELUFast(GELU):
    """GELU, tanh form, in one kernel."""

    def forward(self, x):
        """Map x (any shape) to the same shape."""
        return F.gelu(x, approximate="tanh")


class MultiHeadAttentionFast(MultiHeadAttention):
    """MultiHeadAttention that never stores the mask's -inf (FlashAttention on GPUs)."""

    def forward(self, x):
        """Map x (b, num_tokens, d_in) to (b, num_tokens, d_out)."""
        b, num_tokens, _ = x.shape
        context_vec = F.scaled_dot_product_attention(
            self.split_heads(self.W_query(x)),   # (b, num_heads, num_tokens, head_dim)
            self.split_heads(self.W_key(x)),
            self.split_heads(self.W_value(x)),
            dropout_p=self.dropout.p if self.training else 0.0,
            is_causal=True,
        )                                        # (b, num_heads, num_tokens, head_dim)
        context_vec = context_vec.transpose(1, 2).reshape(b, num_tokens, self.d_out)
        return self.out_proj(context_vec)                      # (b, num_tokens, d_out)


def text_to_token_ids(text, tokenizer):
    """Return the token ids of text as a batch of one, (1, num_tokens)."""
    ids = tokenizer.encode(text, allowed_special={"<|endoftext|>"})
    return torch.tensor(ids).unsqueeze(0)


def token_ids_to_text(token_ids, tokenizer):
    """Return the text of token ids (1, num_tokens) or (num_tokens,)."""
    return tokenizer.decode(token_ids.squeeze(0).tolist())


def calc_loss_batch(input_batch, target_batch, model, device):
    """Return the mean cross-entropy in nats per token, a scalar with a graph."""
    input_batch, target_batch = input_batch.to(device), target_batch.to(device)
    logits = model(input_batch)                           # (b, num_tokens, vocab_size)
    return F.cross_entropy(logits.flatten(0, 1), target_batch.flatten())


def calc_loss_loader(data_loader, model, device, num_batches=None):
    """Return the mean loss over num_batches (default: all); nan for an empty loader."""
    num_batches = min(num_batches or len(data_loader), len(data_loader))
    if num_batches == 0:
        return float("nan")
    total = 0.0
    for input_batch, target_batch in itertools.islice(data_loader, num_batches):
        total += calc_loss_batch(input_batch, target_batch, model, device).item()
    return total / num_batches


def evaluate_model(model, train_loader, val_loader, device, eval_iter):
    """Return (train_loss, val_loss) over eval_iter batches each, dropout off."""
    model.eval()
    with torch.no_grad():
        train_loss = calc_loss_loader(train_loader, model, device, eval_iter)
        val_loss = calc_loss_loader(val_loader, model, device, eval_iter)
    model.train()
    return train_loss, val_loss


def generate_and_print_sample(model, tokenizer, device, start_context):
    """Print start_context and the 50 tokens that the model finds likeliest."""
    model.eval()
    context_size = model.pos_emb.weight.shape[0]
    encoded = text_to_token_ids(start_context, tokenizer).to(device)
    token_ids = generate_text_simple(model, encoded, 50, context_size)
    print(token_ids_to_text(token_ids, tokenizer).replace("\n", " "))
    model.train()


def read_training_text(name):
    """Return the text of the file called name, or of the course's story for None."""
    path = Path(name) if name is not None else default_text()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; is it binary?") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    text = text.replace("\r\n", "\n")
    if "\0" in text:
        raise UserError(f"{path} holds NUL characters; is it binary?")
    if not text.strip():
        raise UserError(f"{path} is empty; give a longer text")
    return text


def default_text():
    """Return the path of The Verdict, or of the story that the course carries."""
    try:
        from fetch import FetchError, fetch
    except ImportError:               # this script was copied alone
        raise UserError("there is no text to train on; give one with --text FILE") from None
    try:
        return fetch("the-verdict.txt", folder=Path(__file__).resolve().parent)
    except FetchError as error:
        raise UserError(f"{error} Or give a text with --text FILE") from None


def positive_int(text):
    """Return text as a whole number above zero."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")


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


def pick_dtype(name, device):
    """Return the torch.dtype called name; auto takes bfloat16 where hardware has it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":     # without such instructions bfloat16 is emulated
        native = (torch.cpu._is_avx512_bf16_supported()
                  or torch.cpu._is_amx_tile_supported())
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


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
