"""What Barbican answers becomes the error that says what to do: python-barbicanclient as it is, a phony service."""

from __future__ import annotations

import io
from typing import Any

import pytest

pytest.importorskip("coriolis.keystone")  # before keystoneauth1, see there
pytest.importorskip("barbicanclient")
import requests
from keystoneauth1 import session, token_endpoint
from requests.adapters import BaseAdapter

from coriolis.errors import CoriolisError, CredentialsLost, Denied, InvalidInput, NotFound, Unavailable
from coriolis.keystone.barbican import read_secret

SECRET = "0f4ab4e3-35b1-4d3c-9f0d-5d4a7a3d3c01"


VERSIONS = b'{"versions": [{"id": "v1", "status": "CURRENT", "min_version": "1.0", "max_version": "1.1", "links": []}]}'
REFUSAL = b'{"title": "no", "description": "not this time"}'


class PhonyBarbican(BaseAdapter):
    """Tells its versions to anybody; secrets get ``status``, and with ``strict`` everything does."""

    def __init__(self, status: int, strict: bool = False) -> None:
        super().__init__()
        self.status, self.strict = status, strict

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        answer, asked = requests.Response(), self.strict or "/secrets/" in str(request.url)
        answer.status_code, answer.request, answer.url = self.status if asked else 200, request, str(request.url)
        answer.headers["Content-Type"] = "application/json"
        answer.raw = io.BytesIO(REFUSAL if asked else VERSIONS)
        return answer

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("barbican", "error"),
    [
        (PhonyBarbican(401), CredentialsLost),
        (PhonyBarbican(401, strict=True), CredentialsLost),
        (PhonyBarbican(403), Denied),
        (PhonyBarbican(404), NotFound),
        (PhonyBarbican(400), InvalidInput),
        (PhonyBarbican(500), Unavailable),
    ],
)
def test_each_refusal_is_its_own_error(barbican: PhonyBarbican, error: type[CoriolisError]) -> None:
    """A 401 is no unreadable payload: the job waits for new credentials instead of failing."""
    opened = requests.Session()
    opened.mount("http://", barbican)
    used = session.Session(auth=token_endpoint.Token("http://barbican.test", "token"), session=opened)
    with pytest.raises(error):
        read_secret(used, SECRET, "", "public")
