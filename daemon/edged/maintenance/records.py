"""A job: what was asked, how far it is, and what came of it."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, get_args

import msgspec
from msgspec import Struct

from edged.api.errors import BadRequest, EdgeError, shown

JobType: TypeAlias = Literal["pull", "switch", "update", "bench"]
JobState: TypeAlias = Literal["init", "executing", "successful", "failed"]
Key: TypeAlias = tuple[str, str]  # type and id

TYPES: tuple[JobType, ...] = get_args(JobType)
MAX_ORDER_BYTES = 4096  # a web address and a hash
CONFIGURED = "configured"  # in place of a model's name: the one of edged.toml
_SPEC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(:[A-Za-z0-9._-]{1,32})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"https?://[!-~]{1,2000}")


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked. ``state`` "cancelled" ends the job that has this id already."""

    state: Literal["init", "cancelled"] = "init"
    model: str = ""  # pull: of the catalogue; switch: of the store, or "configured"
    url: str = ""  # pull: an address in place of a model, with its hash
    sha256: str = ""
    name: str = ""  # pull: for the file of an address
    quant: str = ""


class JobError(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a job failed: a stable code, what happened, what to do."""

    code: str
    message: str
    hint: str = ""
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: EdgeError) -> JobError:
        return cls(code=error.code, message=error.message, hint=error.hint, retry_after_s=error.retry_after_s)


class JobFailed(EdgeError):
    """A job cannot be done; ``code`` says why: one of the command line's, or a word of its own."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job at one moment; ``ts`` is the Unix time of its last change."""

    type: JobType
    id: str
    state: JobState = "init"
    order: Order = Order()
    progress: float | None = None  # 0 to 1; None: nobody knows
    done_bytes: int | None = None
    total_bytes: int | None = None
    attempts: int = 0
    result: dict[str, object] = {}
    error: JobError | None = None
    ts: int = 0

    @property
    def key(self) -> Key:
        return self.type, self.id

    @property
    def over(self) -> bool:
        return self.state in {"successful", "failed"}


def decode_order(job_type: str, payload: bytes) -> Order:
    """The order in ``payload``; raises BadRequest naming the field that is wrong."""
    if len(payload) > MAX_ORDER_BYTES:
        raise BadRequest(f"the payload has {len(payload)} bytes; a job has at most {MAX_ORDER_BYTES}")
    try:
        order = msgspec.json.decode(payload, type=Order)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the payload is no job: {shown(str(error))}") from None
    if order.state == "init":
        for problem in _problems(job_type, order):
            raise BadRequest(problem)
    return order


def _problems(job_type: str, order: Order) -> list[str]:
    allowed = {"pull": {"model", "url", "sha256", "name", "quant"}, "switch": {"model"}}.get(job_type, set())
    given = {field for field in ("model", "url", "sha256", "name", "quant") if getattr(order, field)}
    problems = [f"{field}: does not belong to {job_type}" for field in sorted(given - allowed)]
    if allowed and not order.model and not order.url:
        problems.append("model: is needed" + (", or url with sha256" if job_type == "pull" else ""))
    if order.model and not _SPEC.fullmatch(order.model):
        problems.append('model: is a name such as "qwen3.5-2b" or "qwen3.5-2b:Q4_K_M"')
    if order.model and (order.url or order.sha256 or order.name or order.quant):
        problems.append("url, sha256, name, quant: stand in place of model")
    if order.url and not _URL.fullmatch(order.url):
        problems.append("url: must be an http or https address")
    if order.url and not _SHA256.fullmatch(order.sha256):
        problems.append("sha256: is needed with url, 64 hexadecimal digits in lower case")
    problems += [
        f"{field}: 1 to 96 characters of A-Z a-z 0-9 . _ -"
        for field in ("name", "quant")
        if getattr(order, field) and not _NAME.fullmatch(getattr(order, field))
    ]
    return problems
