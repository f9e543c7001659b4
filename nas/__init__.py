"""The search engine: objectives, strategies, distillation, devices, and the way of one search.

Importing the package starts nothing heavy; what needs torch is imported when it is first asked for.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_student"]


def load_student(path: str) -> Any:
    """Return an exported student of any mode as a torch module in evaluation mode.

    Args:
        path: A folder written by ``nas export`` or by a search (``students/<name>``).

    Raises:
        ConfigError: The folder holds no student.
        StateError: A file does not match the manifest.
    """
    from nas.student import load  # keeps torch out of `import nas`

    return load(path)
