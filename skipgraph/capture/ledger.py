"""Which version of which value a tensor is, and how long its memory lives."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

from skipgraph.capture.aliases import Alias, covers, overlap
from skipgraph.capture.program import Operator, Origin, Program, Storage, Value

_PASSING = frozenset({"operator", "constant"})  # all others outlive the forward


@dataclass(slots=True, eq=False)
class _Memory:
    """What is known of a live storage: its values by geometry, and the writes in place that its aliases must see."""

    storage: Storage
    values: dict[tuple[Any, ...], tuple[Value, int]]  # with the number of writes that they have seen
    writes: list[Value]
    reference: Any = None  # the weak reference to the torch storage, which must outlive it to tell


class _Watch(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a torch storage that knows whose memory it is."""

    __slots__ = ("key", "storage")
    key: int
    storage: Storage


class Ledger:
    """Knows every tensor by its memory and its window into that, and holds none.

    Storages are followed by weak references: the moment at which the interpreter lets go of one is the moment at which
    an eager run of the same code would have freed it.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._on_meta = program.method == "meta"
        self._memories: dict[int, _Memory] = {}
        self._owned: dict[int, tuple[Origin, str]] = {}
        self._owned_values: dict[int, Value] = {}
        self._values = 0
        self.on_cpu: set[Storage] = set()  # what has numbers although the capture is on meta

    def own(self, tensor: torch.Tensor | None, origin: Origin, name: str) -> None:
        """Name a parameter or buffer. It outlives the forward, so that its identity can be trusted."""
        self._owned.setdefault(id(tensor), (origin, name))

    def owns(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is a parameter or buffer of the model."""
        return id(tensor) in self._owned

    def _freed(self, watch: _Watch) -> None:
        del self._memories[watch.key]
        watch.storage.died = len(self._program.operators)

    def _memory(self, tensor: torch.Tensor, storage: torch.UntypedStorage, origin: Origin, born: int) -> _Memory:
        """The memory of ``tensor``, which is new to the ledger."""
        key = storage._cdata
        storages = self._program.storages
        record = Storage(len(storages), storage.nbytes(), born, origin)
        storages.append(record)
        if self._on_meta and not tensor.is_meta:  # to ask a fake tensor is an operator
            self.on_cpu.add(record)
        memory = self._memories[key] = _Memory(record, {}, [])
        if origin in _PASSING:
            watch = memory.reference = _Watch(storage, self._freed)
            watch.key, watch.storage = key, record
        return memory

    def output(self, operator: Operator, tensor: torch.Tensor) -> None:
        """Book ``tensor`` as a result of ``operator``, in memory of its own or as a view."""
        storage = tensor.untyped_storage()
        memory = self._memories.get(storage._cdata)
        if memory is None:
            memory = self._memory(tensor, storage, "operator", operator.index)
        else:
            operator.is_view = True
        self._book(tensor, memory, operator)

    def written(self, operator: Operator, tensor: torch.Tensor) -> None:
        """Book that ``operator`` wrote ``tensor`` in place: a new version, which its aliases must see."""
        before = self.value_of(tensor)
        if operator.written is None:
            operator.written = before
        memory = self._memories[tensor.untyped_storage()._cdata]
        self._book(tensor, memory, operator, writes=True)

    def _book(self, tensor: torch.Tensor, memory: _Memory, operator: Operator, *, writes: bool = False) -> None:
        """A new value that is seen from now on through the window of ``tensor``."""
        shape, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
        self._values += 1
        value = Value(self._values, shape, stride, int(offset), tensor.dtype, memory.storage, operator)
        if writes:
            memory.writes.append(value)
        memory.values[offset, shape, stride] = value, len(memory.writes)
        operator.outputs.append(value)

    def value_of(self, tensor: torch.Tensor, origin: Origin = "constant", name: str = "") -> Value:
        """The current version of ``tensor``; a tensor that was never seen becomes a leaf of ``origin``."""
        owned = self._owned_values.get(id(tensor))
        if owned is not None:
            return owned
        storage = tensor.untyped_storage()
        memory = self._memories.get(storage._cdata)
        if memory is None:
            origin, name = self._owned.get(id(tensor), (origin, name))
            memory = self._memory(tensor, storage, origin, -1)
        key = (tensor.storage_offset(), tensor.shape, tensor.stride())
        known = memory.values.get(key)
        if known is None:
            known = memory.values[key] = self._leaf(tensor, memory, key, origin, name)
        value, seen = known
        if seen < len(memory.writes):
            value = self._refreshed(value, memory, seen)
            memory.values[key] = (value, len(memory.writes))
        return value

    def _leaf(
        self, tensor: torch.Tensor, memory: _Memory, key: tuple[Any, Any, Any], origin: Origin, name: str
    ) -> tuple[Value, int]:
        """A leaf seen first through this window, or a view that was made where nobody watched."""
        base, seen = next(iter(memory.values.values()), (None, 0))
        self._values += 1
        offset, shape, stride = key
        value = Value(self._values, shape, stride, int(offset), tensor.dtype, memory.storage, None, origin, name)
        if base is not None:
            value.producer, value.origin, value.name = base.producer, base.origin, name or base.name
        if origin == "parameter":
            self._owned_values[id(tensor)] = value
        return value, seen

    def _refreshed(self, value: Value, memory: _Memory, seen: int) -> Value:
        """``value`` after the writes that came since it was ``seen``: one synthetic operator a write that overlaps."""
        for written in memory.writes[seen:]:
            if not overlap(value, written):
                continue
            whole = covers(written, value)
            writer = written.producer
            assert writer is not None
            operator = Operator(
                len(self._program.operators),
                "alias_of_write" if whole else "alias_with_write",
                None,
                (value, written),
                {},
                [written] if whole else [value, written],
                [],
                writer.call,
                is_view=True,
                composite=writer.composite,
            )
            self._values += 1
            value = Alias.of(value, self._values, operator)
            operator.outputs.append(value)
            self._program.operators.append(operator)
        return value
