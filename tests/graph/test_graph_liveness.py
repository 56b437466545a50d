"""Live bytes from shapes against the storages that are really alive, and bytes moved by hand."""

import pytest
import torch
from factories import FAMILIES
from oracles.interpreter import Recorder, measured_peak
from prepared import family, seeded, subject_of
from torch import Tensor, nn
from zoo import Chain

from zsei.graph.liveness import moments, peak, peak_without
from zsei.graph.traffic import bytes_moved, owners, views
from zsei.subject.objective import Objective

OBJECTIVE = Objective(name="fidelity", output="values", reason="")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_peak_is_that_of_the_storages_really_alive(name: str) -> None:
    subject = family(name)
    expected = measured_peak(subject.program, subject.calibration[0].inputs)
    found = max(moment.bytes for moment in moments(subject.program))
    # Results of a call that makes several count until the last of them is gone.
    tolerance = 0.01 if name == "mixtral" else 0.0
    assert expected <= found <= expected * (1 + tolerance)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "resnet", "patchtst"])
def test_a_look_shares_its_storage_and_a_result_does_not(name: str) -> None:
    subject = family(name)
    recorder = Recorder(subject.program)
    with torch.no_grad():
        recorder.run(*subject.calibration[0].inputs)

    def storage(node: str) -> int | None:
        value = recorder.values[node]
        return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None

    looks = 0
    for node in subject.program.graph_module.graph.nodes:
        if node.op != "call_function" or storage(node.name) is None:
            continue
        looked_at = views(node)
        if looked_at is not None and storage(looked_at.name) is not None:
            assert storage(node.name) == storage(looked_at.name), node
            looks += 1
        elif looked_at is None:
            arguments = {storage(a.name) for a in node.all_input_nodes}
            assert storage(node.name) not in arguments, node
    assert looks > 3 or name == "resnet"


def test_the_peak_of_a_chain_by_hand() -> None:
    """Widths 4, 40, 6 on 8 samples: wide product and its rectified copy are alive together."""
    subject = subject_of(Chain(4, 40, 6, 3), [seeded(8, 4)], OBJECTIVE)
    found = peak(subject)
    assert found is not None
    assert found.bytes == 2 * 40 * 4
    assert found.component == "layers.0"  # the rectifier goes on with its value
    assert found.without["layers.0"] == (40 + 6) * 4
    assert found.without["layers.2"] == found.bytes
    assert peak_without(subject, frozenset({"layers.0", "layers.1"})) == (6 + 3) * 4


def test_a_component_that_makes_the_peak_lowers_it_when_left_out() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Part(size) for size in (8, 8, 64))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    class Part(nn.Module):
        def __init__(self, hidden: int) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, hidden), nn.Linear(hidden, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(x).relu())

    found = peak(subject_of(Wide(), [seeded(8, 8)], OBJECTIVE))
    assert found is not None
    assert found.component == "blocks.2/mlp"
    assert found.bytes == (8 + 64 + 64) * 4
    assert found.without["blocks.2/mlp"] == 3 * 8 * 4
    assert found.without["blocks.0/mlp"] == found.bytes


def test_bytes_moved_by_hand() -> None:
    """A linear reads its input, weights and bias, and writes its output, for the whole batch."""
    subject = subject_of(Chain(4, 40, 6, 3), [seeded(8, 4)], OBJECTIVE)
    moved = bytes_moved(subject)
    assert moved["layers.0"] == 4 * (8 * 4 + 40 * 4 + 40 + 8 * 40)
    assert moved["layers.1"] == 4 * (8 * 40 + 6 * 40 + 6 + 8 * 6)


def test_an_embedding_reads_as_many_rows_as_it_writes() -> None:
    subject = family("lstm")
    batch = subject.calibration[0]
    written = batch.size * 16 * 16 * 4
    ids = batch.size * 16 * 8
    assert bytes_moved(subject)["embedding"] == 2 * written + ids


def test_owners_are_whole_attentions_and_mlps() -> None:
    subject = family("bert")
    found = set(owners(subject).values())
    kinds = {subject.anatomy.component(c).kind for c in found}
    assert kinds >= {"attention", "mlp", "norm", "residual", "embedding"}
    assert kinds.isdisjoint({"head", "layer", "linear", "output"})
