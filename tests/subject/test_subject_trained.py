"""The trained models of the tests have learnt something."""

import pytest
import torch
import trained
from torch.nn import functional as F


def unigram_entropy() -> float:
    """Nats a character of the training text, when each is guessed by its frequency alone."""
    ids, _ = trained.character_data()
    share = torch.bincount(ids, minlength=trained.VOCABULARY).double() / len(ids)
    return float(-(share * share.clamp_min(1e-12).log()).sum())


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_character_models_predict_unseen_text(name: str) -> None:
    model, data = trained.TRAINED[name]()
    ids = torch.cat([group["input_ids"] for group in data.values()])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    loss = float(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    assert loss < 2.3 < unigram_entropy() - 0.5


@pytest.mark.parametrize(("name", "accuracy"), [("cnn", 0.96), ("vit", 0.9)])
def test_digit_models_recognise_unseen_digits(name: str, accuracy: float) -> None:
    model, data = trained.TRAINED[name]()
    images = next(iter(data.values()))
    with torch.no_grad():
        output = model(images)
    found = getattr(output, "logits", output).argmax(-1)
    assert float((found == data["labels"]).float().mean()) > accuracy
