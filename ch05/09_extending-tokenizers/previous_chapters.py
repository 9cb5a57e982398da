# Generated from the notebooks below by `python tools/sync.py`; edit those.
#   ch02.ipynb: GPT2_MERGES, GPT2_ADDRESS, rebuild_gpt2_files, find_in_course,
#     load_gpt2_bpe
#   ch03.ipynb: MultiHeadAttention
#   ch04.ipynb: LayerNorm, GELU, FeedForward, TransformerBlock, GPTModel
#   ch05.ipynb: GPT_CONFIG_124M, LayerNormFast, GELUFast, MultiHeadAttentionFast,
#     GPTModelFast, calc_loss_batch, assign, load_weights_into_gpt

import json
import os
import tempfile
from hashlib import sha1
from pathlib import Path

import numpy as np
import tiktoken
import torch
import torch.nn as nn
import torch.nn.functional as F


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


GPT_CONFIG_124M = {
    "vocab_size": 50257,      # tokens that the tokenizer knows
    "context_length": 256,    # tokens that the model can look back on (GPT-2: 1024)
    "emb_dim": 768,           # numbers that describe one token
    "n_heads": 12,            # attention heads in a block
    "n_layers": 12,           # transformer blocks
    "drop_rate": 0.1,         # share of values zeroed by dropout in training
    "qkv_bias": False,        # biases in the query, key and value projections
}


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


class GPTModelFast(GPTModel):
    """GPTModel with the same weights, seeds and keys, computed by fused kernels."""

    def __init__(self, cfg):
        super().__init__(cfg)
        fast = {
            LayerNorm: LayerNormFast,
            GELU: GELUFast,
            MultiHeadAttention: MultiHeadAttentionFast,
        }
        for module in self.modules():
            module.__class__ = fast.get(type(module), type(module))


def calc_loss_batch(input_batch, target_batch, model, device):
    """Return the mean cross-entropy in nats per token, a scalar with a graph."""
    input_batch, target_batch = input_batch.to(device), target_batch.to(device)
    logits = model(input_batch)                           # (b, num_tokens, vocab_size)
    return F.cross_entropy(logits.flatten(0, 1), target_batch.flatten())


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
