"""A small REST client: logs in at the identity, finds the gateway in the catalog, turns refusals into exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click
import httpx

from coriolis.cli.exits import HttpFailure

TIMEOUT_S = 60.0
"""An election may take 25 s of it."""
STREAM_SILENCE_S = 45.0
"""The gateway sends a comment every 15 s."""
MAX_ERROR_BYTES = 64 * 1024

Document = dict[str, Any]
Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    ("auth_url", "OS_AUTH_URL", "e.g. http://127.0.0.1:7667/v3"),
    ("username", "OS_USERNAME", ""),
    ("password", "OS_PASSWORD", "Better left to the environment."),
    ("project_name", "OS_PROJECT_NAME", ""),
    ("user_domain_name", "OS_USER_DOMAIN_NAME", "Default: Default"),
    ("project_domain_name", "OS_PROJECT_DOMAIN_NAME", "Default: Default"),
)


@dataclass(frozen=True, slots=True)
class Account:
    """How to log in; the password never shows in its text form."""

    auth_url: str
    username: str
    password: str
    project_name: str
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"

    def __repr__(self) -> str:
        return f"Account({self.username!r} in {self.project_name!r} at {self.auth_url!r})"


def with_api(function: Function) -> Function:
    """Adds the ``--os-...`` options to a command and passes a logged-in ``Api`` as its first argument."""

    @wraps(function)
    def run(**arguments: Any) -> Any:
        given = {f"os_{name}": arguments.pop(f"os_{name}") for name, _, _ in _OPTIONS}
        with api_from_options(given) as api:
            return function(api, **arguments)

    return api_options(run)  # type: ignore[return-value]  # the same command with more options


def api_options(function: Function) -> Function:
    """Only the options, as ``os_...`` parameters: for commands that need no gateway for everything they do."""
    for name, variable, text in reversed(_OPTIONS):
        option = f"--os-{name.replace('_', '-')}"
        function = click.option(option, f"os_{name}", envvar=variable, help=f"{text} [env: {variable}]".strip())(
            function
        )
    return function


@contextmanager
def api_from_options(given: Mapping[str, str | None]) -> Iterator[Api]:
    """A logged-in ``Api`` by the values of ``api_options``. A usage error names the one that is missing."""
    with open_api(_account(given)) as api:
        yield api


def _account(given: Mapping[str, str | None]) -> Account:
    for name, variable, _ in _OPTIONS[:4]:
        if not given[f"os_{name}"]:
            raise click.UsageError(f"{variable} is not set, nor --os-{name.replace('_', '-')} given.")
    return Account(**{name.removeprefix("os_"): value for name, value in given.items() if value})


class Api:
    """The gateway, for one project."""

    def __init__(self, http: httpx.Client, base_url: str, token: str) -> None:
        self._http = http
        self._base_url = base_url
        self._headers = {"X-Auth-Token": token}

    def call(self, method: str, path: str, body: Document | None = None, **query: str) -> Document:
        """The answer's document, empty for 204. Raises HttpFailure."""
        with _reaching(self._base_url):
            answer = self._http.request(
                method, self._base_url + path, json=body, params=query or None, headers=self._headers
            )
        return _checked(answer)

    def pages(self, path: str, key: str, **query: str) -> list[Document]:
        """All elements of a list, page by page."""
        found: list[Document] = []
        marker = ""
        while True:
            document = self.call("GET", path, None, **query, **({"marker": marker} if marker else {}))
            found += document[key]
            if not document.get(f"{key}_links") or not document[key]:
                return found
            marker = document[key][-1]["id"]

    @contextmanager
    def events(self, path: str) -> Iterator[Iterator[tuple[str, Document]]]:
        """Server-sent events as (name, document), for the block. Raises HttpFailure."""
        timeout = httpx.Timeout(TIMEOUT_S, read=STREAM_SILENCE_S)
        with (
            _reaching(self._base_url),
            self._http.stream("GET", self._base_url + path, headers=self._headers, timeout=timeout) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                _checked(answer)
            yield read_events(answer.iter_lines())


def read_events(lines: Iterator[str]) -> Iterator[tuple[str, Document]]:
    """Events of a ``text/event-stream`` whose data are JSON objects; comments are dropped."""
    name, data = "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                yield name, json.loads(data)
            name, data = "message", ""
        elif field == "event":
            name = value
        elif field == "data":
            data += value


@contextmanager
def open_api(account: Account) -> Iterator[Api]:
    """Log in; the token lives in memory only. Raises HttpFailure."""
    with _logged_in(account) as (http, _, token, described):
        base_url = _endpoint(described)
        if not base_url:
            raise HttpFailure(
                "the identity's catalog has no service of type migration ('coriolis catalog register' makes it)", 200
            )
        yield Api(http, base_url.rstrip("/"), token)


@contextmanager
def open_identity(given: Mapping[str, str | None]) -> Iterator[Api]:
    """Keystone's own API below ``/v3``, by the values of ``api_options``."""
    with _logged_in(_account(given)) as (http, url, token, _):
        yield Api(http, url, token)


@contextmanager
def _logged_in(account: Account) -> Iterator[tuple[httpx.Client, str, str, Document]]:
    """HTTP, the identity's URL, the token and its description."""
    with httpx.Client(timeout=TIMEOUT_S) as http:
        url = f"{account.auth_url.rstrip('/').removesuffix('/v3')}/v3"
        with _reaching(url):
            answer = http.post(f"{url}/auth/tokens", json={"auth": _login(account)})
        described = _checked(answer).get("token", {})
        yield http, url, answer.headers["X-Subject-Token"], described


def _login(account: Account) -> Document:
    user = {
        "name": account.username,
        "domain": {"name": account.user_domain_name},
        "password": account.password,
    }
    project = {"name": account.project_name, "domain": {"name": account.project_domain_name}}
    return {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"project": project}}


def _endpoint(token: Document) -> str:
    for service in token.get("catalog", []):
        if service.get("type") == "migration":
            for endpoint in service.get("endpoints", []):
                if endpoint.get("interface") == "public":
                    return str(endpoint.get("url", ""))
    return ""


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.InvalidURL as wrong:
        raise click.UsageError(f"{url!r} is no URL: {wrong}") from wrong
    except httpx.TimeoutException as silent:
        raise HttpFailure(f"{url} did not answer in time", 0) from silent
    except httpx.TransportError as down:
        raise HttpFailure(f"{url} cannot be reached: {down}", 0) from down


def _checked(answer: httpx.Response) -> Document:
    if answer.is_success:
        document: Document = answer.json() if answer.content else {}
        return document
    message = answer.reason_phrase or "the gateway refused"
    if len(answer.content) <= MAX_ERROR_BYTES:
        try:
            message = str(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            pass  # not from a gateway of ours: the status has to do
    raise HttpFailure(message, answer.status_code)
