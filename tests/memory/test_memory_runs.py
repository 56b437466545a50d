"""Questions about training runs and epochs: exact rows, the right citations, honest refusals."""

import json
from pathlib import Path

import pytest
from memory_records import HashEmbedder, make_record
from run_records import CNN, EPOCHS, GPT, RUN

from zsei.cli import main
from zsei.errors import UsageError
from zsei.llm import ScriptedLLM
from zsei.llm.line import Line
from zsei.memory.ask import ask
from zsei.memory.check import check
from zsei.memory.chunks import chunks_of
from zsei.memory.search import retrieve
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Answer

ALONE = make_record(7, model="alone")


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    memory = Memory(tmp_path_factory.mktemp("runs"), embedder=HashEmbedder())
    for record in (ALONE, *GPT, *CNN):
        memory.add(record)
    return memory


def shares(run: tuple[AnalysisRecord, ...], component: str, name: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for record in run:
        measured = record.measured(component, name)
        assert record.provenance.checkpoint is not None
        assert measured is not None
        assert measured.value is not None
        found[record.provenance.checkpoint.epoch] = measured.value
    return found


def courses(answer: Answer) -> dict[object, object]:
    return {row["epoch"]: row["value"] for row in answer.rows}


@pytest.mark.parametrize(
    ("question", "run", "component", "metric"),
    [
        ("how did the importance of layer 2 change over run gpt?", GPT, "h.2", "importance_share"),
        ("how did the importance of layer 0 change over the run cnn?", CNN, "h.0",
         "importance_share"),
        ("importance of layer 1 over the epochs of gpt", GPT, "h.1", "importance_share"),
        ("how did the gradient rms of h.1/mlp change in gpt over time?", GPT, "h.1/mlp",
         "gradient_rms"),
        ("how did the loss change over run cnn?", CNN, RUN, "training_loss"),
        ("how did the sparsity of gpt change over the epochs?", GPT, RUN, "sparsity_real"),
        ("wanted sparsity per epoch of gpt", GPT, RUN, "sparsity_wanted"),
        ("number of parameters of gpt over the run", GPT, RUN, "parameters_left"),
        ("effective rank of the mlp of layer 2 in run gpt over the epochs", GPT, "h.2/mlp",
         "effective_rank"),
    ],
)  # fmt: skip
def test_a_course_is_the_stored_numbers_with_their_epochs(
    memory: Memory, question: str, run: tuple[AnalysisRecord, ...], component: str, metric: str
) -> None:
    answer = ask(question, memory)
    assert courses(answer) == shares(run, component, metric)
    assert {c.run for c in answer.citations} == {record.id for record in run}
    assert {str(row["component"]) for row in answer.rows} == {component}
    assert repr(shares(run, component, metric)[80]).removesuffix(".0") in answer.text


@pytest.mark.parametrize(
    ("question", "run", "component", "metric", "best"),
    [
        ("at which epoch was layer 2 most important in gpt?", GPT, "h.2", "importance_share", max),
        ("in which epoch of run cnn was layer 1 least important?", CNN, "h.1", "importance_share",
         min),
        ("at which epoch was the loss of gpt lowest?", GPT, RUN, "training_loss", min),
        ("which epoch of cnn had the highest loss?", CNN, RUN, "training_loss", max),
    ],
)  # fmt: skip
def test_the_epoch_of_an_extreme_is_the_one_in_the_records(
    memory: Memory, question: str, run: tuple[AnalysisRecord, ...], component: str, metric: str,
    best,
) -> None:  # fmt: skip
    values = shares(run, component, metric)
    (row,) = ask(question, memory).rows
    assert row["value"] == best(values.values())
    assert values[int(str(row["epoch"]))] == row["value"]


def test_a_mean_over_the_epochs_is_exact(memory: Memory) -> None:
    values = shares(GPT, "h.0", "importance_share")
    answer = ask("what was the average importance of layer 0 over run gpt?", memory)
    assert answer.rows[0]["value"] == pytest.approx(sum(values.values()) / 8, rel=1e-15)


def test_epochs_that_are_named_restrict_a_course(memory: Memory) -> None:
    answer = ask("how did the importance of layer 2 change from epoch 20 to 40 of gpt?", memory)
    values = shares(GPT, "h.2", "importance_share")
    assert courses(answer) == {epoch: values[epoch] for epoch in (20, 30, 40)}


def test_what_died_is_told_once_with_its_epochs(memory: Memory) -> None:
    answer = ask("which components died in run gpt?", memory)
    told = {str(row["message"]): row["epochs"] for row in answer.rows}
    assert told == {
        "Neurons 3, 5 of h.1/mlp do next to nothing any more.": [50, 60, 70, 80],
        "Neuron 8 of h.2/mlp does next to nothing any more.": [70, 80],
    }
    assert "(said at epochs 50 to 80;" in answer.text
    assert {c.run for c in answer.citations} == {GPT[-1].id}


def test_that_nothing_died_is_an_answer_and_cites(memory: Memory) -> None:
    for question in ("which components died in run cnn?", "did anything wake up in gpt?",
                     "which layers stopped learning in cnn?"):  # fmt: skip
        answer = ask(question, memory)
        assert answer.text.startswith("No ")
        assert "8 checkpoints were looked at" in answer.text
        assert len(answer.citations) == 1


def test_what_was_cut_and_why_is_the_gates_own_word(memory: Memory) -> None:
    answer = ask("what was pruned at epoch 60 of gpt and why?", memory)
    assert answer.rows[0]["strategy"] == "prune-neurons"
    assert answer.rows[0]["epoch"] == 60
    assert "the bound 0.004 is below 0.02" in answer.text
    assert "divergence 0.0031" in answer.text
    assert {c.run for c in answer.citations} == {GPT[5].id}


def test_why_nothing_was_cut_is_told_too(memory: Memory) -> None:
    answer = ask("what was pruned at epoch 70 of gpt and why?", memory)
    assert "the breaker is open after three failures in a row" in answer.text
    assert GPT[6].id in {c.run for c in answer.citations}
    nothing = ask("what was cut in run cnn?", memory)
    assert nothing.text.startswith("No change was judged")


def test_fallbacks_are_told_by_epoch(memory: Memory) -> None:
    answer = ask("which epochs of gpt had fallbacks?", memory)
    assert [row["epoch"] for row in answer.rows] == [30]
    assert "took longer than 300 s" in answer.text
    every = ask("which epochs had fallbacks?", memory)
    assert sorted(int(str(row["epoch"])) for row in every.rows) == [30, 40]
    none = ask("were there fallbacks at epoch 80 of gpt?", memory)
    assert none.text.startswith("No fallback in run gpt: 1 checkpoints")


def test_one_epoch_is_one_analysis(memory: Memory) -> None:
    answer = ask("what is the effective rank of h.1/mlp at epoch 30 of gpt?", memory)
    assert [row["value"] for row in answer.rows] == [shares(GPT, "h.1/mlp", "effective_rank")[30]]
    assert {c.run for c in answer.citations} == {GPT[2].id}
    named = ask("effective rank of h.1/mlp in cnn@50", memory)
    assert {c.run for c in named.citations} == {CNN[4].id}


@pytest.mark.parametrize(
    "question",
    [
        "how did the importance of layer 2 change over run llama?",
        "how did the importance of layer 9 change over run gpt?",
        "how did the perplexity of gpt change over the epochs?",
        "what was pruned at epoch 999 of gpt?",
        "at which epoch was layer 1 most important?",
        "how did gpt change over the run?",
        "how did the loss change over run gpt at epoch 15?",
    ],
)
def test_what_memory_cannot_know_is_refused(memory: Memory, question: str) -> None:
    answer = ask(question, memory)
    assert answer.text.startswith("No ")
    assert (answer.rows, answer.citations) == ((), ())


def test_a_language_model_may_plan_it_and_writes_no_number(memory: Memory) -> None:
    wanted = {
        "intent": "list", "subject": "course", "operation": "none", "everywhere": True,
        "names": ["run gpt", "importance_share", "layer 2"],
    }  # fmt: skip
    line = Line(llm=ScriptedLLM([json.dumps(wanted)] + [json.dumps({"text": "nonsense"})] * 3))
    question = "weightiness, block by block: second of gpt"
    answer = ask(question, memory, line)
    assert courses(answer) == shares(GPT, "h.2", "importance_share")


def test_other_questions_are_read_as_before(memory: Memory) -> None:
    answer = ask("effective rank of encoder.layer.1/mlp in alone?", memory)
    assert {c.run for c in answer.citations} == {ALONE.id}
    assert ask("how many analyses are there?", memory).rows[0]["count"] == 17


def test_a_checkpoint_is_named_by_run_and_epoch(
    memory: Memory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory.get("gpt@40").id == GPT[3].id
    assert memory.get("cnn@last").id == CNN[-1].id
    with pytest.raises(UsageError, match=r"analysed at 8 epochs from 10 to 80.*near: 20, 30, 40"):
        memory.get("gpt@33")
    with pytest.raises(UsageError, match=r"no training run is called 'gpd'; known: cnn, gpt"):
        memory.get("gpd@40")
    monkeypatch.setenv("ZSEI_HOME", str(memory.home))
    assert main(["compare", "gpt@10", "gpt@40", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["first"], told["second"]) == (GPT[0].id, GPT[3].id)


def test_a_memory_of_before_opens_and_its_rows_still_fit(tmp_path: Path) -> None:
    import sqlite3

    from zsei.memory import schema

    memory = Memory(tmp_path, embedder=HashEmbedder())
    memory.add(ALONE)
    with sqlite3.connect(memory.path) as db:  # as the second version of the schema left it
        db.execute("DROP INDEX runs_by_training")
        for column in ("training", "epoch", "step"):
            db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
        db.execute("DROP TABLE documents")
        db.execute("PRAGMA user_version = 2")
    db.close()
    again = Memory(tmp_path, embedder=HashEmbedder())
    assert again.get(ALONE.id) == ALONE
    assert not check(tmp_path).damaged
    assert len(schema.MIGRATIONS) == 4


def test_a_long_run_is_cheap_to_keep(tmp_path: Path) -> None:
    """What is said at every checkpoint in the same words is embedded once."""
    embedder = HashEmbedder()
    memory = Memory(tmp_path, embedder=embedder)
    for number in range(24):
        base = GPT[4 + number % 4]
        stands = base.provenance.checkpoint
        assert stands is not None
        memory.add(
            base.model_copy(
                update={
                    "id": f"r-{number:012d}",
                    "provenance": base.provenance.model_copy(
                        update={"checkpoint": stands.model_copy(update={"epoch": number + 1})}
                    ),
                }
            )
        )
    retrieve(memory, "neurons that do nothing", limit=3)
    distinct = {chunk.gist for record in GPT[4:] for chunk in chunks_of(record)}
    assert embedder.embedded <= len(distinct) + 1  # and the question
    assert not check(tmp_path).damaged
    assert len(EPOCHS) == 8
