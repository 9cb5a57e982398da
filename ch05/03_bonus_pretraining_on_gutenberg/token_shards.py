"""A prepared corpus: token ids on disk, cut into training windows in a seeded order.

prepare_dataset.py writes a folder with index.json and shards of little-endian uint16
ids (GPT-2's 50,257 fit into 16 bits), each document followed by <|endoftext|>. Here the
shards are memory-mapped: the operating system reads a page when it is first touched and
may drop it again, so a corpus of any size needs next to no memory.
"""
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class ShardError(ValueError):
    """A folder is no whole prepared corpus; the message names the file and the fix."""


@dataclass
class Shard:
    """One file of ids of one source."""

    source: str
    ids: np.ndarray      # (num_tokens,) uint16, memory-mapped
    sha256: str

    def num_windows(self, length):
        """Return how many windows of length + 1 ids fit at any phase (WindowOrder)."""
        return max((len(self.ids) - length) // length, int(len(self.ids) > length))


def read_shards(folder, split, verify=False):
    """Return the Shards of split ("train" or "valid") in the prepared folder.

    Raises ShardError if index.json is missing or damaged, if a shard's size is wrong
    or, with verify, its sha256.
    """
    folder = Path(folder)
    repair = "; prepare it with prepare_dataset.py"
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        entries = [entry for entry in index["shards"] if entry["split"] == split]
        if index["format"] != 1 or index["vocab_size"] > 2**16:
            raise ShardError(f"{folder}/index.json is of another format{repair}")
    except OSError:
        raise ShardError(f"{folder} holds no index.json{repair}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{folder}/index.json is damaged ({error}){repair}") from None
    return [read_shard(folder / entry["file"], entry, verify) for entry in entries]


def read_shard(path, entry, verify):
    """Return the Shard at path after comparing it with its entry in the index."""
    repair = "; copy it again, or prepare the corpus anew"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror}){repair}") from None
    if size != 2 * entry["tokens"]:
        raise ShardError(f"{path} has {size:,} bytes, its index says "
                         f"{2 * entry['tokens']:,}{repair}")
    if verify:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != entry["sha256"]:
            raise ShardError(f"{path} is damaged: its sha256 is another{repair}")
    ids = np.memmap(path, dtype="<u2", mode="r") if size else np.empty(0, "<u2")
    return Shard(entry["source"], ids, entry["sha256"])


class WindowOrder:
    """The order in which training sees a corpus, as a function of the position alone.

    Position 0 is the first window of the run, and every window has its position, across
    epochs: nothing has to be saved to go on in the middle. Each epoch has a shuffle of
    its own, and a shift of its own (phase), so that a window seen in the second epoch
    does not begin where it began in the first. repeats = {source: times an epoch}
    shows a source more often, or a part of it only.
    """

    def __init__(self, shards, length, seed, repeats=None):
        self.shards, self.length, self.seed = shards, length, seed
        self.counts = np.array([
            round(shard.num_windows(length) * (repeats or {}).get(shard.source, 1))
            for shard in shards], dtype=np.int64)
        self.ends = np.cumsum(self.counts)
        self.epoch, self.shuffled, self.phases = None, None, None

    def __len__(self):
        """Return the number of windows in an epoch."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def begin(self, epoch):
        """Draw the shuffle and the shifts of epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        self.shuffled = rng.permutation(len(self)).astype(np.uint32)
        slack = [max(len(shard.ids) - shard.num_windows(self.length) * self.length, 1)
                 for shard in self.shards]
        self.phases = rng.integers(0, slack)
        self.epoch = epoch

    def window(self, position):
        """Return the ids (length + 1,) of the window at position, int64."""
        epoch, place = divmod(position, len(self))
        if epoch != self.epoch:
            self.begin(epoch)
        number = int(self.shuffled[place])
        i = int(np.searchsorted(self.ends, number, side="right"))
        shard, count = self.shards[i], int(self.counts[i])
        within = number - (int(self.ends[i]) - count)
        # a source shown 2.5 times an epoch begins the next epoch where it left off
        within = (within + epoch * count) % shard.num_windows(self.length)
        start = int(self.phases[i]) + within * self.length
        return shard.ids[start:start + self.length + 1].astype(np.int64)

    def batch(self, first, size):
        """Return the windows at positions first, first + 1, ..., (size, length + 1)."""
        return np.stack([self.window(first + i) for i in range(size)])


def plain_windows(shards, length):
    """Return {source: [(shard, start)]} of windows side by side, to evaluate on."""
    found = {}
    for shard in shards:
        starts = range(0, len(shard.ids) - length, length)
        found.setdefault(shard.source, []).extend((shard, start) for start in starts)
    return found
