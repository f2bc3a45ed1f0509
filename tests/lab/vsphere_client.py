"""A script's client of a simulated vSphere site: plain pyvmomi over the proxy, and HTTPS with its cookie."""

from __future__ import annotations

import http.client
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from pyVim.connect import SmartConnect
from pyVmomi import vim, vmodl

from tests.lab.vcsim import PASSWORD, USER
from tests.lab.vsphere_site import Site


class Client:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.instance = SmartConnect(
            host=site.host, port=site.port, user=USER, pwd=PASSWORD, disableSslCertValidation=True
        )
        self.cookie = self.instance._stub.cookie
        self.content = self.instance.content

    def vm(self, identity: str) -> Any:
        return vim.VirtualMachine(identity, self.instance._stub)

    def values(self, one: Any, *paths: str) -> dict[str, Any]:
        spec = vmodl.query.PropertyCollector
        wanted = spec.FilterSpec(
            objectSet=[spec.ObjectSpec(obj=one, skip=False)],
            propSet=[spec.PropertySpec(type=type(one), pathSet=list(paths))],
        )
        found = self.content.propertyCollector.RetrievePropertiesEx([wanted], spec.RetrieveOptions())
        return {value.name: value.val for value in found.objects[0].propSet}

    def done(self, task: Any) -> Any:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = self.values(task, "info.state", "info.result", "info.error")
            if found["info.state"] == "success":
                return found.get("info.result")
            if found["info.state"] == "error":
                raise found["info.error"]
            time.sleep(0.005)
        raise TimeoutError

    def snapshot(self, vm: Any, name: str = "s", quiesce: bool = False) -> Any:
        return self.done(vm.CreateSnapshot_Task(name=name, memory=False, quiesce=quiesce))

    def disks(self, one: Any) -> list[Any]:
        devices = self.values(one, "config.hardware.device")["config.hardware.device"]
        return [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]

    def changed(self, vm: Any, snapshot: Any, key: int, change_id: str) -> list[tuple[int, int]]:
        """All areas as (start, end), asked for until the whole disk is covered."""
        size = next(disk.capacityInBytes for disk in self.disks(vm) if disk.key == key)
        at, found = 0, []
        while at < size:
            answer = vm.QueryChangedDiskAreas(snapshot, key, at, change_id)
            assert answer.startOffset == at
            assert answer.length > 0
            found += [(area.start, area.start + area.length) for area in answer.changedArea]
            at += answer.length
        assert at == size
        return found

    def ask(
        self, path: str, method: str = "GET", cookie: str | None = None, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        context = ssl.create_default_context(cadata=self.site.certificate_pem)
        connection = http.client.HTTPSConnection(self.site.host, self.site.port, timeout=20, context=context)
        try:
            connection.request(method, path, body, {"Cookie": self.cookie if cookie is None else cookie, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def lease(self, lease: Any) -> dict[str, str]:
        """Paths of the disks of a lease by their file names."""
        until = time.monotonic() + 10
        while self.values(lease, "state")["state"] != "ready":
            assert time.monotonic() < until
            time.sleep(0.005)
        info = self.values(lease, "info")["info"]
        assert all(urlsplit(one.url).port == self.site.port for one in info.deviceUrl)
        return {one.targetId: urlsplit(one.url).path for one in info.deviceUrl if one.disk}
