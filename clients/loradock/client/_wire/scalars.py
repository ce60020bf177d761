"""Times, durations and enums."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from loradock.client._wire.built import unfit

E = TypeVar("E", bound=enum.Enum)


class WireEnum(Protocol):
    """A generated enum's wrapper."""

    def Name(self, number: Any) -> str:  # noqa: N802, D102, ANN401
        ...


def time_of(message: Message, field: str) -> datetime | None:
    """Read a Timestamp field, with its time zone; None if it is absent."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return datetime.fromtimestamp(stamp.seconds, UTC) + timedelta(microseconds=stamp.nanos // 1000)


def timestamp(time: datetime) -> Timestamp:
    """Write a time; one without a zone is local, as everywhere in Python."""
    stamp = Timestamp()
    try:
        stamp.FromDatetime(time.astimezone(UTC).replace(tzinfo=None))
    except (ValueError, OverflowError) as error:
        raise unfit("time", error) from None
    return stamp


def duration(seconds: float) -> Duration:
    """Write a duration."""
    message = Duration()
    try:
        message.FromTimedelta(timedelta(seconds=seconds))
    except (ValueError, OverflowError) as error:
        raise unfit("seconds", error) from None
    return message


def enum_of(values: type[E], wire: WireEnum, number: int, prefix: str) -> E:
    """Read an enum; what this release does not know yet is UNSPECIFIED."""
    try:
        return values[wire.Name(number).removeprefix(prefix)]
    except (KeyError, ValueError):
        return values["UNSPECIFIED"]
