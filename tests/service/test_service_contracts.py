"""Messages against the schemas that are published for them."""

import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError
from served import decision_about, report_about, request

from zsei.checkpoint import contracts
from zsei.checkpoint.contracts import MESSAGES, VERSION, StructuralAnalysisRequest
from zsei.service.example_messages import EXAMPLES
from zsei.service.schemas import DIALECT, PUBLISHED, definitions_of, schema_of, text_of
from zsei.surgery.module_edit import Attribute, ConfigValue, ModuleEdit, TensorCut

GOLDEN = Path(__file__).parent / "contracts-1.0.json"
"""The schemas of this version. Optional fields may join under a new second number; anything else
is a new contract: write the file again only together with `VERSION`."""
NAMES = sorted(PUBLISHED)
VALIDATORS = {name: Draft202012Validator(schema_of(name)) for name in NAMES}


def faults(name: str, message: Any) -> list[str]:
    return [error.message for error in VALIDATORS[name].iter_errors(message)]


def test_the_contract_has_not_changed_silently() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["version"] == VERSION
    assert {name: schema_of(name) for name in PUBLISHED} == golden["schemas"]


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_says_which(name: str) -> None:
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == DIALECT
    assert schema["$id"].endswith(f"{name}:{VERSION}")
    assert schema["version"] == VERSION
    assert schema["description"]
    assert text_of(schema_of(name)) == text_of(schema)


def test_the_messages_of_the_design_are_published() -> None:
    assert set(PUBLISHED) >= {
        "StructuralAnalysisRequest", "StructuralPruningDecision", "ChannelImportanceData",
        "AttentionHeadTarget", "LayerPruningTarget", "PrunedArchitecture", "SafetyValidation",
        "PruningStatistics", "PruningMasks", "AnalysisReport", "ApplicationReport",
    }  # fmt: skip


def test_every_field_of_ours_says_what_it_is() -> None:
    modules = ("zsei.checkpoint.contracts", "zsei.checkpoint.contract_parts")
    ours = {n for n, c in vars(contracts).items() if getattr(c, "__module__", "") in modules}
    ours |= {kind.__name__ for kind in (ModuleEdit, TensorCut, Attribute, ConfigValue)}
    definitions = definitions_of(MESSAGES)
    bare = [
        f"{kind}.{field}"
        for kind, schema in definitions.items()
        for field, told in schema.get("properties", {}).items()
        if kind in ours and "description" not in told
    ]
    assert bare == ["ModuleEdit.factorised"]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_are_what_they_are_examples_of(name: str) -> None:
    message = EXAMPLES[name].model_dump(mode="json")
    assert faults(name, message) == []
    assert schema_of(name)["examples"] == [message]
    assert EXAMPLES[name] == PUBLISHED[name].model_validate_json(EXAMPLES[name].model_dump_json())


def made(annotation: Any, limits: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Values of a type, as the models declare it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    bound = {n: getattr(m, n) for m in limits for n in ("ge", "gt", "le", "lt") if hasattr(m, n)}
    if annotation is type(None):
        return st.none()
    if annotation in (int, float):
        make = st.integers if annotation is int else st.floats
        odd = {} if annotation is int else {"allow_nan": False, "allow_infinity": False}
        low, high = (
            bound.get("ge", bound.get("gt", -(10**6))),
            bound.get("le", bound.get("lt", 10**6)),
        )
        values = make(low, high, **odd)
        return values.filter(lambda v: v != bound.get("gt") and v != bound.get("lt"))
    if annotation is str:
        pattern = next((m.pattern for m in limits if getattr(m, "pattern", None)), None)
        return (
            st.from_regex(pattern, fullmatch=True) if pattern else st.text(min_size=1, max_size=9)
        )
    if annotation is bool:
        return st.booleans()
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is Annotated:
        return made(parts[0], tuple(m for part in parts[1:] for m in part.metadata))
    if origin in (Union, UnionType):
        return st.one_of(*(made(part, limits) for part in parts))
    if origin is tuple:
        if parts[1:] == (Ellipsis,):
            return st.lists(made(parts[0]), max_size=2).map(tuple)
        return st.tuples(*map(made, parts))
    if origin is dict:
        return st.dictionaries(made(parts[0]), made(parts[1]), max_size=2)
    assert issubclass(annotation, BaseModel), annotation
    fields = {
        name: st.just(VERSION) if name == "version" else made(f.annotation, tuple(f.metadata))
        for name, f in annotation.model_fields.items()
    }
    return st.builds(annotation, **fields)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(
    deadline=None, max_examples=8, derandomize=True, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)  # fmt: skip
@given(data=st.data())
def test_any_message_fits_its_schema_and_comes_back(kind: type[BaseModel], data: Any) -> None:
    message = data.draw(made(kind))
    text = message.model_dump_json()
    assert list(VALIDATORS[kind.__name__].iter_errors(json.loads(text))) == []
    assert kind.model_validate_json(text, strict=True) == message


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_what_is_emitted_fits_its_schema(kind: type[BaseModel]) -> None:
    """Of every shape: each field at its default, and each field of the examples left out."""
    whole = EXAMPLES[kind.__name__].model_dump(mode="json")
    for field in [None, *whole]:
        given = {name: value for name, value in whole.items() if name != field}
        try:
            message = kind.model_validate(given)
        except ValidationError:
            assert faults(kind.__name__, given), f"{field} is needed, and the schema says not"
        else:
            assert faults(kind.__name__, given) == []
            assert faults(kind.__name__, message.model_dump(mode="json")) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "2.0"), ("version", "1"), ("version", "1.x"), ("version", "١.٠"),
        ("request_id", ""), ("request_id", "a/b"), ("request_id", "../x"), ("unknown", 1),
        ("checkpoint.run", "../etc"), ("checkpoint.run", ".hidden"), ("checkpoint.run", "a\nb"),
        ("checkpoint.epoch", 0), ("checkpoint.epoch", 10**12), ("checkpoint.epoch", "1"),
        ("checkpoint.accuracy", 93), ("checkpoint.sha256", "abc"), ("checkpoint.unknown", None),
        ("parameters.mode", "cut"), ("parameters.levels", ["experts"]),
        ("requirements.timeout_seconds", 0), ("architecture.parameters", 0),
        ("architecture.shapes", {"a": ["x"]}),
    ],
)  # fmt: skip
def test_schema_and_model_refuse_the_same(field: str, value: Any) -> None:
    message = EXAMPLES["StructuralAnalysisRequest"].model_dump(mode="json")
    *path, last = field.split(".")
    place = message
    for part in path:
        place = place[part]
    place[last] = value
    assert faults("StructuralAnalysisRequest", message)
    with pytest.raises(ValidationError):
        StructuralAnalysisRequest.model_validate_json(json.dumps(message), strict=True)


def test_an_unknown_version_is_told_first() -> None:
    message = EXAMPLES["StructuralAnalysisRequest"].model_dump(mode="json")
    message |= {"version": "3.1", "new_field": 1}
    with pytest.raises(ValidationError) as error:
        StructuralAnalysisRequest.model_validate(message)
    first = error.value.errors()[0]
    assert first["loc"] == ("version",)
    assert "messages of version 1.0 are understood" in first["msg"]
    del message["new_field"]
    message["version"] = "1.7"
    assert StructuralAnalysisRequest.model_validate(message).version == "1.7"


def test_scripted_messages_fit() -> None:
    asked = request()
    for message in (asked, decision_about(asked), report_about(asked)):
        assert faults(type(message).__name__, message.model_dump(mode="json")) == []
