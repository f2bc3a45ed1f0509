"""The error form of the API, for every way in which a request can fail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import JSONResponse

from coriolis.errors import CoriolisError, InvalidInput

FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    501: "notImplemented",
    503: "serviceUnavailable",
}
OTHER_FAULT = "computeFault"
MAX_MESSAGE_CHARS = 1024
MAX_FIELDS_NAMED = 5
MAX_NAME_CHARS = 60

RESOURCE_NOT_FOUND = "NotFound: The resource could not be found."
UNEXPECTED = "An unexpected error happened in the gateway; its log has the details under the request id."


class Json(JSONResponse):
    """JSON made by msgspec: strict, and fast enough for long lists."""

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def problem(code: int, message: str, headers: Mapping[str, str] | None = None) -> Json:
    """``{"error": {"fault", "code", "message"}}``."""
    error = {"fault": FAULTS.get(code, OTHER_FAULT), "code": code, "message": message[:MAX_MESSAGE_CHARS]}
    return Json({"error": error}, code, dict(headers or {}))


def unauthorized(identity_url: str, message: str = "The request you have made requires authentication.") -> Json:
    """401 in Keystone's form, with the place where tokens are given out."""
    error = {"message": message, "code": 401, "title": "Unauthorized"}
    return Json({"error": error}, 401, {"WWW-Authenticate": f'Keystone uri="{identity_url}"'})


def from_error(error: CoriolisError) -> Json:
    """Wrong input in plain words, everything else as ``ClassName: text``."""
    plain = isinstance(error, InvalidInput)
    message = error.message if plain else f"{type(error).__name__}: {error.message}"
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return problem(error.http_status, message, headers)


def validation_message(errors: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with which field, for the errors of pydantic. Values are never repeated: one may be a secret."""
    located = [(_path(error["loc"]), _complaint(error)) for error in errors]
    whole = next((error for error, (path, _) in zip(errors, located, strict=True) if path == ""), None)
    if whole is not None:
        is_ours = whole["type"] == "value_error"
        return _complaint(whole) if is_ours else "Malformed request body: a JSON object is required"
    shown = [f"{path}: {complaint}" for path, complaint in located[:MAX_FIELDS_NAMED]]
    more = len(located) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _path(location: Sequence[str | int]) -> str:
    parts = location[1:] if location and location[0] in ("body", "query", "path") else location
    return ".".join(str(part)[:MAX_NAME_CHARS] for part in parts)


def _complaint(error: Mapping[str, Any]) -> str:
    location = error["loc"]
    match error["type"]:
        case "extra_forbidden":
            return "unknown field"
        case "missing" if len(location) == 2 and location[0] == "body":
            return f"the request body must be wrapped in the key {location[-1]!r}"
        case "missing":
            return "this required attribute is missing"
        case "value_error":
            return str(error["ctx"]["error"])
    message = str(error["msg"])
    return message[:1].lower() + message[1:]
