"""HTTP answers of bounded size, for keystoneauth: a service that goes mad must not fill our memory."""

from __future__ import annotations

import os
import ssl
from typing import Any

import requests
from requests.adapters import HTTPAdapter

MAX_ANSWER_BYTES = 4 << 20
"""A catalog of a hundred regions is a tenth of it."""
POOL = 16


class AnswerTooLarge(requests.RequestException):
    """keystoneauth makes a connection failure of it."""


class _Bounded(HTTPAdapter):
    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        """Reads the body itself, up to the bound; whoever asked finds it read."""
        if options.get("verify") is True:
            options["verify"] = system_authorities() or True
        answer = super().send(request, **{**options, "stream": True})
        body = answer.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
        if len(body) > MAX_ANSWER_BYTES:
            answer.close()
            raise AnswerTooLarge(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        answer._content = body
        answer._content_consumed = True
        answer.close()
        return answer


def system_authorities() -> str:
    """File or directory with the certificates that this host trusts, as Python's ssl finds them; "" for none.

    Left to itself requests trusts its own list, without the authority that an operator added to the host's.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile
    return paths.capath if paths.capath and os.listdir(paths.capath) else ""


def bounded_session() -> requests.Session:
    """Follows no proxy of the environment: identity is on the cloud's own network."""
    session = requests.Session()
    session.trust_env = False
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Bounded(pool_maxsize=POOL))
    return session
