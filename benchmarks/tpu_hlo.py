# SPDX-License-Identifier: Apache-2.0
"""Reads a TPU compiler's program, as text, for its estimates of the time."""

from __future__ import annotations

import collections
import math
import re

# These name values that exist already, and cost nothing.
_FREE = {
  "after-all",
  "bitcast",
  "constant",
  "get-tuple-element",
  "opt-barrier",
  "parameter",
  "partition-id",
  "replica-id",
  "tuple",
}
# What they cost is in the computations that they call.
_CALLS = {"call", "conditional", "while"}
_INSTRUCTION = re.compile(
  r"\s+(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)"
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::T\((\d+),(\d+)\))?)?")


def instructions(
  text: str, clock_hz: float, bytes_per_s: float
) -> tuple[list[dict], list[dict]]:
  """Returns what takes time in a compiled program.

  Args:
    text: An optimised HLO module, in which instructions have the compiler's
      `estimated_cycles`.
    clock_hz: Cycles per second of the device.
    bytes_per_s: Between the device and its memory.

  Returns:
    The instructions that have an estimate and those that have none, the slowest
    first. Each is a dict of "ms" (without an estimate, the least that its
    traffic with the memory takes), "name", "opcode", "shape", "scope" (the name
    that TensorFlow gave it) and "times", more than 1 in a loop.
  """
  computations, entry = _computations(text)
  times = _times(computations, entry)
  estimated, unestimated = [], []
  for name, lines in computations.items():
    if not times[name]:
      continue  # Part of a fusion, whose estimate counts it.
    shapes = {}
    for line in lines:
      match = _INSTRUCTION.match(line)
      if not match:
        continue
      instruction, shape, opcode, rest = match.groups()
      shapes[instruction] = shape
      scope = re.search(r'op_name="([^"]*)"', line)
      row = {
        "name": instruction,
        "opcode": opcode,
        "shape": shape,
        "scope": scope[1] if scope else "",
        "times": times[name],
      }
      cycles = re.search(r'"estimated_cycles":"?(\d+)', line)
      if cycles:
        row["ms"] = int(cycles[1]) * times[name] / clock_hz * 1e3
        estimated.append(row)
      elif opcode not in _FREE | _CALLS:
        operands = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
        moved = num_bytes(shape)
        moved += sum(num_bytes(shapes.get(x, "")) for x in operands)
        row["ms"] = moved * times[name] / bytes_per_s * 1e3
        unestimated.append(row)
  for rows in (estimated, unestimated):
    rows.sort(key=lambda row: -row["ms"])
  return estimated, unestimated


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns the lines of each computation, and the name of the first one."""
  computations, entry, lines = {}, "", []
  for line in text.splitlines():
    head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
    if head:
      lines = computations[head[2]] = []
      entry = head[2] if head[1] else entry
    else:
      lines.append(line)
  return computations, entry


def _times(computations: dict[str, list[str]], entry: str) -> dict[str, int]:
  """Returns how often each computation runs: 0 where it is part of a fusion.

  A loop whose number of turns the compiler does not know counts as one turn.
  """
  times = collections.Counter({entry: 1})
  todo = [(entry, 1)]
  while todo:
    name, runs = todo.pop()
    for line in computations[name]:
      turns = 1
      if " while(" in line:
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        turns = int(known[1]) if known else 1
        called = re.findall(r"(?:condition|body)=%?([\w.\-]+)", line)
      elif " conditional(" in line:
        called = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        called += re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
      elif " call(" in line:
        called = re.findall(r"to_apply=%?([\w.\-]+)", line)
      else:
        continue
      for other in called:
        times[other] += runs * turns
        todo.append((other, runs * turns))
  return times


def num_bytes(shape: str) -> int:
  """Returns the bytes of a shape, with the padding of its layout's tiles.

  Args:
    shape: As in HLO, such as "bf16[256,501,64]{0,2,1:T(8,128)(2,1)}", or a
      tuple of such.
  """
  total = 0
  for kind, dims, order, rows, lanes in _ARRAY.findall(shape):
    dims = [int(x) for x in dims.split(",") if x]
    if rows and len(dims) > 1:
      minor, second = (int(x) for x in order.split(",")[:2])
      dims[minor] = math.ceil(dims[minor] / int(lanes)) * int(lanes)
      dims[second] = math.ceil(dims[second] / int(rows)) * int(rows)
    bits = {"pred": 8, "token": 0}.get(kind)
    if bits is None:
      bits = int(re.search(r"\d+", kind)[0])
    total += math.prod(dims) * bits // 8
  return total
