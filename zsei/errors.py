"""Every error ZSEI raises on purpose. Each message says the rule, what arrived and the likely fix.

ZseiError                    exit code 1 unless said otherwise
├── UsageError               2  the call itself is wrong: an unknown option value, run, code or id
├── ModelError                  a model cannot be loaded, run or trusted
│   ├── UnsafeModelError        loading it would run code or a pickle
│   └── NumericalError          NaN or infinity in weights or outputs
├── DataError                   data is empty, too small, or does not fit the model
├── ObjectiveError              the objective does not fit the model or the data
├── ExportError                 torch.export cannot turn the model into one program
├── DeviceError                 a device that is asked for is not there
├── SpeedUpRefused              a speed-up that this model, machine or installation cannot have
├── SurgeryRefused              an edit that cannot be proven; names the call that stopped it
├── CardError                   an agent, prompt or knowledge card is malformed
├── LLMError                    the language model failed; rules stand in (exit code 4)
│   ├── LLMTimeout
│   ├── LLMTransport
│   ├── LLMAuth
│   ├── LLMRefused
│   ├── LLMTruncated
│   ├── LLMTooLong
│   ├── LLMInvalid
│   └── LLMBudget
├── MemoryDamaged            5  the record store fails its own integrity check
└── OutputError                 a result cannot be written (a full disk, no permission)
"""


class ZseiError(Exception):
    """An error meant for a person: the rule, what arrived, the likely fix."""

    exit_code = 1


class UsageError(ZseiError):
    """The call itself is wrong."""

    exit_code = 2


class ModelError(ZseiError):
    """A model cannot be loaded or run."""


class UnsafeModelError(ModelError):
    """Loading the model would execute code that came with it."""


class NumericalError(ModelError):
    """NaN or infinity where numbers are needed."""


class DataError(ZseiError):
    """Data is empty, too small, or does not fit the model."""


class ObjectiveError(ZseiError):
    """The objective does not fit the model or its data."""


class ExportError(ZseiError):
    """The model cannot be exported as one program."""


class DeviceError(ZseiError):
    """A device that is asked for is not there."""


class SpeedUpRefused(ZseiError):
    """A speed-up that this model, machine or installation cannot have; nothing was changed."""


class SurgeryRefused(ZseiError):
    """An edit that cannot be proven is not made."""


class CardError(ZseiError):
    """An agent, prompt or knowledge card is malformed."""


class LLMError(ZseiError):
    """The language model failed; the rule-based voice stands in."""

    exit_code = 4
    attempts: int | None = None
    """Requests that were sent; None where nobody counted."""
    lost: int = 0
    """Those among them that no answer came to, though the provider may have charged for one."""


class LLMTimeout(LLMError):
    """No answer before the deadline."""


class LLMTransport(LLMError):
    """The provider could not be reached or answered with an error."""


class LLMAuth(LLMError):
    """The provider refused the credentials."""


class LLMRefused(LLMError):
    """The model declined to answer."""


class LLMTruncated(LLMError):
    """The answer was cut off at the token limit."""


class LLMTooLong(LLMError):
    """The question is longer than the model reads."""


class LLMInvalid(LLMError):
    """The answer does not fit the schema or names things that do not exist."""


class LLMBudget(LLMError):
    """The next call would pass the budget in calls, tokens or money; it was not made."""


class MemoryDamaged(ZseiError):
    """The record store fails its integrity check."""

    exit_code = 5


class OutputError(ZseiError):
    """A result cannot be written."""
