"""Compiles kernels for GPUs that are not there, and counts what the machine code costs.

Triton's wheel holds the assembler and the disassembler, so this needs no driver. It finds what the interpreter accepts
and the compiler does not, spills, narrow loads, and instructions per element of the loops over the vocabulary: kernels
that read each logit once are limited by memory only while they issue fewer than about ten instructions for it.

Not for a process that interprets kernels (TRITON_INTERPRET): there they cannot be compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHITECTURES = (80, 90)
WARP = 32
_POINTER = re.compile(r"\*")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One specialisation of a kernel.

    types: Triton types of the arguments that are not constant. constants: the rest. aligned: arguments that are
    multiples of 16 (pointers, row strides), as they are for real models. elements: logits per iteration of each loop
    over the vocabulary, in the order of the code; empty: not counted.
    """

    name: str
    function: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    aligned: frozenset[str]
    warps: int
    dtype: str
    elements: Sequence[int] = ()
    provider: str = "isentrope"


@dataclass(frozen=True, slots=True)
class Report:
    """What one compiled kernel costs. instructions_per_element: of each counted loop. wide_loads: of 128 bits."""

    name: str
    provider: str
    arch: str
    dtype: str
    registers: int
    spill_bytes: int
    instructions_per_element: list[float]
    wide_loads: int


def examine(kernel: Kernel, architecture: int) -> Report:
    """Compile `kernel` for sm_`architecture` and count."""
    names = list(kernel.function.arg_names)
    signature = {name: kernel.types.get(name, "constexpr") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in kernel.aligned}
    source = ASTSource(kernel.function, signature, constexprs=dict(kernel.constants), attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, WARP), options={"num_warps": kernel.warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    resources = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    instructions, loops = _loops(code)
    hot = [(first, last) for first, last in loops if not any(_inside(other, (first, last)) for other in loops)]
    counted = [
        round((last - first + 1) * WARP * kernel.warps / elements, 2)
        for (first, last), elements in zip(_with_wide_loads(instructions, hot), kernel.elements, strict=False)
    ]
    return Report(
        name=kernel.name,
        provider=kernel.provider,
        arch=f"sm_{architecture}",
        dtype=kernel.dtype,
        registers=resources["REG"],
        spill_bytes=resources["STACK"] + resources["LOCAL"],
        instructions_per_element=counted,
        wide_loads=sum(".128" in text for text in instructions if text.startswith("LDG")),
    )


def kernels() -> Iterable[Kernel]:
    """Ours, in the shapes that matter: a vocabulary that is a multiple of 16."""
    from isentrope.kernels import gradient, row, rows, select, stats

    for dtype in ("bf16", "fp32"):
        tile = stats.tile_for(151936)
        yield Kernel(
            "stats",
            stats._stats,
            _types("logits:*{0} targets:*i64 inverse_temperature:*fp32 order:*i32 count:*i32 triples:*fp32", dtype)
            | _types("row_stride:i32 vocabulary:i32 n:i32 vocab_start:i32 softcap:fp32", dtype),
            {"PER_ROW": False, "CAP": False, "INTERPRETED": False, "U": tile.unroll, "B": tile.width},
            frozenset({"logits", "row_stride", "vocabulary"}),
            tile.warps,
            dtype,
            (tile.unroll * tile.width,),
        )
        tile = gradient.tile_for(151936)
        yield Kernel(
            "gradient",
            gradient._gradient,
            _types("logits:*{0} out:*{0} targets:*i64 logp:*fp32 entropy:*fp32 top:*fp32 log_sum:*fp32", dtype)
            | _types("by_logp:*fp32 by_entropy:*fp32 upstream:*fp32 inverse_temperature:*fp32 order:*i32", dtype)
            | _types("count:*i32 row_stride:i32 out_stride:i32 vocabulary:i32 n:i32 softcap:fp32", dtype),
            {"PER_ROW": False, "CAP": False, "INTERPRETED": False, "U": tile.unroll, "B": tile.width},
            frozenset({"logits", "out", "row_stride", "out_stride", "vocabulary"}),
            tile.warps,
            dtype,
            (tile.unroll * tile.width,),
        )
        tile = row.tile_for(151936)
        yield Kernel(
            "row",
            row._row,
            _types("logits:*{0} out:*{0} targets:*i64 advantage:*fp32 logp_old:*fp32 weight:*fp32", dtype)
            | _types("selected:*u8 normalizer:*fp32 inverse_temperature:*fp32 order:*i32 count:*i32", dtype)
            | _types("result:*fp32 row_stride:i32 out_stride:i32 vocabulary:i32 n:i32 softcap:fp32 action:i32", dtype)
            | _types("low:fp32 high:fp32 dual:fp32 kl_coef:fp32 entropy_coef:fp32 clamp:fp32", dtype),
            {"PER_ROW": False, "CAP": False, "INTERPRETED": False, "U": tile.unroll, "B": tile.width},
            frozenset({"logits", "out", "row_stride", "out_stride", "vocabulary"}),
            tile.warps,
            dtype,
            (tile.unroll * tile.width, tile.unroll * tile.width),
        )
    yield Kernel(
        "select",
        select._select_one,
        _types("keys:*i32 allowed:*u8 chosen:*u8 k:*i32 n:i32"),
        {"B": select._BLOCK},
        frozenset({"keys", "allowed", "chosen"}),
        select._WARPS,
        "int32",
    )
    for name, types in {
        "_count": "keys:*i32 allowed:*u8 state:*i32 histogram:*i32 n:i32 shift:i32",
        "_ties": "keys:*i32 allowed:*u8 state:*i32 ties:*i32 n:i32",
        "_mark": "keys:*i32 allowed:*u8 chosen:*u8 state:*i32 before:*i32 n:i32",
    }.items():
        yield Kernel(
            f"select{name}", getattr(select, name), _types(types), {"B": select._BLOCK}, frozenset({"keys"}), 8, "int32"
        )
    yield Kernel(
        "select_pick", select._pick, _types("state:*i32 histogram:*i32 shift:i32"), {}, frozenset(), 1, "int32"
    )
    yield Kernel(
        "rows", rows._compact, _types("active:*u8 order:*i32 count:*i32 n:i32"), {"B": 1024}, frozenset(), 4, "int32"
    )


def main(write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print all reports as JSON."""
    reports = [asdict(examine(kernel, architecture)) for kernel in kernels() for architecture in ARCHITECTURES]
    write(json.dumps({"triton": triton.__version__, "kernels": reports}, indent=1) + "\n")


def _types(text: str, dtype: str = "") -> dict[str, str]:
    return dict(pair.split(":") for pair in text.format(dtype).split())


def _tool(name: str, *arguments: str) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def _loops(code: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Instructions of a disassembly, and the loops among them as (first, last)."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in map(str.strip, code.splitlines()):
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label.group(1)] = len(instructions)
        elif instruction := re.match(r"/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(re.sub(r"^@!?U?P\w+\s+", "", instruction.group(1)))
    loops = []
    for place, text in enumerate(instructions):
        jump = re.search(r"BRA.*?`\((\.L_x_\d+)\)", text)
        if jump and labels[jump.group(1)] <= place:
            loops.append((labels[jump.group(1)], place))
    return instructions, [loop for loop in loops if loop[1] > loop[0]]


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]


def _with_wide_loads(instructions: Sequence[str], loops: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those loops that read 128 bits at a time: the ones over the vocabulary."""
    return [
        (first, last)
        for first, last in loops
        if any(text.startswith("LDG") and ".128" in text for text in instructions[first : last + 1])
    ]


if __name__ == "__main__":
    main()
