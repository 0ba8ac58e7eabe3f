"""Methods of the well-known types, read by generate.py and written into the generated classes.

They replace the compiler's own: those turn every timestamp into a datetime, which cuts nanoseconds to
microseconds, and pack Any with a URL prefix that older containerd daemons refuse.
"""

import datetime  # noqa: ICN001  (the generated module imports it by this name)
import re
import typing
from typing import Self

import betterproto2
from betterproto2_compiler.lib.google.protobuf import Timestamp as _CompilerTimestamp


class Timestamp(_CompilerTimestamp):
    """What a generated Timestamp can do beside carrying `seconds` and `nanos`."""

    @classmethod
    def from_ns(cls, ns: int) -> Self:
        """Return the instant `ns` nanoseconds after the Unix epoch (before it, if negative)."""
        seconds, nanos = divmod(ns, 1_000_000_000)
        return cls(seconds=seconds, nanos=nanos)

    def to_ns(self) -> int:
        """Return the nanoseconds since the Unix epoch, exactly."""
        return self.seconds * 1_000_000_000 + self.nanos

    @classmethod
    def from_datetime(cls, dt: datetime.datetime) -> Self:
        """Return the instant `dt` names.

        Raises:
            ValueError: if `dt` has no timezone.
        """
        if dt.tzinfo is None:
            raise ValueError("a datetime without timezone names no instant: set tzinfo")
        since = dt - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        return cls(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)

    def to_datetime(self) -> datetime.datetime:
        """Return an aware datetime in UTC; what is finer than a microsecond is cut off.

        Raises:
            OverflowError: if the year is not in 1..9999.
        """
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        return epoch + datetime.timedelta(seconds=self.seconds, microseconds=self.nanos // 1_000)

    def to_dict(
        self,
        *,
        output_format: betterproto2.OutputFormat = betterproto2.OutputFormat.PROTO_JSON,
        casing: betterproto2.Casing = betterproto2.Casing.CAMEL,
        include_default_values: bool = False,
    ) -> typing.Any:
        """Return protobuf's JSON form: RFC 3339 text in UTC with 0, 3, 6 or 9 fractional digits."""
        if output_format is not betterproto2.OutputFormat.PROTO_JSON:
            return super().to_dict(
                output_format=output_format, casing=casing, include_default_values=include_default_values
            )
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        whole = (epoch + datetime.timedelta(seconds=self.seconds)).isoformat().removesuffix("+00:00")
        digits = f"{self.nanos:09d}"
        while digits.endswith("000"):
            digits = digits[:-3]
        return f"{whole}{'.' if digits else ''}{digits}Z"

    @classmethod
    def from_dict(cls, value: typing.Any, *, ignore_unknown_fields: bool = False) -> Self:
        """Parse protobuf's JSON form, or a mapping with `seconds` and `nanos`.

        Raises:
            ValueError: if `value` is text but not RFC 3339 with a timezone.
        """
        if not isinstance(value, str):
            return super().from_dict(value, ignore_unknown_fields=ignore_unknown_fields)
        match = re.fullmatch(r"([^.]+?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", value)
        if match is None:
            raise ValueError(f"not an RFC 3339 time with a timezone: {value!r}")
        whole = cls.from_datetime(datetime.datetime.fromisoformat(match[1] + match[3]))
        return cls(seconds=whole.seconds, nanos=int((match[2] or "").ljust(9, "0")))
