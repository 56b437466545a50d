"""Options that several commands share, and what they mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from zsei.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
Llm = Annotated[
    str | None,
    typer.Option(
        metavar="none|LITELLM_MODEL",
        help="Language model that explains and proposes; none lets rules speak. [$ZSEI_LLM, none]",
    ),
]
LlmCalls = Annotated[
    int | None,
    typer.Option(metavar="N", help="Calls to the language model in all. [40]"),
]
LlmTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Tokens that it may read and write in all. [1000000]"),
]
LlmCost = Annotated[
    float | None,
    typer.Option(metavar="DOLLARS", help="What all calls may cost. [no limit]"),
]
Run = Annotated[str, typer.Argument(help="Id of an analysis, as `zsei list` shows it.")]
RemoteCode = Annotated[
    bool,
    typer.Option("--allow-remote-code", help="Let a Hugging Face folder run code it brings along."),
]


def settings(**given: Any) -> "Settings":
    """Settings of a command.

    Raises:
        UsageError: A value does not fit, wherever it came from.
    """
    from zsei.settings import Settings

    return _settings(Settings, given)


def llm_budget(
    calls: int | None, tokens: int | None, cost: float | None
) -> dict[str, float] | None:
    """The part of the settings that the options of the language model's budget stand for."""
    given = {"max_calls": calls, "max_total_tokens": tokens, "max_cost": cost}
    return {name: value for name, value in given.items() if value is not None} or None


def settings_of_prune(**given: Any) -> "Settings":
    """As `settings`, with as many samples as fitting needs where nobody says how many.

    Raises:
        UsageError: A value does not fit, wherever it came from.
    """
    from zsei.pruning.prune import prune_settings

    return _settings(prune_settings, given)


def _settings(make: "Callable[..., Settings]", given: dict[str, Any]) -> "Settings":
    """Settings from `zsei.toml`, `ZSEI_*` and the options that were given; None was not given.

    Raises:
        UsageError: A value does not fit, wherever it came from.
    """
    import tomllib

    from pydantic import ValidationError

    from zsei.errors import UsageError

    values = {name: value for name, value in given.items() if value is not None}
    try:
        chosen = make(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"The setting '{name}' does not fit: {first['msg']}, but it is {first['input']!r}; "
            f"mend it on the command line, in ZSEI_{name.upper().replace('.', '__')} or in "
            f"zsei.toml."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"zsei.toml must be TOML, but {error}; mend or remove it.") from error
    if chosen.llm is not None and chosen.llm.strip().lower() in ("", "none"):
        return chosen.model_copy(update={"llm": None})
    return chosen


def data_groups(given: list[str]) -> dict[str, str] | None:
    """Data groups from `[NAME=]PATH` words; without a name the file's own name is the group's.

    Raises:
        UsageError: Two groups have one name, or a file does not exist.
    """
    from zsei.errors import UsageError

    groups: dict[str, str] = {}
    for word in given:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name, path = Path(word).stem, word
        if not name or not Path(path).exists():
            raise UsageError(f"--data takes [NAME=]PATH of a file that exists, but got {word!r}.")
        if name in groups:
            raise UsageError(
                f"Each data group needs a name of its own, but two are called {name!r}; "
                "name one with --data NAME=PATH."
            )
        groups[name] = path
    return groups or None
