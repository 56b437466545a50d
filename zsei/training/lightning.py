"""ZSEI beside a Lightning `Trainer`, under either of its names."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from zsei.training.beside import Beside, Event

if TYPE_CHECKING:
    from lightning.pytorch import Callback
elif "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
    from pytorch_lightning import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback


class ZseiLightningCallback(Callback):
    """Hands over the weights at the end of each training epoch, with what was logged.

        Trainer(callbacks=[ZseiLightningCallback(data, run="digits", model=lambda m: m.net)])

    Cuts are carried out between two epochs; module, optimizers and schedulers stay the same
    objects. For automatic optimization: with several optimizers all of them are cut.

    Args:
        data: As for `zsei.analyze`; used for analysis only.
        model: The network inside the LightningModule; None: the LightningModule itself, whose
            `forward` is then what is analysed.
        accuracy: Name of the accuracy among the logged metrics.
        loss: Name of the loss among them.
        options: All else of `Beside`: `run`, `config`, `folder`, `ema`, `lockstep` and so on.
    """

    def __init__(
        self,
        data: Any,
        *,
        model: Callable[[Any], nn.Module] | None = None,
        accuracy: str = "val_accuracy",
        loss: str = "val_loss",
        **options: Any,
    ) -> None:
        self._data, self._model, self._options = data, model, options
        self._accuracy, self._loss = accuracy, loss
        self.beside: Beside | None = None
        self.events: list[Event] = []
        """What each call did."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the run with the model as it is now.

        Raises:
            UsageError: The options do not fit; training has not begun.
        """
        if trainer.is_global_zero:
            model = pl_module if self._model is None else self._model(pl_module)
            self.beside = Beside(model, trainer.optimizers, self._data, **self._options)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Hand over; the validation of this epoch, where there is one, has been."""
        if self.beside is None:
            return
        metrics = trainer.callback_metrics
        measured = {
            name: float(metrics[key])
            for name, key in (("accuracy", self._accuracy), ("loss", self._loss))
            if key in metrics
        }
        number, step = trainer.current_epoch + 1, int(trainer.global_step)
        self.events.append(self.beside.checkpoint(number, step=step, **measured))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """The run is over."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The run ended early."""
        self._close()

    def _close(self) -> None:
        if self.beside is not None:
            self.beside.close()
