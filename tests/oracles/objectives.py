"""What an objective measures, written as loops over samples and positions."""

import math

from torch import Tensor


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(s - top) for s in scores]
    return [p / sum(powers) for p in powers]


def kl(original: list[float], edited: list[float]) -> float:
    p, q = softmax(original), softmax(edited)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean_kl(original: Tensor, edited: Tensor, mask: Tensor) -> list[float]:
    """Per sample: KL averaged over the positions [n, t] that count."""
    found = []
    for n in range(len(original)):
        steps = [t for t in range(original.shape[1]) if mask[n, t]]
        found.append(
            sum(kl(original[n, t].tolist(), edited[n, t].tolist()) for t in steps) / len(steps)
        )
    return found


def cross_entropy(logits: Tensor, labels: Tensor, ahead: int) -> list[float]:
    """Per sample: mean of -log p(labels[t + ahead]) from logits[t], labels of -100 left out."""
    found = []
    for n in range(len(logits)):
        terms = []
        for t in range(logits.shape[1] - ahead):
            label = int(labels[n, t + ahead])
            if label != -100:
                terms.append(-math.log(softmax(logits[n, t].tolist())[label]))
        found.append(sum(terms) / len(terms))
    return found


def cosine(a: list[float], b: list[float]) -> float:
    def length(v: list[float]) -> float:
        return math.sqrt(sum(x * x for x in v))

    return sum(x * y for x, y in zip(a, b, strict=True)) / length(a) / length(b)


def nearest(rows: Tensor) -> list[int]:
    """Index of each row's nearest other row by cosine."""
    lists = rows.tolist()
    return [
        max((j for j in range(len(lists)) if j != i), key=lambda j: cosine(lists[i], lists[j]))
        for i in range(len(lists))
    ]
