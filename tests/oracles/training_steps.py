"""Training of a linear model in plain float64 loops: squared error, AdamW, parts of a batch."""

import math
from dataclasses import dataclass, field

Rows = list[list[float]]


@dataclass
class LinearTraining:
    """y = W x + b, its mean squared error per sample over outputs, and AdamW by the book."""

    weight: Rows
    bias: list[float]
    rate: float
    decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    step: int = 0
    first: dict[tuple[int, int], float] = field(default_factory=dict)
    second: dict[tuple[int, int], float] = field(default_factory=dict)

    def loss_and_gradients(self, xs: Rows, ys: Rows) -> tuple[float, dict[tuple[int, int], float]]:
        """Mean loss over samples and its gradient; place (o, i) is W's, (o, -1) is b's."""
        total = 0.0
        gradients = {(o, i): 0.0 for o in range(len(self.bias)) for i in range(-1, len(xs[0]))}
        for x, y in zip(xs, ys, strict=True):
            for o, bias in enumerate(self.bias):
                said = bias + sum(w * v for w, v in zip(self.weight[o], x, strict=True))
                error = said - y[o]
                total += error**2 / len(self.bias) / len(xs)
                slope = 2 * error / len(self.bias) / len(xs)
                gradients[o, -1] += slope
                for i, value in enumerate(x):
                    gradients[o, i] += slope * value
        return total, gradients

    def train(self, xs: Rows, ys: Rows) -> float:
        """One step; the loss before it."""
        loss, gradients = self.loss_and_gradients(xs, ys)
        self.step += 1
        for place, slope in gradients.items():
            o, i = place
            m = self.betas[0] * self.first.get(place, 0.0) + (1 - self.betas[0]) * slope
            v = self.betas[1] * self.second.get(place, 0.0) + (1 - self.betas[1]) * slope**2
            self.first[place], self.second[place] = m, v
            m_hat = m / (1 - self.betas[0] ** self.step)
            v_hat = v / (1 - self.betas[1] ** self.step)
            old = self.bias[o] if i < 0 else self.weight[o][i]
            new = old - self.rate * self.decay * old
            new -= self.rate * m_hat / (math.sqrt(v_hat) + self.epsilon)
            if i < 0:
                self.bias[o] = new
            else:
                self.weight[o][i] = new
        return loss


def accepted_training(
    *,
    finite: bool,
    exact: bool,
    difference: float,
    loss_bound: float,
    limit: float,
    for_memory: bool,
    interval: tuple[float, float],
    memory: tuple[int, int],
) -> str:
    """The outcome, by plain questions in order."""
    if not finite:
        return "failed"
    if exact and difference > 1e-5:
        return "rejected"
    if loss_bound > limit:
        return "rejected"
    if for_memory:
        return "accepted" if memory[1] < memory[0] else "rejected"
    if interval[0] > 1:
        return "accepted"
    return "rejected" if interval[1] < 1 else "inconclusive"
