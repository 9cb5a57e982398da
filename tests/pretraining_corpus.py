"""A tiny prepared corpus for tests: text with a pattern that a model can learn."""
import hashlib
import json
from pathlib import Path

import numpy as np

SOURCES = (("tales", "train", 5000), ("letters", "train", 2600),
           ("tales_valid", "valid", 700), ("letters_valid", "valid", 330))


def write_corpus(folder, sources=SOURCES, seed=0):
    """Write index.json and shards as prepare_dataset.py does; return folder."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    shards = []
    for source, split, size in sources:
        start = rng.integers(0, 1000, size // 50 + 1)
        ids = (start[:, None] + np.arange(50)) % 1000       # counting, from somewhere
        ids[:, -1] = 50256
        data = ids.ravel()[:size].astype("<u2").tobytes()
        name = f"{split}-{source}-0000.bin"
        (folder / name).write_bytes(data)
        shards.append({"file": name, "split": split, "source": source, "tokens": size,
                       "documents": size // 50,
                       "sha256": hashlib.sha256(data).hexdigest()})
    index = {"format": 1, "tokenizer": "gpt2", "vocab_size": 50257,
             "end_of_text": 50256, "shards": shards}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
