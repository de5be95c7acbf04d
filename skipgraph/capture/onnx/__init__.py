"""ONNX files as captured models.

``file.py`` reads a file, ``reader.py`` makes the graph of calls of it, ``operators/`` says what PyTorch calls each
operator, ``model.py`` is what comes of it.
"""

from skipgraph.capture.onnx.file import graph_inputs, load_file
from skipgraph.capture.onnx.model import OnnxModel, Origin, nodes_of
from skipgraph.capture.onnx.reader import read_model

__all__ = ["OnnxModel", "Origin", "graph_inputs", "load_file", "nodes_of", "read_model"]
