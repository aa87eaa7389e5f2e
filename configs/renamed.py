"""Keys that earlier versions named otherwise; configurations and saved states with the old names stay readable."""

_STAGES = ("STAGE0", "STAGE1", "STAGE2")

RENAMED = {f"SOLVER.{stage}.ACCUMULATE": f"SOLVER.{stage}.MICRO_BATCHES" for stage in _STAGES}
"""Old name of a key -> its name now."""


def renamed_note(key: str) -> str:
    """What to write in place of a key of :data:`RENAMED`."""
    return f"{key} is now {RENAMED[key]}; its value was taken."
