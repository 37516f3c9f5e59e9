"""The language of a text, by the model that comes with py3langid (97 languages; no network). It knows no table."""

# pyright: reportMissingTypeStubs=false

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LOOKED_AT = 500  # characters: enough for prose, and what comes after costs time
SURE = 0.8


def language(text: str) -> str | None:
    """Its ISO 639 code; None where the model is not sure, as of code, names, numbers or a few words."""
    code, confidence = _identifier().classify(text[:LOOKED_AT])
    return code if confidence >= SURE else None


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
