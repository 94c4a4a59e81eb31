from typing import Any

STATES: int

def ssm_recurrence(*arguments: Any) -> None: ...
