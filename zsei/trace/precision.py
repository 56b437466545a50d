"""Refuses to measure in half precision, before anything was measured."""

from torch import nn

from zsei.errors import ModelError


def check_precision(model: nn.Module) -> None:
    """Raise ModelError where a weight is in half precision (or less).

    Sums over thousands of halves lose what is measured, and their eigenvalues cannot be had on a
    CPU. Surgery, saving and export need no such sums and keep any precision.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"Analysis measures in full precision; {name} is {kind}. Pass a copy, "
                f"copy.deepcopy(model).float(), or the folder the model is saved in, which is "
                f"loaded as float32."
            )
