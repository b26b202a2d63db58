"""Scripts of experiments/, which are no package, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def load_script(name: str) -> ModuleType:
    """The script `experiments/<name>.py`."""
    spec = importlib.util.spec_from_file_location(Path(name).name, ROOT / "experiments" / f"{name}.py")
    module = sys.modules[Path(name).name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
