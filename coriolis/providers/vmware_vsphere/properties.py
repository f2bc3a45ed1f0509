"""Reads properties of many objects at once through the PropertyCollector, page by page, never object by object.

Only leaf paths are asked for: servers differ in what they do with whole trees, and those are large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pyVmomi import vim, vmodl

PAGE_OBJECTS = 500
MAX_OBJECTS = 200_000

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


def some(content: Any, objects: Sequence[Any], paths: Sequence[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The same for given objects of one kind."""
    if objects:
        specs = [_Spec.ObjectSpec(obj=one, skip=False) for one in objects]
        yield from _retrieve(content, specs, type(objects[0]), paths)


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
