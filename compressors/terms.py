"""What a student can have in common with its teacher besides the logits: one distance a function, 0 where they agree.

`contrastive_loss` alone is above 0 even then: other rows are never infinitely far away. Padding never counts. Knows
tensors; not models, not how the distances are weighted.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED = -1e4  # a score that a softmax turns into exactly 0
CONTRAST = 0.07  # temperature of the cosines of `contrastive_loss`: Tian et al. 2020 (CRD), sec. 4


def token_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference of the hidden states, or of the embeddings, of all real tokens.

    Args:
        student: ``(rows, tokens, width)`` of any float type.
        teacher: The same shape.
        mask: ``(rows, tokens)``, 1 = real token.

    Source: Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351, eq. 8 and, of embeddings, eq. 9; Xia et al.
    2022 (CoFi), https://arxiv.org/abs/2204.00408, sec. 3.2.
    """
    return (student.float() - teacher.float()).square().mean(-1)[mask.bool()].mean()


def cosine_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - cosine of the hidden states, mean of all real tokens.

    Args:
        student: ``(rows, tokens, width)`` of any float type.
        teacher: The same shape.
        mask: ``(rows, tokens)``, 1 = real token.

    Source: Sanh et al. 2019 (DistilBERT), https://arxiv.org/abs/1910.01108, sec. 3.
    """
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)[mask.bool()].mean()


def scaled_products(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Return ``(rows, heads, tokens, tokens)`` float32, ``Q K^T / sqrt(width of a head)``.

    Args:
        queries: ``(rows, tokens, heads * width of a head)``.
        keys: The same shape.
        heads: Into how many the last axis is cut.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1, before the softmax.
    """
    q, k = (x.float().view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (queries, keys))
    products: Tensor = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    return products


def attention_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference of the attention scores before the softmax, of real tokens to real tokens.

    Heads are compared one by one where both have the same number, which is the paper's loss; else the mean of the
    student's heads with that of the teacher's, for then no head of the one belongs to a head of the other.

    Args:
        student: ``(rows, heads, tokens, tokens)`` float32, see `scaled_products`.
        teacher: The same shape, maybe with another number of heads.
        mask: ``(rows, tokens)``, 1 = real token.

    Source: Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351, eq. 7.
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    real = mask.bool()
    pairs = real[:, None, :, None] & real[:, None, None, :]
    squares = (student - teacher).masked_fill(~pairs, 0).square()
    return squares.sum() / (pairs.sum() * student.shape[1])


def relation_divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return KL(teacher || student) in nats of how tokens attend to tokens, mean of heads and real tokens.

    Args:
        student: ``(rows, heads, tokens, tokens)`` float32, see `scaled_products`.
        teacher: The same shape; `relation_heads` makes the number of heads the same.
        mask: ``(rows, tokens)``, 1 = real token.

    Source: Wang et al. 2020 (MiniLM), https://arxiv.org/abs/2002.10957, sec. 3: of products of queries and keys the
    attention transfer, of values with themselves the value relation; there the mean is over the tokens of one text,
    here over those of the batch.
    """
    real = mask.bool()
    said, target = (x.masked_fill(~real[:, None, None, :], MASKED).log_softmax(-1) for x in (student, teacher))
    divergence = (target.exp() * (target - said)).sum(-1)
    return divergence.mean(1)[real].mean()


def relation_heads(student: int, teacher: int) -> int:
    """Return into how many heads two models' vectors are cut so that relations compare: each has whole heads of both.

    With as many heads in both, their own; with n and m, the greatest common divisor.

    Source: Wang et al. 2021 (MiniLMv2), https://arxiv.org/abs/2012.15828, sec. 3: heads are joined and cut anew.
    """
    return math.gcd(student, teacher)


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how differently the two find the rows of a batch alike; neither width nor rotation nor size matters.

    With the matrix G of products of all rows, each of its rows divided by its length, ``|G_t - G_s|^2 / rows^2``.

    Args:
        student: ``(rows, width)`` of any float type.
        teacher: ``(rows, another width)``.

    Source: Tung and Mori 2019, Similarity-preserving KD, https://arxiv.org/abs/1907.09682, sec. 3.1.
    """
    said, target = (F.normalize(x.float() @ x.float().T, dim=1) for x in (student, teacher))
    return F.mse_loss(said, target)


def contrastive_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of finding the teacher's vector of the same row among those of the batch.

    ``-log exp(cos(s_i, t_i) / 0.07) / sum_j exp(cos(s_i, t_j) / 0.07)``: log(rows) where the student's vectors say
    nothing of the row. Log(rows) minus this is a lower bound of what the two models' vectors tell of each other.

    Args:
        student: ``(rows, width)`` of any float type.
        teacher: The same shape.

    Source: van den Oord et al. 2018 (InfoNCE), https://arxiv.org/abs/1807.03748, eq. 4 and 5; between a student and its
    teacher: Tian et al. 2020 (CRD), https://arxiv.org/abs/1910.10699, sec. 3.1, which keeps the vectors of many batches
    to compare with; here they are those of the batch, so nothing outlives it.
    """
    said, goal = (F.normalize(x.float(), dim=1) for x in (student, teacher))
    return F.cross_entropy(said @ goal.T / CONTRAST, torch.arange(len(said), device=said.device))
