# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frozen records that go through JSON and come back equal: what modules return, the next module reads."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Self

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn


class Record:
    """Base of frozen dataclasses of plain values, LSNs, other records, tuples of these and text mappings."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: LSNs as text, tuples as lists, records as dicts."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The record that `to_dict` was called on. Unknown keys are left out, missing ones take their defaults.

        Raises:
            ValueError: a value cannot be what its field wants, or a field without default is missing.
        """
        hints = _hints(cls)  # type: ignore[arg-type]
        values = {}
        for name, value in data.items():
            if name in hints:
                try:
                    values[name] = _typed(hints[name], value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{cls.__name__}.{name} cannot be {value!r}: {error}") from error
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}") from error


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _plain(value: Any) -> Any:
    if isinstance(value, Lsn):
        return str(value)
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _typed(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not types.NoneType)
        return _typed(hint, value)
    if origin is tuple:
        return _typed_tuple(arguments, value)
    if origin in (Mapping, dict):
        return {str(key): _typed(arguments[1], item) for key, item in dict(value).items()}
    return _typed_value(hint, value)


def _typed_tuple(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ValueError("a list is needed")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_typed(arguments[0], item) for item in value)
    return tuple(_typed(argument, item) for argument, item in zip(arguments, value, strict=True))


def _typed_value(hint: Any, value: Any) -> Any:
    if hint is Any:
        return value
    if hint is Lsn:
        return value if isinstance(value, Lsn) else Lsn.parse(value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return value if isinstance(value, hint) else hint.from_dict(value)
    if hint is bool:
        if not isinstance(value, bool):
            raise ValueError("true or false is needed")
        return value
    if value is None:
        raise ValueError("a value is needed")
    return hint(value)
