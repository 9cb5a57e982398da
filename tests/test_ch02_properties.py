"""What must hold in chapter 2 for any text, window and machine."""
import json
import math
import os
import subprocess
import sys
from hashlib import sha256
from itertools import islice, pairwise

import helpers
import numpy as np
import pytest
import sync
import tiktoken
import torch

FOLDER = helpers.ROOT / "ch02/01_main-chapter-code"
NOTEBOOK = "ch02/01_main-chapter-code/ch02.ipynb"
TABLE = FOLDER / "gpt2_merges.npz"
CACHED = {      # tiktoken's name for the file -> sha256 of its content
    "6d1cbeee0f20b3d9449abfede4726ed8212e3aee":
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6":
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
LOADER = ["rebuild_gpt2_files", "GPT2_MERGES", "GPT2_ADDRESS", "find_in_course",
          "load_gpt2_bpe"]
# awkward for a tokenizer: contractions, runs of spaces, other scripts, half characters
HARD = [
    "", " ", "  ", "\n", "\r\n\r\n", "\t\tx", " \u00a0 ", "a  b   c    d",
    "trailing   ",
    "It's I'll we've THEY'RE don'T", "''''s", "--- -- -", "3.14159 1,000,000 0x1F",
    "naïve café Ångström", "e\u0301 vs \u00e9", "茶は緑です。", "Привет, мир", "مرحبا",
    "\U0001f642\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u200b\ufeff",
    "def f(x):\n    return x  # ok\n", "aaaaaaaaaaaaaaaaaaaaaaaa", "A" * 300,
    "Akwirw ier", "terracesof someunknownPlace", "<|endoftext", "<|unk|>",
    "\x00\x01\x7f",
    "\ud7ff\ue000", "x" * 50 + " " * 50 + "y", "½ ² ③ Ⅷ",
    "snake_case camelCase ALLCAPS",
]


@pytest.fixture(scope="module")
def ch02():
    """The definitions of the chapter."""
    return helpers.definitions("ch02.ipynb")


@pytest.fixture(scope="module")
def bpe(ch02):
    """GPT-2's tokenizer."""
    return ch02.load_gpt2_bpe()


@pytest.fixture(scope="module")
def pictures():
    """The chapter's pictures."""
    import matplotlib

    matplotlib.use("agg")
    return helpers.load_file("ch02/01_main-chapter-code/pictures.py")


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """An empty cache folder, and a tiktoken that has loaded nothing yet."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    return cache


class Counting:
    """A tokenizer whose ids are 0, 1, 2, ...: a window then names its own place."""

    def __init__(self, num_tokens):
        self.num_tokens = num_tokens

    def encode(self, text, allowed_special=()):
        """Return num_tokens ids, whatever the text."""
        return list(range(self.num_tokens))


class CountingNumpy(Counting):
    """The same with tiktoken's shortcut."""

    def encode_to_numpy(self, text, allowed_special=()):
        """Return num_tokens ids as tiktoken does, in 32 bits without a sign."""
        return np.arange(self.num_tokens, dtype=np.uint32)


def own_tokenizer(kind, text):
    """Return a tokenizer of class kind that knows the words of text."""
    words = sorted(set(kind({}).split(text)) - {"<|unk|>"}) + ["<|unk|>"]
    return kind({word: i for i, word in enumerate(words)})


# --- word tokenizers ------------------------------------------------------------------

@pytest.mark.parametrize("text, v1, v2", [
    ("Plain words, and marks! Or (not)?", "Plain words, and marks! Or( not)?", None),
    ("It's his.", "It' s his.", None),
    ("rich--too rich", "rich -- too rich", None),
    ("so: yes; no", "so : yes ; no", "so: yes; no"),
    ("was _good_ then", "was _ good _ then", None),
    ("two  spaces\nand a line", "two spaces and a line", None),
])
def test_decode_gives_back_what_the_chapter_says(ch02, text, v1, v2):
    for kind, expected in (
            (ch02.SimpleTokenizerV1, v1), (ch02.SimpleTokenizerV2, v2 or v1)):
        tokenizer = own_tokenizer(kind, text)
        assert tokenizer.decode(tokenizer.encode(text)) == expected


def test_decode_loses_white_space_and_nothing_else(ch02):
    text = (FOLDER / "the-sign-painter.txt").read_text(encoding="utf-8")
    for kind in (ch02.SimpleTokenizerV1, ch02.SimpleTokenizerV2):
        tokenizer = own_tokenizer(kind, text)
        ids = tokenizer.encode(text)
        decoded = tokenizer.decode(ids)
        assert tokenizer.encode(decoded) == ids
        assert "".join(decoded.split()) == "".join(text.split())


def test_v1_does_not_swallow_unknown_words(ch02):
    tokenizer = ch02.SimpleTokenizerV1({"tea": 0})
    with pytest.raises(KeyError, match="coffee"):
        tokenizer.encode("tea coffee")


def test_v2_marks_exactly_the_unknown_words(ch02):
    tokenizer = ch02.SimpleTokenizerV2({"tea": 0, "<|unk|>": 1, "<|endoftext|>": 2})
    assert tokenizer.encode("tea coffee <|endoftext|> tea milk") == [0, 1, 2, 0, 1]


def test_bundled_story_suits_the_chapter(ch02, bpe):
    text = (FOLDER / "the-sign-painter.txt").read_text(encoding="utf-8")
    split = ch02.SimpleTokenizerV1({}).split
    sentence = ('"It\'s the last he painted, you know," '
                "Mrs. Gisburn said with pardonable pride.")
    assert set(split(sentence)) <= set(split(text))
    assert "Hello" not in split(text)
    assert len(bpe.encode(text)) > 5120        # the chapters' windows must fit


# --- GPT-2's tokenizer ----------------------------------------------------------------

def test_rebuilt_files_are_byte_for_byte_openais(ch02):
    merges = np.load(TABLE)["merges"]
    assert merges.shape == (50000, 2) and TABLE.stat().st_size < 180_000
    files = ch02.rebuild_gpt2_files(merges)
    assert [sha256(content).hexdigest() for content in files] == list(CACHED.values())


def test_replayed_merges_equal_tiktoken(ch02, bpe):
    merges = np.load(TABLE)["merges"].tolist()
    new_ids = {tuple(pair): 256 + row for row, pair in enumerate(merges)}
    byte_ids = json.loads(ch02.rebuild_gpt2_files(np.array(merges))[1])
    text = (FOLDER / "the-sign-painter.txt").read_text(encoding="utf-8")
    words = {word.strip(".,;:!?\"'()-_") for word in text.split()} | {
        "luncheon", "aaaa", "aaaaa", "abababab", "unfamiliarword", "moustache"}
    for word in sorted(w for w in words if w.isascii() and w.isalpha()):
        steps = ch02.merge_steps([byte_ids[c] for c in "Ġ" + word], new_ids)
        assert steps[-1] == bpe.encode(" " + word), word
        assert all(len(a) > len(b) for a, b in pairwise(steps))


@pytest.mark.parametrize("text", HARD)
def test_tokenizer_equals_one_built_from_openais_merges(ch02, bpe, text):
    """Against an encoding that is built from the table without cache or files."""
    ids = bpe.encode(text, disallowed_special=())
    assert ids == plain_gpt2().encode(text, disallowed_special=())
    assert bpe.decode(ids) == text


def plain_gpt2(made=[]):  # noqa: B006  (one encoding for all cases)
    """Return tiktoken's class filled by hand with bytes -> id."""
    if not made:
        order = [*range(33, 127), *range(161, 173), *range(174, 256)]
        order += [b for b in range(256) if b not in order]
        tokens = [bytes([b]) for b in order]
        for left, right in np.load(TABLE)["merges"].tolist():
            tokens.append(tokens[left] + tokens[right])
        made.append(tiktoken.Encoding(
            "by-hand", explicit_n_vocab=50257,
            pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
                    r"|\s+(?!\S)|\s+",
            mergeable_ranks={token: i for i, token in enumerate(tokens)},
            special_tokens={"<|endoftext|>": 50256}))
    return made[0]


def test_special_token_must_be_allowed(bpe):
    with pytest.raises(ValueError, match="endoftext"):
        bpe.encode("a <|endoftext|> b")
    assert 50256 not in bpe.encode("a <|endoftext|> b", disallowed_special=())


def test_loader_fills_the_named_cache_and_nothing_else(
        ch02, fresh_cache, tmp_path, monkeypatch):
    temporary, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    temporary.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setattr(ch02.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.chdir(elsewhere)
    before = sorted(p.name for p in FOLDER.iterdir())
    assert ch02.load_gpt2_bpe().encode("tea") == [660, 64]
    found = {p.name: sha256(p.read_bytes()).hexdigest() for p in fresh_cache.iterdir()}
    assert found == CACHED
    assert not any(temporary.iterdir()) and not any(elsewhere.iterdir())
    assert not (tmp_path / "other").exists()
    assert sorted(p.name for p in FOLDER.iterdir()) == before


def test_loader_uses_tiktokens_default_folders(ch02, tmp_path, monkeypatch):
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setattr(ch02.tempfile, "gettempdir", lambda: str(tmp_path))
    ch02.load_gpt2_bpe()
    assert {p.name for p in (tmp_path / "data-gym-cache").iterdir()} == set(CACHED)


@pytest.mark.parametrize("folder", ["ch02/01_main-chapter-code", "ch02", "tests"])
def test_loader_finds_the_table_from_another_chapter(
        ch02, fresh_cache, monkeypatch, folder):
    monkeypatch.delattr(ch02, "__file__")            # a notebook has none
    monkeypatch.chdir(helpers.ROOT / folder)
    assert ch02.find_in_course(ch02.GPT2_MERGES) == TABLE
    assert ch02.load_gpt2_bpe().n_vocab == 50257


@pytest.mark.parametrize("content", [b"", b"<html>proxy login</html>"])
@pytest.mark.parametrize("name", list(CACHED))
def test_half_a_download_in_the_cache_is_replaced(
        ch02, fresh_cache, monkeypatch, name, content):
    ch02.load_gpt2_bpe()
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    (fresh_cache / name).write_bytes(content)
    assert ch02.load_gpt2_bpe().n_vocab == 50257
    assert sha256((fresh_cache / name).read_bytes()).hexdigest() == CACHED[name]


def test_filled_cache_is_left_alone_and_needs_no_table(
        ch02, fresh_cache, tmp_path, monkeypatch):
    ch02.load_gpt2_bpe()
    times = {p.name: p.stat().st_mtime_ns for p in fresh_cache.iterdir()}
    for find in (ch02.find_in_course, lambda path: None):
        monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
        monkeypatch.setattr(ch02, "find_in_course", find)
        assert ch02.load_gpt2_bpe().encode("tea") == [660, 64]
        assert {p.name: p.stat().st_mtime_ns for p in fresh_cache.iterdir()} == times


def test_another_process_may_come_in_between(ch02, fresh_cache, monkeypatch):
    """The other fills the cache after we wrote our file and before we renamed it."""
    replace, pid, interrupted = os.replace, os.getpid(), []

    def late_replace(source, target):
        interrupted.append(target)
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        ch02.load_gpt2_bpe()
        monkeypatch.setattr(os, "getpid", lambda: pid)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late_replace)
    assert ch02.load_gpt2_bpe().n_vocab == 50257
    assert interrupted, "the files are not renamed into place"
    found = {p.name: sha256(p.read_bytes()).hexdigest() for p in fresh_cache.iterdir()}
    assert found == CACHED


@pytest.mark.parametrize("name", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_an_empty_cache_name_writes_no_files(ch02, tmp_path, monkeypatch, name):
    """It is tiktoken's way to say `no cache`; Path("") is the working folder."""
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setenv(name, "")
    monkeypatch.setattr(ch02.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tiktoken, "get_encoding", lambda encoding: encoding)
    monkeypatch.chdir(tmp_path)
    assert ch02.load_gpt2_bpe() == "gpt2"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["a file", "may not write", "may not read"])
def test_a_cache_of_another_user_is_left_alone(
        ch02, fresh_cache, tmp_path, monkeypatch, fault):
    temporary, access, replace = tmp_path / "tmp", os.access, os.replace
    temporary.mkdir()
    monkeypatch.setattr(ch02.tempfile, "tempdir", str(temporary))
    if fault == "may not read":
        ch02.load_gpt2_bpe()
        monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
        monkeypatch.setattr(os, "access", lambda path, mode: (
            fresh_cache not in path.parents and access(path, mode)))
    if fault == "a file":
        fresh_cache.write_text("in the way", encoding="utf-8")
    else:
        def deny(source, target):
            if fresh_cache in target.parents:
                raise PermissionError("not yours")
            replace(source, target)

        monkeypatch.setattr(os, "replace", deny)
    for _ in range(2):
        monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
        assert ch02.load_gpt2_bpe().encode("tea") == [660, 64]
        [private] = temporary.iterdir()        # one, however often it is called
        found = {p.name: sha256(p.read_bytes()).hexdigest() for p in private.iterdir()}
        assert found == CACHED
        assert os.environ["TIKTOKEN_CACHE_DIR"] == str(private)


def test_a_full_disk_is_an_error_and_not_a_loop(
        ch02, fresh_cache, tmp_path, monkeypatch):
    tries = []

    def full(path, content):
        tries.append(path)
        assert len(tries) < 4, "it goes on for ever"
        raise OSError("no space left")

    monkeypatch.setattr(ch02.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ch02.Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        ch02.load_gpt2_bpe()


def copied_loader(target):
    """Write a script that holds the tokenizer's definitions and nothing else."""
    wanted = sync.definitions_for([(NOTEBOOK, LOADER)], "a test")
    imports = sync.import_block(set(sync.imports_for(wanted, "a test").values()))
    target.write_text(f"{imports}\n\n\n{sync.join(wanted)}\n\n\n"
                      "print(load_gpt2_bpe().encode('Akwirw ier'))\n", encoding="utf-8")


def test_two_processes_at_once_do_no_harm(tmp_path):
    """Four scripts with the table beside them fill one empty cache together."""
    copied_loader(tmp_path / "copied.py")
    (tmp_path / TABLE.name).write_bytes(TABLE.read_bytes())
    cache = tmp_path / "cache"
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(cache)}
    running = [
        subprocess.Popen([sys.executable, str(tmp_path / "copied.py")], env=environment,
                         cwd=tmp_path.parent, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = [process.communicate(timeout=120) for process in running]
    said = [out.strip() for out, _ in results]
    assert said == ["[33901, 86, 343, 86, 220, 959]"] * 4, results
    found = {p.name: sha256(p.read_bytes()).hexdigest() for p in cache.iterdir()}
    assert found == CACHED


# --- windows --------------------------------------------------------------------------

PRIMES = (2, 3, 5, 7, 11, 13, 31)


@pytest.mark.parametrize("make", [Counting, CountingNumpy])
@pytest.mark.parametrize("max_length", PRIMES)
@pytest.mark.parametrize("stride", PRIMES)
def test_windows_equal_slices_in_a_loop(ch02, make, max_length, stride):
    for num_tokens in (max_length + 1, max_length + 2, 37, 97, 101, 103):
        if num_tokens <= max_length:
            continue
        ids = list(range(num_tokens))
        starts = range(0, num_tokens - max_length, stride)
        dataset = ch02.GPTDatasetV1("", make(num_tokens), max_length, stride)
        assert len(dataset) == math.ceil((num_tokens - max_length) / stride)
        assert [(x.tolist(), y.tolist()) for x, y in map(dataset.__getitem__,
                                                         range(len(dataset)))] == [
            (ids[s:s + max_length], ids[s + 1:s + max_length + 1]) for s in starts]
        assert dataset[0][0].dtype == dataset[0][1].dtype == torch.int64


def test_dataset_ends(ch02):
    """Without an end, `for x, y in dataset` would never stop."""
    dataset = ch02.GPTDatasetV1("", Counting(23), 5, 3)
    assert sum(1 for _ in islice(dataset, 100)) == len(dataset)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_windows_share_one_memory(ch02):
    dataset = ch02.GPTDatasetV1("", CountingNumpy(1009), 31, 1)
    assert dataset[1][0].data_ptr() - dataset[0][0].data_ptr() == 8
    addresses = {t.untyped_storage().data_ptr()
                 for t in (dataset.input_ids, dataset.target_ids)}
    assert len(addresses) == 1
    assert dataset.input_ids.untyped_storage().nbytes() == 1009 * 8


def test_batches_are_copies_that_may_be_changed(ch02, bpe):
    loader = ch02.create_dataloader_v1(
        "one two three four five six seven eight nine ten", batch_size=2, max_length=4,
        stride=1, shuffle=False)
    inputs, _ = next(iter(loader))
    before = loader.dataset.input_ids.clone()
    inputs.fill_(-100)
    assert torch.equal(loader.dataset.input_ids, before)


MEMORY = """
import resource, sys
sys.path[:0] = {paths!r}
import helpers, numpy as np
ch02 = helpers.definitions("ch02.ipynb")

class Fake:
    ids = np.arange(10_000_000, dtype=np.uint32) % 50257

    def encode_to_numpy(self, text, allowed_special=()):
        return self.ids

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

before = peak()
dataset = ch02.GPTDatasetV1("", Fake(), 256, 1)
dataset[0], dataset[len(dataset) - 1]
print(len(dataset), peak() - before)
"""


def test_ten_million_tokens_add_less_than_200_mb(tmp_path):
    """With a tensor a window these were 20 million tensors and 40 GB."""
    pytest.importorskip("resource")
    paths = [str(helpers.ROOT / "tools"), str(helpers.ROOT / "tests")]
    done = subprocess.run([sys.executable, "-c", MEMORY.format(paths=paths)], text=True,
                          capture_output=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    windows, added = map(int, done.stdout.split()[-2:])
    assert windows == 10_000_000 - 256
    assert added < 200e6                   # the ids themselves are 80 MB


def test_too_short_text_names_the_numbers(ch02, bpe):
    for num_tokens in (1, 4, 7):
        with pytest.raises(ValueError, match=f"{num_tokens} tokens.*max_length=7.*8"):
            ch02.GPTDatasetV1("", Counting(num_tokens), 7, 1)
    assert len(ch02.GPTDatasetV1("", Counting(8), 7, 1)) == 1
    with pytest.raises(ValueError, match="0 tokens"):
        ch02.GPTDatasetV1("", bpe, 4, 1)


def test_empty_loader_is_an_error_that_names_the_numbers(ch02):
    text = "one two three four five six"
    with pytest.raises(ValueError, match="2 windows.*batch_size=3"):
        ch02.create_dataloader_v1(text, batch_size=3, max_length=4, stride=1)
    kept = ch02.create_dataloader_v1(text, batch_size=3, max_length=4, stride=1,
                                     drop_last=False)
    assert len(kept) == 1


def test_shuffling_mixes_windows_and_never_words(ch02):
    text = (FOLDER / "the-sign-painter.txt").read_text(encoding="utf-8")
    torch.manual_seed(123)
    loader = ch02.create_dataloader_v1(text, batch_size=7, max_length=11, stride=11,
                                       drop_last=False)
    inputs = torch.cat([x for x, _ in loader])
    in_order = loader.dataset.input_ids
    assert not torch.equal(inputs, in_order)
    assert sorted(inputs.tolist()) == sorted(in_order.tolist())


def test_end_of_text_is_one_token_in_the_dataset(ch02, bpe):
    dataset = ch02.GPTDatasetV1("one<|endoftext|>two three", bpe, 2, 1)
    assert 50256 in dataset.input_ids


def test_workers_give_the_same_batches(ch02):
    text = "one two three four five six seven eight nine ten eleven"
    batches = [
        [x.tolist() for x, _ in ch02.create_dataloader_v1(
            text, batch_size=2, max_length=3, stride=1, shuffle=False, num_workers=n)]
        for n in (0, 1)]
    assert batches[0] == batches[1]


# --- pictures and notebook ------------------------------------------------------------

@pytest.mark.parametrize("max_length, stride", [
    (1, 1), (2, 1), (4, 1), (4, 2), (4, 4), (4, 6), (8, 2), (9, 1), (10, 1), (11, 5),
    (4, 100), (256, 128), (256, 256), (1024, 900),
])
def test_sliding_window_picture_for_any_length_and_stride(
        pictures, bpe, max_length, stride):
    import matplotlib.pyplot as plt
    import picture_rules

    story = bpe.encode((FOLDER / "the-sign-painter.txt").read_text(encoding="utf-8"))
    for ids in (story, story[:max_length + 1], story[:max_length + 2]):
        pictures.sliding_window(ids, max_length, stride, bpe.decode)
        figure = plt.gcf()
        figure.canvas.draw()
        assert picture_rules.problems(figure) == []
        assert figure.get_size_inches()[0] <= 7
        whole = figure.bbox.padded(1)
        axes = figure.axes[0]
        for text in filter(picture_rules.visible, [*axes.texts, axes.title]):
            extent = text.get_window_extent()
            assert whole.x0 <= extent.x0 and extent.x1 <= whole.x1, text.get_text()
            assert whole.y0 <= extent.y0 and extent.y1 <= whole.y1, text.get_text()
        plt.close(figure)


def test_sliding_window_headline_answers_the_question(pictures):
    say = pictures._headline
    assert say(4, 2).endswith("neighbours share 2 tokens")
    assert say(4, 3).endswith("neighbours share 1 token")
    assert say(4, 4).endswith("no overlap, nothing skipped")
    assert say(4, 6).endswith("2 tokens skipped between windows")


def test_chapter_runs_when_the_verdict_cannot_be_had(tmp_path, monkeypatch):
    import notebooks

    monkeypatch.delenv("LLM_DATA_MIRROR", raising=False)
    tree = notebooks.copy_tree(tmp_path / "tree")
    ran = notebooks.execute(tree / NOTEBOOK)
    assert any(notebooks.SUBSTITUTE in notebooks.text_of(c) for c in ran.cells
               if c.cell_type == "code")
    assert notebooks.faults_of_outputs(ran) == []


def test_notice_carries_the_licence_of_the_table():
    notice = " ".join((FOLDER / "NOTICE").read_text(encoding="utf-8").split())
    for part in ("Modified MIT License", "Copyright (c) 2019 OpenAI",
                 "clearly indicate your content was created using GPT-2",
                 "this permission notice shall be included",
                 'THE SOFTWARE IS PROVIDED "AS IS"'):
        assert part in notice
