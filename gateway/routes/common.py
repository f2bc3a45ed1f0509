"""What the operations of all resources declare alike."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path

from gateway.answers import Error

ProjectId = Annotated[str, Path(description="The token's project", examples=["a1b2c3d4e5f64718a9b0c1d2e3f40516"])]
MigrationId = Annotated[str, Path(description="Id of a migration", examples=["33333333-3333-4333-8333-333333333333"])]

_MEANING = {
    400: "Malformed, or a field is wrong; the message names it",
    401: "No valid token",
    403: "The token's roles do not suffice",
    404: "Absent, or of another project",
    405: "The provider or the resource cannot do this",
    408: "The request body did not arrive in time",
    409: "The state forbids it",
    413: "A bound is exceeded",
    415: "The body is not application/json",
    429: "Too many at once",
    500: "A fault of ours; the log has it under the request id",
    503: "Nobody leads the mesh now; repeat later",
    504: "The mesh did not answer in time; repeat later",
}


def failures(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The documented failures: the given codes and those that every operation can have."""
    every = {401, 403, 404, 500, 503, 504, *codes}
    return {code: {"model": Error, "description": _MEANING[code]} for code in sorted(every)}


def success(model: type[Any], description: str = "Done") -> dict[int | str, dict[str, Any]]:
    """A documented 200 whose document is built by ``translate`` and not validated again."""
    return {200: {"model": model, "description": description}}


BODY_FAILURES = (400, 408, 413, 415)
