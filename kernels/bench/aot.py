"""Compilation of kernels for absent GPUs, and counts of registers, spills and instructions.

Triton's wheel holds the assembler and the disassembler, so this needs no driver. It finds what the interpreter accepts
and the compiler does not, spills, narrow loads, and instructions per element of the loops over the vocabulary: kernels
that read each logit once are limited by memory only while they issue fewer than about ten instructions for it.

Not for a process that interprets kernels (TRITON_INTERPRET): there they cannot be compiled.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from isentrope.errors import InternalError

ARCHITECTURES = (80, 90)
WARP = 32


@dataclass(frozen=True, slots=True)
class Kernel:
    """One specialisation of a kernel.

    types: Triton types of the arguments that are not constant. constants: the rest. aligned: arguments that are
    multiples of 16 (pointers, row strides), as they are for real models. loops: for each loop over the vocabulary, in
    the order of the code, what is appended to the name, and logits per iteration. program: logits of one program, for
    a kernel without such a loop. Neither: instructions are not counted.
    """

    name: str
    function: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    aligned: frozenset[str]
    warps: int
    dtype: str
    loops: tuple[tuple[str, int], ...] = ()
    program: int = 0
    provider: str = "isentrope"
    registers: int | None = None
    """Registers that a thread may have; None: as many as the assembler chooses."""


@dataclass(frozen=True, slots=True)
class Report:
    """Cost of one compiled kernel, or of one of its loops. wide_loads: number of loads of 128 bits."""

    name: str
    provider: str
    arch: str
    dtype: str
    registers: int
    spill_bytes: int
    instructions_per_element: float | None
    wide_loads: int


def examine(kernel: Kernel, architecture: int) -> list[Report]:
    """Compile `kernel` for sm_`architecture` and count: a report for each of its loops over the vocabulary."""
    names = list(kernel.function.arg_names)
    signature = {name: kernel.types.get(name, "constexpr") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in kernel.aligned}
    source = ASTSource(kernel.function, signature, constexprs=dict(kernel.constants), attrs=attributes)
    options = {"num_warps": kernel.warps, "maxnreg": kernel.registers}
    options["enable_fp_fusion"] = True  # as launches have it; Triton 3.10 will not
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, WARP), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    resources = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    instructions, loops = _loops(code)
    hot = [loop for loop in loops if not any(_inside(other, loop) for other in loops)]
    wide = [loop for loop in hot if any(_is_wide_load(text) for text in instructions[loop[0] : loop[1] + 1])]
    counts: list[tuple[str, float | None]] = [
        (part, (last - first + 1) * WARP * kernel.warps / elements)
        for (first, last), (part, elements) in zip(wide, kernel.loops, strict=False)
    ]
    if len(wide) < len(kernel.loops):
        raise InternalError(f"{kernel.name}: {len(wide)} loops with loads of 128 bits, {len(kernel.loops)} expected")
    if kernel.program:
        counts = [("", len(instructions) * WARP * kernel.warps / kernel.program)]
    return [
        Report(
            name=f"{kernel.name}{part}",
            provider=kernel.provider,
            arch=f"sm_{architecture}",
            dtype=kernel.dtype,
            registers=resources["REG"],
            spill_bytes=resources["STACK"] + resources["LOCAL"],
            instructions_per_element=None if count is None else round(count, 2),
            wide_loads=sum(map(_is_wide_load, instructions)),
        )
        for part, count in counts or [("", None)]
    ]


def kernels() -> Iterable[Kernel]:
    """Yield our kernels, for a vocabulary that is a multiple of 16."""
    from isentrope.kernels import fused_row, gradient, row_list, select, stats

    for dtype in ("bf16", "fp32"):
        tile = stats.tile_for(151936)
        for name, moments in (("forward", False), ("moments", True)):
            yield Kernel(
                name,
                stats._stats,
                types_of("logits:*{0} targets:*i64 inverse_temperature:*fp32 order:*i32 count:*i32", dtype)
                | types_of("triples:*fp32 row_stride:i32 vocabulary:i32 n:i32 vocab_start:i32 softcap:fp32"),
                {"PER_ROW": False, "CAP": False, "MOMENTS": moments, "INTERPRETED": False}
                | {"U": tile.unroll, "B": tile.width},
                frozenset({"logits", "row_stride", "vocabulary"}),
                tile.warps,
                dtype,
                (("", tile.unroll * tile.width),),
                registers=stats.MOMENT_REGISTERS if moments else None,
            )
        tile = gradient.tile_for(151936)
        yield Kernel(
            "backward",
            gradient._gradient,
            types_of("logits:*{0} out:*{0} targets:*i64 logp:*fp32 entropy:*fp32 top:*fp32 log_sum:*fp32", dtype)
            | types_of("by_logp:*fp32 by_entropy:*fp32 upstream:*fp32 inverse_temperature:*fp32 order:*i32", dtype)
            | types_of("count:*i32 row_stride:i32 out_stride:i32 vocabulary:i32 n:i32 softcap:fp32", dtype),
            {"PER_ROW": False, "CAP": False, "INTERPRETED": False, "U": tile.unroll, "B": tile.width},
            frozenset({"logits", "out", "row_stride", "out_stride", "vocabulary"}),
            tile.warps,
            dtype,
            (("", tile.unroll * tile.width),),
        )
        tile = fused_row.tile_for(151936, {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])
        yield Kernel(
            "row_fused",
            fused_row._row,
            types_of("logits:*{0} out:*{0} targets:*i64 advantage:*fp32 logp_old:*fp32 weight:*fp32", dtype)
            | types_of("selected:*u8 normalizer:*fp32 inverse_temperature:*fp32 order:*i32 count:*i32", dtype)
            | types_of("result:*fp32 row_stride:i32 out_stride:i32 vocabulary:i32 n:i32 softcap:fp32 action:i32", dtype)
            | types_of("low:fp32 high:fp32 dual:fp32 kl_coef:fp32 entropy_coef:fp32 clamp:fp32", dtype),
            {"PER_ROW": False, "CAP": False, "INTERPRETED": False, "U": tile.unroll, "B": tile.width},
            frozenset({"logits", "out", "row_stride", "out_stride", "vocabulary"}),
            tile.warps,
            dtype,
            (("_forward", tile.unroll * tile.width), ("_backward", tile.unroll * tile.width)),
        )
    yield Kernel(
        "select",
        select._select_one,
        types_of("keys:*i32 allowed:*u8 chosen:*u8 k:*i32 n:i32"),
        {"B": select._ONE_BLOCK},
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
            f"select{name}",
            getattr(select, name),
            types_of(types),
            {"B": select._BLOCK},
            frozenset({"keys"}),
            8,
            "int32",
        )
    yield Kernel(
        "select_pick", select._pick, types_of("state:*i32 histogram:*i32 shift:i32"), {}, frozenset(), 1, "int32"
    )
    yield Kernel(
        "rows",
        row_list._compact,
        types_of("active:*u8 order:*i32 count:*i32 n:i32"),
        {"B": 1024},
        frozenset(),
        4,
        "int32",
    )


def reports(kernels: Iterable[Kernel]) -> list[Report]:
    """Return the reports of all kernels, compiled for all architectures."""
    return [report for kernel in kernels for arch in ARCHITECTURES for report in examine(kernel, arch)]


def types_of(text: str, dtype: str = "") -> dict[str, str]:
    """Return `name:type` pairs as a map; `{0}` stands for `dtype`."""
    return dict(pair.split(":") for pair in text.format(dtype).split())


def _tool(name: str, *arguments: str) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def _loops(code: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the instructions of a disassembly, and the loops among them as (first, last)."""
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


def _is_wide_load(instruction: str) -> bool:
    return instruction.startswith("LDG") and ".128" in instruction
