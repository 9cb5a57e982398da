"""Chapter 3 prints the book's numbers: the seeded ones that need no dropout mask."""
import pytest
import torch
from helpers import definitions

ATOL = 2e-4
INPUTS = torch.tensor([
    [0.43, 0.15, 0.89], [0.55, 0.87, 0.66], [0.57, 0.85, 0.64],
    [0.22, 0.58, 0.33], [0.77, 0.25, 0.10], [0.05, 0.80, 0.55],
])
BATCH = torch.stack((INPUTS, INPUTS))

WEIGHTS_NO_MASK = [                                             # P03-19
    [.1921, .1646, .1652, .1550, .1721, .1510],
    [.2041, .1659, .1662, .1496, .1665, .1477],
    [.2036, .1659, .1662, .1498, .1664, .1480],
    [.1869, .1667, .1668, .1571, .1661, .1564],
    [.1830, .1669, .1670, .1588, .1658, .1585],
    [.1935, .1663, .1666, .1542, .1666, .1529],
]
WEIGHTS_CAUSAL = [                                              # P03-21
    [1, 0, 0, 0, 0, 0],
    [.5517, .4483, 0, 0, 0, 0],
    [.3800, .3097, .3103, 0, 0, 0],
    [.2758, .2460, .2462, .2319, 0, 0],
    [.2175, .1983, .1984, .1888, .1971, 0],
    [.1935, .1663, .1666, .1542, .1666, .1529],
]
CAUSAL_HEAD = [                                                 # P03-25
    [-.4519, .2216], [-.5874, .0058], [-.6300, -.0632],
    [-.5675, -.0843], [-.5526, -.0981], [-.5299, -.1081],
]


@pytest.fixture(scope="module")
def ch03():
    return definitions("ch03.ipynb")


def close(actual, expected):
    """Fail unless actual is the printed table expected, to the printed digits."""
    actual = actual.detach()
    expected = torch.tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=0, atol=ATOL)


def test_weight_free_attention_prints_the_books_numbers(ch03):
    scores = INPUTS @ INPUTS.T
    close(torch.dot(INPUTS[0], INPUTS[1]), .9544)                       # P03-02
    close(scores[1], [.9544, 1.4950, 1.4754, .8434, .7070, 1.0865])     # P03-01
    close(scores[1] / scores[1].sum(),
          [.1455, .2278, .2249, .1285, .1077, .1656])                   # P03-03
    close(ch03.softmax_naive(scores[1]),
          [.1385, .2379, .2333, .1240, .1082, .1581])                   # P03-04
    close(scores, [                                                     # P03-06
        [.9995, .9544, .9422, .4753, .4576, .6310],
        [.9544, 1.4950, 1.4754, .8434, .7070, 1.0865],
        [.9422, 1.4754, 1.4570, .8296, .7154, 1.0605],
        [.4753, .8434, .8296, .4937, .3474, .6565],
        [.4576, .7070, .7154, .3474, .6654, .2935],
        [.6310, 1.0865, 1.0605, .6565, .2935, .9450],
    ])
    close(torch.softmax(scores, dim=-1), [                              # P03-07
        [.2098, .2006, .1981, .1242, .1220, .1452],
        [.1385, .2379, .2333, .1240, .1082, .1581],
        [.1390, .2369, .2326, .1242, .1108, .1565],
        [.1435, .2074, .2046, .1462, .1263, .1720],
        [.1526, .1958, .1975, .1367, .1879, .1295],
        [.1385, .2184, .2128, .1420, .0988, .1896],
    ])
    close(ch03.simple_attention(INPUTS), [                              # P03-05, P03-08
        [.4421, .5931, .5790], [.4419, .6515, .5683], [.4431, .6496, .5671],
        [.4304, .6298, .5510], [.4671, .5910, .5266], [.4177, .6503, .5645],
    ])


def test_softmax_naive_overflows_where_torch_does_not(ch03):
    large = torch.tensor([1000.0, 1001.0])
    assert ch03.softmax_naive(large).isnan().all()
    close(torch.softmax(large, dim=0), [.2689, .7311])


def test_query_key_value_walk_prints_the_books_numbers():
    torch.manual_seed(123)
    W_query, W_key, W_value = (torch.rand(3, 2) for _ in range(3))
    query_2 = INPUTS[1] @ W_query
    keys, values = INPUTS @ W_key, INPUTS @ W_value
    close(query_2, [.4306, 1.4551])                                     # P03-10
    close(keys[1], [.4433, 1.1419])
    close(values[1], [.3951, 1.0037])
    close(query_2 @ keys[1], 1.8524)                                    # P03-12
    close(query_2 @ keys.T,
          [1.2705, 1.8524, 1.8111, 1.0795, .5577, 1.5440])              # P03-13
    weights = torch.softmax(query_2 @ keys.T / 2**0.5, dim=-1)
    close(weights, [.1500, .2264, .2199, .1311, .0906, .1820])          # P03-14
    close(weights @ values, [.3061, .8210])                             # P03-15


def test_self_attention_classes_print_the_books_numbers(ch03):
    torch.manual_seed(123)
    close(ch03.SelfAttention_v1(3, 2)(INPUTS), [                        # P03-16
        [.2996, .8053], [.3061, .8210], [.3058, .8203],
        [.2948, .7939], [.2927, .7891], [.2990, .8040],
    ])
    torch.manual_seed(789)
    close(ch03.SelfAttention_v2(3, 2)(INPUTS), [                        # P03-17
        [-.0739, .0713], [-.0748, .0703], [-.0749, .0702],
        [-.0760, .0685], [-.0763, .0679], [-.0754, .0693],
    ])
    torch.manual_seed(123)
    close(ch03.SelfAttention_v2(3, 2)(INPUTS), [                        # P03-30
        [-.5337, -.1051], [-.5323, -.1080], [-.5323, -.1079],
        [-.5297, -.1076], [-.5311, -.1066], [-.5299, -.1081],
    ])


def test_both_ways_to_mask_print_the_books_numbers(ch03):
    torch.manual_seed(789)
    sa_v2 = ch03.SelfAttention_v2(3, 2)
    scores = sa_v2.W_query(INPUTS) @ sa_v2.W_key(INPUTS).T
    weights = torch.softmax(scores / 2**0.5, dim=-1)
    close(weights, WEIGHTS_NO_MASK)
    zeroed = weights * torch.tril(torch.ones(6, 6))                     # P03-20
    close(zeroed, torch.tensor(WEIGHTS_NO_MASK).tril().tolist())
    close(zeroed / zeroed.sum(dim=-1, keepdim=True), WEIGHTS_CAUSAL)
    past = torch.tril(torch.ones(6, 6)).bool()
    close(scores[past], [                                               # P03-22
        .2899, .4656, .1723, .4594, .1703, .1731, .2642, .1024, .1036, .0186,
        .2183, .0874, .0882, .0177, .0786, .3408, .1270, .1290, .0198, .1290, .0078,
    ])
    masked = scores.masked_fill(~past, -torch.inf)
    close(torch.softmax(masked / 2**0.5, dim=-1), WEIGHTS_CAUSAL)


def test_causal_attention_prints_the_books_numbers(ch03):
    torch.manual_seed(123)
    close(ch03.CausalAttention(3, 2, 6, 0.0)(BATCH), [CAUSAL_HEAD] * 2)


def test_wrapper_prints_the_books_numbers(ch03):
    torch.manual_seed(123)
    wrapper = ch03.MultiHeadAttentionWrapper(3, 2, 6, 0.0, num_heads=2)
    second = [[.4772, .1063], [.5891, .3257], [.6202, .3860],           # P03-27
              [.5478, .3589], [.5321, .3428], [.5077, .3493]]
    both = torch.cat((torch.tensor(CAUSAL_HEAD), torch.tensor(second)), dim=-1)
    close(wrapper(BATCH), [both.tolist()] * 2)
    assert sum(p.numel() for p in wrapper.parameters()) == 36


def test_wrapper_of_exercise_3_2_has_the_true_numbers(ch03):
    torch.manual_seed(123)
    wrapper = ch03.MultiHeadAttentionWrapper(3, 1, 6, 0.0, num_heads=2)
    close(wrapper(BATCH), [[                                            # P03-31
        [-.5740, .2216], [-.7320, .0155], [-.7774, -.0546],
        [-.6979, -.0817], [-.6538, -.0957], [-.6424, -.1065],
    ]] * 2)
    assert sum(p.numel() for p in wrapper.parameters()) == 18


def test_multi_head_attention_prints_the_books_numbers(ch03):
    torch.manual_seed(123)
    mha = ch03.MultiHeadAttention(3, 2, 6, 0.0, num_heads=2)
    close(mha(BATCH), [[                                                # P03-28
        [.3190, .4858], [.2943, .3897], [.2856, .3593],
        [.2693, .3873], [.2639, .3928], [.2575, .4028],
    ]] * 2)
    assert sum(p.numel() for p in mha.parameters()) == 24


def test_gpt2_sized_attention_has_the_books_parameter_count(ch03):
    with torch.device("meta"):
        mha = ch03.MultiHeadAttention(768, 768, 1024, 0.0, num_heads=12)
    assert sum(p.numel() for p in mha.parameters()) == 2_360_064        # P03-32
    assert mha.head_dim == 64
    assert mha.mask.numel() == 1_048_576


def test_four_dimensional_product_multiplies_each_head_with_itself():
    a = torch.tensor([[[[.2745, .6584, .2775, .8573], [.8993, .0390, .9268, .7388],
                        [.7179, .7058, .9156, .4340]],
                       [[.0772, .3565, .1479, .5331], [.4066, .2318, .4545, .9737],
                        [.4606, .5159, .4220, .5786]]]])
    close(a @ a.transpose(2, 3), [[                                     # P03-36
        [[1.3208, 1.1631, 1.2879], [1.1631, 2.2150, 1.8424], [1.2879, 1.8424, 2.0402]],
        [[.4391, .7003, .5903], [.7003, 1.3737, 1.0620], [.5903, 1.0620, .9912]],
    ]])
