"""Key material of one process, read from files when a channel or server is opened."""

from __future__ import annotations

from pathlib import Path

import grpc

from coriolis.errors import InvalidInput
from coriolis.rpc.tls_files import TlsFiles as TlsFiles

MAX_PEM_BYTES = 64 * 1024


def read_pem(path: Path) -> bytes:
    """The file's bytes; InvalidInput names a file that is missing, unreadable or larger than 64 KiB."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"TLS file {path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_PEM_BYTES:
        raise InvalidInput(f"TLS file {path} is larger than {MAX_PEM_BYTES} bytes")
    return content


def channel_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Client side of mTLS: trusts only ``tls.ca`` and shows ``tls.cert``."""
    return grpc.ssl_channel_credentials(
        root_certificates=read_pem(tls.ca),
        private_key=read_pem(tls.key),
        certificate_chain=read_pem(tls.cert),
    )


def _server_configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(read_pem(tls.key), read_pem(tls.cert))], root_certificates=read_pem(tls.ca)
    )


def server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Server side of mTLS: a client without a certificate of ``tls.ca`` is refused in the handshake.

    The files are looked at again at every handshake, so a renewed certificate needs no restart.
    """
    seen = _stamp(tls)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        stamp = _stamp(tls)
        if stamp == seen:
            return None
        try:
            configuration = _server_configuration(tls)
        except InvalidInput:
            return None  # mid-replacement: the certificate in use stays until the files are whole again
        seen = stamp
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        _server_configuration(tls),
        fetch,  # type: ignore[arg-type]  # None means: keep the one in use
        require_client_authentication=True,
    )


def _stamp(tls: TlsFiles) -> tuple[tuple[int, int] | None, ...]:
    return tuple(_file_stamp(path) for path in (tls.ca, tls.cert, tls.key))


def _file_stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
