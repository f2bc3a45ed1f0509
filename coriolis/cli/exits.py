"""Exit codes, and how a failure is told to an operator: what happened, then what to do."""

from __future__ import annotations

import enum

import click

from coriolis.errors import CoriolisError

INTERRUPTED = 130


class Exit(enum.IntEnum):
    """What the process ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MIGRATION_ERROR = 3
    MIGRATION_CANCELED = 4
    NOT_FOUND = 5
    NOT_ALLOWED = 6
    CONFLICT = 7
    REFUSED = 8
    UNAVAILABLE = 9
    DIFFERENT = 10


MEANING = {
    Exit.OK: "done",
    Exit.FAILED: "an error that none of the others describes",
    Exit.USAGE: "wrong options or arguments",
    Exit.MIGRATION_ERROR: "the migration ended in ERROR",
    Exit.MIGRATION_CANCELED: "the migration was cancelled",
    Exit.NOT_FOUND: "no such migration, secret, file",
    Exit.NOT_ALLOWED: "login failed, or the role does not suffice",
    Exit.CONFLICT: "the state forbids it",
    Exit.REFUSED: "the request is wrong; the message names the field",
    Exit.UNAVAILABLE: "the gateway or the mesh cannot be reached; repeat later",
    Exit.DIFFERENT: "a verification found differences, or a manifest is not what was signed",
}
EXIT_CODES_HELP = "\b\nExit codes:\n" + "\n".join(f"  {code.value:3}  {text}" for code, text in MEANING.items())

_BY_STATUS = {
    400: Exit.REFUSED,
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    405: Exit.REFUSED,
    409: Exit.CONFLICT,
    413: Exit.REFUSED,
    415: Exit.REFUSED,
    429: Exit.UNAVAILABLE,
    503: Exit.UNAVAILABLE,
    504: Exit.UNAVAILABLE,
}
_HINTS = {
    Exit.NOT_FOUND: "List what there is with 'coriolis migration list' (or 'secret list'); other projects' are hidden.",
    Exit.NOT_ALLOWED: "Check OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME, e.g. 'source admin-openrc'.",
    Exit.CONFLICT: "Look at its state with 'coriolis migration show ID'.",
    Exit.REFUSED: "Correct what the message names; 'coriolis migration create --help' has examples.",
    Exit.UNAVAILABLE: "Is the gateway running and OS_AUTH_URL right? An election takes up to 25 s; then repeat it.",
}


class HttpFailure(click.ClickException):
    """The gateway refused; told as ``<message> (HTTP <code>)``. ``status`` 0: it could not be reached."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(f"{message} (HTTP {status})" if status else message)
        self.status = status
        code = _BY_STATUS.get(status, Exit.FAILED) if status else Exit.UNAVAILABLE
        self.exit_code = code  # type: ignore[misc]  # click declares it for the class, and reads it from the instance


class Ended(click.exceptions.Exit):
    """Ends the command with one of our codes after its output is complete."""

    def __init__(self, code: Exit) -> None:
        super().__init__(int(code))


FAILURES = (click.ClickException, click.Abort, CoriolisError, KeyboardInterrupt, BrokenPipeError)
"""What ``report`` tells; anything else is a fault of ours and shows its trace."""


def report(failure: BaseException) -> int:
    """Tell the operator on stderr and return the exit code."""
    match failure:
        case click.UsageError():
            failure.show()
            return Exit.USAGE
        case click.ClickException():
            _tell(failure.format_message(), failure.exit_code)
            return failure.exit_code
        case CoriolisError():
            code = _BY_STATUS.get(failure.http_status, Exit.FAILED)
            _tell(failure.message, None)
            return code
        case BrokenPipeError():
            return Exit.FAILED
    click.echo("Interrupted.", err=True)
    return INTERRUPTED


def _tell(message: str, code: int | None) -> None:
    click.echo(f"Error: {message}", err=True)
    hint = _HINTS.get(Exit(code)) if code in set(Exit) else None
    if hint:
        click.echo(f"  {hint}", err=True)
