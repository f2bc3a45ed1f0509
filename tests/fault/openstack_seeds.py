"""What each seed of the OpenStack kill tests does: at which request, when, who dies, how the job shall end. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Moment(enum.StrEnum):
    """Where a request is when the test strikes."""

    BEFORE = "before the cloud hears of it"
    ARRIVES_LATE = "sent, and carried out seconds after the strike, even if its sender died"
    UNANSWERED = "carried out, the answer is still on its way"
    ANSWERED = "answered"


class Victim(enum.StrEnum):
    """Who dies with kill -9. An agent's tasks die with it."""

    CHILD = "the task that asked"
    AGENT = "the agent of that task"
    LEADER = "the leading coordinator"
    BOTH = "that agent and the leader"


class Ending(enum.StrEnum):
    """How the job shall end."""

    COMPLETED = "completed"
    CANCELED = "cancelled right after the kill"
    FAILED = "fails by itself: the MAC of the second NIC is in use"
    NO_HOST = "fails by itself: no host has room for the server"


@dataclass(frozen=True)
class Boundary:
    """A request of the provider. ``path``: regular expression of its end; ``body``: text that it must contain."""

    name: str
    method: str
    path: str
    body: str = ""


_VOLUME, _ID = r"/volumes/[0-9a-f-]{36}", "/[0-9a-f-]{36}"
SERVER = Boundary("server", "POST", "/servers")
PORT = Boundary("port", "POST", "/ports")
FLOATING = Boundary("floating IP", "POST", "/floatingips")
VOLUME = Boundary("volume", "POST", "/volumes")
ATTACHMENT = Boundary("attachment", "POST", "/attachments")
ATTACHED = Boundary("attachment completed", "POST", f"/attachments{_ID}/action", "os-complete")
DETACHED = Boundary("attachment deleted", "DELETE", f"/attachments{_ID}")
FORMAT = Boundary("volume proved", "POST", f"{_VOLUME}/metadata", "coriolis_format")
BOOTABLE = Boundary("volume bootable", "POST", f"{_VOLUME}/action", "os-set_bootable")
PLAN = Boundary("plan kept", "POST", f"{_VOLUME}/metadata", "coriolis_plan_")
IMAGE = Boundary("image", "POST", "/images")
STAGED = Boundary("image staged", "PUT", f"/images{_ID}/(stage|file)")
IMPORTED = Boundary("image imported", "POST", f"/images{_ID}/import")
IMAGE_GONE = Boundary("image deleted", "DELETE", f"/images{_ID}")
TEMPLATE = Boundary("image of a volume", "POST", f"{_VOLUME}/action", "os-volume_upload_image")
SERVER_GONE = Boundary("server deleted", "DELETE", f"/servers{_ID}")
PORT_GONE = Boundary("port deleted", "DELETE", f"/ports{_ID}")
VOLUME_GONE = Boundary("volume deleted", "DELETE", _VOLUME)


@dataclass(frozen=True)
class Case:
    """``way``: data_path, or ``template``: an image of an attached volume is the result."""

    boundary: Boundary
    way: str = "attach"
    ending: Ending = Ending.COMPLETED


CASES = (
    Case(SERVER),
    Case(PORT),
    Case(VOLUME),
    Case(IMAGE, "upload"),
    Case(PORT, ending=Ending.CANCELED),
    Case(ATTACHMENT),
    Case(VOLUME, "upload"),
    Case(PORT_GONE, ending=Ending.FAILED),
    Case(PLAN),
    Case(SERVER, "upload"),
    Case(FLOATING),
    Case(VOLUME, ending=Ending.CANCELED),
    Case(IMPORTED, "upload"),
    Case(VOLUME_GONE, ending=Ending.FAILED),
    Case(STAGED, "upload"),
    Case(TEMPLATE, "template"),
    Case(FORMAT),
    Case(IMAGE, "upload", Ending.CANCELED),
    Case(ATTACHED),
    Case(BOOTABLE),
    Case(IMAGE_GONE, "upload"),
    Case(SERVER_GONE, ending=Ending.NO_HOST),
    Case(TEMPLATE, "template", Ending.CANCELED),
    Case(DETACHED),
)
"""The most important ones first, for who runs few seeds."""


@dataclass(frozen=True)
class Seed:
    """One run."""

    number: int
    case: Case
    moment: Moment
    victim: Victim

    def __str__(self) -> str:
        case = self.case
        return (
            f"seed {self.number}: {case.way}, {case.ending.name}: at {case.boundary.name!r}, {self.moment.name}, kill"
            f" {self.victim.name}"
        )


def seed_of(number: int) -> Seed:
    """Seeds walk through the cases; from one walk to the next, moments and victims change, each by its own step."""
    walk, at = divmod(number, len(CASES))
    moments, victims = list(Moment), list(Victim)
    moment, victim = moments[(at + walk) % len(moments)], victims[(at // 4 + at + 2 * walk) % len(victims)]
    return Seed(number, CASES[at], moment, victim)
