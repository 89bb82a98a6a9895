"""Boolean functions as Liberty files write them: what a gate's output gives, when a condition
holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar, Union

Expression = Union[  # noqa: UP007 (it names itself)
    str, bool, tuple[str, "Expression"], tuple[str, "Expression", "Expression"]
]
"""A boolean function: a pin's name, a constant, or `("not", a)`, `("and" | "or" | "xor", a, b)`."""


def expression(text: str) -> Expression:
    """A boolean function from Liberty's text. Raises `ValueError` for what is none.

    Liberty writes NOT as `!a` or `a'`, AND as `a & b`, `a * b` or `a b`, OR as `a | b` or `a + b`,
    and XOR as `a ^ b`; NOT binds first, then XOR, AND and OR (Liberty User Guide, `function`).
    """
    tokens = re.findall(r"[A-Za-z_][\w\[\]]*|[01]|[!'&*|+^()]|\S", text)
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def operand() -> Expression:
        token = take() if peek() else ""
        if token == "!":
            return "not", operand()
        if token == "(":
            inner = either()
            if peek() != ")":
                raise ValueError(text)
            take()
        elif token in ("0", "1"):
            inner = token == "1"
        elif re.fullmatch(r"[A-Za-z_][\w\[\]]*", token):
            inner = token
        else:
            raise ValueError(text)
        while peek() == "'":
            take()
            inner = "not", inner
        return inner

    def exclusive() -> Expression:
        result = operand()
        while peek() == "^":
            take()
            result = "xor", result, operand()
        return result

    def both() -> Expression:
        result = exclusive()
        while peek() and peek() not in ")|+":
            if peek() in "&*":
                take()
            result = "and", result, exclusive()
        return result

    def either() -> Expression:
        result = both()
        while peek() and peek() in "|+":
            take()
            result = "or", result, both()
        return result

    if len(tokens) > 1000:
        raise ValueError(text)
    whole = either()
    if position < len(tokens):
        raise ValueError(text)
    return whole


def pins_of(function: Expression) -> tuple[str, ...]:
    """The names in a boolean function, each once, in the order of their first places."""
    if isinstance(function, str):
        return (function,)
    if isinstance(function, bool):
        return ()
    return tuple(dict.fromkeys(name for part in function[1:] for name in pins_of(part)))


_Bits = TypeVar("_Bits")


def evaluate(
    function: Expression, pin: Callable[[str], _Bits], constant: Callable[[bool], _Bits]
) -> _Bits:
    """The function's value, over anything with `&`, `|`, `^` and `~`: integers or arrays of them.

    `pin` gives the value of a pin by its name, `constant` that of 0 or 1.
    """
    if isinstance(function, str):
        return pin(function)
    if isinstance(function, bool):
        return constant(function)
    parts = [evaluate(part, pin, constant) for part in function[1:]]
    if function[0] == "not":
        return ~parts[0]  # pyright: ignore[reportOperatorIssue]
    return _OPERATIONS[function[0]](*parts)


_OPERATIONS: dict[str, Callable] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}
