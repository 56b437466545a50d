"""Runs side by side give what runs one after the other give."""

import threading
from collections.abc import Iterator

import pytest
import torch
from prepared import measured_only

from zsei.trace.ablation import Target, ablate, ablate_together
from zsei.trace.parallel import one_by_one, side_by_side
from zsei.trace.sets import ablate_sets


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_results_come_in_the_order_of_the_items(two_threads: None) -> None:
    second_is_done = threading.Event()

    def work(item: int) -> int:
        assert torch.get_num_threads() == 1
        assert not torch.is_grad_enabled()
        if item == 0:
            assert second_is_done.wait(30)  # only another thread can set it
        if item == 1:
            second_is_done.set()
        return item * item

    assert side_by_side(work, range(5)) == [0, 1, 4, 9, 16]
    assert torch.get_num_threads() == 2
    assert one_by_one(lambda i: -i, range(3)) == [0, -1, -2]


def test_an_error_comes_through_and_threads_are_as_before(two_threads: None) -> None:
    def fails(item: int) -> int:
        raise LookupError(item)

    with pytest.raises(LookupError):
        side_by_side(fails, range(4))
    assert torch.get_num_threads() == 2


def test_ablations_are_the_same_to_the_bit() -> None:
    analysis = measured_only("bert")
    subject, engine, means = analysis.subject, analysis.engine, analysis.trace.means
    heads = [site for site in subject.anatomy.sites if site.kind == "head"]
    targets = [Target(site=site, units=(unit,)) for site in heads for unit in range(site.units)]
    batches = subject.calibration

    def run() -> list[torch.Tensor]:
        alone = ablate(engine, subject.objective, batches, targets, means=means)
        whole = ablate_together(engine, subject.objective, batches, targets[:3], means=means)
        sets = [targets[i : i + 2] for i in range(len(targets) - 1)]
        found = ablate_sets(engine, subject.objective, batches[0], sets, means=means)
        return [*(effect.divergence for effect in alone), whole, *found]

    one = run()
    torch.set_num_threads(2)
    try:
        two = run()
    finally:
        torch.set_num_threads(1)
    assert len(one) == len(two)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
