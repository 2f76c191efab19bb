"""Handler names as paths. Contract section 3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

_PARAM = re.compile(r"\{(.*)\}", re.DOTALL)


@dataclass(frozen=True)
class Pattern:
    """Two names that stand for the same paths are equal, whatever their parameters are called."""

    segments: tuple[str | None, ...]
    """None is a parameter."""
    subtree: bool

    @classmethod
    def of(cls, name: str) -> Pattern:
        """Raises ValueError for an empty name."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"a handler's name is its path, such as 'foo' or 'foo/', not {name!r}")
        path = _path(name)
        segments = tuple(None if _PARAM.fullmatch(segment) else segment for segment in _split(path))
        return cls(segments, path == "" or path.endswith("/"))

    def match(self, path: str) -> tuple[int, ...] | None:
        """How specific the match is; the greatest of several has the path.

        Compared segment by segment: a literal before a parameter before the rest of a subtree.
        """
        segments = path[1:].split("/")
        if len(segments) <= len(self.segments) if self.subtree else len(segments) != len(self.segments):
            return None
        rank = []
        for own, given in zip(self.segments, segments, strict=False):
            if not given if own is None else own != given:
                return None
            rank.append(1 if own is None else 2)
        return (*rank, 0) if self.subtree else tuple(rank)


def params(name: str, path: str) -> dict[str, str]:
    """What each ``{param}`` of the name stands for in a path that it matches."""
    found = {}
    for own, given in zip(_split(_path(name)), path[1:].split("/"), strict=False):
        param = _PARAM.fullmatch(own)
        if param:
            found[param.group(1)] = given
    return found


def canonical(raw_path: str) -> str:
    """The one form of a path that is matched. Raises ValueError for what the gateway answers with 400."""
    if not raw_path.startswith("/"):
        raise ValueError("the path must begin with a slash")
    if re.search(r"%(?![0-9A-Fa-f]{2})", raw_path):
        raise ValueError("the path has a bad escape")
    if re.search(r"%(2f|5c|00)|\\|\0", raw_path, re.IGNORECASE):
        raise ValueError("the path has an encoded separator, a backslash or NUL")
    try:
        path = unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise ValueError("the path is not UTF-8") from None
    if any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError("the path has a dot segment")
    return path


def _path(name: str) -> str:
    return name.replace(":", "/").removeprefix("/")


def _split(path: str) -> list[str]:
    path = path.removesuffix("/")
    return path.split("/") if path else []
