"""The language of a text, by the model that comes with py3langid (97 languages; no network). It knows no table."""

# pyright: reportMissingTypeStubs=false

from functools import cache
from typing import Any

LOOKED_AT = 500  # characters: enough for prose, and what comes after costs time
SURE = 0.8


def language(text: str) -> str | None:
    """Its ISO 639 code; None where the model is not sure, as of code, names, numbers or a few words."""
    found: tuple[str, float] = _identifier().classify(text[:LOOKED_AT])
    code, confidence = found
    return code if confidence >= SURE else None


@cache
def _identifier() -> Any:  # py3langid has no types
    from py3langid import langid

    identifier: Any = langid.LanguageIdentifier
    return identifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
