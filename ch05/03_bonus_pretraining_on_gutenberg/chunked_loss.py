"""Cross-entropy over a large vocabulary without ever holding all the logits.

A batch of 16 x 256 tokens has 4,096 x 50,257 logits: 823 MB in float32, written and
read again several times for the softmax, its logarithm and their gradients. A small
model spends most of its time there. But the gradient of this loss has a closed form,
softmax(logits) - one_hot(target), so it can be had in the forward pass, a chunk of
tokens at a time, in one buffer that is used again and again. (The idea is in Wijmans et
al., "Cut Your Losses in Large-Vocabulary Language Models", 2024, section 4; Liger
Kernel's fused linear cross-entropy does the same on GPUs.)
"""
import torch
import torch.nn.functional as F

CHUNK = 1024          # tokens whose logits exist at the same time
MULTIPLE = 64         # matrix products are faster with a vocabulary rounded up to this


def chunked_cross_entropy(hidden, weight, targets, chunk=CHUNK):
    """Return the mean loss in nats per token, a scalar with a graph.

    hidden (num_tokens, emb_dim), weight (vocab_size, emb_dim), targets (num_tokens,);
    equal to F.cross_entropy(hidden @ weight.T, targets). Matrix products run in the
    dtype of the autocast around the call.
    """
    device = hidden.device.type
    dtype = hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    # inside a Function gradients are always off, so it has to be told
    if torch.is_grad_enabled():
        return ChunkedCrossEntropy.apply(hidden, weight, targets, chunk, dtype)
    total = 0.0
    for x, target in zip(hidden.split(chunk), targets.split(chunk)):
        logits = F.linear(x.to(dtype), weight.to(dtype)).float()  # (chunk, vocab_size)
        total = total + F.cross_entropy(logits, target, reduction="sum")
    return total / len(targets)


class ChunkedCrossEntropy(torch.autograd.Function):
    """The loss, and in the same pass its gradients for hidden and weight."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk, dtype):
        """Return the mean loss; keep both gradients for backward."""
        num_tokens, vocab_size = len(hidden), len(weight)
        x = hidden.to(dtype)                                    # (num_tokens, emb_dim)
        w = F.pad(weight.to(dtype), (0, 0, 0, -vocab_size % MULTIPLE))
        buffer = x.new_empty(min(chunk, num_tokens), len(w))    # (chunk, padded vocab)
        grad_x = torch.empty_like(x)
        grad_w = torch.zeros_like(w, dtype=torch.float32)
        total = torch.zeros((), device=x.device)
        for start in range(0, num_tokens, chunk):
            part = slice(start, min(start + chunk, num_tokens))
            probas = buffer[:part.stop - start]
            torch.mm(x[part], w.T, out=probas)             # logits, for the moment
            probas[:, vocab_size:] = -torch.inf            # no token stands there
            torch.softmax(probas, dim=-1, out=probas)      # in place
            chosen = probas.gather(1, targets[part, None]).float()
            # below float32's smallest number a loss reads 87 nats instead of infinity
            total -= chosen.clamp_min(torch.finfo(torch.float32).tiny).log().sum()
            # gradient of the logits = probas - one_hot(targets); the second half is a
            # lookup, so it is subtracted outside the loop
            torch.mm(probas, w, out=grad_x[part])
            grad_w += probas.T @ x[part]
        grad_x = grad_x.float() - w[targets].float()
        grad_w.index_add_(0, targets, x.float(), alpha=-1.0)
        ctx.save_for_backward(grad_x / num_tokens, grad_w[:vocab_size] / num_tokens)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total / num_tokens

    @staticmethod
    def backward(ctx, grad_output):
        """Scale the gradients; they were computed with the loss."""
        grad_x, grad_w = ctx.saved_tensors
        x_dtype, w_dtype = ctx.dtypes
        return ((grad_x * grad_output).to(x_dtype), (grad_w * grad_output).to(w_dtype),
                None, None, None)
