# SPDX-License-Identifier: Apache-2.0
"""Compiles a program with libtpu and reports what the compiler plans.

  python benchmarks/tpu_compiler.py PROGRAM.hlo.pb --topology=v3:2x2

`tpu_compile.py` starts this file with an interpreter that has jax and libtpu
and no TensorFlow, so it imports nothing of tf_audioset. PROGRAM is a serialized
HloModuleProto. The report is printed as JSON, on the last line.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import pathlib
import re
import sys
import time

# Without the first, libtpu asks for the metadata of a TPU VM; without the
# second, one compilation locks out another.
os.environ.update(
  TPU_SKIP_MDS_QUERY="1",
  ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  JAX_PLATFORMS="cpu",
)

import numpy as np
from jax.experimental import topologies
from jaxlib import xla_client

# By device kind: cycles per second, and bytes per second between the device and
# its memory. A "device" is a core of v2, v3 and v4 and a chip of the others.
# Clocks are those that give the published peak of the matrix units.
_DEVICES = {
  "TPU v2": (700e6, 350e9),
  "TPU v3": (940e6, 450e9),
  "TPU v4": (1050e6, 600e9),
  "TPU v5 lite": (1500e6, 819e9),
  "TPU v5": (1750e6, 2765e9),
  "TPU v6 lite": (1750e6, 1640e9),
}

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
_INSTRUCTION = re.compile(
  r"\s+(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)"
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::T\((\d+),(\d+)\))?)?")


def devices(topology: str) -> list:
  """Returns the devices of a topology such as "v3:2x2", a TPU v3-8.

  Raises:
    ValueError: If libtpu does not know the topology, or this file not its
      clock.
  """
  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=topology
    ).devices
  except Exception as e:
    raise ValueError(
      f"libtpu has no topology {topology!r} ({str(e).splitlines()[0][:120]}); "
      "v2:2x2, v3:2x2, v4:2x2x1, v5e:2x2, v5p:2x2x1 and v6e:2x2 are known."
    ) from None
  kind = found[0].device_kind
  if kind not in _DEVICES:
    raise ValueError(
      f"the clock of a {kind} is not known; known are {', '.join(_DEVICES)}."
    )
  return found


def compile_hlo(proto: bytes, replicas: list):
  """Compiles a serialized HloModuleProto.

  Args:
    proto: The program of one replica.
    replicas: The devices that run it together; one for a program by itself.

  Returns:
    The executable, which cannot be run here.

  Raises:
    RuntimeError: If the compiler refuses it.
  """
  module = xla_client._xla.mlir.xla_computation_to_mlir_module(
    xla_client.XlaComputation(proto)
  )
  options = xla_client.CompileOptions()
  options.num_replicas = len(replicas)
  options.num_partitions = 1
  options.device_assignment = xla_client.DeviceAssignment.create(
    np.array([[device.id] for device in replicas])
  )
  return replicas[0].client.compile(
    module.encode(), xla_client.DeviceList(tuple(replicas)), options
  )


def report(executable, device_kind: str, num_devices: int) -> dict:
  """Describes an executable by the compiler's own figures.

  Args:
    executable: With `hlo_modules` and `get_compiled_memory_stats`.
    device_kind: Of the device that it was compiled for.
    num_devices: How many there are in the topology.

  Returns:
    "ms", the sum of the compiler's `estimated_cycles` at the device's clock;
    "instructions", each a dict of "ms", "name", "opcode", "shape", "scope" and
    "times" (more than one in a loop), the slowest first; "unestimated", those
    that the compiler gives no estimate for, with "ms" the least that their
    traffic with the memory takes; "argument_gb", "temp_gb"; and the device.
  """
  text = executable.hlo_modules()[0].to_string()
  clock_hz, bytes_per_s = _DEVICES[device_kind]
  instructions, unestimated = _instructions(text, clock_hz, bytes_per_s)
  memory = executable.get_compiled_memory_stats()
  return {
    "device": device_kind,
    "num_devices": num_devices,
    "ms": sum(x["ms"] for x in instructions),
    "argument_gb": memory.argument_size_in_bytes / 1e9,
    "temp_gb": memory.temp_size_in_bytes / 1e9,
    "fits": True,
    "unestimated_ms": sum(x["ms"] for x in unestimated),
    "instructions": instructions,
    "unestimated": unestimated,
  }


def _instructions(text: str, clock_hz: float, bytes_per_s: float):
  """Returns the estimated and the unestimated instructions of an HLO module."""
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
      elif opcode not in _FREE and opcode not in ("while", "conditional"):
        operands = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
        moved = _num_bytes(shape)
        moved += sum(_num_bytes(shapes.get(x, "")) for x in operands)
        row["ms"] = moved * times[name] / bytes_per_s * 1e3
        unestimated.append(row)
  for rows in (estimated, unestimated):
    rows.sort(key=lambda row: -row["ms"])
  return estimated, unestimated


def _computations(text: str):
  """Returns the lines of each computation, and the name of the entry."""
  computations, entry, lines = {}, "", []
  for line in text.splitlines():
    head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
    if head:
      lines = computations[head[2]] = []
      entry = head[2] if head[1] else entry
    else:
      lines.append(line)
  return computations, entry


def _times(computations: dict, entry: str) -> dict[str, int]:
  """Returns how often each computation runs: 0 where it is part of a fusion.

  A loop whose number of turns the compiler does not know counts as one turn.
  """
  times = collections.Counter({entry: 1})
  todo = [entry]
  while todo:
    name = todo.pop()
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
        times[other] += times[name] * turns
        todo.append(other)
  return times


def _num_bytes(shape: str) -> int:
  """Returns the bytes of a shape, with the padding of its layout's tiles."""
  total = 0
  for kind, dims, order, rows, lanes in _ARRAY.findall(shape):
    dims = [int(x) for x in dims.split(",") if x]
    if order and rows and len(dims) > 1:
      minor, second = (int(x) for x in order.split(",")[:2])
      dims[minor] = -(-dims[minor] // int(lanes)) * int(lanes)
      dims[second] = -(-dims[second] // int(rows)) * int(rows)
    bits = {"pred": 8, "token": 0}.get(kind) or int(
      re.sub(r"\D", "", kind.partition("e")[0]) or 0
    )
    total += math.prod(dims) * bits // 8
  return total


def refusal(error: Exception, device_kind: str, num_devices: int) -> dict:
  """Describes a program that needs more memory than there is.

  Raises:
    Exception: The error, if it says something else.
  """
  used = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", str(error))
  if "RESOURCE_EXHAUSTED" not in str(error) or not used:
    raise error
  scale = {"K": 2**10, "M": 2**20, "G": 2**30}
  return {
    "device": device_kind,
    "num_devices": num_devices,
    "fits": False,
    "needed_gb": float(used[1]) * scale[used[2]] / 1e9,
    "available_gb": float(used[3]) * scale[used[4]] / 1e9,
  }


def measure(make_executable, topology: str, text_out: str | None = None):
  """Compiles for a topology's first device, and reports.

  Args:
    make_executable: Called with all devices of the topology.
    topology: As for `devices`.
    text_out: File for the compiled program as text, or None.

  Returns:
    `report` or `refusal`, with "compile_seconds".
  """
  found = devices(topology)
  begin = time.monotonic()
  try:
    executable = make_executable(found)
  except Exception as e:
    result = refusal(e, found[0].device_kind, len(found))
  else:
    result = report(executable, found[0].device_kind, len(found))
    if text_out:
      text = executable.hlo_modules()[0].to_string()
      pathlib.Path(text_out).write_text(text)
  return {**result, "compile_seconds": time.monotonic() - begin}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("program")
  parser.add_argument("--topology", default="v3:2x2")
  parser.add_argument(
    "--replicas",
    type=int,
    default=1,
    help="devices that run the program together",
  )
  parser.add_argument("--text_out", help="write the compiled program here")
  args = parser.parse_args()
  proto = pathlib.Path(args.program).read_bytes()

  def make(found):
    return compile_hlo(proto, found[: args.replicas])

  try:
    result = measure(make, args.topology, args.text_out)
  except ValueError as e:
    sys.exit(f"tpu_compiler: error: {e}")
  print(json.dumps(result))


if __name__ == "__main__":
  main()
