"""The Hugging Face hub."""

from __future__ import annotations

from typing import cast


def hub_errors() -> tuple[type[Exception], ...]:
    """What its client raises where something cannot be had from it, whichever HTTP library it stands on."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return cast(type[Exception], HfHubHTTPError.__mro__[1]), HFValidationError, OSError
