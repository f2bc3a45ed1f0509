"""Keeping secrets out of what people read: messages, documents, and last of all every line of text.

Three nets, each for what the one before cannot know: fields that a ``.proto`` marks
``(coriolis.v1.sensitive)``, members of JSON documents by schema (``writeOnly``) or telling name, and values
known to be secret wherever they turn up.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from coriolis.errors import QuotaExceeded
from coriolis.rpc.gen.coriolis.v1 import options_pb2

MASK = "***"
MAX_DEPTH = 32
"""Anything nested deeper is masked whole."""
MIN_SECRET_CHARS = 4
"""Shorter values would mask ordinary text."""
MAX_LIVE_SECRETS = 4096

_SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|^pass$|secret|token|credential|private_key|authori[sz]ation|cookie|connection_string"
    r"|(^|_)(api|access|account|shared|sas|signing|encryption|client|host)?_?key$|user_data"
)
_REFERENCE_NAME = re.compile(r"^(secret_(id|ref)|credential_id|public_key|.*_public_key|token_(type|url|expiry))$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_M = TypeVar("_M", bound=Message)


def is_secret_name(name: str) -> bool:
    """Whether a member of that name holds a secret by the look of it (``adminPassword``, ``api-key``)."""
    plain = _CAMEL.sub("_", name).lower().replace("-", "_").replace(" ", "_")
    return _SECRET_NAME.search(plain) is not None and _REFERENCE_NAME.match(plain) is None


def masked_message(message: _M) -> _M:
    """A copy in which every non-empty sensitive field reads ``***`` (messages and numbers are cleared)."""
    copy = type(message)()
    copy.CopyFrom(message)
    _mask_fields(copy, 0)
    return copy


def masked_document(value: Any, schema: Mapping[str, Any] | None = None) -> Any:
    """A copy of a JSON value in which secret members read ``***``.

    ``schema`` (JSON schema) marks members by ``writeOnly``; the name decides for the rest. Empty values stay.
    """
    return _mask_value(value, schema or {}, 0)


def secret_values(value: Any, schema: Mapping[str, Any] | None = None) -> list[str]:
    """The secret texts inside a JSON value, for ``LiveSecrets``."""
    return list(_secret_texts(value, schema or {}, secret=False, depth=0))


class LiveSecrets:
    """Secret values in use by this process. One per process: ``LIVE_SECRETS``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._pattern: re.Pattern[str] | None = None

    @contextmanager
    def live(self, *values: str) -> Iterator[None]:
        """Mask these values as long as the block runs; QuotaExceeded above 4096 values."""
        kept = [value for value in values if len(value) >= MIN_SECRET_CHARS]
        if len(self._counts) + len(kept) > MAX_LIVE_SECRETS:
            raise QuotaExceeded(f"more than {MAX_LIVE_SECRETS} secrets are in use by one process")
        self._counts.update(kept)
        self._compile()
        try:
            yield
        finally:
            self._counts -= Counter(kept)
            self._compile()

    def mask(self, text: str) -> str:
        """``text`` without any live value, plain, JSON-escaped, percent-encoded or in base64."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)

    def _compile(self) -> None:
        forms = {form for value in self._counts for form in _forms(value)}
        # Longest first, so that a secret inside of another one does not leave the other's rest readable.
        ordered = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None


LIVE_SECRETS = LiveSecrets()


def _forms(value: str) -> set[str]:
    raw = value.encode("utf-8", "surrogatepass")
    encoded = base64.b64encode(raw).decode()
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        quote(raw, safe=""),
        quote(raw),
        encoded.rstrip("="),
    }


def _mask_fields(message: Message, depth: int) -> None:
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[options_pb2.sensitive] or depth >= MAX_DEPTH:
            message.ClearField(field.name)
            if not field.is_repeated and field.type == FieldDescriptor.TYPE_STRING:
                setattr(message, field.name, MASK)
            elif not field.is_repeated and field.type == FieldDescriptor.TYPE_BYTES:
                setattr(message, field.name, MASK.encode())
        elif field.message_type is not None:
            for part in _messages(field, value):
                _mask_fields(part, depth + 1)


def _messages(field: FieldDescriptor, value: Any) -> list[Message]:
    if not field.is_repeated:
        return [value]
    parts = value.values() if isinstance(value, Mapping) or hasattr(value, "values") else value
    return [part for part in parts if isinstance(part, Message)]


def _member(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _items(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("items")
    return found if isinstance(found, Mapping) else {}


def _is_secret(name: str, schema: Mapping[str, Any]) -> bool:
    marked = schema.get("writeOnly")
    return marked if isinstance(marked, bool) else is_secret_name(name)


def _mask_value(value: Any, schema: Mapping[str, Any], depth: int) -> Any:
    if depth >= MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {
            name: MASK
            if member not in (None, "", b"") and _is_secret(str(name), _member(schema, str(name)))
            else _mask_value(member, _member(schema, str(name)), depth + 1)
            for name, member in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mask_value(item, _items(schema), depth + 1) for item in value]
    return value


def _secret_texts(value: Any, schema: Mapping[str, Any], *, secret: bool, depth: int) -> Iterator[str]:
    if depth >= MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        for name, member in value.items():
            inner = _member(schema, str(name))
            inside = secret or _is_secret(str(name), inner)
            yield from _secret_texts(member, inner, secret=inside, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secret_texts(item, _items(schema), secret=secret, depth=depth + 1)
    elif secret and isinstance(value, str):
        yield value
