"""ONNX files as captured models.

``file.py`` reads a file, ``reader.py`` makes the graph of calls of it, ``operators/`` says what PyTorch calls each
operator, ``model.py`` is what comes of it.
"""

from skipgraph.capture.onnx.file import graph_inputs, load_file
from skipgraph.capture.onnx.model import OnnxModel, Origin, inner_nodes, nodes_of, outer_values
from skipgraph.capture.onnx.reader import read_model

__all__ = ["OnnxModel", "Origin", "graph_inputs", "inner_nodes", "load_file", "nodes_of", "outer_values", "read_model"]
