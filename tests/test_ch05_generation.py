"""Chapter 5's functions: losses, the training loop, generate, GPT-2's weights."""
import itertools
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import definitions

pytestmark = pytest.mark.xdist_group("ch05_generation")

# sizes that differ everywhere, so that no test passes by coincidence
TINY = {"vocab_size": 101, "context_length": 13, "emb_dim": 24, "n_heads": 3,
        "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True}


class Letters:
    """A tokenizer of 101 characters, so that training tests need no vocabulary."""

    def encode(self, text, allowed_special=()):
        return [ord(letter) % 101 for letter in text]

    def decode(self, ids):
        return "".join(chr(i) if i >= 32 else "\n" for i in ids)


class Constant(torch.nn.Module):
    """A model that gives the same logits everywhere; they are its only weights."""

    def __init__(self, logits, context_length=13):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.as_tensor(logits))
        self.pos_emb = torch.nn.Embedding(context_length, 1)
        self.modes = []

    def forward(self, idx):
        self.modes.append(self.training)
        return self.logits.expand(*idx.shape, -1)


@pytest.fixture(scope="module")
def ch05():
    return definitions("ch05.ipynb")


@pytest.fixture
def tiny(ch05):
    torch.manual_seed(123)
    return ch05.GPTModel(TINY).eval()


def batches(number, b=2, num_tokens=5, vocab_size=101, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab_size, (number, b, num_tokens + 1), generator=generator)
    return [(part[:, :-1], part[:, 1:]) for part in ids]


def shuffled(number):
    return torch.utils.data.DataLoader(
        [(x[0], y[0]) for x, y in batches(number)], batch_size=2, shuffle=True)


# --- losses ---------------------------------------------------------------------------

def test_loss_is_not_the_mean_of_minus_log_probability(ch05):
    logits = torch.arange(7) / 3
    [(x, y)] = batches(1, b=3, num_tokens=4, vocab_size=7)
    log_probas = [(i - math.log(sum(math.exp(j / 3) for j in range(7))) * 3) / 3
                  for i in range(7)]
    wanted = -sum(log_probas[i] for i in y.flatten().tolist()) / y.numel()
    loss = ch05.calc_loss_batch(x, y, Constant(logits), "cpu")
    assert abs(loss.item() - wanted) < 1e-5 and loss.requires_grad
    even = ch05.calc_loss_batch(x, y, Constant(torch.zeros(7)), "cpu")
    assert abs(even.item() - math.log(7)) < 1e-6


def test_empty_loader_gives_a_loss(ch05):
    assert math.isnan(ch05.calc_loss_loader([], Constant(torch.zeros(7)), "cpu"))
    assert math.isnan(ch05.calc_loss_loader([], Constant(torch.zeros(7)), "cpu", 3))


def test_num_batches_counts_wrong(ch05, tiny):
    loader = batches(4)
    each = [ch05.calc_loss_batch(x, y, tiny, "cpu").item() for x, y in loader]
    for num_batches, used in ((None, 4), (1, 1), (3, 3), (9, 4)):
        wanted = sum(each[:used]) / used
        found = ch05.calc_loss_loader(loader, tiny, "cpu", num_batches)
        assert isinstance(found, float) and abs(found - wanted) < 1e-6


def test_evaluation_leaves_dropout_on_or_the_model_in_eval(ch05):
    torch.manual_seed(123)
    model = ch05.GPTModel({**TINY, "drop_rate": 0.5}).train()
    train, val = batches(3), batches(2, seed=2)
    found = [ch05.evaluate_model(model, train, val, "cpu", 2) for _ in range(2)]
    assert found[0] == found[1]
    assert model.training and all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    assert found[0] == (ch05.calc_loss_loader(train, model, "cpu", 2),
                        ch05.calc_loss_loader(val, model, "cpu", 2))


def test_evaluation_draws_other_random_numbers_than_the_book(ch05, tiny):
    train, val = shuffled(6), torch.utils.data.DataLoader(
        [(x[0], y[0]) for x, y in batches(3)], batch_size=2)
    torch.manual_seed(123)
    ch05.evaluate_model(tiny, train, val, "cpu", 2)
    after = torch.rand(3)
    torch.manual_seed(123)
    for _ in range(3):              # two for a shuffled loader, one for the other
        torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(torch.rand(3), after)


# --- the training loop ----------------------------------------------------------------

def train(ch05, model, loader, val, lr=0.1, num_epochs=3, eval_freq=5, eval_iter=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return ch05.train_model_simple(
        model, loader, val, optimizer, "cpu", num_epochs, eval_freq, eval_iter, "go",
        Letters())


def test_training_steps_or_evaluations_come_at_the_wrong_time(ch05, capsys):
    model = Constant(torch.zeros(101))
    train_losses, val_losses, tokens_seen = train(ch05, model, batches(7), batches(2))
    steps = [0, 5, 10, 15, 20]                     # of 3 epochs of 7 batches
    assert tokens_seen == [10 * (step + 1) for step in steps]
    assert all(type(n) is int for n in tokens_seen)
    lines = capsys.readouterr().out.splitlines()
    evaluations = [line for line in lines if line.startswith("Ep ")]
    assert evaluations == [
        f"Ep {step // 7 + 1} (Step {step:06d}): Train loss {a:.3f}, Val loss {b:.3f}"
        for step, a, b in zip(steps, train_losses, val_losses, strict=True)]
    samples = [i for i, line in enumerate(lines) if not line.startswith("Ep ")]
    assert samples == [2, 4, 7]                    # one after each epoch


def test_gradients_pile_up_or_steps_are_left_out(ch05):
    model, lr, loader = Constant(torch.zeros(101)), 0.1, batches(7)
    train(ch05, model, loader, batches(2), lr=lr, num_epochs=2)
    weights = np.zeros(101)                        # the same by the closed form
    for _, y in itertools.chain(loader, loader):
        probas = np.exp(weights) / np.exp(weights).sum()
        shares = np.bincount(y.flatten().numpy(), minlength=101) / y.numel()
        weights -= lr * (probas - shares)
    assert np.allclose(model.logits.detach().numpy(), weights, atol=1e-6)


def test_evaluation_comes_before_the_step(ch05):
    loader, val = batches(1), batches(2, seed=2)
    model = Constant(torch.zeros(101))
    train_losses, val_losses, _ = train(ch05, model, loader, val, num_epochs=1)
    assert train_losses[0] < math.log(101) - 1e-4  # the first step has been taken
    assert abs(val_losses[0] - ch05.calc_loss_loader(val, model, "cpu", 2)) < 1e-6


def test_training_goes_on_in_eval_mode_after_a_sample(ch05):
    model = Constant(torch.zeros(101))
    train(ch05, model, batches(2), batches(1), num_epochs=2, eval_freq=100, eval_iter=1)
    # a step; an evaluation of both losses; a step; 50 tokens; two steps; 50 tokens
    wanted = [True, False, False, True, *[False] * 50, True, True, *[False] * 50]
    assert model.modes == wanted and model.training


def test_sample_shows_line_breaks_or_the_wrong_length(ch05, tiny, capsys):
    ch05.generate_and_print_sample(tiny, Letters(), "cpu", "go")
    ids = ch05.generate_text_simple(
        tiny, torch.tensor([Letters().encode("go")]), 50, TINY["context_length"])
    wanted = Letters().decode(ids[0].tolist()).replace("\n", " ")
    assert capsys.readouterr().out == wanted + "\n" and len(wanted) == 52
    assert tiny.training


# --- generate -------------------------------------------------------------------------

PROMPTS = torch.tensor([[1, 2], [1, 3]])


def test_end_token_is_appended_to_a_single_text(ch05):
    model = ch05.ScriptedModel([[4, 9, 5, 5]])
    ids = ch05.generate(model, PROMPTS[:1], 4, 10, eos_id=9)
    assert ids.tolist() == [[1, 2, 4]]
    assert ch05.generate(model, PROMPTS[:1], 4, 10).tolist() == [[1, 2, 4, 9, 5, 5]]


def test_finished_text_of_a_batch_goes_on(ch05):
    model = ch05.ScriptedModel([[4, 9, 5, 5, 5], [6, 7, 8, 9, 5]])
    ids = ch05.generate(model, PROMPTS, 5, 10, eos_id=9)
    assert ids.tolist() == [[1, 2, 4, 9, 9], [1, 3, 6, 7, 8]]
    longer = ch05.generate(model, PROMPTS, 2, 10, eos_id=9)
    assert longer.tolist() == [[1, 2, 4, 9], [1, 3, 6, 7]]


def test_end_token_zero_counts_as_none(ch05):
    model = ch05.ScriptedModel([[4, 0, 5]])
    assert ch05.generate(model, PROMPTS[:1], 3, 10, eos_id=0).tolist() == [[1, 2, 4]]


def test_temperature_zero_is_not_greedy(ch05, tiny):
    idx = torch.tensor([[5, 6], [7, 8]])
    greedy = ch05.generate_text_simple(tiny, idx, 20, 13)       # past the context
    for top_k in (None, 1, 25, 1000):
        assert torch.equal(ch05.generate(tiny, idx, 20, 13, top_k=top_k), greedy)


def test_top_k_of_one_still_draws(ch05, tiny):
    idx = torch.tensor([[5, 6], [7, 8]])
    greedy = ch05.generate_text_simple(tiny, idx, 20, 13)
    for seed in range(3):
        torch.manual_seed(seed)
        ids = ch05.generate(tiny, idx, 20, 13, temperature=5.0, top_k=1)
        assert torch.equal(ids, greedy)


def test_top_k_of_a_batch_uses_one_row_for_all(ch05, tiny):
    """Each row has its own k-th logit; one for all cuts too much or too little."""
    idx = torch.tensor([[5, 6], [7, 8], [50, 60]]).repeat_interleave(300, dim=0)
    torch.manual_seed(123)
    drawn = ch05.generate(tiny, idx, 1, 13, temperature=5.0, top_k=4)[:, -1]
    with torch.no_grad():
        allowed = torch.topk(tiny(idx)[:, -1], 4).indices
    assert (drawn.unsqueeze(1) == allowed).any(dim=1).all()
    assert all(len(part.unique()) == 4 for part in drawn.split(300))


def test_top_k_larger_than_the_vocabulary_crashes(ch05, tiny):
    idx = torch.tensor([[5, 6]])
    torch.manual_seed(123)
    limited = ch05.generate(tiny, idx, 20, 13, temperature=1.0, top_k=1000)
    torch.manual_seed(123)
    assert torch.equal(limited, ch05.generate(tiny, idx, 20, 13, temperature=1.0))


def test_temperature_multiplies_in_generate(ch05):
    model = Constant(torch.tensor([1.0, 0.0]))
    prompts = torch.zeros(20_000, 1, dtype=torch.long)
    for temperature in (0.5, 2.0):
        torch.manual_seed(123)
        ids = ch05.generate(model, prompts, 1, 13, temperature=temperature)
        wanted = 1 / (1 + math.exp(-1 / temperature))
        assert abs((ids[:, -1] == 0).float().mean().item() - wanted) < 0.015


def test_context_grows_past_what_the_model_holds(ch05, tiny):
    idx = torch.randint(101, (1, 30), generator=torch.Generator().manual_seed(1))
    ids = ch05.generate(tiny, idx, 4, 13)
    assert ids.shape == (1, 34) and torch.equal(ids[:, :30], idx)


# --- the fast classes -----------------------------------------------------------------

@pytest.fixture
def pair(ch05):
    models = []
    for kind in (ch05.GPTModel, ch05.GPTModelFast):
        torch.manual_seed(123)
        models.append(kind(TINY).eval())
    return models


def test_fast_model_starts_from_other_weights(ch05, pair):
    slow, fast = (model.state_dict() for model in pair)
    assert list(slow) == list(fast)
    assert all(torch.equal(slow[name], fast[name]) for name in slow)
    kinds = {type(module) for module in pair[1].modules()}
    assert {ch05.LayerNormFast, ch05.GELUFast, ch05.MultiHeadAttentionFast} <= kinds
    assert not kinds & {ch05.LayerNorm, ch05.GELU, ch05.MultiHeadAttention}


def test_fast_model_computes_something_else(pair):
    generator = torch.Generator().manual_seed(1)
    for num_tokens in (1, 7, 13):
        idx = torch.randint(101, (2, num_tokens), generator=generator)
        logits = [model(idx) for model in pair]
        assert torch.allclose(*logits, atol=1e-5)
        grads = []
        for model, found in zip(pair, logits, strict=True):
            loss = F.cross_entropy(found.flatten(0, 1), idx.flatten())
            grads.append(torch.autograd.grad(loss, list(model.parameters())))
        for a, b in zip(*grads, strict=True):
            assert torch.allclose(a, b, atol=1e-6, rtol=1e-4)


def test_fast_model_sees_the_future(pair):
    idx = torch.randint(101, (2, 13), generator=torch.Generator().manual_seed(1))
    for model in pair:
        before = model(idx)
        for position in range(13):
            changed = idx.clone()
            changed[:, position] = (changed[:, position] + 1) % 101
            moved = (model(changed) - before).abs().amax(dim=(0, 2))    # (13,)
            assert (moved[:position] < 1e-6).all() and moved[position] > 1e-3


def test_fast_model_forgets_dropout_or_keeps_it_in_eval(ch05):
    model = ch05.GPTModelFast({**TINY, "drop_rate": 0.5})
    att = model.trf_blocks[0].att
    x = torch.randn(2, 13, 24, generator=torch.Generator().manual_seed(1))
    model.train()
    assert not torch.equal(att(x), att(x))
    model.eval()
    assert torch.equal(att(x), att(x))


# --- GPT-2's weights ------------------------------------------------------------------

def numpy_gpt2(params, ids, n_heads):
    """OpenAI's model on its own arrays, straight from the paper: logits (T, V)."""
    def norm(x, p):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p["g"] + p["b"]

    def linear(x, p):
        return x @ p["w"] + p["b"]

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = params["wte"][ids] + params["wpe"][: len(ids)]
    for block in params["blocks"]:
        qkv = linear(norm(x, block["ln_1"]), block["attn"]["c_attn"])
        heads = []
        split = [np.split(part, n_heads, -1) for part in np.split(qkv, 3, -1)]
        for q, k, v in zip(*split, strict=True):
            scores = q @ k.T / np.sqrt(q.shape[-1])
            scores = np.where(np.tri(len(ids), dtype=bool), scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v)
        x = x + linear(np.concatenate(heads, -1), block["attn"]["c_proj"])
        hidden = gelu(linear(norm(x, block["ln_2"]), block["mlp"]["c_fc"]))
        x = x + linear(hidden, block["mlp"]["c_proj"])
    return norm(x, params) @ params["wte"].T


def random_params(ch05, num_blocks=2):
    """The notebook's tiny parameters at other sizes, all entries random."""
    params = ch05.tiny_params(emb_dim=24, vocab_size=101, context_length=13)
    rng = np.random.default_rng(5)

    def redraw(value):
        if isinstance(value, dict):
            return {key: redraw(part) for key, part in value.items()}
        if isinstance(value, list):
            return [redraw(part) for part in value]
        return rng.normal(scale=0.3, size=value.shape).astype("float32")

    params["blocks"] = params["blocks"] * num_blocks
    return redraw(params)


def test_gpt2_weights_are_swapped_or_not_transposed(ch05, tiny):
    params = random_params(ch05)
    ch05.load_weights_into_gpt(tiny, params)
    ids = np.random.default_rng(6).integers(101, size=13)
    with torch.no_grad():
        logits = tiny(torch.tensor(ids).unsqueeze(0))[0].numpy()
    assert np.allclose(logits, numpy_gpt2(params, ids, TINY["n_heads"]), atol=1e-4)


def test_some_weights_keep_their_random_start(ch05, tiny):
    before = {name: p.clone() for name, p in tiny.named_parameters()}
    ch05.load_weights_into_gpt(tiny, random_params(ch05))
    same = [name for name, p in tiny.named_parameters() if torch.equal(p, before[name])]
    assert same == []
    assert all(p.requires_grad for p in tiny.parameters())
    assert torch.equal(tiny.out_head.weight, tiny.tok_emb.weight)
    assert tiny.out_head.weight.data_ptr() != tiny.tok_emb.weight.data_ptr()


def test_weights_of_another_size_are_taken(ch05):
    params = random_params(ch05)
    for change in ({"vocab_size": 100}, {"emb_dim": 27}, {"n_layers": 3},
                   {"n_layers": 1}):
        with pytest.raises(ValueError, match="Shape mismatch|blocks"):
            ch05.load_weights_into_gpt(ch05.GPTModel({**TINY, **change}), params)
    message = re.escape("Left: torch.Size([2]), Right: (3,)")
    with pytest.raises(ValueError, match=message):
        ch05.assign(torch.zeros(2), np.zeros(3))


def test_apple_gpu_of_an_old_torch_is_used(ch05, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for version, wanted in (("2.8.1", "cpu"), ("2.9.0", "mps"), ("2.13.0+cpu", "mps")):
        monkeypatch.setattr(torch, "__version__", version)
        assert ch05.pick_device().type == wanted
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ch05.pick_device().type == "cuda"


def test_band_calls_a_strange_run_right(ch05, capsys):
    table = {"mps": ([9.817, 8.066, 6.619, 6.046, 5.524, 5.369, 4.830, 4.586, 3.879,
                      3.530, 2.960, 2.832, 2.104, 1.691, 1.391, 1.059, 0.800, 0.569],
                     [9.924, 8.332, 7.042, 6.596, 6.508, 6.378, 6.263, 6.285, 6.130,
                      6.183, 6.123, 6.150, 6.133, 6.186, 6.230, 6.251, 6.278, 6.373])}
    ch05.looks_right(*table["mps"])
    assert "OUTSIDE" not in capsys.readouterr().out
    ch05.looks_right([10.82] * 18, [10.82] * 18)         # a second softmax
    assert capsys.readouterr().out.count("OUTSIDE") == len(ch05.BAND)
