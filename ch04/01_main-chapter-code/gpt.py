# Generated from the notebooks below by `python tools/sync.py`; edit those.
#   ch02.ipynb: GPT2_MERGES, GPT2_ADDRESS, rebuild_gpt2_files, find_in_course,
#     load_gpt2_bpe, GPTDatasetV1, create_dataloader_v1
#   ch03.ipynb: MultiHeadAttention
#   ch04.ipynb: GPT_CONFIG_124M, LayerNorm, GELU, FeedForward, TransformerBlock,
#     GPTModel, generate_text_simple

import json
import os
import tempfile
from hashlib import sha1
from pathlib import Path

import numpy as np
import tiktoken
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


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


def create_dataloader_v1(txt, batch_size=4, max_length=256, stride=128,
                         shuffle=True, drop_last=True, num_workers=0):
    """Return a DataLoader of (inputs, targets), each (batch_size, max_length)."""
    dataset = GPTDatasetV1(txt, load_gpt2_bpe(), max_length, stride)
    if drop_last and len(dataset) < batch_size:
        raise ValueError(
            f"The text gives {len(dataset)} windows, fewer than batch_size={batch_size}"
            ", so drop_last=True leaves no batch at all. Use a longer text, a smaller "
            "batch_size, max_length or stride, or drop_last=False."
        )
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle,
                      drop_last=drop_last, num_workers=num_workers)


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


GPT_CONFIG_124M = {
    "vocab_size": 50257,      # tokens that the tokenizer knows
    "context_length": 1024,   # tokens that the model can look back on
    "emb_dim": 768,           # numbers that describe one token
    "n_heads": 12,            # attention heads in a block
    "n_layers": 12,           # transformer blocks
    "drop_rate": 0.1,         # share of values zeroed by dropout in training
    "qkv_bias": False,        # biases in the query, key and value projections
}


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


# --- written by hand ---
def main():
    """Let an untrained GPT-2 of 124 million parameters add ten tokens to a text."""
    torch.manual_seed(123)
    model = GPTModel(GPT_CONFIG_124M)
    model.eval()       # without dropout, so that every run prints the same

    tokenizer = load_gpt2_bpe()
    start_context = "Hello, I am"
    encoded = tokenizer.encode(start_context)
    encoded_tensor = torch.tensor(encoded).unsqueeze(0)                # (1, num_tokens)

    print(f"\n{50 * '='}\n{22 * ' '}IN\n{50 * '='}")
    print("\nInput text:", start_context)
    print("Encoded input text:", encoded)
    print("encoded_tensor.shape:", encoded_tensor.shape)

    out = generate_text_simple(
        model, encoded_tensor, max_new_tokens=10,
        context_size=GPT_CONFIG_124M["context_length"],
    )                                                             # (1, num_tokens + 10)

    print(f"\n\n{50 * '='}\n{22 * ' '}OUT\n{50 * '='}")
    print("\nOutput:", out)
    print("Output length:", len(out[0]))
    print("Output text:", tokenizer.decode(out.squeeze(0).tolist()))


if __name__ == "__main__":
    main()
