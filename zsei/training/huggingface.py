"""ZSEI beside a `transformers.Trainer`."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import TrainerCallback

from zsei.training.beside import Beside, Event

Build = Callable[[nn.Module, Any], Beside]
"""Makes the `Beside` of a run, given the model and the optimizer."""


class ZseiTrainerCallback(TrainerCallback):
    """Hands over the weights after each epoch, with what the evaluation measured.

        trainer.add_callback(ZseiTrainerCallback(texts, run="digits", config="elesh.yaml"))

    Cuts are carried out between two epochs; the Trainer's model, optimizer and scheduler stay the
    same objects. With `eval_strategy="epoch"` this happens right after the evaluation, so that its
    figures are those of the weights; else at the end of the epoch, with the last figures there are.

    Args:
        data: As for `zsei.analyze`; used for analysis only.
        accuracy: Name of the accuracy among the evaluation's metrics.
        loss: Name of the loss among them.
        options: All else of `Beside`: `run`, `config`, `folder`, `ema`, `lockstep` and so on.

    Misleads when: `load_best_model_at_end` picks a checkpoint from before a cut: its shapes are
    not those of the model any more, and the Trainer says so.
    """

    def __init__(
        self, data: Any, *, accuracy: str = "eval_accuracy", loss: str = "eval_loss", **options: Any
    ) -> None:
        self._data, self._options = data, options
        self._accuracy, self._loss = accuracy, loss
        self._measured: dict[str, float] = {}
        self.beside: Beside | None = None
        self.events: list[Event] = []
        """What each call did."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Begin the run with the model as it is now.

        Raises:
            UsageError: The options do not fit; training has not begun.
        """
        model, optimizer = given.get("model"), given.get("optimizer")
        if state.is_world_process_zero and isinstance(model, nn.Module):
            self.beside = Beside(model, optimizer or (), self._data, **self._options)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Hand over, unless the evaluation of this epoch is still to come."""
        if _strategy(args) != "epoch":
            self._hand_over(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take the figures, and hand over where they are of a whole epoch."""
        metrics = given.get("metrics") or {}
        self._measured = {
            name: float(metrics[key])
            for name, key in (("accuracy", self._accuracy), ("loss", self._loss))
            if isinstance(metrics.get(key), int | float)
        }
        if _strategy(args) == "epoch":
            self._hand_over(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The run is over."""
        if self.beside is not None:
            self.beside.close()

    def _hand_over(self, state: Any) -> None:
        # Counted here: the Trainer's own epoch is a fraction, and a last one may be cut short.
        if self.beside is not None:
            number = len(self.events) + 1
            step = int(state.global_step)
            self.events.append(self.beside.checkpoint(number, step=step, **self._measured))


def _strategy(args: Any) -> str:
    strategy = args.eval_strategy
    return str(getattr(strategy, "value", strategy))
