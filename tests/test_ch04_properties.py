"""What must hold for any GPT of chapter 4, whatever its size and weights."""
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
from helpers import ROOT, definitions, load_file

SCRIPT = "ch04/01_main-chapter-code/gpt.py"
# all sizes different, primes where divisibility allows: a mix-up cannot hide
TINY = {"vocab_size": 53, "context_length": 13, "emb_dim": 21, "n_heads": 3,
        "n_layers": 2, "drop_rate": 0.1, "qkv_bias": True}
GPT2_SIZES = {       # changes, parameters, with qkv_bias, keys, mask elements
    "small": ({}, 163_009_536, 163_037_184, 173, 12_582_912),
    "medium": ({"emb_dim": 1024, "n_layers": 24, "n_heads": 16},
               406_212_608, 406_286_336, 341, 25_165_824),
    "large": ({"emb_dim": 1280, "n_layers": 36, "n_heads": 20},
              838_220_800, 838_359_040, 509, 37_748_736),
    "xl": ({"emb_dim": 1600, "n_layers": 48, "n_heads": 25},
           1_637_792_000, 1_638_022_400, 677, 50_331_648),
}


@pytest.fixture(scope="module", params=["notebook", "script"])
def ch04(request):
    """The definitions of chapter 4, from the notebook and from gpt.py."""
    is_script = request.param == "script"
    return load_file(SCRIPT) if is_script else definitions("ch04.ipynb")


@pytest.fixture
def model(ch04):
    """A tiny model in eval mode, all its numbers random, norms and biases too."""
    torch.manual_seed(123)
    model = ch04.GPTModel(TINY).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(std=0.3)
    return model


@pytest.fixture
def ids():
    """Two texts of seven tokens."""
    torch.manual_seed(5)
    return torch.randint(0, TINY["vocab_size"], (2, 7))


def test_layer_norm_is_pytorchs(ch04):
    torch.manual_seed(123)
    ours, theirs = ch04.LayerNorm(7), nn.LayerNorm(7)
    assert list(ours.state_dict()) == ["scale", "shift"] and ours.eps == theirs.eps
    with torch.no_grad():
        ours.scale.normal_()
        ours.shift.normal_()
        theirs.weight.copy_(ours.scale)
        theirs.bias.copy_(ours.shift)
    for x in (torch.randn(2, 3, 7), torch.randn(5, 7) * 100 + 50,
              torch.randn(5, 7) * 1e-3,        # eps matters here
              torch.full((1, 7), 3.0)):        # variance zero
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=2e-5)


def test_gelu_is_the_tanh_form_and_not_the_exact_one(ch04):
    x = torch.linspace(-6, 6, 1001)
    ours = ch04.GELU()(x)
    torch.testing.assert_close(ours, nn.GELU("tanh")(x), rtol=0, atol=1e-6)
    assert (ours - nn.GELU()(x)).abs().max() > 1e-4
    assert not list(ch04.GELU().parameters())


def test_feed_forward_treats_each_token_alone(ch04):
    torch.manual_seed(123)
    feed_forward = ch04.FeedForward(TINY)
    x = torch.randn(2, 5, 21)
    torch.testing.assert_close(feed_forward(x)[:, 3], feed_forward(x[:, 3]))


def test_no_logit_before_a_changed_token_moves(model, ids):
    with torch.no_grad():
        before = model(ids)
        for t in range(ids.shape[1]):
            changed = ids.clone()
            changed[:, t] = (ids[:, t] + 1) % TINY["vocab_size"]
            after = model(changed)
            assert torch.equal(before[:, :t], after[:, :t]), f"place {t} leaks back"
            moved = (before[:, t:] != after[:, t:]).any(dim=-1)
            assert moved.all(), f"a later place does not see place {t}"


def test_a_text_does_not_depend_on_its_neighbours_in_the_batch(model, ids):
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[1:], model(ids[1:]), rtol=0, atol=1e-5)


def test_positions_count(model):
    with torch.no_grad():
        logits = model(torch.full((1, 5), 17))[0]
    assert not torch.allclose(logits[0], logits[4], atol=1e-3)


def test_training_mode_without_dropout_is_eval_mode(ch04, ids):
    torch.manual_seed(123)
    with_dropout = ch04.GPTModel(TINY)
    torch.manual_seed(123)
    without = ch04.GPTModel({**TINY, "drop_rate": 0.0})
    assert without.training
    noisy = with_dropout(ids)
    assert torch.equal(without(ids), with_dropout.eval()(ids))
    assert not torch.equal(noisy, without(ids))


def test_dropout_acts_at_its_three_places(ch04, ids):
    """Raise one rate to 1, and all that passes its place is gone."""
    other = ids.clone()
    other[:, 0] = (ids[:, 0] + 1) % TINY["vocab_size"]

    def train_with(emb=0.0, att=0.0, shortcut=0.0):
        torch.manual_seed(123)
        model = ch04.GPTModel({**TINY, "drop_rate": 0.0})
        model.drop_emb.p = emb
        for block in model.trf_blocks:
            block.att.dropout.p, block.drop_shortcut.p = att, shortcut
        return model

    with torch.no_grad():
        model = train_with(emb=1.0)
        assert torch.equal(model(ids), model(other))
        model = train_with(att=1.0)
        assert torch.equal(model(ids)[:, 1:], model(other)[:, 1:])
        model = train_with(shortcut=1.0)
        x = model.tok_emb(ids) + model.pos_emb(torch.arange(7))
        assert torch.equal(model(ids), model.out_head(model.final_norm(x)))
    rates = [m.p for m in ch04.GPTModel(TINY).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.1] * (1 + 2 * TINY["n_layers"])


def test_block_is_pre_norm_with_two_shortcuts(ch04):
    torch.manual_seed(123)
    block = ch04.TransformerBlock(TINY).eval()
    x = torch.randn(2, 5, 21)
    with torch.no_grad():
        for norm in (block.norm1, block.norm2):
            norm.scale.normal_()
            norm.shift.normal_()
        middle = x + block.att(block.norm1(x))
        expected = middle + block.ff(block.norm2(middle))
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("size", GPT2_SIZES)
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_gpt2_sizes_have_their_counts_and_keys(ch04, size, qkv_bias):
    changes, plain, biased, keys, masks = GPT2_SIZES[size]
    cfg = {**ch04.GPT_CONFIG_124M, **changes, "qkv_bias": qkv_bias}
    with torch.device("meta"):
        model = ch04.GPTModel(cfg)
    layers = cfg["n_layers"]
    assert sum(p.numel() for p in model.parameters()) == (biased if qkv_bias else plain)
    assert sum(b.numel() for b in model.buffers()) == masks
    names = list(model.state_dict())
    assert len(names) == keys + (3 * layers if qkv_bias else 0)

    projections = [f"att.{w}.{kind}" for w in ("W_query", "W_key", "W_value")
                   for kind in (("weight", "bias") if qkv_bias else ("weight",))]
    block = ["att.mask", *projections, "att.out_proj.weight", "att.out_proj.bias",
             "ff.layers.0.weight", "ff.layers.0.bias", "ff.layers.2.weight",
             "ff.layers.2.bias", "norm1.scale", "norm1.shift", "norm2.scale",
             "norm2.shift"]
    assert names == ["tok_emb.weight", "pos_emb.weight",
                     *(f"trf_blocks.{i}.{n}" for i in range(layers) for n in block),
                     "final_norm.scale", "final_norm.shift", "out_head.weight"]


def test_too_long_a_text_is_a_clear_error(model):
    context = TINY["context_length"]
    assert model(torch.zeros(1, context, dtype=torch.long)).shape == (1, context, 53)
    with pytest.raises(ValueError, match=r"14 tokens do not fit the context of 13"):
        model(torch.zeros(1, context + 1, dtype=torch.long))


def by_hand(model, ids, steps, context_size):
    """Extend the list ids greedily, one full forward call a token."""
    ids = list(ids)
    for _ in range(steps):
        with torch.no_grad():
            scores = model(torch.tensor([ids[-context_size:]]))[0][-1].tolist()
        ids.append(scores.index(max(scores)))
    return ids


@pytest.mark.parametrize("context_size", [1, 5, 13])
def test_generation_crops_to_the_context_and_equals_a_loop(ch04, model, ids,
                                                           context_size):
    out = ch04.generate_text_simple(model, ids, 17, context_size)    # 7 + 17 > 13
    assert out.shape == (2, 24)
    for text, prompt in zip(out.tolist(), ids.tolist(), strict=True):
        assert text == by_hand(model, prompt, 17, context_size)
    assert len({tuple(text[7:]) for text in out.tolist()}) > 1 or context_size == 1


def test_generation_keeps_the_prompt_and_the_mode(ch04, model, ids):
    before = ids.clone()
    out = ch04.generate_text_simple(model, ids, 3, 13)
    assert torch.equal(ids, before) and torch.equal(out[:, :7], before)
    assert torch.equal(ch04.generate_text_simple(model, ids, 0, 13), before)
    assert not out.requires_grad and not model.training
    model.train()
    ch04.generate_text_simple(model, ids, 1, 13)
    assert model.training


def test_logits_equal_transformers_gpt2(ch04, model, ids):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(123)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=53, n_positions=13, n_embd=21, n_layer=2, n_head=3,
        activation_function="gelu_new", tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0)).eval()
    names = {"tok_emb.weight": "transformer.wte.weight",
             "pos_emb.weight": "transformer.wpe.weight",
             "final_norm.scale": "transformer.ln_f.weight",
             "final_norm.shift": "transformer.ln_f.bias",
             "out_head.weight": "lm_head.weight"}
    ours = model.state_dict()
    theirs_state = {names[name]: ours[name] for name in names}
    for i in range(2):
        a, b = f"trf_blocks.{i}.", f"transformer.h.{i}."
        for kind in ("weight", "bias"):
            qkv = torch.cat([ours[f"{a}att.W_{w}.{kind}"]
                             for w in ("query", "key", "value")])
            # transformers keeps its matrices the other way round
            turn = torch.Tensor.t if kind == "weight" else torch.clone
            theirs_state[f"{b}attn.c_attn.{kind}"] = turn(qkv)
            for our_name, their_name in (("att.out_proj", "attn.c_proj"),
                                         ("ff.layers.0", "mlp.c_fc"),
                                         ("ff.layers.2", "mlp.c_proj")):
                theirs_state[f"{b}{their_name}.{kind}"] = turn(
                    ours[f"{a}{our_name}.{kind}"])
        for norm, their_norm in (("norm1", "ln_1"), ("norm2", "ln_2")):
            theirs_state[f"{b}{their_norm}.weight"] = ours[f"{a}{norm}.scale"]
            theirs_state[f"{b}{their_norm}.bias"] = ours[f"{a}{norm}.shift"]
    assert set(theirs_state) == set(dict(theirs.named_parameters()))
    with torch.no_grad():
        for name, param in theirs.named_parameters():
            param.copy_(theirs_state[name])
        longest = torch.arange(13).unsqueeze(0)
        for text in (ids, longest):
            torch.testing.assert_close(model(text), theirs(text).logits,
                                       rtol=1e-4, atol=1e-4)


def test_importing_gpt_prints_and_draws_nothing():
    code = ("import torch; torch.manual_seed(1); before = torch.get_rng_state(); "
            "import gpt; assert torch.equal(before, torch.get_rng_state())")
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=(ROOT / SCRIPT).parent, capture_output=True,
        text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
