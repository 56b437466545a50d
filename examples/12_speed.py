"""Make a model faster: each speed-up alone, then together, measured; then load the model so.

The model reads texts of many lengths, padded to the longest; how much of the padding is computed is
what most of its time depends on.
"""

# %% A small encoder on texts of 4 to 48 tokens.
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

import zsei
from zsei.report.speed_files import save_speed

torch.manual_seed(0)
config = BertConfig(
    vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=64,
)  # fmt: skip
model = BertModel(config, add_pooling_layer=False).eval()
lengths = torch.randint(4, 13, (64,)) * torch.randint(1, 5, (64,))
mask = (torch.arange(48) < lengths[:, None]).long()
data = {"input_ids": torch.randint(1, 100, (64, 48)) * mask, "attention_mask": mask}

# %% Every speed-up against one baseline: eager attention, float32, padded.
record = zsei.speed_up(
    model, data, only=["attention-backend", "padding", "inference-mode"], rounds=7, threads=1,
    settings=zsei.Settings(samples=64, batch_size=32),
)  # fmt: skip
print(f"baseline: {record.baseline.median * 1000:.1f} ms a batch")
for trial in record.alone:
    speed = trial.speed_up
    told = "not timed"
    if speed is not None:
        told = f"{speed.median:.2f}x ({speed.low:.2f} to {speed.high:.2f})"
    print(f"{trial.steps[0].text():40} {told:22} {trial.verdict.outcome}")
for failure in record.refused:
    print(f"{failure.what:40} cannot be had: {failure.why}")

# %% Together: what was measured, beside what multiplying would have claimed.
if record.together is not None and record.together.trial.speed_up is not None:
    print(f"together: {record.together.trial.speed_up.median:.2f}x, measured")
    print(f"product: {record.together.product:.2f}x, which is no measurement")
    print(record.together.explanation)

# %% The settings file, and the model that runs so.
folder = Path(tempfile.mkdtemp())
written = save_speed(record, folder)
print("written:", ", ".join(sorted(path.name for path in written.values())))
if "settings" in written:
    fast = zsei.load(model, speed=written["settings"])
    inputs = {name: tensor[:32] for name, tensor in data.items()}
    with torch.no_grad():
        before = model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
    after = fast(**inputs)
    after = after if isinstance(after, torch.Tensor) else after.last_hidden_state
    after = after[inputs["attention_mask"].bool()]
    print(f"largest difference: {(after - before).abs().max():.1e}")
