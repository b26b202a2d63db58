"""The files of a model's folder, which may come from anybody: nothing outside of the folder is read."""

from pathlib import Path
from typing import Any

from gaejax._arguments import parse_object, short


def exists(folder: Path, name: str) -> bool:
    """Returns whether a folder has a file of this name, also if it is a link that leads nowhere."""
    return (folder / name).exists() or (folder / name).is_symlink()


def inside(folder: Path, name: Any) -> Path:
    """Returns the path of a file that lies in a folder.

    Links are followed only within the folder, or to the blobs of the hub's cache if the folder is a snapshot there.

    Args:
      folder: The folder.
      name: A plain file name.

    Raises:
      ValueError: if it is anything else, or leads to another place; one line with the folder and the name.
    """
    if not isinstance(name, str) or not name or name != Path(name).name or name in (".", "..") or "\\" in name:
        raise ValueError(f"{folder} must name plain files in it, got {short(name)}")
    path = folder / name
    root = folder.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        place = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # no such file, a NUL in the name, or links in a circle
        raise ValueError(f"{folder} must be a whole model, and has no {short(name)[1:-1]}") from None
    if not any(place.is_relative_to(each) for each in roots):
        raise ValueError(f"{path} must be a file in its folder, and is a link to another place")
    if not place.is_file():
        raise ValueError(f"{path} must be a file, and is something else")
    return path


def read_text(folder: Path, name: str) -> str:
    """Returns the text of a file that lies in a folder; raises ValueError, with the path, if it is none."""
    path = inside(folder, name)
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text in UTF-8: {error}") from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Returns the JSON object in a file that lies in a folder; raises ValueError, with the path, if it is none."""
    path = inside(folder, name)
    return parse_object(str(path), path.read_bytes())


def short_text(error: BaseException) -> str:
    """Returns the start of what an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
