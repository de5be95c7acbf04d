"""Which version of which value a tensor is, and how long its memory lives."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch

from skipgraph.capture.aliases import Alias, covers, overlap
from skipgraph.capture.program import Operator, Origin, Program, Storage, Value


@dataclass(slots=True, eq=False)
class _Memory:
    """What is known of a live storage: its values by geometry, and the writes in place that its aliases must see."""

    storage: Storage
    values: dict[tuple[Any, ...], tuple[Value, int]] = field(default_factory=dict)
    writes: list[Value] = field(default_factory=list)
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
        self._memories: dict[int, _Memory] = {}
        self._owned: dict[int, tuple[Origin, str]] = {}
        self._owned_values: dict[int, Value] = {}
        self._values = 0
        self.elsewhere: set[Storage] = set()  # what is not on meta, and so has data

    def own(self, tensor: torch.Tensor | None, origin: Origin, name: str) -> None:
        """Name a parameter or buffer. It outlives the forward, so that its identity can be trusted."""
        self._owned.setdefault(id(tensor), (origin, name))

    def owns(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is a parameter or buffer of the model."""
        return id(tensor) in self._owned

    def _freed(self, watch: _Watch) -> None:
        del self._memories[watch.key]
        watch.storage.died = len(self._program.operators)

    def _memory(self, tensor: torch.Tensor, origin: Origin, born: int) -> _Memory:
        """The memory behind ``tensor``, which is new to the ledger."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        record = Storage(len(self._program.storages), storage.nbytes(), born, origin)
        self._program.storages.append(record)
        if not tensor.is_meta:
            self.elsewhere.add(record)
        memory = self._memories[key] = _Memory(record)
        if origin in ("operator", "constant"):  # all others outlive the forward
            watch = memory.reference = _Watch(storage, self._freed)
            watch.key, watch.storage = key, record
        return memory

    def output(self, operator: Operator, tensor: torch.Tensor) -> None:
        """Book ``tensor`` as a result of ``operator``, in memory of its own or as a view."""
        memory = self._memories.get(tensor.untyped_storage()._cdata)
        if memory is None:
            memory = self._memory(tensor, "operator", operator.index)
        else:
            operator.is_view = True
        value = self._new_value(tensor, memory, operator)
        memory.values[value.offset, value.shape, value.stride] = (value, len(memory.writes))
        operator.outputs.append(value)

    def written(self, operator: Operator, tensor: torch.Tensor) -> None:
        """Book that ``operator`` wrote ``tensor`` in place: a new version, which its aliases must see."""
        before = self.value_of(tensor)
        if operator.written is None:
            operator.written = before
        memory = self._memories[tensor.untyped_storage()._cdata]
        value = self._new_value(tensor, memory, operator)
        memory.writes.append(value)
        memory.values[value.offset, value.shape, value.stride] = (value, len(memory.writes))
        operator.outputs.append(value)

    def value_of(self, tensor: torch.Tensor, origin: Origin = "constant", name: str = "") -> Value:
        """The current version of ``tensor``; a tensor that was never seen becomes a leaf of ``origin``."""
        owned = self._owned_values.get(id(tensor))
        if owned is not None:
            return owned
        memory = self._memories.get(tensor.untyped_storage()._cdata)
        if memory is None:
            origin, name = self._owned.get(id(tensor), (origin, name))
            memory = self._memory(tensor, origin, -1)
        key = (tensor.storage_offset(), tensor.shape, tensor.stride())
        known = memory.values.get(key)
        if known is None:
            # A leaf seen first through this window, or a view that was made where nobody watched.
            base = next(iter(memory.values.values()), None)
            value = self._new_value(tensor, memory, base[0].producer if base else None)
            value.origin = base[0].origin if base else origin
            value.name = name or (base[0].name if base else "")
            known = memory.values[key] = (value, 0 if base is None else base[1])
            if origin == "parameter":
                self._owned_values[id(tensor)] = value
        value, seen = known
        if seen < len(memory.writes):
            value = self._refreshed(value, memory, seen)
            memory.values[key] = (value, len(memory.writes))
        return value

    def _new_value(self, tensor: torch.Tensor, memory: _Memory, producer: Operator | None) -> Value:
        self._values += 1
        return Value(
            self._values,
            tensor.shape,
            tensor.stride(),
            int(tensor.storage_offset()),
            tensor.dtype,
            memory.storage,
            producer,
        )

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
