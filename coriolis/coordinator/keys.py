"""Where things live in etcd. Pure: names in, keys out, and back.

Everything is below ``/coriolis/v1/``. Parts that come from users (projects, request ids) are
percent-encoded, so no part can reach into another's subtree. Prefixes end in ``/``: a listing of project
``a`` never shows project ``ab``.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from coriolis.errors import InvalidInput

ROOT = "/coriolis/v1/"
LEADER = ROOT + "leader"
COORDINATORS = ROOT + "coordinators/"
AGENTS = ROOT + "agents/"
JOBS = ROOT + "jobs/"
REQUESTS = ROOT + "requests/"
MANIFESTS = ROOT + "manifests/"
LIMITS = ROOT + "limits/"

MAX_PART_CHARS = 255


@dataclass(frozen=True, slots=True)
class JobKey:
    """What a key below ``jobs/`` names: the job's spec, or one instance's run record."""

    project_id: str
    job_id: str
    instance_index: int | None


def coordinator(coordinator_id: str) -> str:
    """Presence of a coordinator, under its lease."""
    return COORDINATORS + _part(coordinator_id)


def agent_prefix(agent_id: str) -> str:
    """All that an agent's etcd role may touch."""
    return f"{AGENTS}{_part(agent_id)}/"


def agent_live(agent_id: str) -> str:
    """Presence of an agent, under its lease; written by the agent."""
    return agent_prefix(agent_id) + "live"


def agent_spec(agent_id: str) -> str:
    """What an agent may do (projects, revoked serials); written by operators."""
    return agent_prefix(agent_id) + "spec"


def agent_announcement(agent_id: str) -> str:
    """What an agent is and offers, readable while it is away; written by the agent."""
    return agent_prefix(agent_id) + "announcement"


def project_jobs(project_id: str) -> str:
    """Prefix of a project's jobs."""
    return f"{JOBS}{_part(project_id)}/"


def job_prefix(project_id: str, job_id: str) -> str:
    """Prefix of everything of one job."""
    return f"{project_jobs(project_id)}{_part(job_id)}/"


def job_spec(project_id: str, job_id: str) -> str:
    """What was asked for."""
    return job_prefix(project_id, job_id) + "spec"


def job_run(project_id: str, job_id: str, instance_index: int) -> str:
    """How one instance of the job stands."""
    return f"{job_prefix(project_id, job_id)}run/{_index(instance_index)}"


def request(project_id: str, request_id: str) -> str:
    """The job that a request id made."""
    return f"{REQUESTS}{_part(project_id)}/{_part(request_id)}"


def manifest(project_id: str, job_id: str, instance_index: int, disk_id: str) -> str:
    """Reference of a sealed disk's manifest."""
    return f"{MANIFESTS}{_part(project_id)}/{_part(job_id)}/{_index(instance_index)}/{_part(disk_id)}"


def limit(kind: str, name: str, project_id: str = "") -> str:
    """The bandwidth limit of an agent, of a link (its name has two parts), or of a project's job."""
    parts = [project_id, name] if project_id else name.split("/")
    return "/".join([LIMITS.rstrip("/"), _part(kind), *(_part(part) for part in parts)])


def parse_job(key: str) -> JobKey | None:
    """What a key below ``jobs/`` names; None for any other key."""
    match key.removeprefix(JOBS).split("/") if key.startswith(JOBS) else []:
        case [project, job, "spec"]:
            return JobKey(unquote(project), unquote(job), None)
        case [project, job, "run", index] if index.isascii() and index.isdigit():
            return JobKey(unquote(project), unquote(job), int(index))
    return None


def parse_agent_live(key: str) -> str | None:
    """The agent whose presence the key is; None for any other key."""
    return _agent_of(key, "live")


def parse_agent_announcement(key: str) -> str | None:
    """The agent that announced itself with the key; None for any other key."""
    return _agent_of(key, "announcement")


def _agent_of(key: str, leaf: str) -> str | None:
    match key.removeprefix(AGENTS).split("/") if key.startswith(AGENTS) else []:
        case [agent_id, last] if last == leaf:
            return unquote(agent_id)
    return None


def parse_coordinator(key: str) -> str | None:
    """The coordinator whose presence the key is; None for any other key."""
    name = key.removeprefix(COORDINATORS)
    return unquote(name) if key.startswith(COORDINATORS) and name and "/" not in name else None


def _part(text: str) -> str:
    if not 0 < len(text) <= MAX_PART_CHARS:
        raise InvalidInput(f"an id in etcd has 1 to {MAX_PART_CHARS} characters, not {len(text)}")
    return quote(text, safe="")


def _index(number: int) -> str:
    if number < 0:
        raise InvalidInput(f"an instance index cannot be {number}")
    return str(number)
