# SPDX-License-Identifier: Apache-2.0
"""Compiles a program with libtpu and reports what the compiler plans.

  python benchmarks/tpu_compiler.py PROGRAM.hlo.pb --topology=v3:2x2

`tpu_compile.py` starts this file with an interpreter that has jax and libtpu
and no TensorFlow, so it imports nothing of tf_audioset. PROGRAM is a serialized
HloModuleProto. The report is printed as JSON, on the last line.
"""

from __future__ import annotations

import argparse
import json
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
import tpu_hlo
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
    "unestimated_ms", what the instructions without an estimate take at least;
    "instructions" and "unestimated", see `tpu_hlo.instructions`; "argument_gb",
    "temp_gb"; and the device.
  """
  text = executable.hlo_modules()[0].to_string()
  clock_hz, bytes_per_s = _DEVICES[device_kind]
  instructions, unestimated = tpu_hlo.instructions(text, clock_hz, bytes_per_s)
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
