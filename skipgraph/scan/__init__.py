"""Many models priced into one table, each in a process of its own, on this machine or on a cluster.

::

    SPECs ─► jobs ─► threads of this process, or a Dask cluster ─► rows ─► table
    names    pricing    sweep, cluster: each waits for               │      tables, columns
                        a process (isolated, server)                 └► journal

Nothing here imports PyTorch, but in those processes.
"""

from __future__ import annotations

from skipgraph.scan.columns import COLUMNS, Column, Row
from skipgraph.scan.journal import Journal
from skipgraph.scan.names import chosen, read
from skipgraph.scan.pricing import Limits, Settings
from skipgraph.scan.scanning import Scan
from skipgraph.scan.tables import FORMATS, check_format, render

__all__ = [
    "COLUMNS",
    "FORMATS",
    "Column",
    "Journal",
    "Limits",
    "Row",
    "Scan",
    "Settings",
    "check_format",
    "chosen",
    "read",
    "render",
]
