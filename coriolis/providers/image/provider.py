"""Provider type ``image``: a directory of disk images, as origin and as destination."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from coriolis.errors import Denied, InvalidInput, NotFound
from coriolis.providers.base import Connection, JsonSchema
from coriolis.providers.capabilities import Capabilities
from coriolis.providers.image import schemas
from coriolis.providers.schema_check import check_document
from coriolis.providers.surroundings import NOTHING, Surroundings


class ImageConnection:
    """One directory."""

    def __init__(self, directory: str, max_size: int) -> None:
        from coriolis.providers.block.staged import StagedVolumes
        from coriolis.providers.image.inventory import ImageInventory
        from coriolis.providers.image.source import ImageSource
        from coriolis.providers.image.target import ImageInstances

        self.inventory = ImageInventory(directory, max_size)
        self.snapshots = ImageSource(directory, max_size)
        self.power = None
        self.volumes = StagedVolumes(directory, max_size)
        self.instances = ImageInstances(directory, self.volumes)


class ImageProvider:
    """Meets ``Provider``."""

    name = "image"
    capabilities = Capabilities(origin=True, destination=True, plain_names=True, free_networks=("*",))
    connection_schema: JsonSchema = schemas.CONNECTION
    source_environment_schema: JsonSchema = schemas.SOURCE_ENVIRONMENT
    destination_environment_schema: JsonSchema = schemas.DESTINATION_ENVIRONMENT

    def connect(
        self, connection_info: Mapping[str, Any], surroundings: Surroundings = NOTHING
    ) -> AbstractAsyncContextManager[Connection]:
        return _connect(connection_info)


@asynccontextmanager
async def _connect(connection_info: Mapping[str, Any]) -> AsyncIterator[Connection]:
    from coriolis.providers.image_check import DEFAULT_MAX_SIZE_BYTES

    check_document(connection_info, schemas.CONNECTION, "connection_info")
    directory = os.path.realpath(connection_info["path"])
    await asyncio.to_thread(_check_directory, directory)
    yield ImageConnection(directory, connection_info.get("max_disk_bytes", DEFAULT_MAX_SIZE_BYTES))


def _check_directory(directory: str) -> None:
    if directory == "/":
        raise InvalidInput("path must be a directory of its own, not the root of the file system")
    if not os.path.isdir(directory):
        raise NotFound(f"image directory {directory} does not exist on this agent's host")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise Denied(f"image directory {directory} is not readable: give the agent's user access to it")
