"""What the scripts of the course share on their command line (copied by manifest)."""
import argparse
import json
import sys
from pathlib import Path

import torch


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
