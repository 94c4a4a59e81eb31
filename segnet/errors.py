"""The errors that segnet raises for its users to read."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from the user: one line that says argument, expectation, value and remedy. Exit code 3."""


def reason(error: BaseException) -> str:
    """A failure as a list of failures tells it: an `InputError` in its own words, anything else by its name too."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
