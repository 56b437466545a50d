"""How far the attention backend alone lowers peak memory, by sequence length.

Peak memory is what torch's allocator holds at the worst moment beyond what was there
(`zsei.timing.peak`), which no clock moves and no other process disturbs. Two things are measured:
attention alone, from queries, keys and values to what it mixes, through the code that the model
itself calls; and whole models, a BERT and a PatchTST of two layers, run once.

Run with `python -m benchmarks.attention_memory`; `--device cuda` measures a card.
"""

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PatchTSTConfig, PatchTSTForPrediction
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.bert.modeling_bert import eager_attention_forward

from zsei.errors import SpeedUpRefused
from zsei.speedups.attention_backend import AttentionBackend, AttentionBackendParams, kernel
from zsei.speedups.runnable import bare
from zsei.speedups.workload import Workload
from zsei.subject.objective import Objective
from zsei.subject.program import frozen_twin
from zsei.subject.types import Batch, Subject
from zsei.timing.device import Device, find_device
from zsei.timing.peak import peak_memory

GOAL, AT = 50.0, 4096
HEADS, WIDTH = 12, 384
PATCH = 8
"""Hours in a patch: a context of 8 x 4096 hours makes 4096 patches."""


def attention_alone(length: int, device: Device) -> tuple[int, int]:
    """Peak bytes of one attention call in eager code and in torch's own kernel."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, HEADS, length, WIDTH // HEADS)
    q, k, v = (torch.randn(shape, generator=generator).to(device.torch) for _ in range(3))
    module = nn.Module().eval()

    def eager() -> Tensor:
        return eager_attention_forward(module, q, k, v, None)[0]

    def sdpa() -> Tensor:
        with kernel("sdpa"):
            return sdpa_attention_forward(module, q, k, v, None, is_causal=False)[0]

    return peak(eager, device), peak(sdpa, device)


def peak(call: Callable[[], object], device: Device) -> int:
    """Peak bytes of a call without gradients."""
    with torch.no_grad():
        return peak_memory(call, device).bytes


def bert(length: int, device: Device) -> Workload:
    """A BERT of MiniLM's width, two layers, one sample without padding."""
    config = BertConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, vocab_size=1000, max_position_embeddings=length,
    )  # fmt: skip
    ids = torch.randint(1, 1000, (1, length), generator=torch.Generator().manual_seed(0))
    return workload(BertModel(config), "input_ids", ids, device)


def patchtst(length: int, device: Device) -> Workload:
    """A forecaster whose one series is cut into so many patches."""
    config = PatchTSTConfig(
        num_input_channels=1, context_length=PATCH * length, patch_length=PATCH,
        patch_stride=PATCH, prediction_length=24, d_model=128, num_attention_heads=4,
        num_hidden_layers=2, ffn_dim=256,
    )  # fmt: skip
    series = torch.randn(1, PATCH * length, 1, generator=torch.Generator().manual_seed(0))
    return workload(PatchTSTForPrediction(config), "past_values", series, device)


def workload(model: nn.Module, name: str, values: Tensor, device: Device) -> Workload:
    """A model with eager attention and one sample; nothing here is judged."""
    twin = frozen_twin(model)
    choose = twin.set_attn_implementation
    assert callable(choose)
    choose("eager")
    batch = Batch(inputs=(values.to(device.torch),))
    subject = Subject.__new__(Subject)
    return Workload(
        model=twin.to(device.torch), input_names=(name,), calibration=(batch,), held_out=(batch,),
        objective=Objective(name="fidelity", output="values", reason="a benchmark"),
        device=device, subject=subject, threads=torch.get_num_threads(),
    )  # fmt: skip


def whole(work: Workload) -> tuple[int, int]:
    """Peak bytes of one run in eager code and with torch's own kernel."""
    inputs, device = work.held_out[0].inputs, work.device
    start = bare(work.model, work.input_names)
    fast = AttentionBackend().apply(start, AttentionBackendParams(backend="sdpa"), work)
    return peak(lambda: start(inputs), device), peak(lambda: fast(inputs), device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, AT])
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    console, device = Console(width=100), find_device(chosen.device)
    shown = Table("what", "positions", "eager", "sdpa", "reduction", title=device.name)
    reached: float | None = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for length in chosen.lengths:
            sides: dict[str, Callable[[], tuple[int, int]]] = {
                "attention alone": lambda length=length: attention_alone(length, device),
                "BERT, 2 layers": lambda length=length: whole(bert(length, device)),
                "PatchTST, 2 layers": lambda length=length: whole(patchtst(length, device)),
            }
            for what, measure in sides.items():
                try:
                    before, after = measure()
                except SpeedUpRefused as refused:
                    console.print(f"{what} at {length}: {refused}")
                    continue
                ratio = before / max(after, 1)
                megabytes = (f"{size / 2**20:.1f} MiB" for size in (before, after))
                shown.add_row(what, str(length), *megabytes, f"{ratio:.1f}x")
                if what == "attention alone" and length == AT:
                    reached = ratio
    console.print(shown)
    if reached is not None:
        held = "held" if reached >= GOAL else "not held"
        console.print(f"Goal: {GOAL:.0f}x for attention at {AT}: {reached:.1f}x, {held}.")


if __name__ == "__main__":
    main()
