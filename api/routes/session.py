"""/session: a browser signs in with a key and gets a cookie, which stands for the key until the session ends."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, ConfigDict, Field

from api.dependencies import BEARER, SESSION_COOKIE, AppServices, admit, refuse_other_sites
from api.requests.audit import audited
from api.requests.strict_requests import StrictRoute
from api.schemas import SessionView
from service.foundation.errors import Unauthenticated
from service.records.callers import LOCAL_CALLER, Caller

router = APIRouter(prefix="/session", tags=["session"], route_class=StrictRoute)

NOT_KEPT = {"Cache-Control": "no-store"}


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(min_length=1, max_length=200)]


@router.post("", response_model=SessionView, dependencies=[audited("session.open")])
def sign_in(body: SignIn, request: Request, services: AppServices) -> Response:
    """Sets an HttpOnly cookie for 12 hours. An open server sets none: it needs none."""
    refuse_other_sites(request, must_tell=False)
    if services.is_open:
        return _answer(LOCAL_CALLER, is_open=True)
    session = services.authentication.open_session(body.key)
    request.state.caller = session.caller  # for the audit log
    response = _answer(session.caller, is_open=False)
    seconds = int((session.expires - services.clock()).total_seconds())
    response.set_cookie(
        SESSION_COOKIE,
        session.token,
        max_age=seconds,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@router.get("", response_model=SessionView)
def tell(
    request: Request,
    services: AppServices,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
) -> Response:
    """Who the cookie or the key stands for; `owner` is null for nobody."""
    try:
        caller = admit(request, services, bearer)
    except Unauthenticated:
        caller = None
    return _answer(caller, services.is_open)


@router.delete("", status_code=204)
def sign_out(request: Request, services: AppServices) -> Response:
    """Ends the session on the server, too. Without one it does nothing."""
    refuse_other_sites(request, must_tell=False)
    token = request.cookies.get(SESSION_COOKIE)
    if token is not None:
        services.authentication.close_session(token)
    response = Response(status_code=204)
    response.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="strict")
    return response


def _answer(caller: Caller | None, is_open: bool) -> Response:
    view = SessionView(
        open=is_open,
        owner=caller.owner if caller else None,
        key_id=caller.key_id if caller else None,
        scopes=sorted(caller.scopes) if caller else [],
    )
    return Response(view.model_dump_json(), media_type="application/json", headers=NOT_KEPT)
