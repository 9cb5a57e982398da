# Generated from the notebooks below by `python tools/sync.py`; edit those.
#   ch02.ipynb: GPT2_MERGES, GPT2_ADDRESS, rebuild_gpt2_files, find_in_course,
#     load_gpt2_bpe
#   ch03.ipynb: MultiHeadAttention
#   ch04.ipynb: LayerNorm, GELU, FeedForward, TransformerBlock, GPTModel
#   ch05.ipynb: pick_device, text_to_token_ids, token_ids_to_text, generate, assign,
#     load_weights_into_gpt
#   tools/command_line.py: UserError, OneLineParser, run_command, named_device,
#     read_config
"""Let a GPT-2 continue a text.

    python gpt_generate.py --prompt "Every effort moves you"
    python gpt_generate.py --checkpoint runs/001 --temperature 0

The model is OpenAI's GPT-2 (--model 124M, downloaded once), a folder with
model.safetensors and config.json (--model FOLDER), or a run of gpt_train.py
(--checkpoint FOLDER).
"""

import argparse
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


def pick_device():
    """Return the fastest device that computes right: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if torch.backends.mps.is_available() and (major, minor) >= (2, 9):
        return torch.device("mps")
    return torch.device("cpu")


def text_to_token_ids(text, tokenizer):
    """Return the token ids of text as a batch of one, (1, num_tokens)."""
    ids = tokenizer.encode(text, allowed_special={"<|endoftext|>"})
    return torch.tensor(ids).unsqueeze(0)


def token_ids_to_text(token_ids, tokenizer):
    """Return the text of token ids (1, num_tokens) or (num_tokens,)."""
    return tokenizer.decode(token_ids.squeeze(0).tolist())


def generate(model, idx, max_new_tokens, context_size, temperature=0.0, top_k=None,
             eos_id=None):
    """Extend idx (b, num_tokens) by up to max_new_tokens sampled ids.

    temperature 0 takes the likeliest id. With eos_id, a finished row is filled with
    eos_id and the loop ends, before appending, when every row is finished.
    """
    finished = torch.zeros(idx.shape[0], 1, dtype=torch.bool, device=idx.device)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, -context_size:])[:, -1, :]          # (b, vocab_size)
        if top_k is not None:
            kept = torch.topk(logits, min(top_k, logits.shape[-1]), dim=-1).values
            logits = logits.masked_fill(logits < kept[:, -1:], -torch.inf)
        if temperature > 0:
            probas = torch.softmax(logits / temperature, dim=-1)      # (b, vocab_size)
            idx_next = torch.multinomial(probas, num_samples=1)                # (b, 1)
        else:
            idx_next = logits.argmax(dim=-1, keepdim=True)                     # (b, 1)
        if eos_id is not None:
            idx_next = idx_next.masked_fill(finished, eos_id)
            finished = finished | (idx_next == eos_id)
            if finished.all():
                break
        idx = torch.cat((idx, idx_next), dim=1)                   # (b, num_tokens + 1)
    return idx


def assign(left, right):
    """Return right as a new parameter after checking that it has left's shape."""
    if left.shape != right.shape:
        raise ValueError(f"Shape mismatch. Left: {left.shape}, Right: {right.shape}")
    return torch.nn.Parameter(torch.tensor(right))


def load_weights_into_gpt(gpt, params):
    """Copy OpenAI's arrays (params, see gpt_download.py) into gpt, in place."""
    num_blocks = len(params["blocks"])
    if len(gpt.trf_blocks) != num_blocks:
        raise ValueError(
            f"The model has {len(gpt.trf_blocks)} blocks, the weights {num_blocks}")
    gpt.tok_emb.weight = assign(gpt.tok_emb.weight, params["wte"])
    gpt.pos_emb.weight = assign(gpt.pos_emb.weight, params["wpe"])
    for block, arrays in zip(gpt.trf_blocks, params["blocks"]):
        attn, mlp = arrays["attn"], arrays["mlp"]
        # OpenAI keeps query, key and value side by side in one matrix, and stores
        # matrices as (in, out); nn.Linear holds (out, in), hence the .T
        projections = (block.att.W_query, block.att.W_key, block.att.W_value)
        weights = np.split(attn["c_attn"]["w"], 3, axis=-1)
        biases = np.split(attn["c_attn"]["b"], 3, axis=-1)
        for layer, w, b in zip(projections, weights, biases):
            layer.weight = assign(layer.weight, w.T)
            layer.bias = assign(layer.bias, b)
        for layer, part in (
            (block.att.out_proj, attn["c_proj"]),
            (block.ff.layers[0], mlp["c_fc"]),
            (block.ff.layers[2], mlp["c_proj"]),
        ):
            layer.weight = assign(layer.weight, part["w"].T)
            layer.bias = assign(layer.bias, part["b"])
        for norm, part in ((block.norm1, arrays["ln_1"]), (block.norm2, arrays["ln_2"])):
            norm.scale = assign(norm.scale, part["g"])
            norm.shift = assign(norm.shift, part["b"])
    gpt.final_norm.scale = assign(gpt.final_norm.scale, params["g"])
    gpt.final_norm.shift = assign(gpt.final_norm.shift, params["b"])
    gpt.out_head.weight = assign(gpt.out_head.weight, params["wte"])   # GPT-2 reuses wte


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
import argparse
import contextlib
import io
import math
import sys

# the sizes of 124M; a model that is loaded puts its own in their place
BASE_CONFIG = {"vocab_size": 50257, "context_length": 1024, "emb_dim": 768,
               "n_heads": 12, "n_layers": 12, "drop_rate": 0.0, "qkv_bias": True}


def main(gpt_config, input_prompt, model_size, device, *, checkpoint=None,
         max_new_tokens=25, temperature=1.0, top_k=50, seed=123):
    """Print input_prompt and max_new_tokens sampled tokens after it.

    model_size is "124M", ..., "1558M" or a folder (see load_gpt2), and gpt_config is
    overwritten by that model's own sizes; checkpoint (see load_checkpoint) goes first.
    Raises UserError.
    """
    tokenizer = load_tokenizer()
    encoded = text_to_token_ids(input_prompt, tokenizer)               # (1, num_tokens)
    if encoded.numel() == 0:
        raise UserError("The prompt is empty; give at least one word to go on from.")
    if checkpoint is None:
        gpt, cfg = load_gpt2(gpt_config, model_size)
    else:
        gpt, cfg = load_checkpoint(checkpoint)
    check_prompt(encoded, cfg, tokenizer)
    gpt.to(device)
    gpt.eval()

    torch.manual_seed(seed)
    token_ids = generate(
        gpt, encoded.to(device), max_new_tokens, cfg["context_length"],
        temperature=temperature, top_k=top_k,
    )                                               # (1, num_tokens + max_new_tokens)
    print("Output text:\n", token_ids_to_text(token_ids, tokenizer), sep="")


def load_tokenizer():
    """Return GPT-2's tokenizer, or say how to get its files."""
    try:
        return load_gpt2_bpe()
    except (OSError, ValueError):        # no network, or not the expected content
        raise UserError(
            "GPT-2's vocabulary cannot be downloaded; put gpt2_merges.npz from "
            "ch02/01_main-chapter-code beside this script."
        ) from None


def check_prompt(encoded, cfg, tokenizer):
    """Raise UserError if the ids encoded (1, num_tokens) do not fit the model."""
    num_tokens, context_length = encoded.shape[1], cfg["context_length"]
    if num_tokens > context_length:
        raise UserError(f"The prompt has {num_tokens} tokens, the model's context is "
                         f"{context_length}; shorten the prompt.")
    if encoded.max() >= cfg["vocab_size"] or cfg["vocab_size"] > tokenizer.n_vocab:
        raise UserError(f"The model knows {cfg['vocab_size']} tokens, GPT-2's "
                         f"tokenizer {tokenizer.n_vocab}; take a model that was "
                         "trained with this tokenizer.")


def load_gpt2(gpt_config, model_size):
    """Return (model, cfg) of a published size, of gpt2-mini, or of a folder.

    The folder holds model.safetensors and config.json in Hugging Face's names.
    """
    try:
        from gpt_download import MINI, MODEL_SIZES, load_model_folder, load_pretrained
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name}.py is not beside this script; copy "
                         "gpt_download.py and fetch.py here, or pass --checkpoint."
                         ) from None
    cfg = dict(gpt_config)
    if model_size in (*MODEL_SIZES, MINI):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            params = load_pretrained(cfg, model_size, "gpt2")
        if params is None:
            raise UserError(f"{said.getvalue()} Or train a model with gpt_train.py "
                             "and pass --checkpoint runs/001.")
        print(said.getvalue(), end="")
    elif Path(model_size).is_dir():
        try:
            sizes, params = load_model_folder(model_size)
        except (OSError, ValueError) as error:
            raise UserError(f"--model {model_size}: {error}.") from None
        cfg.update(sizes)
    else:
        raise UserError(f"--model {model_size} is none of {', '.join(MODEL_SIZES)}, "
                         f"{MINI} and no folder with model.safetensors and config.json.")
    gpt = GPTModel(cfg)
    load_weights_into_gpt(gpt, params)
    return gpt, cfg


def load_checkpoint(checkpoint):
    """Return (model, cfg) of a run folder, or of a .pth file beside its config.json.

    A run folder of gpt_train.py holds config.json, the dict that GPTModel takes, and
    model.pth, the model's state_dict.
    """
    path = Path(checkpoint)
    weights = path / "model.pth" if path.is_dir() else path
    config = weights.with_name("config.json")
    for file in (weights, config):
        if not file.is_file():
            raise UserError(f"{file} does not exist; --checkpoint takes a run folder "
                             "of gpt_train.py (config.json and model.pth), or a .pth "
                             "file with its config.json beside it.")
    cfg = read_config(config)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        state = state.get("model_state_dict", state)
        state = {name: tensor.float() for name, tensor in state.items()}
    except Exception:          # what torch raises here differs from damage to damage
        raise UserError(f"{weights} cannot be read; it is cut short, or not what "
                         "torch.save(model.state_dict(), ...) writes.") from None
    with torch.device("meta"):           # shapes without numbers: those come from state
        gpt = GPTModel(cfg)
    expected = {name: tuple(t.shape) for name, t in gpt.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            there, wanted = (d.get(name, "absent") for d in (found, expected))
            raise UserError(f"{weights} is not the model of {config}: {name} is "
                             f"{there} instead of {wanted}; take both files from one "
                             "run.")
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise UserError(f"{weights} holds nan or inf; its training went astray. Take "
                         "an earlier one, or train with a smaller learning rate.")
    gpt.load_state_dict(state, assign=True)
    return gpt, cfg


def whole_number(least):
    """Return a converter from text to an int from least to 2 ** 63 - 1."""
    def convert(text):
        try:
            if least <= int(text) < 2**63:
                return int(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
    return convert


def temperature_value(text):
    """Return the number in text; 0 takes the likeliest token each time."""
    try:
        if 0 <= float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")


def parse_arguments(arguments=None):
    """Return the options of the command line."""
    parser = OneLineParser(description="Let a GPT-2 continue a text.", allow_abbrev=False)
    add = parser.add_argument
    add("--prompt", default="Every effort moves you", help="the text to go on from")
    add("--model", help="124M (default), 355M, 774M, 1558M, gpt2-mini (the "
                        "course's own), or a folder with model.safetensors and "
                        "config.json")
    add("--checkpoint", help="a run folder of gpt_train.py, or a .pth file with "
                             "config.json beside it")
    add("--device", default="cpu", help="auto, cpu (default), cuda or mps")
    add("--temperature", type=temperature_value, default=1.0,
        help="0 takes the likeliest token; higher is more varied (default 1.0)")
    add("--top-k", type=whole_number(1), default=50,
        help="sample among this many of the likeliest tokens (default 50)")
    add("--seed", type=whole_number(0), default=123)
    add("--max-new-tokens", type=whole_number(1), default=25)
    options = parser.parse_args(arguments)
    if options.model and options.checkpoint:
        parser.error("--model and --checkpoint both name a model; give one")
    return options


def command():
    """Run the command line."""
    options = parse_arguments()
    if hasattr(sys.stdout, "reconfigure"):     # a console may lack some characters
        sys.stdout.reconfigure(errors="replace")
    name = options.device
    device = pick_device() if name == "auto" else named_device(name)
    print("PyTorch version:", torch.__version__)
    print("Device:", device)
    main(BASE_CONFIG, options.prompt, options.model or "124M", device,
         checkpoint=options.checkpoint, max_new_tokens=options.max_new_tokens,
         temperature=options.temperature, top_k=options.top_k, seed=options.seed)


if __name__ == "__main__":
    run_command(command)
