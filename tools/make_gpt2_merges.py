"""Make gpt2_merges.npz, the 50,000 merges of GPT-2's tokenizer as pairs of token ids.

Usage: python tools/make_gpt2_merges.py VOCAB_BPE ENCODER_JSON OUTPUT

The two inputs are OpenAI's files (modified MIT licence, see NOTICE beside the table).
"""
import json
import sys
from pathlib import Path

import numpy as np


def merges_from_files(vocab_bpe: Path, encoder_json: Path) -> np.ndarray:
    """Return the merges, (50000, 2) uint16: the ids of each merge's two parts."""
    ids = json.loads(encoder_json.read_text(encoding="utf-8"))
    lines = vocab_bpe.read_text(encoding="utf-8").splitlines()[1:]     # no version line
    return np.array([[ids[part] for part in line.split()] for line in lines],
                    dtype=np.uint16)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    vocab, encoder, output = map(Path, sys.argv[1:])
    np.savez_compressed(output, merges=merges_from_files(vocab, encoder))
    print(f"{output}: {output.stat().st_size:,} bytes")
