"""Skip graphs drawn by hand, with plausible shapes and costs: what the reports are tested on without a capture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from skipgraph.graph import Cost, Merge, Skip, SkipGraph

Shape = tuple[int, ...]


class Sketch:
    """Builds a `SkipGraph` one operator at a time; execution order is the order of the calls."""

    def __init__(self) -> None:
        self.graph = SkipGraph()
        self.modules: dict[str, str] = {}

    def module(self, path: str, name: str) -> str:
        self.modules[path] = name
        return path

    def shape(self, node: str) -> Shape:
        return self.graph.nodes[node]["shape"]

    def node(
        self,
        name: str,
        op: str,
        kind: str,
        operands: Sequence[str],
        shape: Shape,
        *,
        module: str = "",
        flops: int = 0,
        parameters: int = 0,
        **attributes: object,
    ) -> str:
        index = len(self.graph)
        space = shape[2:] if len(shape) > 3 else shape[1:2]
        defaults: dict[str, object] = {
            "call": f"torch.{op}",
            "dtype": "float32",
            "positions": math.prod(space) if len(shape) > 2 else 1,
            "bytes_out": 4 * math.prod(shape),
            "live": True,
        } | dict.fromkeys(("resamples", "constant", "output", "is_view", "held_at_peak"), False)
        data = {"op": op, "kind": kind, "module": module, "index": index, "shape": shape, "flops": flops}
        self.graph.add_node(name, parameters=parameters, **(defaults | data | attributes))
        for key, operand in enumerate(operands):
            producer = self.graph.nodes[operand]
            share = flops // len(operands)
            costs = {"bytes": producer["bytes_out"], "flops": share, "attributed_flops": share}
            held = index - producer["index"]
            self.graph.add_edge(operand, name, key, operand=key, held_steps=held, held_at_peak=False, skips=(), **costs)
        return name

    def input(self, shape: Shape, name: str = "input") -> str:
        return self.node(name, "input", "input", [], shape)

    def conv(self, path: str, x: str, channels: int, kernel: int = 3, stride: int = 1, transposed: bool = False) -> str:
        batch, width, *space = self.shape(x)
        space = [s * stride if transposed else s // stride for s in space]
        self.module(path, "ConvTranspose2d" if transposed else "Conv2d")
        parameters = width * channels * kernel**2
        flops = parameters * math.prod(space) // (stride**2 if transposed else 1)
        shape = (batch, channels, *space)
        return self.node(
            path,
            "convolution",
            "layer",
            [x],
            shape,
            module=path,
            flops=flops,
            parameters=parameters,
            resamples=stride > 1,
        )

    def linear(self, path: str, x: str, features: int) -> str:
        self.module(path, "Linear")
        shape = (*self.shape(x)[:-1], features)
        parameters = (self.shape(x)[-1] + 1) * features
        flops = self.shape(x)[-1] * math.prod(shape)
        return self.node(path, "linear", "layer", [x], shape, module=path, flops=flops, parameters=parameters)

    def norm(self, path: str, x: str, name: str = "BatchNorm2d", op: str = "batch_norm") -> str:
        self.module(path, name)
        width = self.shape(x)[1] if op == "batch_norm" else self.shape(x)[-1]
        flops = 2 * math.prod(self.shape(x))
        return self.node(path, op, "norm", [x], self.shape(x), module=path, flops=flops, parameters=2 * width)

    def act(self, path: str, x: str, op: str = "relu", name: str = "ReLU", suffix: str = "") -> str:
        self.module(path, name)
        return self.node(path + suffix, op, "activation", [x], self.shape(x), module=path)

    def pool(self, path: str, x: str, suffix: str = "", op: str = "max_pool2d", name: str = "MaxPool2d") -> str:
        self.module(path, name)
        batch, width, *space = self.shape(x)
        return self.node(
            path + suffix, op, "pool", [x], (batch, width, *(s // 2 for s in space)), module=path, resamples=True
        )

    def add(self, name: str, operands: Sequence[str], module: str = "") -> str:
        return self.node(name, "add", "sum", operands, self.shape(operands[0]), module=module)

    def cat(self, name: str, operands: Sequence[str], module: str = "") -> str:
        first = self.shape(operands[0])
        shape = (first[0], sum(self.shape(o)[1] for o in operands), *first[2:])
        return self.node(name, "cat", "concat", operands, shape, module=module, axis=1, axis_role="feature")

    def merge(self, node: str, *skips: Skip, reason: str = "skip") -> Merge:
        operands = tuple(producer for _, producer in self.graph.operands(node))
        kind = "concat" if self.graph.nodes[node]["kind"] == "concat" else "add"
        merge = Merge(node, node, kind, None, operands, list(skips), reason=reason, nodes=(node,))
        if skips:
            merge.kind = skips[0].kind
            merge.span = "long" if any(s.span == "long" for s in skips) else "short"
            merge.shortcut = "identity" if any(s.shortcut == "identity" for s in skips) else "projected"
        for skip in skips:
            self.graph.edges[operands[skip.operand], node, skip.operand]["skips"] += (skip.id,)
        self.graph.merges.append(merge)
        return merge

    def skip(self, node: str, operand: int, source: str, kind: str, span: str = "short", **fields: object) -> Skip:
        entering = dict(self.graph.operands(node))[operand]
        step = self.graph.nodes[node]["index"] - self.graph.nodes[source]["index"]
        size = self.graph.nodes[entering]["bytes_out"]
        shortcut = "identity" if entering == source else "projected"
        costs = {"bytes": size, "held_steps": step, "byte_steps": size * step, "bypassed_layers": max(1, step // 3)}
        values = {"shortcut": shortcut} | costs | fields
        return Skip(f"{node}:{operand}", node, source, kind, span, operand=operand, operand_node=entering, **values)

    def finish(self, output: str) -> SkipGraph:
        graph = self.graph
        graph.nodes[output]["output"] = True
        graph.graph["modules"] = self.modules
        nodes = graph.nodes.values()
        cost = graph.cost = Cost()
        cost.flops = sum(n["flops"] for n in nodes)
        cost.flops_by_operator = {"convolution": cost.flops}
        cost.parameters = sum(n["parameters"] for n in nodes)
        cost.parameter_bytes = 4 * cost.parameters
        cost.activation_bytes = sum(n["bytes_out"] for n in nodes)
        self._peak()
        cost.steps = len(graph) - 1
        self._count()
        return graph

    def _peak(self) -> None:
        """Every result is live from its own step to that of its last reader."""
        graph, cost = self.graph, self.graph.cost
        index = {node: data["index"] for node, data in graph.nodes(data=True)}
        last = {node: max((index[n] for n in graph.successors(node)), default=index[node]) for node in graph}
        change = [0] * (len(graph) + 1)
        for node, data in graph.nodes(data=True):
            change[index[node]] += data["bytes_out"]
            change[last[node] + 1] -= data["bytes_out"]
        live = list(accumulate(change))
        cost.peak_step = live.index(max(live))
        cost.peak_node = next(node for node in graph if index[node] == cost.peak_step)
        cost.peak_bytes, cost.peak_bytes_last_use = live[cost.peak_step], live[cost.peak_step] * 9 // 10
        for node, data in graph.nodes(data=True):
            data["held_at_peak"] = index[node] <= cost.peak_step <= last[node]
        for u, v, data in graph.edges(data=True):
            data["held_at_peak"] = index[u] <= cost.peak_step <= index[v]
        for skip in graph.skips:
            skip.held_at_peak = graph.edges[skip.operand_node, skip.merge, skip.operand]["held_at_peak"]

    def _count(self) -> None:
        counts = self.graph.counts
        for merge in self.graph.merges:
            entries = merge.skips if merge.kind != "concat" else merge.skips[:1]
            for skip in entries:
                counts.skips += 1
                span, shortcut = (merge.span, merge.shortcut) if merge.kind == "concat" else (skip.span, skip.shortcut)
                for word in (skip.kind, span, shortcut):
                    setattr(counts, word, getattr(counts, word) + 1)
            counts.edges += sum(skip.edges for skip in merge.skips)


def _double_conv(s: Sketch, path: str, x: str, channels: int) -> str:
    s.module(path, "DoubleConv")
    for i in (1, 2):
        x = s.act(f"{path}.relu{i}", s.norm(f"{path}.norm{i}", s.conv(f"{path}.conv{i}", x, channels)))
    return x


def unet(levels: int = 4, base: int = 64, size: int = 256) -> SkipGraph:
    """The encoder-decoder of Ronneberger et al. 2015, its convolutions padded."""
    s = Sketch()
    s.module("", "UNet"), s.module("encoder", "ModuleList"), s.module("decoder", "ModuleList")
    x, sources = s.input((1, 3, size, size)), []
    for i in range(levels):
        x = _double_conv(s, f"encoder.{i}", x, base * 2**i)
        sources.append(x)
        x = s.pool("pool", x, suffix=f":{i}" if i else "")
    x = _double_conv(s, "bottleneck", x, base * 2**levels)
    for i in reversed(range(levels)):
        place = levels - 1 - i
        x = s.conv(f"up.{place}", x, base * 2**i, kernel=2, stride=2, transposed=True)
        x = s.cat(f"cat{place or ''}", [sources[i], x])
        skip = s.skip(x, 0, sources[i], "concat", "long", nesting=i, coarsest_scale=0.25 ** (levels - i))
        s.merge(x, skip)
        x = _double_conv(s, f"decoder.{place}", x, base * 2**i)
    return s.finish(s.conv("head", x, 2, kernel=1))


def resnet(blocks: Sequence[int] = (3, 4, 6, 3), size: int = 224) -> SkipGraph:
    """ResNet with bottleneck blocks, its modules named as torchvision names them."""
    s = Sketch()
    s.module("", "ResNet")
    x = s.act("relu", s.norm("bn1", s.conv("conv1", s.input((1, 3, size, size)), 64, 7, 2)))
    x = s.pool("maxpool", x)
    for stage, count in enumerate(blocks, start=1):
        s.module(f"layer{stage}", "Sequential")
        for i in range(count):
            x = _bottleneck(s, f"layer{stage}.{i}", x, 32 * 2**stage, 2 if i == 0 and stage > 1 else 1, i == 0)
    s.module("avgpool", "AdaptiveAvgPool2d")
    x = s.node("avgpool", "mean", "pool", [x], (1, 2048, 1, 1), module="avgpool", flops=2048 * 49)
    x = s.node("flatten", "view", "view", [x], (1, 2048), is_view=True)
    return s.finish(s.linear("fc", x, 1000))


def _bottleneck(s: Sketch, path: str, x: str, width: int, stride: int, projected: bool) -> str:
    s.module(path, "Bottleneck")
    y = s.act(f"{path}.relu", s.norm(f"{path}.bn1", s.conv(f"{path}.conv1", x, width, 1)))
    y = s.act(f"{path}.relu", s.norm(f"{path}.bn2", s.conv(f"{path}.conv2", y, width, 3, stride)), suffix=":1")
    y = s.norm(f"{path}.bn3", s.conv(f"{path}.conv3", y, 4 * width, 1))
    shortcut = x
    if projected:
        s.module(f"{path}.downsample", "Sequential")
        shortcut = s.conv(f"{path}.downsample.0", x, 4 * width, 1, stride)
        shortcut = s.norm(f"{path}.downsample.1", shortcut)
    total = s.add(f"{path}.add", [y, shortcut], module=path)
    s.merge(total, s.skip(total, 1, x, "add", bypassed_layers=3))
    return s.act(f"{path}.relu", total, suffix=":2")


def densenet(blocks: Sequence[int] = (6, 12, 24, 16), growth: int = 32, size: int = 224) -> SkipGraph:
    """DenseNet, its modules named as torchvision names them."""
    s = Sketch()
    s.module("", "DenseNet"), s.module("features", "Sequential")
    x = s.conv("features.conv0", s.input((1, 3, size, size)), 2 * growth, 7, 2)
    x = s.pool("features.pool0", s.act("features.relu0", s.norm("features.norm0", x)))
    for number, count in enumerate(blocks, start=1):
        x = _dense_block(s, f"features.denseblock{number}", x, count, growth)
        if number < len(blocks):
            path = f"features.transition{number}"
            s.module(path, "_Transition")
            x = s.act(f"{path}.relu", s.norm(f"{path}.norm", x))
            x = s.conv(f"{path}.conv", x, s.shape(x)[1] // 2, 1)
            x = s.pool(f"{path}.pool", x, op="avg_pool2d", name="AvgPool2d")
    x = s.norm("features.norm5", x)
    x = s.node("relu", "relu", "activation", [x], s.shape(x))
    width = s.shape(x)[1]
    x = s.node("avgpool", "mean", "pool", [x], (1, width, 1, 1))
    x = s.node("flatten", "view", "view", [x], (1, width), is_view=True)
    return s.finish(s.linear("classifier", x, 1000))


def _dense_block(s: Sketch, path: str, x: str, count: int, growth: int) -> str:
    s.module(path, "_DenseBlock")
    features = [x]
    for i in range(1, count + 1):
        layer = s.module(f"{path}.denselayer{i}", "_DenseLayer")
        y = s.cat(f"{layer}.cat", features, module=layer)
        if len(features) > 1:
            s.merge(y, *_dense_skips(s, y, features))
        y = s.act(f"{layer}.relu1", s.norm(f"{layer}.norm1", y))
        y = s.conv(f"{layer}.conv1", y, 4 * growth, 1)
        y = s.act(f"{layer}.relu2", s.norm(f"{layer}.norm2", y))
        features.append(s.conv(f"{layer}.conv2", y, growth))
    x = s.cat(f"{path}.cat", features, module=path)
    s.merge(x, *_dense_skips(s, x, features))
    return x


def _dense_skips(s: Sketch, node: str, features: list[str]) -> list[Skip]:
    return [s.skip(node, i, source, "concat", dense=True) for i, source in enumerate(features[:-1])]


def vit(blocks: int = 12, width: int = 768, tokens: int = 197) -> SkipGraph:
    """ViT, its modules named as torchvision names them; self-attention is one node."""
    s = Sketch()
    s.module("", "VisionTransformer"), s.module("encoder", "Encoder"), s.module("encoder.layers", "Sequential")
    x = s.input((1, 3, 224, 224))
    s.module("conv_proj", "Conv2d")
    flops = 16 * 16 * 3 * width * 196
    x = s.node(
        "conv_proj",
        "convolution",
        "layer",
        [x],
        (1, width, 14, 14),
        module="conv_proj",
        flops=flops,
        parameters=16 * 16 * 3 * width,
    )
    x = s.node("reshape", "view", "view", [x], (1, width, 196), is_view=True)
    x = s.node("permute", "permute", "view", [x], (1, 196, width), is_view=True)
    x = s.node("cat", "cat", "concat", [x], (1, tokens, width), axis=1, axis_role="space")
    x = s.node("encoder.add", "add", "linear_map", [x], (1, tokens, width), module="encoder")
    for i in range(blocks):
        x = _transformer_block(s, f"encoder.layers.encoder_layer_{i}", x, width)
    x = s.norm("encoder.ln", x, "LayerNorm", "layer_norm")
    x = s.node("select", "select", "slice", [x], (1, width), is_view=True)
    return s.finish(s.linear("heads.head", x, 1000))


def _transformer_block(s: Sketch, path: str, x: str, width: int) -> str:
    s.module(path, "EncoderBlock"), s.module(f"{path}.mlp", "MLPBlock")
    y = s.norm(f"{path}.ln_1", x, "LayerNorm", "layer_norm")
    s.module(f"{path}.self_attention", "MultiheadAttention")
    tokens = s.shape(x)[1]
    flops = 4 * width**2 * tokens + 2 * tokens**2 * width
    y = s.node(
        f"{path}.self_attention", "multi_head_attention", "attention", [y, y, y], s.shape(x),
        module=f"{path}.self_attention", flops=flops, parameters=4 * width * (width + 1),
    )  # fmt: skip
    total = s.add(f"{path}.add", [y, x], module=path)
    s.merge(total, s.skip(total, 1, x, "add", bypassed_layers=1))
    y = s.norm(f"{path}.ln_2", total, "LayerNorm", "layer_norm")
    y = s.act(f"{path}.mlp.1", s.linear(f"{path}.mlp.0", y, 4 * width), "gelu", "GELU")
    y = s.linear(f"{path}.mlp.3", y, width)
    last = s.add(f"{path}.add:1", [total, y], module=path)
    s.merge(last, s.skip(last, 0, total, "add", bypassed_layers=2))
    return last


SKETCHES = {"unet": unet, "resnet50": resnet, "densenet121": densenet, "vit": vit}
