"""Growing tokenizer and model: ids, old logits to the bit, tying, new rows alone learn."""
import math

import pytest
import torch
from helpers import definitions

NOTEBOOK = "extend-tiktoken.ipynb"
CONFIG = {"vocab_size": 101, "context_length": 16, "emb_dim": 24, "n_heads": 3,
          "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True}
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [53, 58, 97, 93, 23, 84, 62, 64]])


@pytest.fixture(scope="module")
def lesson():
    return definitions(NOTEBOOK)


@pytest.fixture
def model(lesson):
    torch.manual_seed(1)
    return lesson.GPTModelFast(CONFIG).eval()


def tie(model):
    model.out_head.weight = model.tok_emb.weight
    return model


def test_ids_of_the_reference(lesson):
    base = lesson.load_gpt2_bpe()
    text = "Hello, MyNewToken_1 is a new token. <|endoftext|>"
    assert base.encode(text, allowed_special="all") == [
        15496, 11, 2011, 3791, 30642, 62, 16, 318, 257, 649, 11241, 13, 220, 50256]
    tokenizer = lesson.extend_tokenizer(base, ["MyNewToken_1", "MyNewToken_2"])
    text = "Sample text with MyNewToken_1 and MyNewToken_2. <|endoftext|>"
    ids = tokenizer.encode(text, allowed_special="all")
    assert ids == [36674, 2420, 351, 220, 50257, 290, 220, 50258, 13, 220, 50256]
    assert tokenizer.decode(ids) == text and tokenizer.n_vocab == 50259
    with pytest.raises(ValueError, match="disallowed"):
        tokenizer.encode(text)


def test_text_without_new_tokens_keeps_its_ids_and_base_is_untouched(lesson, verdict):
    base = lesson.load_gpt2_bpe()
    tokenizer = lesson.extend_tokenizer(base, ["<|user|>"])
    assert tokenizer.encode(verdict) == base.encode(verdict)
    assert "<|user|>" not in base.special_tokens_set and base.n_vocab == 50257
    twice = lesson.extend_tokenizer(tokenizer, ["<|tool|>"])
    assert twice.encode("<|tool|><|user|>", allowed_special="all") == [50258, 50257]


@pytest.mark.parametrize("new", [["a", "a"], ["<|endoftext|>"]])
def test_a_token_cannot_have_two_ids(lesson, new):
    with pytest.raises(ValueError):
        lesson.extend_tokenizer(lesson.load_gpt2_bpe(), new)


@pytest.mark.parametrize("how", ["mean", "normal", "default"])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("num_new", [1, 2, 13])
def test_growing_leaves_old_logits_as_they_were(lesson, model, how, is_tied, num_new):
    if is_tied:
        tie(model)
    old_weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        old = model(IDS)
        lesson.grow_model(model, num_new, how)
        new = model(IDS)
    assert new.shape == (2, 8, 101 + num_new)
    assert torch.equal(new[..., :101], old)
    for name, weight in model.named_parameters():      # nothing else, and no bias, is new
        assert torch.equal(weight[:101] if "emb.w" in name or "head" in name else weight,
                           old_weights[name])
    assert model.tok_emb.num_embeddings == model.out_head.out_features == 101 + num_new
    is_shared = model.out_head.weight is model.tok_emb.weight
    assert is_shared == is_tied
    with torch.no_grad():
        model(torch.tensor([[100 + num_new]]))         # the newest id can be read


def test_a_head_with_a_bias_is_refused(lesson, model):
    model.out_head = torch.nn.Linear(24, 101)
    with pytest.raises(ValueError, match="bias"):
        lesson.grow_model(model, 2)
    with pytest.raises(ValueError, match="normal"):
        lesson.new_rows(model.tok_emb.weight, 1, "zeros")


@pytest.mark.parametrize("is_tied", [True, False])
def test_mean_rows_take_no_more_than_their_share(lesson, model, is_tied):
    if is_tied:
        tie(model)
    with torch.no_grad():
        model.final_norm.shift.fill_(1.0)              # all old logits are near -48, so
        model.out_head.weight.sub_(2.0)                # that a logit of 0 would take all
        lesson.grow_model(model, 3, "mean")
        share = torch.softmax(model(IDS), dim=-1)[..., 101:].sum(dim=-1)
    assert (share <= 3 / 104 * (1 + 1e-5)).all()


@pytest.mark.parametrize("is_tied", [True, False])
def test_training_moves_the_new_rows_alone(lesson, model, is_tied):
    if is_tied:
        tie(model)
    lesson.grow_model(model, 2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    parameters = lesson.train_only_new_rows(model, 2)
    assert len(parameters) == (1 if is_tied else 2)
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.0)
    targets = IDS.clone()
    targets[:, ::2] = 101
    inputs = IDS.clone()
    inputs[:, 1::2] = 102
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = lesson.calc_loss_batch(inputs, targets, model, "cpu")
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    for name, weight in model.named_parameters():
        if "tok_emb" in name or "head" in name:
            assert torch.equal(weight[:101], before[name][:101]), name
            assert not torch.equal(weight[101:], before[name][101:]), name
        else:
            assert torch.equal(weight, before[name]), name


def test_losses_are_told_apart_by_their_target(lesson, model):
    lesson.grow_model(model, 1)
    lesson.old_size = 101
    targets = IDS.clone()
    targets[0, 0] = 101
    new, old = lesson.losses_on(model, IDS, targets)
    with torch.no_grad():
        logprobs = torch.log_softmax(model(IDS), dim=-1)
    assert new == pytest.approx(-logprobs[0, 0, 101].item(), rel=1e-4)
    whole = lesson.calc_loss_batch(IDS, targets, model, "cpu").item()
    assert old == pytest.approx((16 * whole - new) / 15, rel=1e-4)
    assert math.isfinite(old)
