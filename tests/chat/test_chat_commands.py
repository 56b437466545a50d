"""What a line asks for, as rules read it."""

import pytest
from advice.advice_records import HEADS, candidates, record

from zsei.chat.commands import read_action, read_command
from zsei.chat.components import components_in
from zsei.errors import UsageError
from zsei.resources import load_cards
from zsei.settings import Settings

RECORD = record(proposals=candidates())
STRATEGIES = load_cards(Settings()).strategies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ablate head 3 of layer 1", [HEADS[7]]),
        ("heads 0, 2 and 3 of layer 0", [HEADS[0], HEADS[2], HEADS[3]]),
        ("heads 1 to 3 in block 0", HEADS[1:4]),
        ("layer 1, head 2", [HEADS[6]]),
        ("head 1 of layer 0 with head 1 of layer 1", [HEADS[1], HEADS[5]]),
        (f"what of {HEADS[5]}?", [HEADS[5]]),
        ("layers 0 and 1", ["encoder.layer.0", "encoder.layer.1"]),
        ("the mlp of layer 1", ["encoder.layer.1/mlp"]),
        ("neurons of layers 0 and 1", ["encoder.layer.0/mlp", "encoder.layer.1/mlp"]),
        ("attention in layer 0 and layer 1", ["encoder.layer.0/attention", "encoder.layer.1"]),
        ("head 1 of layer 0 and head 1 of layer 0", [HEADS[1]]),
        ("the output of the model", []),
        ("nothing at all", []),
    ],
)
def test_components_are_read(text: str, expected: list[str]) -> None:
    assert components_in(text, RECORD) == tuple(expected)


def test_it_is_what_was_shown() -> None:
    assert components_in("ablate them", RECORD, HEADS[:2]) == tuple(HEADS[:2])
    assert components_in("ablate head 3 of layer 0, not them", RECORD, HEADS[:2]) == (HEADS[3],)


@pytest.mark.parametrize(
    "text",
    ["head 9 of layer 0", "layer 7", "experts of layer 0", "head 0 of layer 99999999999999999"],
)
def test_what_is_not_there_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(UsageError, match="has no"):
        components_in(text, RECORD)


@pytest.mark.parametrize(
    ("line", "kind", "components", "replacement"),
    [
        ("ablate head 0 of layer 0", "ablate", [HEADS[0]], "mean"),
        ("please knock out heads 0 and 1 of layer 0 with zero", "ablate", HEADS[:2], "zero"),
        ("ablate layer 1 by resample", "ablate", ["encoder.layer.1"], "resample"),
        (
            "what if layers 0 and 1 were gone?",
            "ablate",
            ["encoder.layer.0", "encoder.layer.1"],
            "mean",
        ),
        ("what happens without head 2 of layer 1", "ablate", [HEADS[6]], "mean"),
        ("compare layers 0 and 1", "compare", ["encoder.layer.0", "encoder.layer.1"], "mean"),
        ("how similar are heads 0 and 1 of layer 0?", "compare", HEADS[:2], "mean"),
    ],
)
def test_actions_are_read(line: str, kind: str, components: list[str], replacement: str) -> None:
    action = read_action(line, RECORD, STRATEGIES)
    assert action is not None
    assert (action.kind, list(action.components)) == (kind, components)
    assert (action.replacement, action.run) == (replacement, RECORD.id)


@pytest.mark.parametrize(
    ("line", "strategy", "components", "params"),
    [
        (
            "try pruning heads of layer 1",
            "prune-heads",
            ["encoder.layer.1/attention"],
            {"fraction": 0.25},
        ),
        ("prune heads 0 and 1 of layer 0", "prune-heads", HEADS[:2], {}),
        (
            "try pruning half of the neurons of layer 0",
            "prune-neurons",
            ["encoder.layer.0/mlp"],
            {"fraction": 0.5},
        ),
        (
            "try prune-neurons in layer 1, 10 %",
            "prune-neurons",
            ["encoder.layer.1/mlp"],
            {"fraction": 0.1},
        ),
        ("try removing layer 1", "remove-layer", ["encoder.layer.1"], {}),
        ("replace layer 0 by a linear map", "replace-layer", ["encoder.layer.0"], {}),
        ("merge neurons of layer 0", "merge-neurons", ["encoder.layer.0/mlp"], {}),
    ],
)
def test_edits_are_read(line: str, strategy: str, components: list[str], params: dict) -> None:
    action = read_action(line, RECORD, STRATEGIES)
    assert action is not None
    assert action.proposal is not None
    assert action.kind == "gate"
    assert (action.proposal.strategy, list(action.proposal.components)) == (strategy, components)
    assert action.proposal.params == params


def test_a_stored_proposal_is_named_by_its_id() -> None:
    wanted = RECORD.proposals[1]
    for name in (wanted.id, wanted.id[:8]):
        action = read_action(f"gate {name} again", RECORD, STRATEGIES)
        assert action is not None
        assert action.proposal == wanted
    with pytest.raises(UsageError, match="is not one of them"):
        read_action("gate p-000000000000", RECORD, STRATEGIES)


@pytest.mark.parametrize(
    "line",
    [
        "which heads matter most?", "did we try pruning heads of layer 1?", "why is layer 1 slow?",
        "compare this run with the other one", "try again", "what is ablation?",
        "how many heads are there?", "what does exact ablation do?",
    ],
)  # fmt: skip
def test_questions_are_no_actions(line: str) -> None:
    assert read_action(line, RECORD, STRATEGIES) is None
    assert read_command(line).word == "question"


@pytest.mark.parametrize("line", ["ablate", "ablate everything", "gate the moon", "silence"])
def test_an_action_on_nothing_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match=r"names none|takes a proposal"):
        read_action(line, RECORD, STRATEGIES)


def test_a_strategy_takes_what_it_takes() -> None:
    with pytest.raises(UsageError, match="prune-channels takes components of the kinds conv"):
        read_action("gate prune-channels at layer 1", RECORD, STRATEGIES)


def test_words_of_control() -> None:
    said = {
        line: read_command(line).word for line in ("help", "?", "QUIT", "exit.", "runs", "actions")
    }
    assert list(said.values()) == ["help", "help", "quit", "quit", "runs", "actions"]
    used = read_command("use r-12")
    assert (used.word, used.argument) == ("use", "r-12")
    assert read_command("use the force now").word == "question"
