"""A vision model: where in the image it looks, what each stage sees, how fine it needs the image.

A small CNN learns, in seconds, the direction of a stroke in the upper left quarter; strokes in the
other quarters only distract. So the truth is known: one quarter counts, and no more.
"""

# %% Make the images, and train on them.
import torch
from torch import nn
from torch.nn import functional as F

import zsei

torch.manual_seed(0)
STROKES = torch.zeros(4, 5, 5)
STROKES[0, 2, :], STROKES[1, :, 2] = 1, 1
STROKES[2], STROKES[3] = torch.eye(5), torch.eye(5).flip(0)


def strokes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [n, 1, 16, 16] with a stroke in each quarter; the label is the upper left one's."""
    images = 0.1 * torch.randn(n, 1, 16, 16)
    kinds = torch.randint(4, (n, 4))
    for i in range(n):
        for quarter in range(4):
            y, x = torch.randint(0, 4, (2,)).tolist()
            y, x = y + 8 * (quarter // 2), x + 8 * (quarter % 2)
            images[i, 0, y : y + 5, x : x + 5] += STROKES[kinds[i, quarter]]
    return images, kinds[:, 0]


class Net(nn.Module):
    """Three convolutions and a linear that knows where things are."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(1, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(24, 24, 3, stride=2, padding=1)
        self.head = nn.Linear(24 * 16, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 1, y, x] to logits [n, 4]."""
        x = F.relu(self.fine(images))
        x = F.relu(self.coarse(F.relu(self.middle(x))))
        return self.head(x.flatten(1))


model = Net()
images, labels = strokes(2000)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(8):
    for rows in torch.randperm(2000).split(50):
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()

# %% Analyse it on new images.
images, labels = strokes(128)
with torch.no_grad():
    print(f"{(model(images).argmax(1) == labels).float().mean():.0%} of 128 new images are right")
settings = zsei.Settings(samples=128, batch_size=16, probes=2, ablation_sample=4, max_proposals=0)
record = zsei.analyze(model.eval(), {"images": images, "labels": labels}, settings=settings)

# %% Where: the image covered cell by cell, and the gradient's map after the last stage.
for matrix in record.matrices:
    if matrix.name == "occlusion_map" or (
        matrix.name == "spatial_flow" and matrix.component == "coarse"
    ):
        print(f"{matrix.title} ({matrix.unit}, {matrix.n} images):")
        for row in matrix.values:
            print("  " + "".join(f"{value or 0:9.3f}" for value in row))

# %% What: how much of the image a unit sees, and how much room each stage has.
print("stage     sees (pixels)   of it used   places   dimensions")
for stage in ("fine", "middle", "coarse"):
    seen, used, places, rank = (
        record.measured(stage, name).value
        for name in ("receptive_field", "effective_receptive_field", "places", "stage_rank")
    )
    print(f"{stage:9}{seen:14.0f}{used:13.1f}{places:9.0f}{rank:13.1f}")

# %% How fine: images averaged down and blown up again.
coarser = next(matrix for matrix in record.matrices if matrix.name == "resolution_effect")
for side, effect in zip(coarser.columns, coarser.values[0], strict=True):
    print(f"  {side:>2} pixels a side: the output moves by {effect:.3f} nats")
needed = record.measured("input.images", "resolution_needed")
print(f"resolution needed: {needed.value:.0f} pixels a side ({needed.note})")
for finding in record.findings:
    if finding.code == "resolution-bottleneck":
        print(f"{finding.code}: {finding.message}")
