"""Interruptions: signals that end a run when its state is whole, instead of between two halves of it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

from gaejax.training.devices import of_all

Result = TypeVar("Result")

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
SECONDS_BETWEEN_LOOKS = 0.05


class Interrupted(Exception):
    """A signal came while `Interruptions.attend` waited."""


class Interruptions:
    """The signals that came so far.

    Attributes:
      count: Their number.
      name: The last one: `"SIGINT"` (Ctrl-C), `"SIGTERM"`, `"SIGHUP"`, or None.
    """

    def __init__(self) -> None:
        self.count, self.name, self.are_noticed = 0, None, False

    def notice(self, signum: int, frame: Any) -> None:
        """Remembers a signal; a second Ctrl-C kills."""
        name = signal.Signals(signum).name
        if self.count and name == "SIGINT":
            raise KeyboardInterrupt
        self.count, self.name = self.count + 1, name

    def shared(self) -> bool:
        """Returns whether a signal came, to any of the processes. All of them must ask at the same time; from then on
        all of them have it."""
        latest = int(of_all(signal.Signals[self.name] if self.name else 0).max())
        if latest and not self.count:
            self.count, self.name = 1, signal.Signals(latest).name
        return self.count > 0

    def attend(self, function: Callable[[], Result], allowed: int = 0) -> Result:
        """Calls what may take long and changes nothing (compiling, evaluating), and leaves it when a signal comes.

        What is left goes on in a thread of its own, and its result is lost. Where there are several processes nothing
        is left: the others would wait for this one.

        Args:
          function: What to call.
          allowed: The number of signals that do not end it: those that came before and were answered.

        Raises:
          Interrupted: if more signals come, or came, than allowed.
        """
        if not self.are_noticed or jax.process_count() > 1:
            return function()
        outcome: list[tuple[Any, BaseException | None]] = []

        def work() -> None:
            try:
                outcome.append((function(), None))
            except BaseException as error:
                outcome.append((None, error))

        # Python sees a signal only between two of the main thread's own steps, so that must not be inside of XLA.
        thread = threading.Thread(target=work, daemon=True)
        if self.count <= allowed:
            thread.start()
        while self.count <= allowed and thread.is_alive():
            thread.join(SECONDS_BETWEEN_LOOKS)
        if self.count > allowed:
            raise Interrupted
        result, error = outcome[0]
        if error is not None:
            raise error
        return result


@contextmanager
def interruptible() -> Iterator[Interruptions]:
    """Gives the signals that come from now on; none in threads other than the main one, where they do not arrive."""
    interruptions = Interruptions()
    if threading.current_thread() is not threading.main_thread():
        yield interruptions
        return
    known = [signal.Signals[name] for name in SIGNALS if hasattr(signal, name)]
    if "SIGHUP" in signal.Signals.__members__ and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        known.remove(signal.SIGHUP)  # nohup: the run is to outlive its terminal
    previous = {signum: signal.signal(signum, interruptions.notice) for signum in known}
    interruptions.are_noticed = True
    try:
        yield interruptions
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
