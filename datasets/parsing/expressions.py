"""Rules over the groups of a file name, such as ``(number - 1) // 10``: whole numbers, and nothing that Python runs."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping

from utils.errors import ReIDError

LONGEST = 500
"""Characters of a rule."""
LARGEST = 10**18
"""Numbers beyond this are refused, whatever made them."""

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ALLOWED = "group names, whole numbers, + - * // % and parentheses; a comma joins several parts"


class Rule:
    """One rule over named groups; its value is text.

    A name alone stands for the group's text, arithmetic reads groups as whole numbers, and parts with a comma between
    them are joined by ``_``: ``person, side`` of ``007_L_3.bmp`` is ``007_L``.

    Args:
        key: the configuration key, for messages.
        text: the rule.
        groups: names that it may use.

    Raises:
        ReIDError: the text is no such rule, or it names another group.
    """

    def __init__(self, key: str, text: str, groups: Collection[str]) -> None:
        self.key, self.text = key, text
        try:
            tree = ast.parse(text.strip(), mode="eval").body if len(text) <= LONGEST else None
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            tree = None
        if tree is None:
            raise ReIDError(f"{key} = {text!r} is not a rule. It may hold {_ALLOWED}.")
        self.parts = tree.elts if isinstance(tree, ast.Tuple) else [tree]
        for part in self.parts:
            self._check(part, groups)

    def _check(self, node: ast.AST, groups: Collection[str]) -> None:
        match node:
            case ast.Name(id=name):
                if name not in groups:
                    known = ", ".join(sorted(groups)) or "none"
                    raise ReIDError(f"{self.key} = {self.text!r}: there is no group {name!r}; the groups are {known}.")
            case ast.Constant(value=int(value)) if not isinstance(value, bool):
                pass
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
                self._check(left, groups)
                self._check(right, groups)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                self._check(operand, groups)
            case _:
                raise ReIDError(f"{self.key} = {self.text!r}: {ast.unparse(node)!r} is not allowed; use {_ALLOWED}.")

    def value(self, groups: Mapping[str, str], path: str) -> str:
        """The rule's value for one image.

        Args:
            groups: text of each group; those that the name does not have are absent.
            path: of the image, for messages.

        Raises:
            ReIDError: a group is absent or no number, a division by zero, or a number that is too large.
        """
        return "_".join(
            self._group(part.id, groups, path) if isinstance(part, ast.Name) else str(self._number(part, groups, path))
            for part in self.parts
        )

    def _group(self, name: str, groups: Mapping[str, str], path: str) -> str:
        if name not in groups:
            raise ReIDError(f"{self.key} = {self.text!r}: {path} has no {name}.")
        return groups[name]

    def _number(self, node: ast.AST, groups: Mapping[str, str], path: str) -> int:
        match node:
            case ast.Name(id=name):
                text = self._group(name, groups, path)
                if not (text.isdecimal() and len(text) <= len(str(LARGEST))):
                    raise ReIDError(f"{self.key} = {self.text!r}: {name} of {path} is {text!r}, which is not a number.")
                number = int(text)
            case ast.Constant(value=value):
                number = value
            case ast.UnaryOp(operand=operand):
                number = -self._number(operand, groups, path)
            case ast.BinOp(left=left, op=sign, right=right):
                first, second = self._number(left, groups, path), self._number(right, groups, path)
                if second == 0 and isinstance(sign, (ast.FloorDiv, ast.Mod)):
                    raise ReIDError(f"{self.key} = {self.text!r} divides by zero for {path}.")
                number = _OPERATORS[type(sign)](first, second)
        if abs(number) > LARGEST:
            raise ReIDError(f"{self.key} = {self.text!r} gives a number beyond {LARGEST:.0e} for {path}.")
        return number
