"""Writing an exported network as an ONNX file: facts in its header, half-precision weights, external weight files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import ReIDError
from utils.files.checkpoint import write_atomically

if TYPE_CHECKING:
    import onnx_ir
    from torch.onnx import ONNXProgram

LARGEST = (1 << 31) - (1 << 22)
"""Bytes of weights in one file: the format ends at 2 GiB, a few MiB of which the operators may need."""
SMALLEST_HALF = 256
"""Elements from which on a tensor of weights is stored in half precision; constants of the computation are smaller."""


def write_onnx(program: ONNXProgram, path: Path, facts: Mapping[str, str], half: bool = False) -> list[Path]:
    """Write ``program`` to ``path``, and its weights beside it as ``<name>.data`` where one file cannot hold them.

    Args:
        program: what :func:`torch.onnx.export` returned.
        path: an ``.onnx`` file.
        facts: for the header (``metadata_props``).
        half: store weights as float16 and widen them to float32 where they are read; computing stays in float32.

    Returns:
        The files that were written.

    Raises:
        ReIDError: ``path`` cannot be written.
    """
    if half:
        _store_in_half(program.model)
    program.model.metadata_props.update(facts)
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value)
    if weights <= LARGEST:
        write_atomically(path, lambda file: file.write(program.model_proto.SerializeToString()))
        return [path]
    return _write_with_weights_beside(program.model, path)


def _write_with_weights_beside(model: onnx_ir.Model, path: Path) -> list[Path]:
    """The file names its weights by their place beside it, so both are written in a folder of their own and moved."""
    import onnx_ir

    beside = path.with_name(f"{path.name}.data")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            onnx_ir.save(model, Path(folder) / path.name, external_data=beside.name)
            for target in (beside, path):
                (Path(folder) / target.name).replace(target)
    except OSError as error:
        raise ReIDError(
            f"{path}: cannot be written ({error}). Check the folder, its permissions and the disk."
        ) from error
    return [path, beside]


def _store_in_half(model: onnx_ir.Model) -> None:
    """float16 weights, each widened by an operator in front of all others."""
    import onnx_ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != onnx_ir.DataType.FLOAT or tensor.size < SMALLEST_HALF:
            continue
        stored = onnx_ir.Value(
            name=f"{name}_half",
            shape=value.shape,
            type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT16),
            const_value=onnx_ir.tensor(tensor.numpy().astype(np.float16), name=f"{name}_half"),
        )
        to = onnx_ir.AttrInt64("to", onnx_ir.DataType.FLOAT)
        widened = onnx_ir.Node("", "Cast", inputs=[stored], attributes=[to], num_outputs=1)
        onnx_ir.convenience.replace_all_uses_with(value, widened.outputs[0])
        del graph.initializers[name]
        widened.outputs[0].name, widened.outputs[0].shape, widened.outputs[0].type = name, value.shape, value.type
        graph.register_initializer(stored)
        graph.insert_before(graph[0], widened)
