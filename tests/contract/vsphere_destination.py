"""What the contract suite needs of the simulated vCenter besides the provider under test."""

from __future__ import annotations

from typing import Any

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from coriolis.providers.vmware_vsphere.certificate import tls_context
from coriolis.providers.vmware_vsphere.properties import all_of, some
from coriolis.providers.vmware_vsphere.session import Session
from coriolis.providers.vmware_vsphere.tasks import wait

VSPHERE_ENVIRONMENT = {
    "cluster": "DC0_C0",
    "datastore": "LocalDS_0",
    "network_map": {"lan": "VM Network"},
}


def machine_of_somebody(info: dict[str, Any], name: str) -> None:
    """An empty machine in the datacenter's root folder that no program of ours made. Blocking."""
    instance = SmartConnect(
        host=info["host"],
        port=info["port"],
        user=info["username"],
        pwd=info["password"],
        sslContext=tls_context(info),
    )
    try:
        content = instance.RetrieveContent()
        folder = content.searchIndex.FindByInventoryPath("/DC0/vm")
        pool = next(one for one, _ in all_of(content, vim.ResourcePool, ["name"]))
        files = vim.vm.FileInfo(vmPathName="[LocalDS_0]")
        config = vim.vm.ConfigSpec(name=name, guestId="otherGuest64", numCPUs=1, memoryMB=32, files=files)
        wait(content, folder.CreateVM_Task(config=config, pool=pool))
    finally:
        Disconnect(instance)


async def machine_runs(info: dict[str, Any], instance_id: str) -> bool:
    """Whether the machine of that instance UUID is powered on."""

    def state(content: Any) -> str:
        (vm,) = content.searchIndex.FindAllByUuid(uuid=instance_id, vmSearch=True, instanceUuid=True)
        return str(next(some(content, [vm], ["runtime.powerState"]))[1]["runtime.powerState"])

    session = Session(info)
    try:
        await session.open()
        return await session.run(state) == "poweredOn"
    finally:
        await session.close()
