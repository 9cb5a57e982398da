"""Chapter 2 prints the book's numbers: each test is a place where a reader compares."""
import re

import helpers
import pytest
import torch

FINAL = r'([,.:;?_!"()\']|--|\s)'
UNKNOWN = "<|unk|>"
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def ch02():
    """The definitions of the chapter."""
    return helpers.definitions("ch02.ipynb")


@pytest.fixture(scope="module")
def bpe(ch02):
    """GPT-2's tokenizer."""
    return ch02.load_gpt2_bpe()


@pytest.fixture(scope="module")
def tokens(ch02, verdict):
    """The word tokens of The Verdict."""
    return ch02.SimpleTokenizerV1({}).split(verdict)


@pytest.fixture(scope="module")
def vocab(tokens):
    """The vocabulary of The Verdict."""
    return {token: i for i, token in enumerate(sorted(set(tokens)))}


def test_the_text_is_the_books(verdict):
    assert len(verdict) == 20479
    assert verdict[:99].startswith("I HAD always thought Jack Gisburn")
    assert verdict[:99].endswith("so it was no ")


def test_split_stages_are_the_books(ch02):
    text = "Hello, world. This, is a test."
    assert re.split(r"(\s)", text) == [
        "Hello,", " ", "world.", " ", "This,", " ", "is", " ", "a", " ", "test."]
    second = re.split(r"([,.]|\s)", text)
    assert second == [
        "Hello", ",", "", " ", "world", ".", "", " ", "This", ",", "", " ", "is", " ",
        "a", " ", "test", ".", ""]
    assert [s for s in second if s.strip()] == [
        "Hello", ",", "world", ".", "This", ",", "is", "a", "test", "."]
    split = ch02.SimpleTokenizerV1({}).split
    assert split("Hello, world. Is this-- a test?") == [
        "Hello", ",", "world", ".", "Is", "this", "--", "a", "test", "?"]


def test_split_is_the_pattern_that_the_chapter_shows(ch02, verdict, tokens):
    shown = [s.strip() for s in re.split(FINAL, verdict) if s.strip()]
    assert tokens == shown


def test_a_doubled_backslash_would_change_the_count(tokens, vocab):
    assert len(tokens) == 4690
    assert len(vocab) == 1130
    assert tokens[:30] == (
        "I HAD always thought Jack Gisburn rather a cheap genius -- though a good "
        "fellow enough -- so it was no great surprise to me to hear that , in").split()


def test_vocabulary_is_sorted_as_in_the_book(vocab):
    first = "! \" ' ( ) , -- . : ; ?".split()
    assert [vocab[mark] for mark in first] == list(range(11))
    for token, i in (("A", 11), ("Burlington", 21), ("Gisburn", 38), ("HAD", 44),
                     ("Her", 49), ("Hermia", 50), ("you", 1126), ("younger", 1127),
                     ("your", 1128), ("yourself", 1129)):
        assert vocab[token] == i


def test_v1_ids_and_the_spaces_it_loses(ch02, vocab):
    tokenizer = ch02.SimpleTokenizerV1(vocab)
    ids = tokenizer.encode('"It\'s the last he painted, you know,"\n           '
                           "Mrs. Gisburn said with pardonable pride.")
    assert ids == [1, 56, 2, 850, 988, 602, 533, 746, 5, 1126, 596, 5, 1, 67, 7, 38,
                   851, 1108, 754, 793, 7]
    assert tokenizer.decode(ids) == (
        '" It\' s the last he painted, you know," '
        "Mrs. Gisburn said with pardonable pride.")
    with pytest.raises(KeyError, match="Hello"):
        tokenizer.encode("Hello, do you like tea. Is this-- a test?")


def test_v2_puts_the_special_tokens_last(ch02, tokens):
    extended = sorted(set(tokens)) + [END, UNKNOWN]
    vocab = {token: i for i, token in enumerate(extended)}
    assert list(vocab.items())[-5:] == [
        ("younger", 1127), ("your", 1128), ("yourself", 1129), (END, 1130),
        (UNKNOWN, 1131)]
    tokenizer = ch02.SimpleTokenizerV2(vocab)
    ids = tokenizer.encode(f"Hello, do you like tea? {END} "
                           "In the sunlit terraces of the palace.")
    assert ids == [1131, 5, 355, 1126, 628, 975, 10, 1130, 55, 988, 956, 984, 722, 988,
                   1131, 7]
    assert tokenizer.decode(ids) == (f"{UNKNOWN}, do you like tea? {END} "
                                     f"In the sunlit terraces of the {UNKNOWN}.")


def test_gpt2_ids_of_the_books_sentences(bpe):
    text = f"Hello, do you like tea? {END} In the sunlit terracesof someunknownPlace."
    ids = bpe.encode(text, allowed_special={END})
    assert ids == [15496, 11, 466, 345, 588, 8887, 30, 220, 50256, 554, 262, 4252,
                   18250, 8812, 2114, 1659, 617, 34680, 27271, 13]
    assert bpe.decode(ids) == text
    assert bpe.encode("Akwirw ier") == [33901, 86, 343, 86, 220, 959]
    assert (bpe.n_vocab, bpe.eot_token, bpe.max_token_value) == (50257, 50256, 50256)


def test_story_ids_and_shifted_pair(bpe, verdict):
    ids = bpe.encode(verdict)
    assert len(ids) == 5145
    sample = ids[50:]
    assert sample[:4] == [290, 4920, 2241, 287]
    assert sample[1:5] == [4920, 2241, 287, 257]
    answers = [bpe.decode([i]) for i in sample[1:5]]
    assert answers == [" established", " himself", " in", " a"]


def test_loader_with_stride_1(ch02, verdict):
    batches = iter(ch02.create_dataloader_v1(
        verdict, batch_size=1, max_length=4, stride=1, shuffle=False))
    assert [t.tolist() for t in next(batches)] == [
        [[40, 367, 2885, 1464]], [[367, 2885, 1464, 1807]]]
    assert [t.tolist() for t in next(batches)] == [
        [[367, 2885, 1464, 1807]], [[2885, 1464, 1807, 3619]]]


def test_loader_with_batches_of_8(ch02, verdict):
    inputs, targets = next(iter(ch02.create_dataloader_v1(
        verdict, batch_size=8, max_length=4, stride=4, shuffle=False)))
    flat = [40, 367, 2885, 1464, 1807, 3619, 402, 271, 10899, 2138, 257, 7026, 15632,
            438, 2016, 257, 922, 5891, 1576, 438, 568, 340, 373, 645, 1049, 5975, 284,
            502, 284, 3285, 326, 11, 287]
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (8, 4)
    assert inputs.flatten().tolist() == flat[:-1]
    assert targets.flatten().tolist() == flat[1:]


@pytest.mark.parametrize("max_length, rows", [
    (2, [[40, 367], [2885, 1464], [1807, 3619], [402, 271]]),
    (8, [[40, 367, 2885, 1464, 1807, 3619, 402, 271],
         [2885, 1464, 1807, 3619, 402, 271, 10899, 2138],
         [1807, 3619, 402, 271, 10899, 2138, 257, 7026],
         [402, 271, 10899, 2138, 257, 7026, 15632, 438]]),
])
def test_exercise_2_2(ch02, verdict, max_length, rows):
    inputs, _ = next(iter(ch02.create_dataloader_v1(
        verdict, batch_size=4, max_length=max_length, stride=2, shuffle=False)))
    assert inputs.tolist() == rows


def test_tail_of_the_story_that_no_window_holds(ch02, bpe, verdict):
    dataset = ch02.GPTDatasetV1(verdict, bpe, max_length=256, stride=256)
    assert 5145 - len(dataset) * 256 - 1 == 24


def test_seeded_embedding_table():
    torch.manual_seed(123)
    weight = torch.nn.Embedding(6, 3).weight
    expected = torch.tensor([
        [0.3374, -0.1778, -0.1690], [0.9178, 1.5810, 1.3010],
        [1.2753, -0.2010, -0.1606], [-0.4015, 0.9666, -1.1481],
        [-1.1589, 0.3255, -0.6315], [-2.8400, -0.7849, -1.4096]])
    torch.testing.assert_close(weight.detach(), expected, atol=2e-4, rtol=0)
    ids = torch.tensor([2, 3, 5, 1])
    one_hot = torch.nn.functional.one_hot(ids, 6).float()
    assert torch.equal(one_hot @ weight, torch.nn.functional.embedding(ids, weight))
