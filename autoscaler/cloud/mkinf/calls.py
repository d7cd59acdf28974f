"""How a call becomes values: the project filled in, the JSON read, pages followed, oddities noted once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, TypeVar

import structlog

from autoscaler.cloud.mkinf.endpoints import Endpoint
from autoscaler.cloud.mkinf.schema import Gathered, parse
from autoscaler.cloud.mkinf.session import Call, Session
from autoscaler.cloud.mkinf.values import Listing, Operation, OperationAnswer
from autoscaler.errors import OutcomeUnknown, SchemaError

log = structlog.get_logger(__name__)

T = TypeVar("T")

_MOST_NOTED_FIELDS: Final = 1000


class Calls:
    """Makes the calls of one project."""

    def __init__(self, session: Session, project_id: Callable[[], Awaitable[str]]) -> None:
        self._session = session
        self._project_id = project_id
        self._noted: set[str] = set()

    async def call(
        self,
        endpoint: Endpoint,
        parameters: Mapping[str, str],
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        *,
        repeatable: bool | None = None,
    ) -> object:
        scope = {"project_id": await self._project_id()} if endpoint.is_project_scoped else {}
        return await self._session.call(
            Call(endpoint, {**scope, **parameters}, query or {}, body, repeatable)
        )

    async def get(self, endpoint: Endpoint, kind: type[T], parameters: Mapping[str, str]) -> T:
        value, problems = parse(endpoint, kind, await self.call(endpoint, parameters))
        self._note(problems)
        return value

    async def effect(
        self, endpoint: Endpoint, parameters: Mapping[str, str], body: Mapping[str, object]
    ) -> Operation:
        return self.operation(endpoint, await self.call(endpoint, parameters, body))

    async def optional_effect(
        self,
        endpoint: Endpoint,
        parameters: Mapping[str, str],
        body: Mapping[str, object] | None = None,
        *,
        repeatable: bool | None = None,
    ) -> Operation | None:
        """Make a call that is accepted whatever it answers; None when not by an operation."""
        document = await self.call(endpoint, parameters, body, repeatable=repeatable)
        try:
            return self.operation(endpoint, document)
        except OutcomeUnknown:
            return None

    def operation(self, endpoint: Endpoint, document: object) -> Operation:
        """Read the operation that answers an effect, wrapped (documented) or flat."""
        try:
            if isinstance(document, dict) and "operation" not in document:
                operation, problems = parse(endpoint, Operation, document)
            else:
                answer, problems = parse(endpoint, OperationAnswer, document)
                operation = answer.operation
        except SchemaError as exc:
            raise OutcomeUnknown(f"accepted, but not understood: {exc}") from exc
        self._note(problems)
        return operation

    async def read_list(
        self,
        endpoint: Endpoint,
        kind: type[T],
        query: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
        *,
        key: Callable[[T], str] | None = None,
    ) -> Listing[T]:
        """Read a list to its last page, and say whether that was all of it.

        Raises:
            SchemaError: not even the first page was a list.
        """
        gathered = Gathered(endpoint, key)
        token = ""
        while True:
            page_query = {**(query or {}), **({"next_token": token} if token else {})}
            document = await self.call(endpoint, parameters or {}, query=page_query)
            token = gathered.add(kind, document)
            if not token:
                break
        self._note(gathered.problems)
        return gathered.listing()

    def _note(self, problems: Iterable[str]) -> None:
        """Log what was not understood, each thing once."""
        for problem in problems:
            if problem not in self._noted and len(self._noted) < _MOST_NOTED_FIELDS:
                self._noted.add(problem)
                log.warning("cloud_answer_not_understood", problem=problem)
