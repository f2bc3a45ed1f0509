"""The answers of ``/inspections``."""

from __future__ import annotations

from typing import Literal

from gateway.answers import Answer, Identifier


class GuestSystem(Answer):
    os_type: str
    family: str
    distribution: str
    version: str
    title: str
    architecture: str


class PlannedStep(Answer):
    name: str
    title: str


class GuestFinding(Answer):
    severity: Literal["info", "warning", "error"]
    code: str
    message: str
    action: str


class Inspection(Answer):
    """``convertible`` is false when a finding of severity error stands in the way, null before the end."""

    id: Identifier
    instance: str
    status: Literal["RUNNING", "COMPLETED", "ERROR"]
    target_platform: str
    message: str | None
    system: GuestSystem | None
    steps: list[PlannedStep]
    findings: list[GuestFinding]
    convertible: bool | None
    events: list[str]
    created_at: str


class InspectionAnswer(Answer):
    inspection: Inspection
