"""Draw the pictures of the documentation.

Run it as ``python docs/pictures/make.py``: it writes SVG files beside this one. They are drawn by skipgraph itself;
Graphviz is needed (the extra ``svg``).
"""

from __future__ import annotations

from pathlib import Path

import torch
from models import PICTURES

import skipgraph
from skipgraph.inspection import inspect_source
from skipgraph.sources import load

FOLDER = Path(__file__).parent
FIXTURES = FOLDER.parent.parent / "fixtures"


def draw(name: str, inspection: skipgraph.Inspection, *, unfold: bool = True) -> None:
    """Write one picture."""
    picture = skipgraph.render(inspection, "svg", unfold=unfold)
    assert isinstance(picture, str)
    (FOLDER / f"{name}.svg").write_text(picture, encoding="utf-8")
    print(f"{name}.svg")


def main() -> None:
    """Write all pictures."""
    for name, picture in PICTURES.items():
        with torch.device("meta"):
            model = picture.model()
        draw(name, skipgraph.inspect(model, picture.inputs(), spec=picture.title))
    unet = inspect_source(load(str(FIXTURES / "unet.py")))
    unet.spec = "fixtures/unet.py"
    draw("unet", unet, unfold=False)


if __name__ == "__main__":
    main()
