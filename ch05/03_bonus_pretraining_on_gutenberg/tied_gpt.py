"""GPT-2 with one matrix for reading tokens and for scoring them; saving it."""
import json
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from chunked_loss import chunked_cross_entropy
from previous_chapters import GPTModelFast, write_whole
from safetensors.torch import save_file


class GPTModelTied(GPTModelFast):
    """GPT-2 as OpenAI trained it: the output head is the token embedding.

    Called with targets it returns the loss. That has to happen inside forward: DDP and
    FSDP2 prepare the weights when forward begins and share the gradients after it.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        del self.out_head       # tok_emb.weight does its work; one name, one tensor
        self.apply(init_like_gpt2)
        # 2 n_layers branches are added up, so each starts smaller (Radford et al.,
        # 2019, section 2.3)
        for block in self.trf_blocks:
            for last in (block.att.out_proj, block.ff.layers[2]):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * cfg["n_layers"]))

    def forward(self, in_idx, targets=None):
        """Map in_idx (b, num_tokens) to logits (b, num_tokens, vocab_size) or loss."""
        positions = torch.arange(in_idx.shape[1], device=in_idx.device)
        x = self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(positions))
        x = self.final_norm(self.trf_blocks(x))             # (b, num_tokens, emb_dim)
        if targets is None:
            return F.linear(x, self.tok_emb.weight)
        return chunked_cross_entropy(x.flatten(0, 1), self.tok_emb.weight,
                                     targets.flatten())


def init_like_gpt2(module):
    """Draw weights from N(0, 0.02^2), biases 0 (Radford et al., 2018, section 4.1)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def save_as_gpt2(weights, config, folder):
    """Write model.safetensors (float16) and config.json in Hugging Face's GPT-2 layout.

    weights is the state_dict of a GPTModelTied. GPT-2 keeps query, key and value in one
    matrix and stores matrices as (in, out).
    """
    tensors = {"wte.weight": weights["tok_emb.weight"],
               "wpe.weight": weights["pos_emb.weight"],
               "ln_f.weight": weights["final_norm.scale"],
               "ln_f.bias": weights["final_norm.shift"]}
    for i in range(config["n_layers"]):
        ours, theirs = f"trf_blocks.{i}.", f"h.{i}."
        qkv = [f"{ours}att.W_{name}." for name in ("query", "key", "value")]
        tensors[theirs + "attn.c_attn.weight"] = torch.cat(
            [weights[name + "weight"].T for name in qkv], dim=1)  # (emb_dim, 3 emb_dim)
        tensors[theirs + "attn.c_attn.bias"] = torch.cat(
            [weights[name + "bias"] for name in qkv])
        for a, b in (("att.out_proj", "attn.c_proj"), ("ff.layers.0", "mlp.c_fc"),
                     ("ff.layers.2", "mlp.c_proj")):
            tensors[f"{theirs}{b}.weight"] = weights[f"{ours}{a}.weight"].T
            tensors[f"{theirs}{b}.bias"] = weights[f"{ours}{a}.bias"]
        for a, b in (("norm1", "ln_1"), ("norm2", "ln_2")):
            tensors[f"{theirs}{b}.weight"] = weights[f"{ours}{a}.scale"]
            tensors[f"{theirs}{b}.bias"] = weights[f"{ours}{a}.shift"]
    tensors = {name: tensor.to(torch.float16).contiguous()
               for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)

    def write(path):
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)           # the library makes it readable for its owner only

    write_whole(folder / "model.safetensors", write)
    write_json(folder / "config.json", {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
        "vocab_size": config["vocab_size"], "n_positions": config["context_length"],
        "n_embd": config["emb_dim"], "n_head": config["n_heads"],
        "n_layer": config["n_layers"], "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
        "attn_pdrop": config["drop_rate"], "embd_pdrop": config["drop_rate"],
        "resid_pdrop": config["drop_rate"], "bos_token_id": 50256,
        "eos_token_id": 50256, "dtype": "float16"})


def write_json(path, value):
    """Write value to path, whole or not at all."""
    text = json.dumps(value, indent=2) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
