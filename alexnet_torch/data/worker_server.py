"""The process from which decoding workers are forked, and what a worker does. Runs in processes of its own.

It is started once, imports torch once, and has one thread, so that its forks are safe. It and its workers need no
file, semaphore or shared memory with a name: nothing of them stays, however a process ends. They are in a session of
their own, which no signal of a terminal or of torchrun reaches, and end when the process that they work for ends.
"""

import contextlib
import importlib
import json
import os
import pickle
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")
Allocate = Callable[[int], np.ndarray]
"""Returns memory for so many bytes, (n,) uint8."""


def new_memory(size: int) -> np.ndarray:
    """Returns new memory."""
    return np.empty(size, np.uint8)


def message(value: Any) -> list[Any]:
    """Returns the parts of a message with a value: lengths, the pickle, and the arrays, which are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    lengths = [len(content), len(raw), *(part.nbytes for part in raw)]
    return [b"".join(map(_LENGTH.pack, lengths)), content, *raw]


def send(connection: socket.socket, parts: list[Any]) -> None:
    """Sends the parts of a message."""
    for part in parts:
        connection.sendall(part)


def receive(connection: socket.socket, allocate: Allocate = new_memory) -> Any:
    """Receives a message, with its arrays directly into the memory that `allocate` returns.

    Raises:
        EOFError: the other side has closed the connection.
    """
    size, count = (_receive_length(connection) for _ in range(2))
    sizes = [_receive_length(connection) for _ in range(count)]
    content = bytearray(size)
    _receive_into(connection, memoryview(content))
    arrays = [allocate(size) for size in sizes]
    for array in arrays:
        _receive_into(connection, array.data)
    return pickle.loads(content, buffers=arrays)


def _receive_length(connection: socket.socket) -> int:
    content = bytearray(_LENGTH.size)
    _receive_into(connection, memoryview(content))
    (length,) = _LENGTH.unpack(content)
    return int(length)


def _receive_into(connection: socket.socket, memory: memoryview) -> None:
    done = 0
    while done < len(memory):
        count = connection.recv_into(memory[done:])
        if not count:
            raise EOFError
        done += count


def serve(descriptor: int) -> None:
    """Forks a worker for each request, until the process that sends them ends."""
    import torch  # noqa: F401 - once, for all workers; not at the top, for the process that sends the requests

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers need no one to wait for them
    control = socket.socket(fileno=descriptor)
    while True:
        content, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 1)
        if not content:
            os._exit(0)
        request = json.loads(content)
        importlib.import_module(request["module"])
        if os.fork() == 0:
            control.close()
            with contextlib.suppress(OSError):  # it was removed: absolute paths still work
                os.chdir(request["folder"])
            _work(socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])


def _work(connection: socket.socket) -> None:
    """Receives a function, then calls it with each value that it receives, and sends what it returns or raises."""
    import torch  # the server has imported it

    from alexnet_torch.native import reuse_freed_memory

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reuse_freed_memory()
    torch.set_num_threads(1)  # there is a worker for each core
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    try:
        function = receive(connection)
        while True:
            task = receive(connection)
            try:
                answer = True, function(task)
            except Exception as error:
                answer = False, error
            send(connection, message(answer))
    except (EOFError, OSError):  # the process that this one works for has ended, or needs it no more
        os._exit(0)


def _end_with(descriptor: int) -> None:
    """Ends this process when the other side of a connection is closed, also in the middle of an image."""
    closed = select.poll()
    closed.register(descriptor, 0)  # reports only that it is closed
    closed.poll()
    os._exit(0)
