"""Files that are whole or as they were before: half of one is never seen, not even where the disk is full."""

import os
from contextlib import contextmanager


@contextmanager
def replacing(*paths):
    """A path beside each of these, to be written; in the end they take their places, and on an error nothing does.

    A disk that is full, or a folder that may not be written to, is an OSError that says what is left.
    """
    parts = [path.with_name(path.name + ".part") for path in paths]
    try:
        yield parts
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
    except OSError as error:
        kept = "nothing was saved, and what was there before is as it was"
        raise OSError(error.errno, f"{error.strerror or error}; {kept}", str(paths[0].parent)) from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
