"""Matrix products in eight bits, by ONNX Runtime's quantisers and kernels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from pydantic import Field

from zsei.errors import SpeedUpRefused
from zsei.settings import SPEED_BOUNDS
from zsei.speedups.onnx_runtime import OnnxParams, session_settings
from zsei.speedups.onnx_session import Exported, exported, quiet
from zsei.speedups.placement import critical_of, mean_divergence, place, upper
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.speedup import Params
from zsei.speedups.weighted import grouped, one_line, paths_of, weighted
from zsei.speedups.workload import Workload

Mode = Literal["dynamic", "blocks", "weights"]
_QUANTISED = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits")


class Int8Params(OnnxParams):
    """What is turned into eight bits, and where."""

    mode: Mode = "dynamic"
    """`dynamic`: weights with a scale per output, activations with one scale per call. `blocks`:
    both with a scale per block of inputs. `weights`: weights alone, with a scale per block."""
    keep: tuple[str, ...] = ()
    """Ids of components that stay in float32."""
    block: Literal[32, 64, 128] = Field(default=128)
    """Inputs that share a scale, in the modes that have blocks."""


@final
@dataclass(frozen=True, kw_only=True)
class Int8:
    """Weights of matrix products in eight bits, and their inputs too where the mode says so.

    The model is exported to ONNX and its products with constant weights are quantised; all else
    stays float32. *Dynamic* is fastest and coarsest: one value that is far larger than the others
    leaves them few of the 256 levels. Where outputs move too far, components are put back into
    float32, most sensitive first, those on the critical path before others
    (`zsei.speedups.placement`).

    Exact: no. Costs: seconds to minutes of export; weights take a quarter of the memory, beside the
    original's.
    Misleads when: the processor lacks dot products of eight-bit numbers (VNNI): sums of pairs may
    then saturate, and little is gained. Convolutions are left in float32.

    References: Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", CVPR 2018; Dettmers et al., "LLM.int8()", NeurIPS 2022; ONNX
    Runtime developers, "Quantize ONNX models", documentation.
    """

    name: ClassVar[str] = "int8"
    title: ClassVar[str] = "Eight bits (ONNX Runtime)"
    order: ClassVar[int] = 40
    exact: ClassVar[bool] = False
    params: ClassVar[type[Params]] = Int8Params

    most: int = 16
    """Groups of components whose sensitivity is measured one by one."""

    def variants(self, workload: Workload) -> tuple[Int8Params, ...]:
        """Dynamic, placed where the whole is too coarse; then both in blocks; then weights."""
        whole = Int8Params()
        others = (Int8Params(mode="blocks"), Int8Params(mode="weights"))
        baseline = bare(workload.model, workload.input_names)
        with exported(baseline, workload, self.title) as model:
            moved = upper(mean_divergence(quantised(model, whole, workload), workload))
            if moved <= SPEED_BOUNDS[workload.objective.output]:
                return (whole, *others)
            placed = self._placed(model, workload)
        # What is known to be too coarse is told last.
        return (*((placed,) if placed else ()), *others, whole)

    def _placed(self, model: Exported, workload: Workload) -> Int8Params | None:
        """Dynamic on the components that bear it together; None where none does."""
        owning = {path for scopes in model.products.values() for path in scopes}
        parts = [part for part in weighted(workload) if part.path in owning]
        ids = grouped(parts, workload, self.most)

        def without(taken: Collection[str]) -> Int8Params:
            return Int8Params(keep=tuple(name for name in ids if name not in taken))

        def lowered(taken: Sequence[str]) -> Runnable:
            return quantised(model, without(taken), workload)

        bound = SPEED_BOUNDS[workload.objective.output]
        critical = critical_of(workload.subject)
        found = place(workload, ids, lowered, bound=bound, critical=critical)
        return without(found.lowered) if found.lowered else None

    def apply(self, runnable: Runnable, params: Int8Params, workload: Workload) -> Runnable:
        """Exported, quantised, loaded and run once on a batch of every shape."""
        with exported(runnable, workload, self.title) as model:
            return quantised(model, params, workload)


def quantised(model: Exported, params: Int8Params, workload: Workload) -> Runnable:
    """An exported model in eight bits.

    Raises:
        SpeedUpRefused: It holds no product with constant weights, or the quantiser stopped.
        UsageError: `keep` names no component with weights.
    """
    kept = set(paths_of(params.keep, workload))
    outside = [name for name, scopes in model.products.items() if scopes & kept]
    path = model.file("int8.onnx")
    try:
        with quiet():
            count = _write(model.path, path, params, outside)
    except Exception as error:
        raise SpeedUpRefused(
            f"Eight bits need every product to be quantised; ONNX Runtime's quantiser stopped with "
            f"{one_line(error)}."
        ) from error
    if not count:
        raise SpeedUpRefused(
            f"Eight bits need a matrix product with constant weights that is not kept in float32; "
            f"of {len(model.products)} products none is left. Keep fewer components, or use "
            f"another mode."
        )
    return model.run(path, session_settings(params, workload))


def _write(source: Path, target: Path, params: Int8Params, outside: Sequence[str]) -> int:
    """Write the quantised file: how many products are in eight bits."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    large = source.with_name(f"{source.name}.data").exists()
    plain = ONNXModel(onnx.load(source))
    _own_weights(plain.model.graph)
    plain.replace_gemm_with_matmul()
    outside = [*outside, *(f"{name}_MatMul" for name in outside)]
    if params.mode == "dynamic":
        quantize_dynamic(
            plain.model, target, op_types_to_quantize=["MatMul"], per_channel=True,
            weight_type=QuantType.QInt8, nodes_to_exclude=list(outside),
            use_external_data_format=large, extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
    else:
        quantiser: Any = MatMulNBitsQuantizer(
            plain.model, bits=8, block_size=params.block, is_symmetric=True,
            accuracy_level=4 if params.mode == "blocks" else 1, nodes_to_exclude=list(outside),
        )  # fmt: skip
        quantiser.process()
        onnx.save(quantiser.model.model, str(target), save_as_external_data=large)
    written = onnx.load(target, load_external_data=False)
    return sum(node.op_type in _QUANTISED for node in written.graph.node)


def _own_weights(graph: Any) -> None:
    """Give every `Gemm` weights of its own, and forget noted shapes.

    The library writes a `Gemm` as a plain product by transposing its weights in place: weights that
    two of them share would be transposed twice, and the shapes noted for them would be wrong.
    """
    del graph.value_info[:]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for number, node in enumerate(graph.node):
        if node.op_type == "Gemm" and node.input[1] in weights:
            own = graph.initializer.add()
            own.CopyFrom(weights[node.input[1]])
            own.name = f"{own.name}_of_{number}"
            node.input[1] = own.name
