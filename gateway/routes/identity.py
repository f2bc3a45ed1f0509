"""The part of Keystone's API v3 that its clients need to log in, answered by the embedded identity."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, Field

from coriolis.errors import InvalidInput, NotFound, Unauthenticated
from coriolis.ids import derived_id
from gateway.embedded_identity import EmbeddedIdentity, Login, Scope
from gateway.policy import ADMIN
from gateway.problems import Json
from gateway.routes.common import BODY_FAILURES, failures
from gateway.users_file import DOMAIN_ID, DOMAIN_NAME, Project

router = APIRouter(tags=["identity"])

MAX_CHARS = 255
MAX_PASSWORD_CHARS = 1024
INTERFACES = ("public", "internal", "admin")
DOMAIN = {"id": DOMAIN_ID, "name": DOMAIN_NAME}

Text = Annotated[str, Field(max_length=MAX_CHARS)]
TokenHeader = Annotated[str | None, Header(alias="X-Auth-Token")]
SubjectHeader = Annotated[str | None, Header(alias="X-Subject-Token")]


class Domain(BaseModel):
    id: Text | None = None
    name: Text | None = None

    def check(self) -> None:
        """Raises Unauthenticated for any domain but the one there is."""
        if self.id not in (None, DOMAIN_ID) or self.name not in (None, DOMAIN_NAME):
            raise Unauthenticated("there is no such domain")


class PasswordUser(BaseModel):
    id: Text | None = None
    name: Text | None = None
    domain: Domain | None = None
    password: Annotated[str, Field(max_length=MAX_PASSWORD_CHARS)]


class PasswordMethod(BaseModel):
    user: PasswordUser


class TokenMethod(BaseModel):
    id: Annotated[str, Field(max_length=8192)]


class IdentityIn(BaseModel):
    methods: Annotated[list[Literal["password", "token"]], Field(min_length=1, max_length=2)]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None


class ProjectScope(BaseModel):
    id: Text | None = None
    name: Text | None = None
    domain: Domain | None = None


class ScopeIn(BaseModel):
    project: ProjectScope | None = None
    domain: Any = None
    system: Any = None


class AuthIn(BaseModel):
    identity: IdentityIn
    scope: ScopeIn | Literal["unscoped"] | None = None


class AuthBody(BaseModel):
    auth: AuthIn


def _identity(request: Request) -> EmbeddedIdentity:
    identity: EmbeddedIdentity = request.app.state.identity
    return identity


@router.post(
    "/v3/auth/tokens",
    operation_id="create_token",
    summary="Log in",
    status_code=201,
    response_class=Json,
    responses={
        **failures(*BODY_FAILURES, 429),
        201: {"description": "The token is in the header X-Subject-Token", "model": dict[str, Any]},
    },
)
async def create(body: AuthBody, request: Request) -> Response:
    """Methods ``password`` and ``token`` (for another scope), one of them."""
    identity, scope = _identity(request), _scope(body.auth.scope)
    match body.auth.identity:
        case IdentityIn(methods=["password"], password=PasswordMethod(user=user)):
            if user.domain is not None:
                user.domain.check()
            if not (user.id or user.name):
                raise InvalidInput("auth.identity.password.user: id or name is required")
            login = await identity.log_in(user.password, scope, user_id=user.id or "", user_name=user.name or "")
        case IdentityIn(methods=["token"], token=TokenMethod(id=token)):
            login = identity.rescope(token, scope)
        case _:
            raise InvalidInput("auth.identity: exactly one method, with its own object, is required")
    headers = {"X-Subject-Token": login.token, "Vary": "X-Auth-Token"}
    return Json(_document(login, request), 201, headers)


def _scope(scope: ScopeIn | str | None) -> Scope:
    if scope is None or isinstance(scope, str):
        return Scope()
    if scope.project is None or scope.domain is not None or scope.system is not None:
        raise Unauthenticated("only projects can be a scope here")
    if scope.project.domain is not None:
        scope.project.domain.check()
    if not (scope.project.id or scope.project.name):
        raise InvalidInput("auth.scope.project: id or name is required")
    return Scope(scope.project.id or "", "" if scope.project.id else scope.project.name or "")


def _subject(request: Request, token: str | None, subject: str | None) -> Login:
    """The subject's login. Raises Unauthenticated for the asking token, NotFound for the token asked about."""
    identity = _identity(request)
    asking = identity.inspect(token or "")
    try:
        login = identity.inspect(subject or "")
    except Unauthenticated as invalid:
        raise NotFound("Could not find token") from invalid
    if login.user.id != asking.user.id and ADMIN not in asking.roles:
        raise NotFound("Could not find token")
    return login


@router.get(
    "/v3/auth/tokens",
    operation_id="show_token",
    summary="Validate a token",
    response_class=Json,
    responses={**failures(), 200: {"description": "The token is valid", "model": dict[str, Any]}},
)
async def show(request: Request, token: TokenHeader = None, subject: SubjectHeader = None) -> Response:
    """Tokens of others are only shown to administrators."""
    login = _subject(request, token, subject)
    return Json(_document(login, request), 200, {"X-Subject-Token": login.token, "Vary": "X-Auth-Token"})


@router.head("/v3/auth/tokens", include_in_schema=False)
async def check(request: Request, token: TokenHeader = None, subject: SubjectHeader = None) -> Response:
    login = _subject(request, token, subject)
    return Response(headers={"X-Subject-Token": login.token, "Vary": "X-Auth-Token"})


@router.delete(
    "/v3/auth/tokens",
    operation_id="revoke_token",
    summary="Revoke a token",
    status_code=204,
    response_class=Response,
    responses=failures(429),
)
async def revoke(request: Request, token: TokenHeader = None, subject: SubjectHeader = None) -> Response:
    """This gateway forgets it when it restarts; the token's own end stays."""
    login = _subject(request, token, subject)
    _identity(request).revoke(login.token)
    return Response(status_code=204)


@router.get("/v3/auth/projects", operation_id="list_own_projects", response_class=Json, responses=failures())
@router.get("/v3/projects", response_class=Json, include_in_schema=False)
async def projects(request: Request, token: TokenHeader = None) -> Response:
    """The projects for which the token's user may ask a token."""
    login = _identity(request).inspect(token or "")
    found = [
        {**_project(project), "enabled": True, "description": "", "links": {}}
        for project in _identity(request).projects_of(login.user)
    ]
    return Json({"projects": found, "links": {"next": None, "self": None, "previous": None}})


@router.get("/v3/auth/catalog", operation_id="show_catalog", response_class=Json, responses=failures())
async def catalog(request: Request, token: TokenHeader = None) -> Response:
    """The catalog of the token's project."""
    login = _identity(request).inspect(token or "")
    return Json({"catalog": _catalog(login, request), "links": {"next": None, "self": None, "previous": None}})


@router.get("/v3", operation_id="show_identity_version", response_class=Json)
@router.get("/v3/", response_class=Json, include_in_schema=False)
async def version(request: Request) -> Response:
    """What this identity speaks."""
    return Json({"version": _version(request)})


@router.get("/", operation_id="list_versions", response_class=Json, status_code=300)
async def versions(request: Request) -> Response:
    """For clients that are told the root as their auth URL."""
    return Json({"versions": {"values": [_version(request)]}}, 300)


def _version(request: Request) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{request.app.state.base_url}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


def _document(login: Login, request: Request) -> dict[str, Any]:
    token: dict[str, Any] = {
        "methods": list(login.claims.methods),
        "user": {"id": login.user.id, "name": login.user.name, "domain": DOMAIN, "password_expires_at": None},
        "audit_ids": list(login.claims.audit_ids),
        "issued_at": _time(login.claims.issued_at),
        "expires_at": _time(login.claims.expires_at),
    }
    if login.project is not None:
        token["project"] = _project(login.project)
        token["is_domain"] = False
        token["roles"] = [{"id": derived_id("role", role).replace("-", ""), "name": role} for role in login.roles]
        token["catalog"] = _catalog(login, request)
    return {"token": token}


def _project(project: Project) -> dict[str, Any]:
    return {"id": project.id, "name": project.name, "domain": DOMAIN}


def _catalog(login: Login, request: Request) -> list[dict[str, Any]]:
    if login.project is None:
        return []
    base: str = request.app.state.base_url
    return [
        _service("migration", "coriolis", f"{base}/v1/{login.project.id}"),
        _service("identity", "keystone", f"{base}/v3"),
    ]


def _service(type_: str, name: str, url: str) -> dict[str, Any]:
    endpoints = [
        {
            "id": derived_id(type_, interface).replace("-", ""),
            "interface": interface,
            "region": "RegionOne",
            "region_id": "RegionOne",
            "url": url,
        }
        for interface in INTERFACES
    ]
    return {"id": derived_id("service", type_).replace("-", ""), "type": type_, "name": name, "endpoints": endpoints}


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
