from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from skipgraph.errors import BuildError, CaptureError, InputError, SourceError
from skipgraph.sources import load

INPUT = ("1x4",)


def model_of(spec: object, **options: object) -> torch.nn.Module:
    return load(str(spec), inputs=INPUT, **options).model  # type: ignore[arg-type]


# -- which object a file means -----------------------------------------------------------------------------------------


def test_only_class(write) -> None:
    assert type(model_of(write())).__name__ == "Net"


def test_what_is_called_model_comes_first(write) -> None:
    path = write("class Other(Net): ...\n__all__ = ['Net']\nmodel = Other")
    assert type(model_of(path)).__name__ == "Other"


def test_all_comes_before_what_is_defined(write) -> None:
    path = write("class Block(Net): ...\nclass Other(Net): ...\n__all__ = ['Other', 'something']")
    assert type(model_of(path)).__name__ == "Other"


def test_instance_stands_for_its_class(write) -> None:
    path = write("net = Net(6)")
    assert model_of(path).first.in_features == 6


def test_imported_models_are_not_defined_there(write) -> None:
    write("class Imported(Net): ...\nlayer = Net()", name="other.py")
    path = write("from other import Imported, layer\nfrom torch.nn import Linear")
    assert type(model_of(path)).__name__ == "Net"


def test_only_factory(write) -> None:
    path = write(
        """
        from torch import nn

        def small(width: int = 4) -> nn.Linear:
            return nn.Linear(width, 2)

        def block(width: int) -> nn.Linear:
            return nn.Linear(width, width)

        def main():
            raise RuntimeError("must not be called")
        """,
        net=False,
    )
    assert model_of(path).out_features == 2


def test_one_object_under_two_names_is_one_candidate(write) -> None:
    assert type(model_of(write("Same = Net"))).__name__ == "Net"


def test_two_candidates(write) -> None:
    path = write("class Other(nn.Module): ...")
    with pytest.raises(SourceError, match="defines 2 models: Net, Other") as caught:
        load(str(path))
    assert f"{path}:Other" in caught.value.remedy


def test_no_candidate_names_the_functions_that_there_are(write) -> None:
    path = write("def build():\n    return None", net=False)
    with pytest.raises(SourceError, match="no torch.nn.Module is defined") as caught:
        load(str(path))
    assert f"{path}:build" in caught.value.remedy


# -- attributes and arguments ------------------------------------------------------------------------------------------


def test_attribute_with_arguments(write) -> None:
    path = write("class Other(nn.Module): ...")
    assert model_of(f"{path}:Net(width=4)").first.in_features == 4
    assert model_of(f"{path}:Net(4)").first.out_features == 4


def test_arguments_are_never_evaluated(write, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(SourceError, match="cannot be read"):
        load(f"{write()}:Net(open({str(trace)!r}, 'w'))")
    assert not trace.exists()


@pytest.mark.parametrize("text", ["Net(4", "Net(**{'width': 4})", "Net(4)(5)", "(4)"])
def test_malformed_calls(write, text: str) -> None:
    with pytest.raises(SourceError):
        load(f"{write()}:{text}", inputs=INPUT)


def test_unknown_attribute_lists_the_models(write) -> None:
    with pytest.raises(SourceError, match="has no 'Nett'") as caught:
        load(f"{write()}:Nett")
    assert caught.value.remedy == "It has: Net."


def test_attribute_that_is_no_model(write) -> None:
    with pytest.raises(SourceError, match="is a int, not"):
        load(f"{write('size = 3')}:size")


def test_factory_that_returns_something_else(write) -> None:
    path = write("def build():\n    return {'state': 1}")
    with pytest.raises(SourceError, match="returned a dict, not a torch.nn.Module"):
        load(f"{path}:build", inputs=INPUT)


def test_constructor_that_needs_arguments(write) -> None:
    path = write("class Needy(nn.Module):\n    def __init__(self, width, depth=2): super().__init__()")
    with pytest.raises(SourceError, match="missing a required argument: 'width'") as caught:
        load(f"{path}:Needy")
    assert "'Needy(width=…)'" in caught.value.remedy


def test_module_by_its_import_name(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write(name="some_package/net.py")
    monkeypatch.chdir(tmp_path)
    try:
        assert model_of("some_package.net:Net(width=4)").first.in_features == 4
    finally:
        for name in [name for name in sys.modules if name.startswith("some_package")]:
            del sys.modules[name]


def test_module_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="no module named 'no_such_package' can be imported"):
        load("no_such_package.sub:Net")


# -- what goes wrong in the file ---------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        load(str(tmp_path / "absent.py"))


def test_syntax_error_is_said_with_its_line(write) -> None:
    path = write("x = 1\ndef f(:\n    pass", net=False)
    with pytest.raises(SourceError, match=r"model\.py:2: syntax error"):
        load(str(path))


def test_exception_on_import_is_said_with_its_line(write) -> None:
    path = write("value = {}\nvalue['missing']", net=False)
    with pytest.raises(BuildError, match=r"model\.py:2: KeyError: 'missing'"):
        load(str(path))


def test_missing_import_names_the_package(write) -> None:
    path = write("import no_such_library_at_all", net=False)
    with pytest.raises(BuildError) as caught:
        load(str(path))
    assert "Install no_such_library_at_all" in caught.value.remedy


def test_relative_import_points_to_the_package(write) -> None:
    path = write("from .other import Net", net=False)
    with pytest.raises(BuildError) as caught:
        load(str(path))
    assert "package.module:Name" in caught.value.remedy


def test_file_that_exits(write) -> None:
    path = write("raise SystemExit(3)", net=False)
    with pytest.raises(BuildError, match="ends the program"):
        load(str(path))


def test_exception_in_the_constructor(write) -> None:
    path = write("class Broken(Net):\n    def __init__(self):\n        raise ValueError('odd width')")
    with pytest.raises(BuildError, match=r"model\.py:\d+: ValueError: odd width"):
        load(f"{path}:Broken")


def test_pretrained_is_refused(write) -> None:
    with pytest.raises(SourceError) as caught:
        load(str(write()), pretrained=True)
    assert "--weights" in caught.value.remedy


# -- building and inputs -----------------------------------------------------------------------------------------------


def test_built_without_memory(write) -> None:
    path = write(
        "class Huge(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.weight = nn.Parameter(torch.empty(1 << 21, 1 << 20))\n"
        "    def forward(self, x): return x"
    )
    source = load(f"{path}:Huge", inputs=INPUT)
    assert source.on_meta
    assert source.model.weight.numel() == 1 << 41
    assert source.notes == []


def test_constructor_that_reads_values_is_built_on_the_cpu(write) -> None:
    path = write(
        "class Rates(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]"
    )
    source = load(f"{path}:Rates", inputs=INPUT)
    assert not source.on_meta
    assert source.model.rates == [0.0, 0.5, 1.0]
    assert len(source.notes) == 1
    assert "built on the CPU" in source.notes[0]
    assert "item()" in source.notes[0]


def test_with_data_builds_the_same_model_again(write) -> None:
    source = load(str(write()), inputs=INPUT, seed=3)
    real = source.with_data()
    assert not real.on_meta
    torch.manual_seed(3)
    assert torch.equal(real.model.first.weight, torch.nn.Linear(4, 4).weight)


def test_dtype_converts_parameters_and_inputs(write) -> None:
    path = write(
        "example_inputs = (torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))\n"
        "class Two(Net):\n    def forward(self, x, index): return self.first(x)"
    )
    source = load(f"{path}:Two", dtype=torch.bfloat16)
    assert source.model.first.weight.dtype == torch.bfloat16
    assert [tensor.dtype for tensor in source.args] == [torch.bfloat16, torch.int64]


@pytest.mark.parametrize(
    ("text", "positional", "keyword"),
    [
        ("example_inputs = torch.zeros(1, 4)", 1, []),
        ("example_inputs = [torch.zeros(1, 4)]", 1, []),
        ("example_inputs = {'x': torch.zeros(1, 4)}", 0, ["x"]),
        ("def example_inputs(): return (torch.zeros(1, 4),)", 1, []),
    ],
)
def test_example_inputs_of_the_file(write, text: str, positional: int, keyword: list[str]) -> None:
    source = load(f"{write(text)}:Net")
    assert len(source.args) == positional
    assert list(source.kwargs) == keyword


def test_given_inputs_win_over_the_file(write) -> None:
    source = load(str(write("example_inputs = (torch.zeros(1, 4),)")), inputs=("7x4",))
    assert source.args[0].shape == (7, 4)


def test_no_inputs_at_all(write) -> None:
    with pytest.raises(InputError) as caught:
        load(str(write()))
    assert "--input" in caught.value.remedy
    assert "example_inputs" in caught.value.remedy


def test_missing_second_input_is_named(write) -> None:
    path = write("class Two(Net):\n    def forward(self, x, skip): return x + skip")
    with pytest.raises(CaptureError, match=r"Two\.forward\(x, skip\).*0 1x4 float32.*'skip'"):
        load(f"{path}:Two", inputs=INPUT)


def test_unknown_input_is_named(write) -> None:
    with pytest.raises(CaptureError, match="unexpected keyword argument 'images'"):
        load(str(write()), inputs=("1x4", "images=1x4"))
