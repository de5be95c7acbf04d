"""Which axis is batch, feature or space: what shapes alone do not tell.

Every axis of a value is a tuple of *atoms*, each a size and a role variable. Views split and regroup atoms, permutes
move them, element-wise operators identify them, and the operators that read an axis as channels or as positions
(convolutions, norms, linear layers) say what their roles are. Roles that the strong witnesses (convolutions, norms,
recurrent layers) leave open are decided by the weak ones (linear layers, attention), then by place: the first axis of
a model input is the batch, any other axis is space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator

BATCH, FEATURE, SPACE = 0, 1, 2
ROLE_NAMES = ("batch", "feature", "space")

Atom = tuple[int, int]  # size, role variable
Axis = tuple[Atom, ...]  # an axis of size 1 has no atom, unless its role matters: then one atom of size 1
Axes = tuple[Axis, ...]


class AxisRoles:
    """Role variables, identified with one another by union-find."""

    def __init__(self) -> None:
        self._parent = [BATCH, FEATURE, SPACE]
        self._weak: list[tuple[int, int]] = []
        self._links: list[tuple[int, int]] = []
        self._copies: list[int] = []
        self._positions: dict[Axes, int] = {}
        self.constants: set[int] = set()  # indices of the values that depend on no model input

    def new(self) -> int:
        """A role that nothing is known of."""
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def find(self, variable: int) -> int:
        """The representative of ``variable``: `BATCH`, `FEATURE` or `SPACE` once it is known."""
        parent = self._parent
        while parent[variable] != variable:
            parent[variable] = parent[parent[variable]]
            variable = parent[variable]
        return variable

    def unite(self, a: int, b: int) -> None:
        """Say that two roles are the same. What is already known of both stays, even where it disagrees."""
        a, b = self.find(a), self.find(b)
        if a == b or (a <= SPACE and b <= SPACE):
            return
        if a > b:
            a, b = b, a
        self._parent[b] = a

    def witness(self, axis: Axis, role: int, *, weak: bool = False) -> None:
        """Say that an axis was read as ``role``."""
        for _, variable in axis:
            if weak:
                self._weak.append((variable, role))
            else:
                self.unite(variable, role)

    def identify(self, a: Axis, b: Axis) -> None:
        """Say that two axes run over the same things, atom by atom where their atoms agree."""
        if a is b or not a or not b:
            return
        if len(a) == len(b):
            for (size_a, role_a), (size_b, role_b) in zip(a, b, strict=True):
                if size_a == size_b or len(a) == 1:
                    self.unite(role_a, role_b)

    def close(self) -> None:
        """Let the weak witnesses speak, then decide what is still open: space."""
        for whole, part in self._links:
            self.unite(whole, part)
        for variable, role in self._weak:
            self.unite(variable, role)
        for variable in self._copies:
            self.unite(variable, BATCH)

    def part_of(self, whole: int) -> int:
        """A role for a part of an axis, or for what is made of it: that of the whole, unless more is known."""
        part = self.new()
        self._links.append((whole, part))
        return part

    def added(self) -> int:
        """The role of an axis of size 1 that was put in: copies along it are no positions, unless read as such."""
        variable = self.new()
        self._copies.append(variable)
        return variable

    def role(self, axis: Axis) -> int:
        """The role of an axis: feature if any of its atoms is, else space if any is, else batch (after `close`)."""
        roles = {self._decided(variable) for _, variable in axis}
        if FEATURE in roles:
            return FEATURE
        return SPACE if SPACE in roles or not roles else BATCH

    def _decided(self, variable: int) -> int:
        root = self.find(variable)
        return root if root <= SPACE else SPACE

    def positions(self, axes: Axes) -> int:
        """The number of positions of a value: the product of its space atoms (after `close`)."""
        known = self._positions.get(axes)
        if known is None:
            known = 1
            for axis in axes:
                for size, variable in axis:
                    if self._decided(variable) == SPACE:
                        known *= size
            self._positions[axes] = known
        return known

    # -- how axes follow ---------------------------------------------------------------------------------------------

    def fresh(self, shape: Sequence[int]) -> Axes:
        """Axes of a tensor that nothing is known of."""
        return tuple([((size, self.new()),) for size in shape])

    def fitted(self, axes: Axes, shape: Sequence[int]) -> Axes:
        """``axes`` for a result of ``shape`` with the same number of axes.

        An axis is kept where the size is the same, else it is one atom of the old role (a crop, a pad, a pooled axis).
        """
        if len(axes) != len(shape):
            return self.aligned(axes, shape)
        return tuple([self._fitted_axis(axis, size) for axis, size in zip(axes, shape, strict=True)])

    def _fitted_axis(self, axis: Axis, size: int) -> Axis:
        if axis_size(axis) == size:
            return axis
        return ((size, self.leading_role(axis)),)

    def leading_role(self, axis: Axis) -> int:
        """The role that stands for a whole axis once its atoms are lost: that of its largest atom."""
        return max(axis, default=(0, self.new()))[1] if axis else self.new()

    def aligned(self, axes: Axes, shape: Sequence[int]) -> Axes:
        """``axes`` aligned with ``shape`` from the right, as broadcasting does; axes in front are new."""
        missing = len(shape) - len(axes)
        if missing < 0:
            return self.regrouped(axes, shape)
        return self.fresh(shape[:missing]) + self.fitted(axes, shape[missing:])

    def broadcast(self, operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
        """Axes of an element-wise result: those of the operand that spans each axis, identified with the others'."""
        first = operands[0]
        one = len(first) == len(shape) and all(other is first for other in operands)
        if one and all(axis_size(axis) == size for axis, size in zip(first, shape, strict=True)):
            return first
        result: list[Axis] = []
        for place, size in enumerate(shape):
            spanning = [
                axis
                for axes in operands
                if (own := place - len(shape) + len(axes)) >= 0 and axis_size(axis := axes[own]) == size
            ]
            for axis in spanning[1:]:
                self.identify(spanning[0], axis)
            result.append(max(spanning, key=len) if spanning else ((size, self.new()),))
        return tuple(result)

    def regrouped(self, axes: Axes, shape: Sequence[int]) -> Axes:
        """Axes of a view: atoms in order, split where the new shape cuts through one."""
        if 0 in shape:  # of no elements: nothing can be told apart
            return self.fresh(shape)
        atoms = [list(atom) for axis in axes for atom in axis if atom[0] != 1]
        result: list[Axis] = []
        place = 0
        for size in shape:
            axis: list[Atom] = []
            remaining = size
            while remaining > 1 and place < len(atoms):
                atom_size, variable = atoms[place]
                if remaining % atom_size == 0:
                    axis.append((atom_size, variable))
                    remaining //= atom_size
                    place += 1
                elif atom_size % remaining == 0:
                    axis.append((remaining, self.part_of(variable)))
                    atoms[place][:] = atom_size // remaining, self.part_of(variable)
                    remaining = 1
                else:  # cut across atoms: nothing sensible is left to say of the rest
                    return tuple(result) + self.fresh(shape[len(result) :])
            result.append(tuple(axis) if axis else ((1, self.new()),))
        return tuple(result)


def axis_size(axis: Axis) -> int:
    """The number of elements along an axis."""
    size = 1
    for atom_size, _ in axis:
        size *= atom_size
    return size


# -- rules that several families share -------------------------------------------------------------------------------


def same(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """Element-wise: broadcast over all operands."""
    return roles.broadcast(operands, operator.outputs[0].shape)


def first(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """The result has the axes of the first operand, resized where sizes differ."""
    return roles.fitted(operands[0], operator.outputs[0].shape)


def view(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """Reshapes of every kind: atoms are split and regrouped."""
    return roles.regrouped(operands[0], operator.outputs[0].shape)


def channels_second(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """Operators over (N, C, …) that keep the channels: axis 1 is features, what follows is space."""
    axes = operands[0]
    if len(axes) > 2:
        roles.witness(axes[1], FEATURE)
        for axis in axes[2:]:
            roles.witness(axis, SPACE)
    return roles.fitted(axes, operator.outputs[0].shape)


def indexed(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """The axes of the first operand where they keep their size; what an index picks may mean anything."""
    axes, shape = operands[0], operator.outputs[0].shape
    if len(axes) != len(shape):
        return roles.aligned(axes, shape)
    return tuple([a if axis_size(a) == size else ((size, roles.new()),) for a, size in zip(axes, shape, strict=True)])


def selection(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """The axes of the first operand: those that are selected along one of them are of the same kind."""
    shape = operator.outputs[0].shape
    return tuple(
        [
            axis if axis_size(axis) == size else ((size, roles.part_of(roles.leading_role(axis))),)
            for axis, size in zip(operands[0], shape, strict=True)
        ]
    )


def expanded_like(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """The axes of the first operand where they line up from the right, new ones elsewhere."""
    return roles.aligned(operands[0], operator.outputs[0].shape)
