"""Every attention of chapter 3 keeps its promises, at sizes that are all different."""
import inspect

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers import definitions

CH03 = definitions("ch03.ipynb")
CAUSAL = CH03.CausalAttention
WRAPPER = CH03.MultiHeadAttentionWrapper
MULTI = CH03.MultiHeadAttention

# all different, and prime where a size is free, so that no two axes can be confused
B, HEADS, NUM_TOKENS, HEAD_DIM, CONTEXT, D_IN = 2, 3, 5, 7, 11, 13
D_OUT = HEADS * HEAD_DIM
SIZES = {"d_in": D_IN, "d_out": D_OUT, "context_length": CONTEXT, "dropout": 0.0,
         "num_heads": HEADS}

# they see the whole sentence on purpose: the mask comes later in the chapter
NOT_CAUSAL = {"SelfAttention_v1", "SelfAttention_v2"}
MODULES = {
    name: value for name, value in vars(CH03).items()
    if inspect.isclass(value) and issubclass(value, nn.Module)
    and value.__module__ == CH03.__name__
}
ATTENTIONS = sorted(set(MODULES) - NOT_CAUSAL)


def build(name, seed=1, **changes):
    """Return the module called name at SIZES, or as changed."""
    torch.manual_seed(seed)
    wanted = inspect.signature(MODULES[name]).parameters
    sizes = {**SIZES, **changes}
    return MODULES[name](**{k: v for k, v in sizes.items() if k in wanted})


def random_input(num_tokens=NUM_TOKENS, width=D_IN):
    """Return x (B, num_tokens, width)."""
    return torch.randn(B, num_tokens, width, generator=torch.manual_seed(2))


def core_by_torch(mha, x):
    """Return mha(x) with projections cut by hand and PyTorch's attention as core."""
    def heads(layer):
        parts = F.linear(x, layer.weight, layer.bias).split(mha.head_dim, dim=-1)
        return torch.stack(parts, dim=1)     # (B, HEADS, num_tokens, HEAD_DIM)

    core = F.scaled_dot_product_attention(
        heads(mha.W_query), heads(mha.W_key), heads(mha.W_value), is_causal=True)
    return mha.out_proj(torch.cat(core.unbind(dim=1), dim=-1))


def test_every_module_of_the_chapter_is_checked_or_named_as_an_exception():
    assert NOT_CAUSAL <= set(MODULES)
    assert {"CausalAttention", "MultiHeadAttentionWrapper",
            "MultiHeadAttention"} <= set(ATTENTIONS)
    for name in ATTENTIONS:
        assert "context_length" in inspect.signature(MODULES[name]).parameters, (
            f"{name} has no context_length: if it may see the future on purpose, "
            "name it in NOT_CAUSAL")


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("position", range(NUM_TOKENS))
def test_no_token_sees_a_later_one(name, position):
    attention, x = build(name), random_input()
    changed = x.clone()
    changed[:, position] = torch.randn(B, D_IN, generator=torch.manual_seed(3))
    with torch.no_grad():
        difference = (attention(x) - attention(changed)).abs().amax(dim=-1)
    assert not difference.isnan().any()
    assert (difference[:, :position] == 0).all(), "an earlier row moved"
    assert (difference[:, position:] > 1e-4).all(), (
        "the token itself and each later one should see the change")


@pytest.mark.parametrize("name", ATTENTIONS)
def test_sentences_of_a_batch_do_not_mix(name):
    attention, x = build(name), random_input()
    torch.testing.assert_close(attention(x)[1:], attention(x[1:]))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_shorter_sentence_gives_the_same_rows(name):
    attention, x = build(name), random_input(CONTEXT)
    whole = attention(x)
    for num_tokens in (1, NUM_TOKENS, CONTEXT):
        torch.testing.assert_close(attention(x[:, :num_tokens]), whole[:, :num_tokens])


@pytest.mark.parametrize("name", ATTENTIONS)
def test_sentence_longer_than_the_context_is_an_error(name):
    with pytest.raises(RuntimeError):
        build(name)(random_input(CONTEXT + 1))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_dropout_zero_in_training_equals_evaluation(name):
    attention, x = build(name), random_input()
    state = torch.get_rng_state()
    trained = attention.train()(x)
    assert torch.equal(torch.get_rng_state(), state), "random numbers were used up"
    assert torch.equal(trained, attention.eval()(x))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_dropout_acts_in_training_only(name):
    attention, x = build(name, dropout=0.5), random_input()
    still = build(name)(x)
    assert torch.equal(attention.eval()(x), still)
    assert not torch.allclose(attention.train()(x), still)


@pytest.mark.parametrize("bias", [False, True])
def test_causal_attention_equals_torch_core(bias):
    attention, x = build("CausalAttention", qkv_bias=bias), random_input()
    expected = F.scaled_dot_product_attention(
        attention.W_query(x), attention.W_key(x), attention.W_value(x), is_causal=True)
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention_equals_torch_core(bias):
    mha, x = build("MultiHeadAttention", qkv_bias=bias), random_input()
    torch.testing.assert_close(mha(x), core_by_torch(mha, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention_equals_torch_module_on_copied_weights(bias):
    mha = build("MultiHeadAttention", d_in=D_OUT, qkv_bias=bias)
    theirs = nn.MultiheadAttention(D_OUT, HEADS, batch_first=True)
    layers = (mha.W_query, mha.W_key, mha.W_value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        theirs.in_proj_bias.zero_()
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
    theirs.out_proj.load_state_dict(mha.out_proj.state_dict())
    x = random_input(width=D_OUT)
    # here True means hidden; scaled_dot_product_attention reads it the other way
    future = torch.ones(NUM_TOKENS, NUM_TOKENS).triu(diagonal=1).bool()
    expected, weights = theirs(x, x, x, attn_mask=future)
    assert (weights[:, future] == 0).all()
    torch.testing.assert_close(mha(x), expected, rtol=0, atol=1e-6)


def test_boolean_masks_mean_the_opposite_in_the_two_interfaces():
    """What the chapter says of PyTorch still holds in this version of it."""
    mha, x = build("MultiHeadAttention"), random_input()
    future = mha.mask[:NUM_TOKENS, :NUM_TOKENS].bool()
    torch.testing.assert_close(mha(x), CH03.with_sdpa(mha, x, attn_mask=~future))
    assert not torch.allclose(mha(x), CH03.with_sdpa(mha, x, attn_mask=future))


def test_multi_head_attention_equals_wrapper_on_copied_weights():
    wrapper = build("MultiHeadAttentionWrapper", d_out=HEAD_DIM)
    mha = build("MultiHeadAttention", seed=4)
    with torch.no_grad():
        for name in ("W_query", "W_key", "W_value"):
            getattr(mha, name).weight.copy_(
                torch.cat([getattr(head, name).weight for head in wrapper.heads]))
        mha.out_proj.weight.copy_(torch.eye(D_OUT))
        mha.out_proj.bias.zero_()
    x = random_input()
    assert wrapper(x).shape == (B, NUM_TOKENS, D_OUT)
    torch.testing.assert_close(mha(x), wrapper(x), rtol=0, atol=1e-6)


def test_self_attention_classes_agree_on_copied_weights():
    torch.manual_seed(5)
    v1, v2 = CH03.SelfAttention_v1(D_IN, D_OUT), CH03.SelfAttention_v2(D_IN, D_OUT)
    v1.load_state_dict(
        {name.removesuffix(".weight"): w.T for name, w in v2.state_dict().items()})
    x = random_input()[0]
    expected = F.scaled_dot_product_attention(
        x @ v1.W_query, x @ v1.W_key, x @ v1.W_value)
    torch.testing.assert_close(v1(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(v2(x), expected, rtol=0, atol=1e-5)


def test_heads_must_divide_d_out():
    with pytest.raises(AssertionError, match="^d_out must be divisible by num_heads$"):
        build("MultiHeadAttention", d_out=D_OUT + 1)


def keys_of(name, **changes):
    """Return the names in a module's state dict, in order."""
    return list(build(name, **changes).state_dict())


def test_checkpoints_keep_their_names_and_order():
    plain = ["W_query.weight", "W_key.weight", "W_value.weight"]
    biased = [f"{w}.{kind}" for w in ("W_query", "W_key", "W_value")
              for kind in ("weight", "bias")]
    out_proj = ["out_proj.weight", "out_proj.bias"]
    assert list(CH03.SelfAttention_v1(3, 2).state_dict()) == [
        "W_query", "W_key", "W_value"]
    assert list(CH03.SelfAttention_v2(3, 2).state_dict()) == plain
    assert keys_of("CausalAttention") == ["mask", *plain]
    assert keys_of("CausalAttention", qkv_bias=True) == ["mask", *biased]
    assert keys_of("MultiHeadAttentionWrapper") == [
        f"heads.{i}.{key}" for i in range(HEADS) for key in ["mask", *plain]]
    assert keys_of("MultiHeadAttention") == ["mask", *plain, *out_proj]
    assert keys_of("MultiHeadAttention", qkv_bias=True) == ["mask", *biased, *out_proj]


@pytest.mark.parametrize("name", ["CausalAttention", "MultiHeadAttention"])
def test_mask_stays_in_checkpoints_that_readers_saved(name):
    """A mask that is no longer persistent would make old files fail to load."""
    attention = build(name)
    mask = attention.state_dict()["mask"]
    assert mask.dtype == torch.float32 and mask.shape == (CONTEXT, CONTEXT)
    assert torch.equal(mask, torch.ones(CONTEXT, CONTEXT).triu(diagonal=1))
    assert "mask" not in dict(attention.named_parameters())
    old = build(name, seed=6).state_dict()
    attention.load_state_dict(old)            # strict, as readers call it
    torch.testing.assert_close(attention(random_input()),
                               build(name, seed=6)(random_input()))


def test_row_check_of_the_chapter_sees_a_leak():
    mha, x = build("MultiHeadAttention"), random_input()
    assert CH03.rows_that_moved(mha, x, 2) == [2, 3, 4]
    mha.mask.zero_()                                              # nothing is hidden
    assert CH03.rows_that_moved(mha, x, 2) == [0, 1, 2, 3, 4]
