"""Forward passes over several batches that wait for each other at a layer.

What a layer is to know of *all* images must be known before it computes anything for one of them.
Where all images do not fit into one forward pass, either every such layer costs a pass of its own
up to it, or the passes stop there and go on afterwards.  A forward pass is somebody's Python code,
and what can stop in the middle of that is a thread: so every pass that waits has one.  They take
turns; only one of them, or the caller, ever runs.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

__all__ = ["Lockstep", "can_interleave"]

# passes that may wait at once, whatever their size
_MOST = 256


class _Stop(BaseException):
    """Not an error, and none that `except Exception` sees: the rest of the pass is not needed."""


class _Pass:
    """One forward pass, in a thread of its own once it is started; `work` runs until it pauses.

    Attributes:
        left: of the layer it runs to, how many more of its inputs are to come.
        waits: whether it is to wait there; else it ends there.
        over: whether it has ended.
    """

    def __init__(self, work: Callable[[_Pass], None], enter: Callable[[], contextlib.ExitStack]):
        self.left, self.waits, self.over = 0, False, False
        self.stopped = False
        self._work, self._enter = work, enter
        self._error: BaseException | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        # what the caller's context holds, it holds for the pass as well
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._run), daemon=True)

    def start(self) -> None:
        """Make the thread, which waits for its first turn."""
        self._thread.start()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.stopped:
                with self._enter():
                    self._work(self)
        except _Stop:
            pass
        except BaseException as error:  # raised in the caller's thread instead
            self._error = error
        self.over = True
        self._back.release()

    def proceed(self, calls: int, waits: bool) -> bool:
        """Run on to the next layer; whether it came there."""
        self.left, self.waits = calls, waits
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        return self.left < calls

    def pause(self) -> None:
        """Give the turn back, in the pass's own thread, and wait for the next."""
        self._back.release()
        self._go.acquire()
        if self.stopped:
            raise _Stop

    def stop(self) -> None:
        """Let it end wherever it is; `join` then waits for that."""
        self.stopped = True
        self._go.release()

    def join(self) -> None:
        """Wait until it has ended."""
        if self._thread.is_alive():
            self._thread.join()


class Lockstep:
    """A network and batches of images that go through it together.

    As a context it puts hooks into the layers, and at the end takes them away and ends what waits.

    Args:
        forward: the network, in the mode it is to run in.  Gradients, autocast and the default
            device are those of the caller's thread.
        layers: those of its layers that it may have to stop at.
        batches: the images.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], object],
        layers: Iterable[nn.Module],
        batches: Sequence[Tensor],
    ):
        self._forward, self._layers, self._batches = forward, list(layers), batches
        self._waiting: dict[int, _Pass] = {}
        self._here = threading.local()
        self._enter = _state()
        self._target: nn.Module | None = None
        self._see: Callable[[Tensor], None] = lambda _: None

    def __enter__(self) -> Lockstep:
        self._handles = [layer.register_forward_pre_hook(self._hook) for layer in self._layers]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        passes = list(self._waiting.values())
        self._waiting.clear()
        try:
            for one in passes:
                one.stop()
            for one in passes:
                one.join()
        finally:
            for handle in self._handles:
                handle.remove()

    def advance(
        self, layer: nn.Module, calls: int, room: int, see: Callable[[Tensor], None]
    ) -> None:
        """Bring every batch to a layer, before it computes, and look at what it is given.

        Batches that wait go on from where they are.  The others begin anew, and do not stop at any
        layer in between.  What does not come by the layer any more does so too, once.

        Args:
            layer: one of the layers; of those that batches wait at, none is used after it.
            calls: how often a forward pass uses it.  What uses it more than once cannot wait there.
            room: how many batches may wait there, at least those that wait already.
            see: is given each input, of one batch after the other.
        """
        self._target, self._see = layer, see
        room = min(room, _MOST)
        for i, batch in enumerate(self._batches):
            waits = calls == 1 and (i in self._waiting or len(self._waiting) < room)
            came = i in self._waiting and self._proceed(i, calls, waits)
            if came:
                continue
            if waits and self._began(i, batch):
                self._proceed(i, calls, waits)
            else:
                self._run_here(batch, calls)

    def _proceed(self, i: int, calls: int, waits: bool) -> bool:
        one = self._waiting[i]
        came = one.proceed(calls, waits)
        if one.over:
            del self._waiting[i]
            one.join()
        return came

    def _began(self, i: int, batch: Tensor) -> bool:
        """Whether the system had a thread for it."""

        def work(one: _Pass) -> None:
            self._here.one = one
            self._forward(batch)

        self._waiting[i] = one = _Pass(work, self._enter)
        try:
            one.start()
        except RuntimeError:
            del self._waiting[i]
            return False
        return True

    def _run_here(self, batch: Tensor, calls: int) -> None:
        """A pass in the caller's thread, which ends at the layer."""
        self._here.one = one = _Pass(lambda _: None, self._enter)
        one.left = calls
        try:
            self._forward(batch)
        except _Stop:
            pass
        finally:
            del self._here.one

    def _hook(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        one: _Pass | None = getattr(self._here, "one", None)
        if one is None:  # somebody else's pass
            return
        if one.stopped:
            raise _Stop
        if layer is not self._target or one.left == 0:
            return
        self._see(args[0])
        one.left -= 1
        if one.left == 0:
            if not one.waits:
                raise _Stop
            one.pause()


def can_interleave(
    forward: Callable[[Tensor], object],
    layers: Sequence[tuple[nn.Module, int]],
    images: Sequence[Tensor],
) -> bool:
    """Whether passes over several batches leave each other alone.

    A network that keeps something of one batch in an attribute, to use it further on, computes
    nonsense when another one comes in between.

    Args:
        forward: the network, in the mode it is to run in.
        layers: in the order they are used in, each with how often.
        images: small batches to find out on; every layer's input in interleaved passes must be what
            it is in one pass after the other, bit for bit.
    """
    alone: dict[nn.Module, list[Tensor]] = {layer: [] for layer, _ in layers}
    handles = [
        layer.register_forward_pre_hook(lambda m, args: alone[m].append(args[0].clone()))
        for layer in alone
    ]
    try:
        for batch in images:
            forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    together: dict[nn.Module, list[Tensor]] = {layer: [] for layer, _ in layers}
    with Lockstep(forward, alone, images) as passes:
        for layer, calls in layers:
            kept = together[layer]

            def see(z: Tensor, kept: list[Tensor] = kept) -> None:
                kept.append(z.clone())

            passes.advance(layer, calls, len(images), see)
    return all(
        len(zs) == len(together[layer])
        and all(torch.equal(z, other) for z, other in zip(zs, together[layer], strict=True))
        for layer, zs in alone.items()
    )


def _state() -> Callable[[], contextlib.ExitStack]:
    """What PyTorch keeps for each thread, here and now, as contexts for another thread."""
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    low, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    cache, device = torch.is_autocast_cache_enabled(), torch.get_default_device()

    def enter() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        # asking for it sets up the thread with the number of threads that was chosen
        torch.get_num_threads()
        if torch.get_default_device() != device:
            stack.enter_context(device)
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(gradients))
        # not as a context: leaving the last one empties the cache of casts, which all threads share
        torch.set_autocast_enabled("cpu", low)
        torch.set_autocast_dtype("cpu", dtype)
        torch.set_autocast_cache_enabled(cache)
        return stack

    return enter
