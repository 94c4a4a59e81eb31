"""`segnet.table` under the name that `segnet.compare` imports."""

from __future__ import annotations

from segnet.table import format_table, format_value, markdown_table

__all__ = ["format_table", "format_value", "markdown_table"]
