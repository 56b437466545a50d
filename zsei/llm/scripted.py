"""A language model that says what it was told to say: for tests, examples and demonstrations."""

from collections.abc import Callable, Iterable

from zsei.errors import UsageError
from zsei.llm.types import LLMRequest, RawAnswer

Script = str | bytes | RawAnswer | Exception


class ScriptedLLM:
    """Answers from a list, one per request, or by a function of the request.

    An exception in place of an answer is raised. Bytes are read as UTF-8, what does not fit
    replaced. When the list runs out it raises a `UsageError`, which nothing mistakes for a failing
    language model: too few answers is a mistake in the script.
    """

    def __init__(
        self, answers: Iterable[Script] | Callable[[LLMRequest], Script], name: str = "scripted"
    ) -> None:
        """Take the answers.

        Args:
            answers: The answers in order, or a function called with each request.
            name: The model name that texts and the log of calls carry.
        """
        self.name = name
        self.requests: list[LLMRequest] = []
        """Every request so far, in order."""
        self._answer = answers if callable(answers) else self._in_order(tuple(answers))

    def complete(self, request: LLMRequest) -> RawAnswer:
        """The next answer.

        Raises:
            UsageError: There is none left.
        """
        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, RawAnswer):
            return answer
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
        return RawAnswer(text=text, model=self.name)

    def _in_order(self, answers: tuple[Script, ...]) -> Callable[[LLMRequest], Script]:
        def answer(request: LLMRequest) -> Script:
            asked = len(self.requests)
            if asked > len(answers):
                raise UsageError(
                    f"A scripted language model needs one answer per request, but it has "
                    f"{len(answers)} and request {asked} came from {request.agent or 'a caller'}; "
                    "add an answer to the script."
                )
            return answers[asked - 1]

        return answer
