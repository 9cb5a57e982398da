"""prepare_dataset.py: what becomes of texts, and of a run that is disturbed."""
import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, load_file

FOLDER = "ch05/03_bonus_pretraining_on_gutenberg"
SCRIPT = ROOT / FOLDER / "prepare_dataset.py"
END = "<|endoftext|>"
HEAD = "*** START OF THE PROJECT GUTENBERG EBOOK PLUM ***\n"
TAIL = "*** END OF THE PROJECT GUTENBERG EBOOK PLUM ***\nlicence\n"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    return load_file(f"{FOLDER}/prepare_dataset.py")


@pytest.fixture(scope="module")
def tokenizer(script):
    return script.load_gpt2_bpe()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, *documents):
    """Write a text file of documents; .gz names are compressed."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = f"\n{END}\n".join(documents).encode("utf-8")
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def documents(out, tokenizer, split=None):
    """Return the texts in the shards of a finished folder, after checking the index."""
    index = json.loads((Path(out) / "index.json").read_text(encoding="utf-8"))
    texts = []
    for shard in index["shards"]:
        data = (Path(out) / shard["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        ids = np.frombuffer(data, dtype="<u2")
        assert len(ids) == shard["tokens"] and ids[-1] == 50256
        assert (ids == 50256).sum() == shard["documents"]
        if split in (None, shard["split"]):
            text = tokenizer.decode(ids.tolist())
            texts += text.removesuffix(END).split(END)
    assert index["counts"]["documents"] == sum(s["documents"] for s in index["shards"])
    assert len(index["broken"]) == index["counts"]["broken_files"]
    return texts


def story(number, length=200):
    """Return an English document that no other number gives."""
    words = random.Random(number).choices("the cat sat on a mat and saw one dog".split(),
                                          k=length)
    return f"Story {number}. " + " ".join(words)


def tree(folder):
    """Return {name: bytes} of a folder."""
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def command(*words):
    """Run the script with words in a process of its own; return it, finished."""
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True,
                          text=True, encoding="utf-8", timeout=120)


# --- what becomes of a text ---

def test_format_of_the_folder(script, folder, tokenizer):
    write("data/b.txt", "A first one.", "A second one.")
    write("data/deep/a.txt.gz", "A third one.")
    write("held.txt", "Held out.")
    index = script.prepare(["data"], "out", ["held.txt"])
    assert index == json.loads(Path("out/index.json").read_text(encoding="utf-8"))
    assert {k: index[k] for k in ("format", "tokenizer", "vocab_size", "end_of_text")} == {
        "format": 1, "tokenizer": "gpt2", "vocab_size": 50257, "end_of_text": 50256}
    assert [(s["file"], s["split"], s["source"], s["documents"])
            for s in index["shards"]] == [
        ("valid-held-0000.bin", "valid", "held", 1),
        ("train-data-0000.bin", "train", "data", 3)]
    assert index["counts"] == {"files": 3, "broken_files": 0, "documents": 4,
                               "duplicates": 0, "not_english": 0, "empty": 0}
    assert documents("out", tokenizer) == [
        "Held out.", "A first one.", "A second one.", "A third one."]
    assert set(tree("out")) == {"index.json", *(s["file"] for s in index["shards"])}
    assert str(folder) not in Path("out/index.json").read_text(encoding="utf-8")


def test_a_full_shard_is_closed(script, folder, tokenizer):
    texts = [story(i) for i in range(30)]
    write("a.txt", *texts)
    write("held.txt", "Held out.")
    index = script.prepare(["a.txt"], "out", ["held.txt"], max_size_mb=0.002)
    sizes = [2 * s["tokens"] for s in index["shards"] if s["split"] == "train"]
    assert len(sizes) > 3 and max(sizes) <= 2000 and min(sizes[:-1]) > 1000
    assert documents("out", tokenizer, "train") == texts


@pytest.mark.parametrize("before, after", [
    ("\ufeffBOM and CRLF\r\nlines\r\rold Mac", "BOM and CRLF\nlines\n\nold Mac"),
    ("trailing  \t\nblanks\n\n\n\n\nand lines\n\n", "trailing\nblanks\n\nand lines"),
    ("bell\a, escape\x1b[0m, \x0cpage", "bell, escape[0m,\npage"),
    ("    indented\n  verse", "    indented\n  verse"),
    (f"It said {END} in the middle.", f"It said {END} in the middle."),
    ("so" + " " * 300_000 + "far", "so far"),
])
def test_cleaning(script, tokenizer, before, after):
    assert script.clean(before) == after
    digest, ids = script.encode_document(before, tokenizer, True, 1)
    assert ids[-1] == 50256 and 50256 not in ids[:-1] and ids.dtype == np.dtype("<u2")
    assert tokenizer.decode(ids[:-1].tolist()) == after
    no_numpy = type("Old", (), {"encode_ordinary": tokenizer.encode_ordinary})()
    old = script.encode_document(before, no_numpy, True, 1)[1]
    assert old.dtype == ids.dtype and old.tolist() == ids.tolist()


@pytest.mark.parametrize("text, expected", [
    ("Title: Plum\n" + HEAD + "It was.\n" + TAIL, ["It was."]),
    ("Title\n*** START OF THIS PROJECT GUTENBERG EBOOK A VERY LONG\nTITLE ***\nIt was.\n"
     "End of the Project Gutenberg EBook of Plum\nlicence", ["It was."]),
    ("Etext\n***START**THE SMALL PRINT!**\nno\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN"
     "*Ver.04.29.93*END*\nIt was.\nEnd of Project Gutenberg's Plum\nx", ["It was."]),
    ("a\n" + HEAD + "One.\n" + TAIL + "b\n" + HEAD + "Two.\n" + TAIL, ["One.", "Two."]),
    ("a\n" + HEAD + "One.\n" + TAIL + f"{END}\nTwo.\n", ["One.", "Two."]),
    (HEAD + "long " * 20_000 + "\n" + HEAD + "Two.", ["long", "Two."]),
    ("The end of Project Gutenberg was near.", ["The end of Project Gutenberg was near."]),
    (f"One.\n{END}\nTwo.\n{END}\n", ["One.", "Two."]),
    (f"One {END}\nstill one.", [f"One {END}\nstill one."]),
    ("", [""]),
])
def test_documents_of_a_file(script, text, expected):
    found = [script.clean(d) for d in script.split_documents(io.StringIO(text))]
    assert [d[:4] if d.startswith("long") else d for d in found] == expected


@pytest.mark.parametrize("line", ["word " * 9 + "\n", "word\n\n", "word "])
def test_a_long_document_is_cut_and_nothing_is_lost(script, monkeypatch, line):
    monkeypatch.setattr(script, "LONGEST", 1000)
    monkeypatch.setattr(script, "HEADER", 100)
    text = line * 1000
    parts = list(script.split_documents(io.StringIO(text)))
    assert len(parts) > 3 and max(map(len, parts)) <= 1200
    assert "".join(parts) == text
    if line.endswith("\n\n"):
        assert all(part.endswith("\n\n") for part in parts)


def test_is_english(script):
    assert script.is_english("It was a dark and stormy night.") is True
    assert script.is_english("Была тёмная ненастная ночь.") is False
    assert script.is_english("") is False
    assert script.is_english("a" * 9 + "é") and not script.is_english("a" * 8 + "éé")


def test_the_language_filter_and_its_switch(script, folder, tokenizer):
    write("a.txt", "An English one.", "Это по-русски.", "", "Tiny", "A last one here.")
    write("held.txt", "Held out.")
    index = script.prepare("a.txt", "out", "held.txt", min_characters=5)
    assert documents("out", tokenizer, "train") == ["An English one.", "A last one here."]
    assert (index["counts"]["not_english"], index["counts"]["empty"]) == (1, 2)
    script.prepare("a.txt", "out2", "held.txt", keep_all_languages=True)
    assert "Это по-русски." in documents("out2", tokenizer, "train")


@pytest.mark.parametrize("data, encoding", [
    ("Crème brûlée — “yes”".encode(), "utf-8-sig"),
    ("Crème brûlée — “yes”".encode("cp1252"), "cp1252"),
    ("Déjà vu, façade, naïve, Zoë. ".encode() * 9 + b"\xff damage", "utf-8-sig"),
    (b"", "utf-8-sig"),
    (b"text\0text", None), ("UTF-16".encode("utf-16"), None),
    (random.Random(0).randbytes(5000).replace(b"\0", b""), None),
])
@pytest.mark.parametrize("block", [3, 1 << 20])
def test_encodings(script, monkeypatch, data, encoding, block):
    monkeypatch.setattr(script, "BLOCK", block)     # a letter lies across two blocks
    found, reason = script.find_encoding(io.BytesIO(data))
    assert found == encoding and bool(reason) == (encoding is None)


def test_a_broken_file_is_named_skipped_and_counted(script, folder, tokenizer, capsys):
    write("data/good.txt", "Good one.")
    whole = write("data/cut.txt.gz", *map(story, range(50))).read_bytes()
    Path("data/cut.txt.gz").write_bytes(whole[:-20])
    Path("data/binary.txt").write_bytes(b"English first\n" * 200_000 + b"\0")
    Path("data/no.zip").write_bytes(b"this is no zip")
    Path("data/gone.txt").symlink_to("nowhere.txt")
    if hasattr(os, "mkfifo"):
        os.mkfifo("data/pipe.txt")
    latin = "Vieux café, déjà vu, and English enough to stay."
    Path("data/old.txt").write_bytes(latin.encode("latin1"))
    write("held.txt", "Held out.")
    index = script.prepare(["data"], "out", ["held.txt"])
    assert documents("out", tokenizer, "train") == ["Good one.", latin]
    reasons = {entry["file"]: entry["reason"] for entry in index["broken"]}
    assert list(reasons) == [f"data/{name}" for name in (
        "binary.txt", "cut.txt.gz", "gone.txt", "no.zip", "pipe.txt")
        if name != "pipe.txt" or hasattr(os, "mkfifo")]
    assert "NUL" in reasons["data/binary.txt"]
    assert "end-of-stream" in reasons["data/cut.txt.gz"]
    assert index["counts"]["broken_files"] == 5
    printed = capsys.readouterr().err
    assert all(f"skipped {name}: {reasons[name]}" in printed for name in reasons)


def archives(folder, texts):
    """Write texts {name: bytes} as one.zip, two.tar and three.tar.gz into folder."""
    Path(folder).mkdir()
    with zipfile.ZipFile(f"{folder}/one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in texts.items():
            archive.writestr(name, data)
    for name, mode in (("two.tar", "w"), ("three.tar.gz", "w:gz")):
        with tarfile.open(f"{folder}/{name}", mode) as archive:
            for member, data in texts.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("name", ["one.zip", "two.tar", "three.tar.gz"])
def test_archives_are_read_and_their_names_are_no_paths(script, folder, tokenizer, name):
    archives("in", {
        "a.txt": b"First.", "../../evil.txt": b"Second.", "/tmp/abs.txt": b"Third.",
        "sub/b.txt.gz": gzip.compress(b"Fourth."), "bad.txt": b"\0", "x.jpg": b"no",
        "__MACOSX/._a.txt": b"hidden", "c.txt": b"Fifth.", "cut.txt.gz": b"\x1f\x8b\x08"})
    write("held.txt", "Held out.")
    before = set(folder.rglob("*"))
    index = script.prepare([f"in/{name}"], "out", ["held.txt"])
    assert sorted(documents("out", tokenizer, "train")) == [
        "Fifth.", "First.", "Fourth.", "Second.", "Third."]
    source = name.split(".")[0]
    assert [b["file"] for b in index["broken"]] == [f"{source}/bad.txt",
                                                    f"{source}/cut.txt.gz"]
    assert set(folder.rglob("*")) - before == {folder / "out",
                                               *(folder / "out").iterdir()}


@pytest.mark.parametrize("name", ["one.zip", "two.tar", "three.tar.gz"])
def test_a_damaged_archive_stops_nothing(script, folder, tokenizer, name):
    archives("in", {f"{i}.txt": random.Random(i).randbytes(300).hex().encode()
                    for i in range(20)})
    write("held.txt", "Held out.")
    write("in/z.txt", "Comes last.")
    whole, rng = Path("in", name).read_bytes(), random.Random(0)
    broken = 0
    for i in range(12):
        data = bytearray(whole)
        if i % 2:
            del data[rng.randrange(len(data)):]
        else:
            for _ in range(20):
                data[rng.randrange(len(data))] = rng.randrange(256)
        Path("in", name).write_bytes(data)
        index = script.prepare([f"in/{name}", "in/z.txt"], f"out{i}", ["held.txt"])
        assert documents(f"out{i}", tokenizer, "train")[-1] == "Comes last."
        broken += index["counts"]["broken_files"]
    assert broken > 3


# --- duplicates and held-out documents ---

def test_duplicates_and_leaks_are_dropped(script, folder, tokenizer):
    write("data/a.txt", "One  cat.", "Two cats.", "ONE\ncat.", "Held\nOUT.", "Onecat.")
    write("data/held.txt", "Held out.", "held out.")
    index = script.prepare(["data"], "out", ["data/held.txt"])
    assert documents("out", tokenizer, "valid") == ["Held out."]
    assert documents("out", tokenizer, "train") == ["One  cat.", "Two cats.", "Onecat."]
    assert index["counts"]["duplicates"] == 3 and index["counts"]["files"] == 2


def test_a_share_is_held_out_by_digest(script, folder, tokenizer):
    texts = [story(i, 9) for i in range(2000)]
    write("a.txt", *texts, *[t.upper() for t in texts])
    script.prepare("a.txt", "out", valid_share=0.05)
    valid = documents("out", tokenizer, "valid")
    assert 60 < len(valid) < 140
    train = documents("out", tokenizer, "train")
    assert len(train) + len(valid) == 2000 and not set(train) & set(valid)
    write("b.txt", *reversed(texts[1:]), texts[0])      # another order, the same dice
    script.prepare("b.txt", "other", valid_share=0.05)
    differing = set(documents("other", tokenizer, "valid")) ^ set(valid)
    assert differing <= {texts[0], texts[-1]}


@pytest.mark.parametrize("count", [1, 2, 9])
def test_even_the_smallest_corpus_has_something_held_out(script, folder, tokenizer, count):
    texts = [story(i) for i in range(count)]
    write("a.txt", *texts)
    index = script.prepare("a.txt", "out")
    assert {s["split"] for s in index["shards"]} == {"train", "valid"}
    found = documents("out", tokenizer)
    if count == 1:
        assert texts[0].startswith(found[0]) and texts[0].endswith(found[1])
        assert len("".join(found)) > 0.98 * len(texts[0])
        assert len(found[1]) < len(found[0]) / 8
    else:
        assert found == texts and documents("out", tokenizer, "valid") == texts[-1:]


def test_equal_names_get_a_number(script, folder):
    for i, name in enumerate(("x/a.txt", "y/a.txt.gz", "z/A.zip.txt", "a b?.txt")):
        write(name, story(i))
    zipfile.ZipFile("a.zip", "w").writestr("q.txt", story(9))
    names = ["x/a.txt", "y/a.txt.gz", "a.zip", "x", "z/A.zip.txt", "a b?.txt"]
    index = script.prepare(names, "out", "x/a.txt")
    assert [s["source"] for s in index["shards"]] == ["a", "a-2", "a-3", "A.zip", "a_b_"]


# --- order, memory, disturbance ---

@pytest.fixture
def corpus(folder, script, monkeypatch):
    """data/ and held.txt, several batches in several shapes, and the folder they give."""
    monkeypatch.setattr(script, "BATCH", 3000)
    write("data/a.txt", *[story(i % 25) for i in range(40)])
    write("data/b/c.txt.gz", *[story(i) for i in range(100, 110)])
    archives("data/d", {f"{i}.txt": story(200 + i).encode() for i in range(5)})
    Path("data/bad.txt").write_bytes(b"\0")
    write("held.txt", *[story(i) for i in range(20, 40)])

    def prepare(out, **settings):
        settings = {"valid": ["held.txt"], "max_size_mb": 0.004, "workers": 2, **settings}
        return script.prepare(["data"], out, **settings)

    prepare("whole")
    assert len(tree("whole")) > 6
    return prepare


def test_the_number_of_workers_and_the_batches_change_nothing(corpus, script, monkeypatch):
    for i, (workers, batch) in enumerate([(1, 3000), (5, 3000), (3, 50_000), (2, 1)]):
        monkeypatch.setattr(script, "BATCH", batch)
        corpus(f"out{i}", workers=workers)
        assert tree(f"out{i}") == tree("whole")


class Power(BaseException):
    """What no `except Exception` catches: the process is gone."""


def failing(function, number, error):
    """Return function, but raising error before (or, odd, after) its number-th call."""
    calls = [0]

    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] != number // 2 + 1:
            return function(*args, **kwargs)
        if number % 2:
            function(*args, **kwargs)
        raise error
    return wrapped


def cut_at_every_call(script, monkeypatch, place, name, error, run, step=1):
    """Interrupt run(out) around each call of place.name, repeat it, compare; how often."""
    for number in range(0, 10_000, step):
        out = Path(f"out-{name}-{number}")
        with monkeypatch.context() as patch:
            patch.setattr(place, name, failing(getattr(place, name), number, error))
            try:
                run(out)
                break
            except (Power, script.UserError):
                if number % 2 == 0 or name != "replace":
                    assert not (out / "index.json").exists()
        if not (out / "index.json").exists():
            run(out)
        (out / "progress.sqlite").unlink(missing_ok=True)
        assert tree(out) == tree("whole"), (name, number)
        shutil.rmtree(out)
    return number


@pytest.mark.parametrize("place, name, step, least", [
    ("Output", "commit", 3, 8), ("Output", "add", 17, 5), ("Output", "resume", 1, 2),
    ("os", "fsync", 7, 5), ("os", "replace", 1, 2), (None, "file_sha256", 3, 3)])
def test_a_killed_run_goes_on_to_the_same_bytes(corpus, script, monkeypatch, place, name,
                                                step, least):
    place = {"Output": script.Output, "os": script.os}.get(place, script)
    assert cut_at_every_call(script, monkeypatch, place, name, Power(), corpus,
                             step) >= least


def test_going_on_does_not_begin_again(corpus, script, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(script.Output, "commit",
                      failing(script.Output.commit, 12, Power()))
        with pytest.raises(Power):
            corpus("out")
    encoded = []
    real = script.encode_document
    monkeypatch.setattr(script, "encode_document",
                        lambda text, **kw: encoded.append(text) or real(text, **kw))
    corpus("out")
    assert tree("out") == tree("whole") and 0 < len(encoded) < 60


@pytest.mark.parametrize("count", [1, 2])
def test_a_small_corpus_survives_a_kill(script, folder, monkeypatch, count):
    write("a.txt", *map(story, range(count)))
    script.prepare("a.txt", "whole")

    def run(out):
        script.prepare("a.txt", out)
    for place, name in ((script.Output, "commit"), (script.os, "truncate"),
                        (script.os, "fsync")):
        assert cut_at_every_call(script, monkeypatch, place, name, Power(), run) > 1


class FullDisk(io.FileIO):
    """A file of which only the first `room` bytes, over all such files, can be written."""

    room = 0

    def write(self, data):
        FullDisk.room -= len(data)
        if FullDisk.room < 0:
            super().write(bytes(data)[:len(data) // 2])      # half of it arrives
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_one_line_and_loses_nothing(corpus, script, monkeypatch):
    plain_open = open

    def small_disk(name, mode="r", *args, **kwargs):
        if mode == "ab":
            return io.BufferedWriter(FullDisk(name, mode))
        return plain_open(name, mode, *args, **kwargs)

    total = sum(len(data) for name, data in tree("whole").items() if "bin" in name)
    for room in range(0, total, total // 7):
        FullDisk.room = room
        with monkeypatch.context() as patch:
            patch.setattr(script, "open", small_disk, raising=False)
            with pytest.raises(script.UserError, match="No space left on device.*repeat"):
                corpus("out")
            assert not Path("out/index.json").exists()
        corpus("out")
        assert tree("out") == tree("whole")
        shutil.rmtree("out")


def test_a_full_disk_at_the_index_leaves_none(corpus, script, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    assert cut_at_every_call(script, monkeypatch, script.os, "replace", full, corpus) == 2


def test_a_killed_process_goes_on(folder):
    write("a.txt", *[story(i, 2000) for i in range(400)])          # 3 MB
    words = ["--data_dir", "a.txt", "--output-dir"]
    assert command(*words, "whole").returncode == 0
    run = subprocess.Popen([sys.executable, str(SCRIPT), *words, "out"],
                           stderr=subprocess.DEVNULL)
    shard = Path("out/train-a-0000.bin")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and run.poll() is None and not shard.exists():
        time.sleep(0.002)
    run.kill()
    run.wait()
    assert not Path("out/index.json").exists(), "it was killed too late"
    assert command(*words, "out").returncode == 0
    assert tree("out") == tree("whole")


def test_reading_waits_for_the_workers(script):
    read = []

    def batches():
        for i in range(30):
            read.append(i)
            yield [i], i

    with ThreadPoolExecutor(2) as pool:
        for i, (items, position) in enumerate(
                script.in_order(pool, lambda items: items, batches(), 3)):
            assert (items, position) == ([i], i) and len(read) - i <= 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count otherwise")
def test_memory_does_not_grow_with_the_corpus(folder):
    """One file, one document without separators; then twenty times as much of it."""
    code = """
import resource, sys
import prepare_dataset as script
script.LONGEST, script.BATCH = 100_000, 50_000
sys.argv[1:] = ["--data", sys.argv[1] + ".txt", "--output-dir", sys.argv[1]]
script.command()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for name, size in (("small", 1_000_000), ("large", 20_000_000)):
        rng = random.Random(name)
        with open(f"{name}.txt", "w", encoding="utf-8") as file:
            while file.tell() < size:
                words = rng.choices(("cat", "mat", "the", "on", "plum", "sat"), k=10_000)
                file.write(" ".join(words) + "\n\n")
        run = subprocess.run([sys.executable, "-c", code, name], capture_output=True,
                             text=True, env={**os.environ, "PYTHONPATH": SCRIPT.parent})
        assert run.returncode == 0, run.stderr
        peaks.append(int(run.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 8, peaks        # MiB


# --- wrong use ---

def test_other_settings_do_not_go_on(corpus, script, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(script.Output, "commit", failing(script.Output.commit, 8, Power()))
        with pytest.raises(Power):
            corpus("out")
    half = tree("out")
    for other in ({"min_characters": 7}, {"max_size_mb": 1}, {"valid": []},
                  {"keep_all_languages": True}):
        with pytest.raises(script.UserError, match="half done with other .*repeat"):
            corpus("out", **other)
    write("data/a.txt", story(77))
    with pytest.raises(script.UserError, match="half done with other files"):
        corpus("out")
    assert tree("out") == half


def test_a_half_done_shard_that_was_shortened_is_refused(corpus, script, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(script.Output, "commit", failing(script.Output.commit, 12, Power()))
        with pytest.raises(Power):
            corpus("out")
    os.truncate("out/train-data-0000.bin", 4)
    with pytest.raises(script.UserError, match="shorter than it was"):
        corpus("out")


@pytest.mark.parametrize("words, parts", [
    ([], ["gutenberg/data/raw is not there"]),
    (["--data", "missing"], ["missing is not there"]),
    (["--data", "notes.md"], ["notes.md", ".txt.gz"]),
    (["--data", "empty"], ["empty"]),
    (["--data", "a.txt", "--workers", "0"], ["--workers", "'0'"]),
    (["--data", "a.txt", "--valid-share", "nan"], ["--valid-share"]),
    (["--data", "a.txt", "--output-dir", "full"], ["full is not empty"]),
    (["--data", "a.txt", "--output-dir", "notes.md"], ["notes.md"]),
    (["--data", "a.txt", "--output-dir", "out"], ["out is finished"]),
    (["--data", "a.txt", "--valid", "a.txt"], ["nothing is left", "train"]),
])
def test_wrong_use_is_one_line(script, folder, monkeypatch, capsys, words, parts):
    write("a.txt", story(1), story(2))
    write("notes.md", "no")
    write("full/other.txt", "something of mine")
    write("out/index.json", "of an earlier run")
    Path("empty").mkdir()
    monkeypatch.setattr(sys, "argv", ["prepare_dataset.py", *words])
    with pytest.raises(SystemExit) as stopped:
        script.run_command(script.command)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert last.startswith("prepare_dataset.py: ") and all(p in last for p in parts), last
    assert list(tree("full")) == ["other.txt"] and list(tree("out")) == ["index.json"]


def test_the_command_line(folder, tokenizer):
    write("a.txt", story(1), story(2))
    run = command("--data_dir=a.txt", "--output_dir", "out", "--max_size_mb", "1")
    assert run.returncode == 0 and "out: 1 files" in run.stdout, run.stderr
    assert documents("out", tokenizer) == [story(1), story(2)]
    run = command("--data", "a.txt", "--output-dir", "out")
    assert run.returncode == 2 and run.stderr.count("\n") == 1


def test_two_runs_do_not_write_one_folder(corpus, script, monkeypatch):
    def meanwhile(output, position, real=script.Output.commit):
        with pytest.raises(script.UserError, match="another run is at work"):
            corpus("out")
        monkeypatch.setattr(script.Output, "commit", real)
        real(output, position)

    monkeypatch.setattr(script.Output, "commit", meanwhile)
    corpus("out")
    assert tree("out") == tree("whole")


def test_progress_that_is_no_database_is_one_line(script, folder):
    write("a.txt", "A text.")
    write("out/progress.sqlite", "no database" * 100)
    with pytest.raises(script.UserError, match="not a database"):
        script.prepare("a.txt", "out")
    assert sqlite3.sqlite_version


def test_it_works_copied_alone(folder):
    shutil.copy(SCRIPT, "prepare_dataset.py")
    write("a.txt", story(1), story(2))
    env = {**os.environ, "TIKTOKEN_CACHE_DIR": str(folder / "cache")}

    def run():
        return subprocess.run(
            [sys.executable, "prepare_dataset.py", "--data", "a.txt", "--output-dir",
             "out"], capture_output=True, text=True, env=env)

    alone = run()                        # no vocabulary and no network: it says so
    assert alone.returncode == 2 and alone.stderr.count("\n") == 1, alone.stderr
    assert "gpt2_merges.npz" in alone.stderr and not Path("out").exists()
    shutil.copy(ROOT / "ch02/01_main-chapter-code/gpt2_merges.npz", folder)
    assert run().returncode == 0
