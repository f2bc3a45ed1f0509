"""HTTP answers of bounded size, for keystoneauth: a service that goes mad must not fill our memory."""

from __future__ import annotations

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
        answer = super().send(request, **{**options, "stream": True})
        body = answer.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
        if len(body) > MAX_ANSWER_BYTES:
            answer.close()
            raise AnswerTooLarge(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        answer._content = body
        answer._content_consumed = True
        answer.close()
        return answer


def bounded_session() -> requests.Session:
    """Follows no proxy of the environment: identity is on the cloud's own network."""
    session = requests.Session()
    session.trust_env = False
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Bounded(pool_maxsize=POOL))
    return session
