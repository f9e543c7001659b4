"""A few of the project's modules as one file that another Python runs, there or on a board.

Whoever runs it sees these modules and its own packages, nothing of the environment that made the file.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def archive(names: Sequence[str], main: str) -> bytes:
    """Return a zip with a ``__main__.py``, which Python runs.

    Args:
        names: Files of the project, e.g. ``nas/devices/base.py``.
        main: Module whose function ``main`` is the program.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.writestr(zipfile.ZipInfo(name), (ROOT / name).read_bytes())
        packed.writestr(zipfile.ZipInfo("__main__.py"), f"from {main} import main\n\nmain()\n")
    return content.getvalue()
