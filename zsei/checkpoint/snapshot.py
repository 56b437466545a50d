"""The weights of a checkpoint, read without running anything that came with them."""

import hashlib

from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from zsei.checkpoint.tasks import Snapshot
from zsei.errors import DataError, ModelError


def read_weights(snapshot: Snapshot) -> dict[str, Tensor]:
    """Parameter or buffer -> value.

    Raises:
        ModelError: There is no such file, or it is not whole.
        DataError: It is not the file that was promised.
    """
    if snapshot.data is not None:
        return load(snapshot.data)
    assert snapshot.path is not None
    if snapshot.sha256:
        found = hashlib.sha256(snapshot.path.read_bytes()).hexdigest()
        if found != snapshot.sha256:
            raise DataError(
                f"The weights in {snapshot.path.name} are not those that were announced."
            )
    try:
        return load_file(snapshot.path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"A checkpoint is a whole file; `{snapshot.path.name}` cannot be read ({error})."
        ) from error
