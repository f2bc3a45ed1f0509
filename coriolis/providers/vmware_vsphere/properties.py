"""Reads properties of many objects at once through the PropertyCollector, page by page, never object by object.

Only leaf paths are asked for: servers differ in what they do with whole trees, and those are large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyVmomi import vim, vmodl

PAGE_OBJECTS = 500
MAX_OBJECTS = 200_000
CHUNK_OBJECTS, CHUNKS_AT_ONCE = 100, 2
"""Of given objects: the server prepares one answer while another is parsed, which takes about as long."""

_Spec = vmodl.query.PropertyCollector


def all_of(content: Any, kind: type, paths: Sequence[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(object, its set properties) of every object of ``kind`` in the inventory."""
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    try:
        traversal = _Spec.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
        objects = [_Spec.ObjectSpec(obj=view, skip=True, selectSet=[traversal])]
        yield from _retrieve(content, objects, kind, paths)
    finally:
        view.Destroy()


def ids_of(content: Any, kind: type) -> list[str]:
    """Managed object ids of all of a kind in the inventory; nothing of the objects themselves is read."""
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    try:
        _, values = next(some(content, [view], ["view"]))
        return [str(one._moId) for one in values.get("view", ())][:MAX_OBJECTS]
    finally:
        view.Destroy()


def some(content: Any, objects: Sequence[Any], paths: Sequence[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The same as ``all_of`` for given objects of one kind, in any order."""
    chunks = [objects[at : at + CHUNK_OBJECTS] for at in range(0, len(objects), CHUNK_OBJECTS)]

    def read(chunk: Sequence[Any]) -> list[tuple[Any, dict[str, Any]]]:
        specs = [_Spec.ObjectSpec(obj=one, skip=False) for one in chunk]
        return list(_retrieve(content, specs, type(objects[0]), paths))

    if len(chunks) <= 1:
        yield from (found for chunk in chunks for found in read(chunk))
        return
    with ThreadPoolExecutor(CHUNKS_AT_ONCE, "vsphere-properties") as pool:
        for found in pool.map(read, chunks):
            yield from found


def _retrieve(
    content: Any, objects: Sequence[Any], kind: type, paths: Sequence[str]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    wanted = _Spec.FilterSpec(objectSet=list(objects), propSet=[_Spec.PropertySpec(type=kind, pathSet=list(paths))])
    collector, count = content.propertyCollector, 0
    page = collector.RetrievePropertiesEx([wanted], _Spec.RetrieveOptions(maxObjects=PAGE_OBJECTS))
    while page is not None:
        for found in page.objects:
            count += 1
            yield found.obj, {one.name: one.val for one in found.propSet}
        if not page.token or count >= MAX_OBJECTS:
            return
        page = collector.ContinueRetrievePropertiesEx(page.token)
