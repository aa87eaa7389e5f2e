"""The one exception class of the project."""


class ReIDError(Exception):
    """An error that the user can correct: a wrong key, a missing file, data that cannot be trained on.

    The message names the key or file, what was found, what was expected and what to do. The scripts print it
    without a traceback and end with :data:`EXIT_STATUS`.
    """


EXIT_STATUS = 2
"""Exit status of the scripts after a :class:`ReIDError`."""


def unreadable_folder(error: OSError) -> ReIDError:
    """The error for a folder that cannot be listed: leaving out its images silently would falsify the result."""
    return ReIDError(
        f"{error.filename}: cannot be read ({error.strerror}). Change its permissions, or move it elsewhere to "
        "continue without its images."
    )
