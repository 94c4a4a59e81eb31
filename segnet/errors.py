"""The errors that segnet raises for its users to read."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from the user: one line that says argument, expectation, value and remedy. Exit code 3."""
