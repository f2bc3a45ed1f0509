"""Checks a caller's document against a provider's JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema

from coriolis.errors import InvalidInput


def check_document(document: Mapping[str, Any], schema: Mapping[str, Any], what: str) -> None:
    """Raise InvalidInput that names the wrong field; values are not repeated, since they may be secret."""
    validator = jsonschema.Draft202012Validator(schema)
    error = next(iter(validator.iter_errors(dict(document))), None)
    if error is None:
        return
    field = ".".join(str(part) for part in error.absolute_path) or "(document)"
    rule = error.validator_value if error.validator in ("type", "enum", "required", "pattern") else ""
    detail = f"{error.validator} {rule}".strip()
    if error.validator == "additionalProperties":
        known = ", ".join(sorted(error.schema.get("properties", {})))
        detail = f"has an unknown field; known: {known}"
    raise InvalidInput(f"{what}: field {field}: {detail}")
