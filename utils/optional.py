"""Optional packages. One that is installed but cannot be imported counts as missing, with the reason."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingPackageError(Exception):
    """A package cannot be used; the message says why."""


def import_optional(name: str) -> ModuleType:
    """The module ``name``.

    Raises:
        MissingPackageError: it is not installed, or its import fails. A package whose dependency has another version
            than it was built for (protobuf, NumPy) raises any exception while it is imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name and error.name.partition(".")[0] == name.partition(".")[0]:
            raise MissingPackageError(f"{error.name} is not installed") from None
        reason: BaseException = error
    except Exception as error:
        reason = error
    first = (str(reason).strip().splitlines() or [""])[0][:200]
    raise MissingPackageError(f"{name} cannot be imported: {type(reason).__name__}: {first}") from None
