# Generated from the notebooks below by `python tools/sync.py`; edit those.
#   ch02.ipynb: GPT2_MERGES, GPT2_ADDRESS, rebuild_gpt2_files, find_in_course,
#     load_gpt2_bpe
#   tools/command_line.py: UserError, OneLineParser, run_command

import argparse
import json
import os
import sys
import tempfile
from hashlib import sha1
from pathlib import Path

import numpy as np
import tiktoken


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


# --- written by hand ---
# From texts to token ids that training can read without loading them into memory.
#
# A corpus is larger than memory, holds the same book twice, and has a damaged file
# somewhere. So nothing here is ever held whole. Part 1 lists the files; part 2 reads
# them as a stream of documents; part 3 cleans and tokenizes, in several threads; part 4
# drops duplicates and appends the ids to shards; part 5 puts the four together.
import codecs
import ctypes
import functools
import gzip
import io
import itertools
import re
import sqlite3
import tarfile
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b, sha256

from tqdm import tqdm

SEPARATOR = "<|endoftext|>"       # alone on a line: here one document ends
END_OF_TEXT = 50256               # the id that tells the model the same
LONGEST = 4_000_000               # characters of a document; a longer one is cut
HEADER = 50_000                   # characters; no header of Project Gutenberg has more
BATCH = 1_000_000                 # characters that a worker gets at once
BLOCK = 1 << 20                   # bytes read at once
TEXTS = (".txt", ".txt.gz")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
COUNTS = ("files", "broken_files", "documents", "duplicates", "not_english", "empty")


# --- 1. Which files there are ---

@dataclass
class Input:
    """A text or an archive of texts, and what the index calls it."""

    split: str           # train or valid
    source: str          # which of the given paths it belongs to
    name: str            # source/where it lies in it; no path of this machine
    path: Path
    size: int            # bytes, for the progress bar


def find_inputs(paths, split, seen, sources):
    """Return an Input for each file in paths that is not in the set seen yet."""
    inputs = []
    for given in map(Path, paths):
        if given.is_dir():
            files = walk(given)
        else:
            files = [given] if is_text(given.name, ARCHIVES) and given.exists() else []
        if not files:
            raise UserError(f"{given} is not there, or has no file that ends in "
                            f"{', '.join(TEXTS + ARCHIVES)}")
        new = {path.resolve(): path for path in files}      # a file given twice counts
        new = [path for real, path in new.items() if real not in seen]           # once
        seen.update(path.resolve() for path in new)
        source = new_source(given, sources) if new else None
        for path in new:
            name = "/".join([source, *map(printable, path.relative_to(given).parts)])
            size = path.stat().st_size if path.is_file() else 0
            inputs.append(Input(split, source, name, path, size))
    return inputs


def walk(folder):
    """Return the texts and archives in folder, in an order that is always the same."""
    found = []

    def keep(error):
        """Keep a folder that cannot be read: when it is opened, it tells why."""
        found.append(error.filename)

    for here, _, names in os.walk(folder, onerror=keep):
        found += [os.path.join(here, name) for name in names if is_text(name, ARCHIVES)]
    return sorted(map(Path, found), key=lambda path: path.relative_to(folder).parts)


def is_text(name, more=()):
    """Return whether name is not hidden and ends like a text, or in one of more."""
    name = name.rpartition("/")[2].lower()
    return name.endswith((*TEXTS, *more)) and not name.startswith(".")


def new_source(path, sources):
    """Return a name for path that is not in the set sources yet, and add it there."""
    name = path.resolve().name
    if not path.is_dir():
        endings = sorted(TEXTS + ARCHIVES, key=len, reverse=True)
        ending = next(e for e in endings if name.lower().endswith(e))
        name = name[:-len(ending)]
    name = re.sub(r"[^\w.-]+", "_", name) or "data"     # it will be part of file names
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    name = next(n for n in names if n.lower() not in sources)  # Windows: a.bin is A.bin
    sources.add(name.lower())
    return name


def printable(name):
    """Return name without line breaks and bytes that are no characters."""
    return "".join(c if c.isprintable() else "?" for c in name)


# --- 2. Reading: files become documents ---

def open_texts(path, raw):
    """Yield (name, function that opens it) for each text in raw, the file at path.

    Archives are read as streams, nothing is unpacked to the disk. A name inside an
    archive may be anything, even "../../etc/passwd": it is shown, never opened.
    """
    kind = path.name.lower()
    if kind.endswith(".zip"):
        with zipfile.ZipFile(raw) as archive:
            for info in archive.infolist():
                if is_text(info.filename):
                    yield info.filename, functools.partial(
                        unpack, info.filename, archive.open, info)
    elif kind.endswith(ARCHIVES):
        with tarfile.open(fileobj=raw) as archive:
            while info := archive.next():
                archive.members = []          # else it would remember every one
                if info.isreg() and is_text(info.name):
                    yield info.name, functools.partial(
                        unpack, info.name, archive.extractfile, info)
    else:
        yield "", functools.partial(unpack, kind, lambda _: raw, None)


def unpack(name, opener, info):
    """Return opener(info), a stream of bytes, unpacked if name ends in .gz."""
    stream = opener(info)
    return gzip.GzipFile(fileobj=stream) if name.lower().endswith(".gz") else stream


def check_file(path):
    """Return [(name, encoding, reason)] of the texts in the file at path.

    All of it is read once before any of it is used: so a text that turns out to be
    broken at its end leaves nothing behind. A broken one has a reason, no encoding.
    """
    verdicts = []
    try:
        if not path.is_file():
            list(path.iterdir())       # says what is wrong: no leave, or not a folder
        with open(path, "rb") as raw:
            for name, opener in open_texts(path, raw):
                try:
                    with opener() as stream:
                        verdicts.append((name, *find_encoding(stream)))
                except Exception as error:
                    verdicts.append((name, None, explain(error)))
    except Exception as error:         # damaged archives raise nearly anything
        if not verdicts or verdicts[-1][1]:            # else it is told already
            verdicts.append((None, None, explain(error)))
    return verdicts


def explain(error):
    """Return one line that says what was wrong with a file."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(" ".join(text.split()))


def find_encoding(stream):
    """Read stream to its end; return (encoding, None), or (None, why it is no text)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    size = high = damaged = control = 0
    for block in itertools.chain(iter(lambda: stream.read(BLOCK), b""), [b""]):
        if b"\0" in block:
            return None, "it has NUL bytes: binary, or UTF-16 (save it as UTF-8)"
        size += len(block)
        high += len(block.translate(None, ASCII_BYTES))
        control += len(block) - len(block.translate(None, CONTROL_BYTES))
        damaged += decoder.decode(block, final=not block).count("\ufffd")
    if control > 0.01 * size:
        return None, "it is binary: more than 1 % of its bytes are control characters"
    # in UTF-8 a letter beyond ASCII has two bytes or more. Where most of these bytes
    # fit together, the few others are damage; else it is an old text, one byte a letter
    return ("utf-8-sig" if 2 * damaged <= high else "cp1252"), None


ASCII_BYTES = bytes(range(128))
CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\v\f\r"))


def read_file(file):
    """Yield (name, reason or None) of each text in the Input file, then its documents.

    With each comes how many bytes of the file have been read by then.
    """
    verdicts = check_file(file.path)
    try:
        yield from read_checked(file, verdicts)
    except Exception as error:         # it was whole a moment ago, and is no longer
        yield (file.name, explain(error)), file.size


def read_checked(file, verdicts):
    """Yield what read_file yields, given what check_file found."""
    is_any_whole = any(encoding for _, encoding, _ in verdicts)
    with open(file.path, "rb") if is_any_whole else io.BytesIO() as raw:
        texts = open_texts(file.path, raw)
        for name, encoding, reason in verdicts:
            yield ("/".join([file.name, printable(name)] if name else [file.name]),
                   reason), 0
            if is_any_whole and name is not None:    # None: here the archive breaks off
                _, opener = next(texts)
            if encoding:
                lines = io.TextIOWrapper(opener(), encoding, errors="replace")
                for text in split_documents(lines):
                    yield text, (0 if raw.closed else raw.tell())


# The lines between which Project Gutenberg puts a book; those of before 2003 differ.
START = re.compile(r"\*\*\* ?START OF (THE|THIS) PROJECT GUTENBERG"
                   r"|\*END ?\*? ?THE SMALL PRINT")
END = re.compile(r"\*\*\* ?END OF (THE|THIS) PROJECT GUTENBERG|\*\*\* START: FULL LICEN"
                 r"|End of (the |this )?Project Gutenberg|END OF PROJECT GUTENBERG")


def split_documents(file):
    """Yield the documents in the text stream file, without header and licence."""
    lines, size = [], 0
    skip = False                       # after the end of a book comes the licence
    found = False
    for line in iter(lambda: file.readline(HEADER), ""):
        mark = line[:200].strip()
        is_start = START.match(mark)
        if mark == SEPARATOR or is_start or not skip and END.match(mark):
            # a start after little text: that was the header, and is dropped. After
            # much text: that was a book whose end was not marked
            if lines and (not is_start or size > HEADER):
                yield "".join(lines)
                found = True
            lines, size = [], 0
            skip = mark != SEPARATOR and not is_start
            if is_start and not mark.endswith("*"):
                file.readline(HEADER)  # the book's title went on in the next line
        elif not skip:
            lines.append(line)
            size += len(line)
            # too long: cut at a blank line, or anywhere if none comes
            if size >= LONGEST and (not mark or size >= LONGEST + HEADER):
                yield "".join(lines)
                found = True
                lines, size = [], 0
    if lines or not found:             # an empty file is one empty document
        yield "".join(lines)


# --- 3. Cleaning and tokenizing: what the workers do ---

LINE_ENDS = "\v\f\x85\u2028\u2029"
CONTROLS = re.compile(r"[\0-\x08\v-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffd]")
# blanks by the thousand and "words" of 1,000 letters are data, not prose. tiktoken's
# regular expression fails on the first; before 0.13 it takes hours for the others
NO_PROSE = re.compile(r"[^\S\n]{100,}|[!-~]{1000,}")


def clean(text):
    """Return text with plain line ends, single blank lines, no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = CONTROLS.sub(lambda m: "\n" if m[0] in LINE_ENDS else "", text)
    lines = (line if len(line) < 10_000 else NO_PROSE.sub(" ", line)
             for line in text.split("\n"))
    text = "\n".join(line.rstrip() for line in lines).strip("\n")
    return re.sub("\n{3,}", "\n\n", text) if "\n\n\n" in text else text


def is_english(text, threshold=0.9):
    """Return whether at least the share threshold of text's characters is ASCII.

    It tells English from Russian, Greek or Chinese. It does not tell it from Latin,
    Dutch or a table of numbers, and most French passes too. An empty text is none.
    """
    return bool(text) and len(text.encode("ascii", "ignore")) >= threshold * len(text)


def digest_of(text):
    """Return 16 bytes, the same for texts that differ only in case and blanks.

    16 bytes take the place of a book in memory and on disk; that two different ones
    share them will not happen: the chance is 1 in 10**18 for ten billion documents.
    """
    data = text.lower().encode().translate(BLANKS_TO_SPACES)
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return blake2b(data.strip(), digest_size=16).digest()


BLANKS_TO_SPACES = bytes.maketrans(b"\t\n", b"  ")


def encode_document(text, tokenizer, keep_all_languages, min_characters):
    """Return (digest, ids) of text; or (None, which of COUNTS it goes to)."""
    text = clean(text)
    if len(text) < max(1, min_characters):
        return None, "empty"
    if not keep_all_languages and not is_english(text):
        return None, "not_english"
    # nothing is allowed to be special: a book that mentions <|endoftext|> gives the
    # seven ordinary tokens of these characters, never the id 50256
    if hasattr(tokenizer, "encode_to_numpy"):          # no Python int per token
        ids = tokenizer.encode_to_numpy(text, disallowed_special=())    # (num_tokens,)
    else:                                              # tiktoken before 0.9
        ids = tokenizer.encode_ordinary(text)
    short = np.empty(len(ids) + 1, dtype="<u2")        # two bytes each, low byte first
    short[:-1], short[-1] = ids, END_OF_TEXT
    return digest_of(text), short


def encode_batch(items, encode):
    """Return items with each text replaced by what encode makes of it."""
    return [(file, encode(item) if isinstance(item, str) else item)
            for file, item in items]


# --- 4. Writing: shards, and how far they are true ---

class Output:
    """The shards in a folder, and progress.sqlite, from which a killed run goes on.

    Ids are appended to shards, digests to the database. After each batch commit() first
    makes the ids safe, then notes in the database how long each shard is. What a killed
    run had written beyond that is cut off when the next one begins.
    """

    def __init__(self, folder, settings):
        self.folder = folder
        self.settings = settings
        self.files = {}                  # (split, source): the shard open for writing
        self.position = {"file": 0, "items": 0, "bytes": 0}
        self.counts = dict.fromkeys(COUNTS, 0)
        self.shards = []
        self.last = {}                   # (split, source): the last of its shards
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / "progress.sqlite").exists():
            raise UserError(f"{folder} is not empty and nothing in it is overwritten; "
                            "choose another --output-dir")
        self.db = sqlite3.connect(folder / "progress.sqlite", timeout=1,
                                  isolation_level=None)
        try:
            self.db.execute("PRAGMA locking_mode = EXCLUSIVE")   # one run at a time
            self.db.execute("BEGIN IMMEDIATE")
            for table in ("seen (digest BLOB PRIMARY KEY) WITHOUT ROWID",
                          "broken (file TEXT, reason TEXT)",
                          "state (id INTEGER PRIMARY KEY, json TEXT)"):
                self.db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            self.resume()
        except BaseException:
            self.close()
            raise

    def resume(self):
        """Take up the state of the last commit and undo what came after it."""
        row = self.db.execute("SELECT json FROM state").fetchone()
        if row:
            state = json.loads(row[0])
            for key, value in self.settings.items():
                if state["settings"][key] != value:
                    raise UserError(
                        f"{self.folder} is half done with other {key}; repeat the "
                        "command that began it, or choose another --output-dir")
            self.position, self.counts = state["position"], state["counts"]
            self.shards = state["shards"]
            self.last = {(s["split"], s["source"]): s for s in self.shards}
        known = {shard["file"] for shard in self.shards}
        for path in self.folder.glob("*.bin"):
            if path.name not in known:
                path.unlink()
        for shard in self.shards:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size < 2 * shard["tokens"]:
                raise UserError(f"{path} is shorter than it was; choose another "
                                "--output-dir and begin anew")
            os.truncate(path, 2 * shard["tokens"])

    def add(self, file, digest, ids):
        """Append ids, a document of the Input file, unless its digest is known."""
        new = self.db.execute("INSERT OR IGNORE INTO seen VALUES (?)", [digest])
        if new.rowcount == 0:
            self.counts["duplicates"] += 1
            return
        split, share = file.split, self.settings["valid_share"]
        if share is not None:          # no --valid: the digest is a die that falls the
            die = int.from_bytes(digest[:8], "big") / 2**64      # same way in every run
            is_first = self.counts["documents"] == 0       # train must not be empty
            split = "valid" if die < share and not is_first else "train"
        shard = self.shard_for(split, file.source, ids.nbytes)
        self.files[split, file.source].write(ids.tobytes())
        shard["tokens"] += len(ids)
        shard["documents"] += 1
        self.counts["documents"] += 1

    def shard_for(self, split, source, size):
        """Return a shard with room for size bytes, its file open."""
        shard = self.last.get((split, source))
        limit = self.settings["max_size_mb"] * 1_000_000
        if not shard or 2 * shard["tokens"] + size > limit:
            self.close_files()
            number = int(re.findall(r"\d+", shard["file"])[-1]) + 1 if shard else 0
            shard = {"file": f"{split}-{source}-{number:04d}.bin", "split": split,
                     "source": source, "tokens": 0, "documents": 0}
            self.shards.append(shard)
            self.last[split, source] = shard
        if (split, source) not in self.files:
            self.files[split, source] = open(self.folder / shard["file"], "ab")
        return shard

    def add_broken(self, name, reason):
        """Note that the text called name cannot be used."""
        self.counts["broken_files"] += 1
        self.db.execute("INSERT INTO broken VALUES (?, ?)", [name, reason])

    def close_files(self):
        """Close the open shards when all that was written to them is on the disk."""
        while self.files:
            with self.files.popitem()[1] as file:
                file.flush()
                os.fsync(file.fileno())

    def commit(self, position):
        """Make safe all that was added, up to position in the inputs."""
        self.close_files()
        self.position = position
        state = {"settings": self.settings, "position": position, "counts": self.counts,
                 "shards": self.shards}
        self.db.execute("INSERT OR REPLACE INTO state VALUES (1, ?)",
                        [json.dumps(state)])
        self.db.execute("COMMIT")
        self.db.execute("BEGIN IMMEDIATE")

    def hold_out_end(self):
        """Hold out the last document, or the last tenth if the last shard has only one.

        Killed at any line it can be done again: what it reads it does not change.
        """
        train = self.shards[-1]
        path = self.folder / train["file"]
        start = max(0, train["tokens"] - 5 * LONGEST)     # a document is never as long
        ids = np.fromfile(path, "<u2", offset=2 * start)             # (num_tokens,)
        is_cut = train["documents"] == 1
        if is_cut:
            size = max(1, len(ids) // 10)
        else:
            size = len(ids) - 1 - int(np.flatnonzero(ids[:-1] == END_OF_TEXT)[-1])
        valid = {"file": f"valid-{train['source']}-0000.bin", "split": "valid",
                 "source": train["source"], "tokens": size, "documents": 1}
        ids[-size:].tofile(self.folder / valid["file"])
        train["tokens"] -= size
        train["documents"] -= 0 if is_cut else 1
        if is_cut:
            with open(path, "r+b") as file:
                file.seek(2 * train["tokens"] - 2)
                file.write(ids[-1:].tobytes())            # here the document ends now
        self.shards.append(valid)
        self.counts["documents"] += is_cut
        self.commit(self.position)
        os.truncate(path, 2 * train["tokens"])

    def finish(self):
        """Write index.json, the sign that all is whole, and return its dict."""
        splits = {shard["split"] for shard in self.shards}
        if splits == {"train"} and self.settings["valid_share"] is not None:
            self.hold_out_end()        # the die fell for none, as in a small corpus
        elif len(splits) < 2:
            missing = "valid" if "train" in splits else "train"
            raise UserError(f"nothing is left to write for {missing}: "
                            + said(self.counts))
        broken = self.db.execute("SELECT file, reason FROM broken").fetchall()
        index = {
            "format": 1, "tokenizer": "gpt2", "vocab_size": END_OF_TEXT + 1,
            "end_of_text": END_OF_TEXT,
            "shards": [{**shard, "sha256": file_sha256(self.folder / shard["file"])}
                       for shard in self.shards],
            "counts": self.counts,
            "broken": [{"file": file, "reason": reason} for file, reason in broken],
            "settings": {key: value for key, value in self.settings.items()
                         if key != "files"},
        }
        temporary = self.folder / "index.json.part"
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(index, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / "index.json")
        self.close()
        (self.folder / "progress.sqlite").unlink(missing_ok=True)
        return index

    def close(self):
        """Let go of all files; what was not committed does not count."""
        while self.files:
            try:
                self.files.popitem()[1].close()
            except OSError:            # the disk is full, as was said already
                pass
        self.db.close()


@contextmanager
def writing(folder):
    """Turn trouble with the folder's files into one line that says how to go on."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if "locked" in reason:
            raise UserError(f"another run is at work in {folder}; wait for it, or "
                            "choose another --output-dir") from None
        raise UserError(f"{folder} could not be written: {reason}; mend that, then "
                        "repeat the command: it goes on where it was") from None


def file_sha256(path):
    """Return the checksum of the file at path."""
    checksum = sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            checksum.update(block)
    return checksum.hexdigest()


# --- 5. All together ---

def make_batches(inputs, position):
    """Yield (items, position after them), about BATCH characters of the inputs each."""
    items, size = [], 0
    before = sum(file.size for file in inputs[:position["file"]])
    for number in range(position["file"], len(inputs)):
        file = inputs[number]
        done = position["items"] if number == position["file"] else 0
        for item, read in itertools.islice(read_file(file), done, None):
            done += 1
            items.append((file, item))
            size += len(item) if isinstance(item, str) else 0
            if size >= BATCH or len(items) >= 1000:
                yield items, {"file": number, "items": done, "bytes": before + read}
                items, size = [], 0
        before += file.size
    yield items, {"file": len(inputs), "items": 0, "bytes": before}


def in_order(pool, function, batches, ahead):
    """Yield (function(items), position) in the order of batches.

    Only ahead + 1 batches are in memory at a time, however fast they can be read.
    """
    waiting = deque()
    for items, position in batches:
        waiting.append((pool.submit(function, items), position))
        if len(waiting) > ahead:
            future, position_then = waiting.popleft()
            yield future.result(), position_then
    for future, position in waiting:
        yield future.result(), position


def combine_files(inputs, output, encode, workers):
    """Read, clean, tokenize and store what output does not have of inputs yet."""
    total = sum(file.size for file in inputs) or None
    bar = tqdm(total=total, initial=output.position["bytes"], unit="B", unit_scale=True,
               dynamic_ncols=True)
    pool = ThreadPoolExecutor(workers)
    batches = make_batches(inputs, output.position)
    work = functools.partial(encode_batch, encode=encode)
    try:
        for results, position in in_order(pool, work, batches, workers + 1):
            with writing(output.folder):
                for file, (first, second) in results:
                    store(output, file, first, second)
                output.commit(position)
            bar.set_postfix_str(f"{output.counts['documents']:,} documents",
                                refresh=False)
            bar.update(max(0, position["bytes"] - bar.n))
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def store(output, file, first, second):
    """Hand one result of encode_batch, or one (name, reason) of a text, to output."""
    if isinstance(first, bytes):
        output.add(file, first, second)               # digest, ids
    elif first is None:
        output.counts[second] += 1
    else:
        output.counts["files"] += 1
        if second:
            output.add_broken(first, second)
            tqdm.write(f"skipped {first}: {second}", file=sys.stderr)


def prepare(data, out, valid=(), *, max_size_mb=500, valid_share=0.005,
            keep_all_languages=False, min_characters=1, workers=None):
    """Turn the texts at the paths data into token shards in the folder out.

    Returns what stands in index.json. valid: paths of texts to hold out; without them
    the share valid_share of the documents is held out. A call that was killed goes on
    where it was when it is repeated.
    """
    data, valid = ([given] if isinstance(given, (str, Path)) else list(given)
                   for given in (data, valid))
    out = Path(out)
    if (out / "index.json").exists():
        raise UserError(f"{out} is finished and is not overwritten; choose another "
                        "--output-dir")
    seen, sources = set(), set()
    # held-out texts come first: what equals one of them is a duplicate when it comes to
    # the training data. The other way round the model would be tested on what it knows
    inputs = (find_inputs(valid, "valid", seen, sources)
              + find_inputs(data, "train", seen, sources))
    settings = {
        "max_size_mb": max_size_mb, "valid_share": None if valid else valid_share,
        "keep_all_languages": keep_all_languages, "min_characters": min_characters,
        "data": [printable(Path(path).resolve().name) for path in data],
        "valid": [printable(Path(path).resolve().name) for path in valid],
        "files": fingerprint(inputs),
    }
    try:
        tokenizer = load_gpt2_bpe()
    except OSError:                    # requests' errors are OSErrors too
        raise UserError(f"GPT-2's vocabulary cannot be downloaded; put {GPT2_MERGES} "
                        "of the course beside this script") from None
    encode = functools.partial(
        encode_document, tokenizer=tokenizer, min_characters=min_characters,
        keep_all_languages=keep_all_languages)
    with writing(out):
        output = Output(out, settings)
    try:
        combine_files(inputs, output, encode, workers or os.cpu_count() or 1)
        with writing(out):
            return output.finish()
    finally:
        output.close()


def fingerprint(inputs):
    """Return a checksum of the names, sizes and times of inputs."""
    checksum = blake2b(digest_size=16)
    for file in inputs:
        time = file.path.stat().st_mtime_ns if file.size else 0
        checksum.update(repr((file.split, file.name, file.size, time)).encode())
    return checksum.hexdigest()


def said(counts):
    """Return the counts as words."""
    return ", ".join(f"{number:,} {what.replace('_', ' ')}"
                     for what, number in counts.items())


def number_in(kind, low, high):
    """Return a function that reads a number of kind (int, float), low to high."""
    def read(text):
        try:
            if low <= kind(text) <= high:
                return kind(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number from {low} to {high}")
    return read


def return_large_blocks():
    """Ask the C library to give freed blocks of 256 kB and more back at once.

    Linux's keeps some for each thread, in pieces that fit ever worse: a run took more
    memory the longer it went. Only for this script: training wants the opposite.
    """
    try:
        ctypes.CDLL(None).mallopt(-3, 1 << 18)     # -3 is M_MMAP_THRESHOLD
    except (AttributeError, OSError, TypeError):
        pass                                       # another C library: macOS, Windows


def command():
    """Read the command line and prepare the corpus."""
    return_large_blocks()
    parser = OneLineParser(description="Turn texts into token ids for pretraining.",
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--data-dir", "--data", nargs="+", metavar="PATH",
        default=["gutenberg/data/raw"],
        help="texts (.txt, .txt.gz), archives (.zip, .tar, .tar.gz), folders of them")
    add("--output-dir", metavar="FOLDER", default="gutenberg_preprocessed")
    add("--max-size-mb", type=number_in(float, 0.001, 1e6), default=500,
        help="largest size of a shard, in millions of bytes")
    add("--valid", nargs="+", metavar="PATH", default=[], help="texts to hold out")
    add("--valid-share", type=number_in(float, 0, 0.5), default=0.005,
        help="share of the documents that is held out if --valid is not given")
    add("--keep-all-languages", action="store_true", help="keep what is not English")
    add("--min-characters", type=number_in(int, 1, 10**6), default=1,
        help="shorter documents are dropped")
    add("--workers", type=number_in(int, 1, 1000), default=os.cpu_count() or 1)
    options = vars(parser.parse_args())
    out = options.pop("output_dir")
    index = prepare(options.pop("data_dir"), out, **options)
    print(f"{out}: {said(index['counts'])}")
    for split in ("train", "valid"):
        tokens = sum(s["tokens"] for s in index["shards"] if s["split"] == split)
        print(f"{split}: {tokens:,} tokens")


if __name__ == "__main__":
    run_command(command)
