"""Chapter 5's seeded numbers that need neither dropout nor downloaded weights."""
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from helpers import definitions

pytestmark = pytest.mark.xdist_group("ch05_numbers")     # one model of 124M for all

CONFIG = {"vocab_size": 50257, "context_length": 256, "emb_dim": 768, "n_heads": 12,
          "n_layers": 12, "drop_rate": 0.1, "qkv_bias": False}
PROMPT = [6109, 3626, 6100, 345]                         # "Every effort moves you"
INPUTS = torch.tensor([[16833, 3626, 6100], [40, 1107, 588]])
TARGETS = torch.tensor([[3626, 6100, 345], [1107, 588, 11311]])
WORDS = "closer every effort forward inches moves pizza toward you".split()
LOGITS = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])


@pytest.fixture(scope="module")
def ch05():
    return definitions("ch05.ipynb")


@pytest.fixture(scope="module")
def model(ch05):
    torch.manual_seed(123)
    return ch05.GPTModel(CONFIG).eval()


@pytest.fixture(scope="module")
def toy_logits(model):
    with torch.no_grad():
        return model(INPUTS)


@pytest.fixture(scope="module")
def parts(verdict):
    split = int(0.90 * len(verdict))
    return verdict[:split], verdict[split:]


@pytest.fixture(scope="module")
def loaders(ch05, parts):
    torch.manual_seed(123)
    return tuple(
        ch05.create_dataloader_v1(part, batch_size=2, max_length=256, stride=256,
                                  drop_last=train, shuffle=train, num_workers=0)
        for part, train in zip(parts, (True, False), strict=True))


def close(found, wanted, tolerance=2e-4):
    return torch.allclose(torch.as_tensor(found), torch.as_tensor(wanted), rtol=0,
                          atol=tolerance)


def test_settings_of_the_notebook_drifted(ch05):
    assert ch05.GPT_CONFIG_124M == CONFIG


def test_untrained_model_starts_from_other_weights(ch05, model):
    ids = ch05.generate_text_simple(model, torch.tensor([PROMPT]), 10, 256)
    assert ids[0, 4:].tolist() == [
        34245, 5139, 2492, 25405, 17434, 17853, 5308, 3398, 13174, 43071]
    assert ch05.token_ids_to_text(ids, ch05.load_gpt2_bpe()) == (
        "Every effort moves you rentingetic wasnم refres RexMeCHicular stren")


def test_text_helpers_refuse_the_end_token_or_lose_the_batch(ch05):
    tokenizer = ch05.load_gpt2_bpe()
    ids = ch05.text_to_token_ids("Every effort moves you", tokenizer)
    assert ids.tolist() == [PROMPT]
    ids = ch05.text_to_token_ids("a<|endoftext|>b", tokenizer)
    assert ids.shape == (1, 3) and ids[0, 1] == 50256
    assert ch05.token_ids_to_text(ids, tokenizer) == "a<|endoftext|>b"
    assert ch05.token_ids_to_text(ids[0], tokenizer) == "a<|endoftext|>b"


def test_number_of_parameters_or_saved_tensors_changed(model):
    assert sum(p.numel() for p in model.parameters()) == 162_419_712
    assert len(list(model.parameters())) == 161
    assert len(model.state_dict()) == 173


def test_toy_guesses_differ_from_the_book(ch05, toy_logits):
    ids = torch.argmax(toy_logits, dim=-1)
    assert ids.tolist() == [[16657, 339, 42826], [49906, 29669, 41751]]
    tokenizer = ch05.load_gpt2_bpe()
    assert ch05.token_ids_to_text(ids[0], tokenizer) == " Armed heNetflix"
    assert ch05.token_ids_to_text(ids[1], tokenizer) == " pressuring empoweredfaith"


def test_toy_probabilities_differ_from_the_book(toy_logits):
    probas = torch.softmax(toy_logits, dim=-1)
    wanted = probas.gather(-1, TARGETS.unsqueeze(-1)).flatten()
    assert torch.allclose(wanted, torch.tensor(
        [7.4541e-05, 3.1061e-05, 1.1563e-05, 1.0337e-05, 5.6776e-05, 4.7559e-06]),
        rtol=1e-3, atol=0)
    assert close(wanted.log(), torch.tensor(
        [-9.5042, -10.3796, -11.3677, -11.4798, -9.7764, -12.2561]), 1e-3)
    assert close(-wanted.log().mean(), 10.7940)


def test_softmax_before_cross_entropy_goes_unseen(ch05, model, toy_logits):
    loss = ch05.calc_loss_batch(INPUTS, TARGETS, model, "cpu")
    assert close(loss, 10.7940)
    assert abs(torch.exp(loss).item() - 48725.85) < 5
    twice = F.cross_entropy(torch.softmax(toy_logits, -1).flatten(0, 1),
                            TARGETS.flatten())
    assert close(twice, math.log(50257)) and not close(loss, twice)


def test_split_or_windows_cut_the_story_elsewhere(ch05, verdict, parts, loaders):
    tokenizer = ch05.load_gpt2_bpe()
    assert (len(verdict), len(parts[0])) == (20479, 18431)
    assert [len(tokenizer.encode(t)) for t in (verdict, *parts)] == [5145, 4612, 534]
    assert [len(loader) for loader in loaders] == [9, 1]
    for loader, tokens in zip(loaders, (4608, 512), strict=True):
        batches = list(loader)
        assert all(x.shape == y.shape == (2, 256) for x, y in batches)
        assert all(torch.equal(x[:, 1:], y[:, :-1]) for x, y in batches)
        assert sum(x.numel() for x, _ in batches) == tokens


def test_initial_losses_differ_from_the_book(ch05, model, loaders):
    torch.manual_seed(123)
    with torch.no_grad():
        losses = [ch05.calc_loss_loader(loader, model, "cpu") for loader in loaders]
    assert close(losses[0], 10.98758) and close(losses[1], 10.98110)


def test_untrained_loss_is_not_what_the_chapter_explains(model, loaders):
    x, y = next(iter(loaders[1]))
    with torch.no_grad():
        logits = model(x)
    assert close(logits.var(), 0.333, 2e-3)
    expected = math.log(50257) + logits.var().item() / 2
    assert abs(F.cross_entropy(logits.flatten(0, 1), y.flatten()) - expected) < 0.03


def test_frequencies_alone_score_something_else(ch05, parts):
    train, val = (ch05.load_gpt2_bpe().encode(part) for part in parts)
    counts, total = Counter(train), len(train) + 0.01 * 50257
    loss = -sum(math.log((counts[i] + 0.01) / total) for i in val) / len(val)
    assert close(loss, 6.6465, 1e-3)


@pytest.mark.parametrize("temperature, counts", [
    (1, [73, 0, 0, 582, 2, 0, 0, 343, 0]),
    (0.1, [0, 0, 0, 985, 0, 0, 0, 15, 0]),
    (5, [165, 75, 42, 239, 71, 46, 32, 227, 103]),
])
def test_histogram_loses_words_that_never_came(ch05, capsys, temperature, counts):
    ch05.inverse_vocab = dict(enumerate(WORDS))
    ch05.print_sampled_tokens(ch05.softmax_with_temperature(LOGITS, temperature))
    wanted = [f"{n} x {word}" for n, word in zip(counts, WORDS, strict=True)]
    assert capsys.readouterr().out.splitlines() == wanted


def test_temperature_multiplies_instead_of_divides(ch05):
    probas = ch05.softmax_with_temperature(LOGITS, 5)
    assert close(probas[6], 0.0430) and probas.max() < 0.3
    assert ch05.softmax_with_temperature(LOGITS, 0.1).max() > 0.98
    torch.manual_seed(123)
    drawn = torch.multinomial(ch05.softmax_with_temperature(LOGITS, 1), num_samples=1)
    assert WORDS[drawn] == WORDS[LOGITS.argmax()] == "forward"


def test_top_k_keeps_other_words_or_shares(ch05):
    class Nine(torch.nn.Module):
        def forward(self, idx):
            return LOGITS.expand(*idx.shape, 9)

    top_logits, top_pos = torch.topk(LOGITS, 3)
    assert top_pos.tolist() == [3, 7, 0] and close(top_logits, [6.75, 6.28, 4.51])
    torch.manual_seed(123)
    prompts = torch.zeros(20_000, 1, dtype=torch.long)
    drawn = ch05.generate(Nine(), prompts, 1, 10, temperature=1.0, top_k=3)[:, -1]
    shares = torch.bincount(drawn, minlength=9) / len(drawn)
    wanted = torch.tensor([0.0615, 0, 0, 0.5775, 0, 0, 0, 0.3610, 0])
    assert close(shares, wanted, 0.015)
    assert (shares[wanted == 0] == 0).all()


@pytest.mark.parametrize("name, untied, tied", [
    ("gpt2-small (124M)", 163_037_184, 124_439_808),
    ("gpt2-medium (355M)", 406_286_336, 354_823_168),
    ("gpt2-large (774M)", 838_359_040, 774_030_080),
    ("gpt2-xl (1558M)", 1_638_022_400, 1_557_611_200),
])
def test_size_of_a_gpt2_is_wrong(ch05, name, untied, tied):
    solutions = definitions("ch05/01_main-chapter-code/exercise-solutions.ipynb")
    solutions.model_configs = {name: {
        "gpt2-small (124M)": {"emb_dim": 768, "n_layers": 12, "n_heads": 12},
        "gpt2-medium (355M)": {"emb_dim": 1024, "n_layers": 24, "n_heads": 16},
        "gpt2-large (774M)": {"emb_dim": 1280, "n_layers": 36, "n_heads": 20},
        "gpt2-xl (1558M)": {"emb_dim": 1600, "n_layers": 48, "n_heads": 25}}[name]}
    config = solutions.new_config(name)
    assert config["context_length"] == 1024 and config["qkv_bias"]
    assert solutions.count_parameters(config) == untied
    assert untied - tied == 50257 * config["emb_dim"]
