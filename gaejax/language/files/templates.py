"""Chat templates: programs that come with a model, run in a process of their own that has little memory and time.

This file is also the program of that process, so it imports nothing of gaejax before it is asked to render.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MEMORY = 2**29  # bytes
SECONDS, SECONDS_EACH = 5, 0.05
LONGEST = 2**24  # characters of all texts together, or 16 times those of the messages if that is more


def render(
    template: str, conversations: Sequence[Sequence[Mapping[str, Any]]], variables: Mapping[str, Any]
) -> list[str]:
    """Renders conversations with a template in Jinja.

    Args:
      template: The template.
      conversations: Lists of messages, such as `{"role": "user", "content": "..."}`.
      variables: What the template is given beside `messages` and `raise_exception`.

    Raises:
      ValueError: if the template refuses a conversation, has an error, or takes too long, too much memory or too many
        characters; or if the messages hold what JSON cannot.
    """
    from gaejax.language.files.packages import package

    place = Path(str(package("jinja2").__file__)).parent.parent
    seconds = SECONDS + SECONDS_EACH * len(conversations)
    try:
        task = json.dumps([template, list(map(list, conversations)), dict(variables), seconds])
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"messages must be dicts of strings: {error}") from None
    command = [sys.executable, "-I", __file__, str(place)]
    try:
        done = subprocess.run(command, input=task.encode(), capture_output=True, timeout=2 * seconds + 10, check=False)
        answer: Any = json.loads(done.stdout) if done.returncode == 0 else {"error": "it takes too much time or memory"}
    except (subprocess.TimeoutExpired, ValueError):
        answer = {"error": "it takes too much time or memory"}
    if "refused" in answer:
        raise ValueError(f"messages must suit the model's chat template: {answer['refused']}")
    if "error" in answer:
        raise ValueError(f"the model's chat template cannot be used: {answer['error']}")
    return answer["texts"]


def main() -> None:
    """Renders what is asked for on the standard input; the answer goes to the standard output."""
    import resource
    import signal

    sys.path.append(sys.argv[1])
    import jinja2.sandbox

    template, conversations, variables, seconds = json.load(sys.stdin)
    # The signal's default action ends the process, also within one long operation.
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)

    refusals: list[str] = []

    def refuse(reason: Any = "") -> None:
        refusals.append(" ".join(str(reason)[:500].split()))
        raise jinja2.TemplateError(str(reason))

    most = max(LONGEST, 16 * len(json.dumps(conversations)))
    texts = []
    try:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        compiled = environment.from_string(template)
        for messages in conversations:
            texts.append("")
            for part in compiled.generate(**variables, messages=messages, raise_exception=refuse):
                texts[-1] += part
                most -= len(part)
                if most < 0:
                    raise jinja2.TemplateError("its texts are too long")
        answer = {"texts": texts}
    except MemoryError:
        answer = {"error": "it takes too much time or memory"}
    except Exception as error:  # whatever the template does
        said = " ".join(str(error)[:500].split())
        answer = {"refused": refusals[0]} if refusals else {"error": f"{type(error).__name__}: {said}"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
