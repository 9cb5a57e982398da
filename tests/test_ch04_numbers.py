"""The numbers of chapter 4 that a reader compares with the book, dropout off."""
import contextlib
import io
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from helpers import definitions, load_file

SCRIPT = "ch04/01_main-chapter-code/gpt.py"
BATCH = torch.tensor([[6109, 3626, 6100, 345], [6109, 1110, 6622, 257]])
HELLO = [15496, 11, 314, 716]
SIX = [27018, 24086, 47843, 30961, 42348, 7267]
TEN = [*SIX, 49706, 43231, 47062, 34657]


@pytest.fixture(scope="module")
def ch04():
    """The definitions of the chapter's notebook."""
    return definitions("ch04.ipynb")


@pytest.fixture(scope="module")
def seeded(ch04):
    """The full-size model with the book's seed, in eval mode, and its logits."""
    torch.manual_seed(123)
    model = ch04.GPTModel(ch04.GPT_CONFIG_124M).eval()
    with torch.no_grad():
        return SimpleNamespace(model=model, logits=model(BATCH))


def close(actual, expected, tolerance=2e-4):
    """Compare with numbers that were printed with four digits."""
    expected = torch.tensor(expected)
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=tolerance)


def ends(x):
    """Return the first and last three numbers of the last dimension."""
    return torch.cat((x[..., :3], x[..., -3:]), dim=-1)


def test_config_keys_stay_in_the_books_order(ch04):
    assert list(ch04.GPT_CONFIG_124M.items()) == [
        ("vocab_size", 50257), ("context_length", 1024), ("emb_dim", 768),
        ("n_heads", 12), ("n_layers", 12), ("drop_rate", 0.1), ("qkv_bias", False)]


def test_batch_is_the_two_texts_of_the_book(ch04):
    tokenizer = ch04.load_gpt2_bpe()
    texts = ("Every effort moves you", "Every day holds a")
    assert [tokenizer.encode(text) for text in texts] == BATCH.tolist()
    assert tokenizer.encode("Hello, I am") == HELLO


def test_dummy_model_draws_its_weights_in_the_books_order(ch04):
    torch.manual_seed(123)
    model = ch04.DummyGPTModel(ch04.GPT_CONFIG_124M)
    assert list(model.state_dict()) == [
        "tok_emb.weight", "pos_emb.weight", "out_head.weight"]
    assert sum(p.numel() for p in model.parameters()) == 77_981_184
    with torch.no_grad():
        logits = model.eval()(BATCH)
    assert logits.shape == (2, 4, 50257)
    # the eval twin of the training-mode numbers, which depend on the machine
    close(ends(logits), [
        [[-1.1947, 0.1392, -0.8616, -1.4987, -0.0314, -0.4490],
         [0.0497, 0.3861, -0.3281, -0.1826, 1.3084, 0.9867],
         [0.7005, 1.4747, -0.4149, 1.7756, -0.2280, 0.5384],
         [0.4885, 1.7545, -0.6707, 1.1501, -0.1143, -0.9368]],
        [[-1.1947, 0.1392, -0.8616, -1.4987, -0.0314, -0.4490],
         [-0.5591, 0.5797, -0.1296, 0.2691, 0.3151, 1.4046],
         [0.8524, 1.2833, -0.1786, -0.1982, 0.1097, 0.2812],
         [-0.0190, -0.8277, 0.2299, 1.7974, -0.1646, -0.1049]]], 1e-3)


def test_dummy_parts_hand_on_what_they_get(ch04):
    x = torch.randn(2, 3, 5)
    assert torch.equal(ch04.DummyTransformerBlock(ch04.GPT_CONFIG_124M)(x), x)
    assert torch.equal(ch04.DummyLayerNorm(5, eps=1e-5)(x), x)


def test_layer_norm_example_by_hand(ch04):
    torch.manual_seed(123)
    example = torch.randn(2, 5)
    close(example, [[-0.1115, 0.1204, -0.3696, -0.2404, -1.1969],
                    [0.2093, -0.9724, -0.7550, 0.3239, -0.1085]])
    out = nn.Sequential(nn.Linear(5, 6), nn.ReLU())(example)
    close(out, [[0.2260, 0.3470, 0.0, 0.2216, 0.0, 0.0],
                [0.2133, 0.2394, 0.0, 0.5198, 0.3297, 0.0]])
    mean, var = out.mean(dim=-1, keepdim=True), out.var(dim=-1, keepdim=True)
    close(mean, [[0.1324], [0.2170]])
    close(var, [[0.0231], [0.0398]])
    close((out - mean) / var.sqrt(), [
        [0.6159, 1.4126, -0.8719, 0.5872, -0.8719, -0.8719],
        [-0.0189, 0.1121, -1.0876, 1.5173, 0.5647, -1.0876]])
    normed = ch04.LayerNorm(5)(example)
    assert normed.mean(dim=-1).abs().max() < 1e-6
    close(normed.var(dim=-1, unbiased=False), [1.0, 1.0])


def test_feed_forward_has_the_books_shape_and_count(ch04):
    ffn = ch04.FeedForward(ch04.GPT_CONFIG_124M)
    assert ffn(torch.rand(2, 3, 768)).shape == (2, 3, 768)
    assert [sum(p.numel() for p in layer.parameters()) for layer in ffn.layers] == [
        2_362_368, 0, 2_360_064]
    assert list(ffn.state_dict()) == [
        "layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]


@pytest.mark.parametrize("shortcut, output, loss, gradients", [
    (False, 0.061007, 0.003722, [
        0.00020173587836325169, 0.00012011159560643137, 0.0007152039906941354,
        0.0013988736318424344, 0.005049645435065031]),
    (True, 0.766932, 0.588184, [
        0.22169792652130127, 0.20694106817245483, 0.32896995544433594,
        0.2665732204914093, 1.3258540630340576]),
])
def test_gradients_with_and_without_shortcuts(ch04, capsys, shortcut, output, loss,
                                              gradients):
    sample = torch.tensor([[1.0, 0.0, -1.0]])
    torch.manual_seed(123)
    model = ch04.ExampleDeepNeuralNetwork([3, 3, 3, 3, 3, 1], shortcut)
    assert sum(p.numel() for p in model.parameters()) == 52
    assert list(model.state_dict())[:2] == ["layers.0.0.weight", "layers.0.0.bias"]
    result = model(sample)
    assert result.item() == pytest.approx(output, abs=2e-6)
    assert result.item() ** 2 == pytest.approx(loss, abs=2e-6)
    # twice: gradients of the first call must not be in the second
    for _ in range(2):
        ch04.print_gradients(model, sample)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(" ")[0] for line in lines] == [
            f"layers.{i}.0.weight" for i in range(5)]
        printed = [float(line.rsplit(" ", 1)[1]) for line in lines]
        assert printed == pytest.approx(gradients, abs=1e-6)


def test_block_keeps_the_shape_and_the_books_drawing_order(ch04):
    torch.manual_seed(123)
    x = torch.rand(2, 4, 768)
    block = ch04.TransformerBlock(ch04.GPT_CONFIG_124M).eval()
    counts = {name: sum(p.numel() for p in part.parameters())
              for name, part in block.named_children()}
    assert counts == {"att": 2_360_064, "ff": 4_722_432, "norm1": 1536, "norm2": 1536,
                      "drop_shortcut": 0}
    with torch.no_grad():
        output = block(x)
    assert output.shape == x.shape
    close(ends(output[:, 0]), [[0.1290, 0.2661, -0.0603, 1.2645, 0.4069, 0.5795],
                               [0.2140, 1.0619, 0.4972, 0.1969, 0.1990, -0.4168]])


def test_full_model_logits_without_dropout(seeded):
    assert seeded.logits.shape == (2, 4, 50257)
    close(ends(seeded.logits), [
        [[0.0642, 0.2044, -0.1695, 0.1789, 0.2192, -0.5815],
         [0.3774, -0.4255, -0.6587, -0.2505, 0.4655, -0.2576],
         [0.8900, -0.1377, 0.1475, 0.1777, -0.1202, -0.1890],
         [-0.9728, 0.0973, -0.2542, 1.1035, 0.3764, -0.5901]],
        [[0.0642, 0.2044, -0.1695, 0.1789, 0.2192, -0.5815],
         [0.1343, -0.2129, -0.0270, 0.8115, -0.0474, 0.3119],
         [0.9000, 0.9540, -0.1790, 0.8305, 0.2766, -0.0246],
         [-0.0001, 0.1939, 0.5122, 1.1915, -0.1643, 0.0370]]], 1e-3)


def test_parameter_counts_and_size(seeded):
    model = seeded.model
    total = sum(p.numel() for p in model.parameters())
    assert total == 163_009_536
    assert sum(b.numel() for b in model.buffers()) == 12_582_912
    assert model.tok_emb.weight.shape == model.out_head.weight.shape == (50257, 768)
    assert total - model.out_head.weight.numel() == 124_412_160
    assert f"{total * 4 / 1024**2:.2f}" == "621.83"


def test_greedy_text_of_the_notebook(ch04, seeded):
    out = ch04.generate_text_simple(seeded.model, torch.tensor([HELLO]), 6, 1024)
    assert out.tolist() == [HELLO + SIX]
    assert (ch04.load_gpt2_bpe().decode(out[0].tolist())
            == "Hello, I am Featureiman Byeswickattribute argue")


def test_gpt_script_prints_the_books_lines():
    script = load_file(SCRIPT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        script.main()
    line = "=" * 50
    start, output, end = printed.getvalue().partition("Output: ")
    assert start == (
        f"\n{line}\n{' ' * 22}IN\n{line}\n\nInput text: Hello, I am\n"
        "Encoded input text: [15496, 11, 314, 716]\n"
        "encoded_tensor.shape: torch.Size([1, 4])\n"
        f"\n\n{line}\n{' ' * 22}OUT\n{line}\n\n")
    ids, _, last = end.partition("Output length: ")
    # how torch breaks the tensor's lines is not ours to promise
    assert "".join(ids.split()) == f"tensor([[{','.join(map(str, HELLO + TEN))}]])"
    assert last == ("14\nOutput text: Hello, I am Featureiman Byeswickattribute argue "
                    "logger Normandy Compton analogous\n")
