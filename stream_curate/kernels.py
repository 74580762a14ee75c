"""The one way in which this package compiles a function to machine code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba
from numba.core import event

_Function = TypeVar("_Function", bound=Callable[..., Any])

_COMPILING = "numba:compile"


def kernel(function: _Function) -> _Function:
    """Compile `function` with numba on its first call for each set of argument types.

    The compiled function lets go of the interpreter lock while it runs, so that threads work side by side, and its
    machine code is kept on disk: beside the module, or in a folder of the user's where the package is read-only.

    A kernel should call only kernels of its own module: what is kept on disk is made anew when the file that the kernel
    stands in changes, not when another does.

    Indices are not checked while it runs. Whoever writes a kernel sizes its buffers from its input; setting
    NUMBA_BOUNDSCHECK=1 in the environment turns the checks on for a test run.
    """
    return cast(_Function, numba.njit(cache=True, nogil=True)(function))


def tell_of_compiling(tell: Callable[[], None]) -> None:
    """Call `tell` once, when a kernel has to be compiled: at the first use after an installation or an update.

    That takes seconds, in which nothing else is seen of the program. A kernel that is found on disk is not compiled.
    Of several calls of this the first counts.
    """
    if not _tellers:
        _tellers.append(_CallOnce(tell))
        event.register(_COMPILING, _tellers[0])  # type: ignore[no-untyped-call]


@contextmanager
def when_compiling(call: Callable[[], None]) -> Iterator[None]:
    """Call `call` once, before the first kernel is compiled that is not found on disk while this lasts."""
    listener = _CallOnce(call)
    with event.install_listener(_COMPILING, listener):
        yield


class _CallOnce(event.Listener):
    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def on_start(self, event: Any) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()

    def on_end(self, event: Any) -> None:
        pass


_tellers: list[_CallOnce] = []
