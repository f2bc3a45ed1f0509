"""Calls of the API that the lab answers itself or goes with: snapshots, change tracking, leases, shutdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from pyVmomi import vim, vmodl

from tests.lab.vsphere_phony_leases import PhonyLeases
from tests.lab.vsphere_phony_machines import Machines, PhonyFault
from tests.lab.vsphere_phony_sessions import Sessions

Answer = tuple[dict[str, str], bytes, int]
_METHOD = re.compile(rb"<(?:\w+:)?Body[^>]*>\s*<(?:\w+:)?(\w+)")
_THIS = re.compile(rb"<_this[^>]*>([^<]*)<")
_RESULT = re.compile(rb"<returnval[^>]*>([^<]*)<")
_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    "<soapenv:Body>{}</soapenv:Body></soapenv:Envelope>"
)


def method_of(text: bytes) -> tuple[str, str]:
    """Name of the called method, id of the object it is called on."""
    method, this = _METHOD.search(text), _THIS.search(text)
    return method[1].decode() if method else "?", this[1].decode() if this else "?"


def fault(error: PhonyFault) -> bytes:
    return _ENVELOPE.format(
        "<soapenv:Fault><faultcode>ServerFaultCode</faultcode>"
        f'<faultstring>{escape(error.text)}</faultstring><detail><{error.name}Fault xmlns="urn:vim25" '
        f'xsi:type="{error.name}">{error.inner}</{error.name}Fault></detail></soapenv:Fault>'
    ).encode()


def _said(method: str, inner: str) -> Answer:
    text = f'<{method}Response xmlns="urn:vim25">{inner}</{method}Response>'
    return {}, _ENVELOPE.format(text).encode(), 200


class PhonyCalls:
    """``stubborn``, ``toolless``: ids of machines whose guests ignore a shutdown, or have no tools running."""

    def __init__(self, machines: Machines, leases: PhonyLeases, sessions: Sessions) -> None:
        self._machines, self._leases, self._sessions = machines, leases, sessions
        self.stubborn: set[str] = set()
        self.toolless: set[str] = set()

    def answer(self, request: str, text: bytes, ask: Callable[[bytes], Answer]) -> Answer:
        """Of ``request`` as ``vsphere_phony_faults`` tells it; ``ask`` passes it on to vcsim. Raises PhonyFault."""
        _, method, this = request.split(" ", 2)
        match method:
            case "QueryChangedDiskAreas":
                return self._changed(this, text)
            case "CreateSnapshot_Task" | "CreateSnapshotEx_Task":
                return self._create(this, text, ask)
            case "RemoveSnapshot_Task" | "RemoveAllSnapshots_Task":
                return self._remove(method, this, text, ask)
            case "RevertToSnapshot_Task" | "RevertToCurrentSnapshot_Task":
                raise PhonyFault("NotSupported", "The lab cannot go back to a snapshot")
            case "ReconfigVM_Task" | "PowerOnVM_Task":
                return self._change(method, this, text, ask)
            case "Destroy_Task" | "UnregisterVM":
                answer = ask(text)
                if answer[2] == 200:
                    self._machines.forget(this)
                return answer
            case "ShutdownGuest" if this in self.toolless:
                raise PhonyFault("ToolsUnavailable", "The operation cannot complete: VMware Tools are not running")
            case "ShutdownGuest" if this in self.stubborn and self.is_running(this):
                return _said(method, "")
            case "ExportSnapshot" | "ExportVm" | "ImportVApp":
                answer = ask(text)
                if answer[2] == 200:
                    self._leases.made(_result(answer), method, this)
                return answer
            case "HttpNfcLeaseProgress" | "HttpNfcLeaseComplete" | "HttpNfcLeaseAbort":
                self._leases.called(this, method)
                return ask(text)
        return ask(text)

    def is_running(self, machine: str) -> bool:
        values = self._machines.properties(self._machines.object(vim.VirtualMachine, machine), "runtime.powerState")
        return str(values.get("runtime.powerState")) == "poweredOn"

    def _changed(self, machine: str, text: bytes) -> Answer:
        call = next(iter(ElementTree.fromstring(text).iter("{urn:vim25}QueryChangedDiskAreas")))
        values = {one.tag.rpartition("}")[2]: one.text or "" for one in call}
        start = int(values["startOffset"])
        length, areas = self._machines.changed_areas(
            machine, values.get("snapshot"), int(values["deviceKey"]), start, values["changeId"]
        )
        inner = "".join(f"<changedArea><start>{at}</start><length>{size}</length></changedArea>" for at, size in areas)
        inner = f"<startOffset>{start}</startOffset><length>{length}</length>{inner}"
        return _said("QueryChangedDiskAreas", f"<returnval>{inner}</returnval>")

    def _create(self, machine: str, text: bytes, ask: Callable[[bytes], Answer]) -> Answer:
        machines = self._machines
        if machine in self.toolless:  # the flag is ignored then, says the API's reference
            text = text.replace(b"<quiesce>true</quiesce>", b"<quiesce>false</quiesce>")
        with machines.lock:
            machines.machine(machine)
            answer = ask(text)
            if answer[2] == 200:
                made = self._wait(answer)
                if made is not _FAILED:
                    machines.froze(machine, made._moId)
            return answer

    def _remove(self, method: str, this: str, text: bytes, ask: Callable[[bytes], Answer]) -> Answer:
        machines = self._machines
        with machines.lock:
            if method == "RemoveAllSnapshots_Task":
                machine = machines.machine(this)
                gone = [moment.snapshot for moment in machine.moments]
            else:
                owner = machines.owner(this)
                if owner is None:
                    return ask(text)
                machine, gone = owner, [this]
                if b"<removeChildren>true" in text:
                    gone = [moment.snapshot for moment in machine.moments[machine.depth(this) :]]
            answer = ask(text)
            if answer[2] == 200 and self._wait(answer) is not _FAILED:
                machines.removed(machine, gone)
            return answer

    def _change(self, method: str, this: str, text: bytes, ask: Callable[[bytes], Answer]) -> Answer:
        machines = self._machines
        with machines.lock:
            answer = ask(text)
            if answer[2] == 200 and self._wait(answer) is not _FAILED:
                machine = machines.machine(this)
                if method == "PowerOnVM_Task" and not machine.moments:
                    machines.stunned(machine)
                if machine.moments or any(disk.epoch for disk in machine.disks.values()):
                    machines.tell(machine)
            return answer

    def _wait(self, answer: Answer) -> Any:
        """The result of the task in an answer; ``_FAILED`` when it failed, which its maker will see for himself."""
        try:
            return self._machines.wait(self._machines.object(vim.Task, _result(answer)))
        except vmodl.MethodFault:
            return _FAILED


_FAILED = object()


def _result(answer: Answer) -> str:
    match = _RESULT.search(answer[1])
    assert match is not None
    return match[1].decode()
