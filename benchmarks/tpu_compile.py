# SPDX-License-Identifier: Apache-2.0
r"""The time and memory of a training step on a TPU, by the TPU's own compiler.

  python benchmarks/tpu_compile.py --gin_file=gin/resnet18.gin
  python benchmarks/tpu_compile.py --peers

Lowers the whole step of an experiment for one core and compiles it with libtpu,
which needs no TPU. Prints the compiler's estimate of its time, the memory that
it plans, and where the time goes. Nothing is run. The estimate leaves out the
sum of the gradients over the cores (--replicas=8 has it in the program), the
infeed and the host; it is compared with published speeds in
docs/performance.md. A step takes 1 to 6 minutes to compile.

jax and libtpu need an environment of their own: make .venv-tpu/installed
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import re
import subprocess
import tempfile

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

_FOLDER = pathlib.Path(__file__).resolve().parent
_PEERS = (
  "front_end",
  "resnet18",
  "efficientnet_b0",
  "convnext_tiny",
  "resnet50",
)
_PARTS = ("frontend", "step")
_FRONT_END = "front end"

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("gin_file", None, "Experiment. Repeatable.")
flags.DEFINE_multi_string("gin_bindings", [], "A line of gin. Repeatable.")
flags.DEFINE_integer("batch_size", 256, "Clips of a core.", lower_bound=1)
flags.DEFINE_integer(
  "replicas",
  1,
  "Cores that run the step together. Above 1, it sums gradients over them: for "
  "this the compiler has no estimate.",
  lower_bound=1,
)
flags.DEFINE_integer("num_classes", 527, "Width of the targets.", lower_bound=1)
flags.DEFINE_enum(
  "precision", "mixed_bfloat16", ("float32", "mixed_bfloat16"), "As in gin."
)
flags.DEFINE_string(
  "topology",
  "v3:2x2",
  "v3:2x2 is a v3-8. Others: v2:2x2, v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2.",
)
flags.DEFINE_list(
  "parts", list(_PARTS), "frontend, step or both: what is compiled by itself."
)
flags.DEFINE_string(
  "tpu_python",
  os.environ.get("TPU_PYTHON", str(_FOLDER.parent / ".venv-tpu/bin/python")),
  "Interpreter that has jax and libtpu. Default: $TPU_PYTHON or the checkout's "
  ".venv-tpu/bin/python.",
)
flags.DEFINE_string(
  "hlo_out", None, "Keep the step as a serialized HloModuleProto in this file."
)
flags.DEFINE_string(
  "text_out", None, "Keep what the compiler made of the step, as text."
)
flags.DEFINE_bool(
  "peers", False, "Compile audax's side, and ResNet-50 for the calibration."
)
flags.DEFINE_multi_enum("peer", [], _PEERS, "Only this one of the peers.")
flags.DEFINE_integer("top", 25, "Rows of each table.", lower_bound=0)
flags.DEFINE_bool("json", False, "Print JSON.")


def main() -> int:
  peers = FLAGS.peer or (_PEERS if FLAGS.peers else ())
  _check_flags(peers)
  result = {"topology": FLAGS.topology}
  if FLAGS.gin_file:
    result |= _measure_experiment()
  if peers:
    result["peers"] = {name: _measure_peer(name) for name in peers}
  if FLAGS.json:
    print(json.dumps(result, indent=2))
  return int(not result.get("fits", True))


def _check_flags(peers):
  if not FLAGS.gin_file and not peers:
    raise UserError("give --gin_file for an experiment, or --peers.")
  if not FLAGS.parts or set(FLAGS.parts) - set(_PARTS):
    raise UserError(
      f"--parts={','.join(FLAGS.parts)}: allowed are frontend, step, or both."
    )
  has_packages = (
    "import importlib.util as u, sys; "
    "sys.exit(not all(map(u.find_spec, ['jax', 'libtpu'])))"
  )
  python = FLAGS.tpu_python
  try:
    found = subprocess.run([python, "-c", has_packages], capture_output=True)
    is_usable = found.returncode == 0
  except OSError:
    is_usable = False
  if not is_usable:
    raise UserError(
      f"--tpu_python={python} is no interpreter with jax and libtpu: run make "
      ".venv-tpu/installed, or pip install -r benchmarks/requirements-tpu.txt "
      "in an environment of its own and give its bin/python."
    )


def _measure_experiment() -> dict:
  """Lowers and compiles the parts of the experiment, and prints tables."""
  reports = {}
  with tempfile.TemporaryDirectory() as folder:
    for part in sorted(set(FLAGS.parts)):
      program = pathlib.Path(folder, f"{part}.hlo.pb")
      program.write_bytes(_lower(part))
      is_main = part == "step" or FLAGS.parts == [part]
      if FLAGS.hlo_out and is_main:
        pathlib.Path(FLAGS.hlo_out).write_bytes(program.read_bytes())
      options = [str(program), f"--topology={FLAGS.topology}"]
      if part == "step":
        options.append(f"--replicas={FLAGS.replicas}")
      if FLAGS.text_out and is_main:
        options.append(f"--text_out={FLAGS.text_out}")
      reports[part] = _compile("tpu_compiler.py", *options)
  main_part = reports["step" if "step" in reports else "frontend"]
  result = {
    **_summary(main_part, FLAGS.batch_size),
    "batch_size": FLAGS.batch_size,
    "precision": FLAGS.precision,
    "front_end_ms": _front_end_ms(reports),
  }
  if main_part["fits"]:
    result["by_part"] = _by_part(main_part["instructions"])[: FLAGS.top]
    result["instructions"] = main_part["instructions"][: FLAGS.top]
    result["unestimated"] = main_part["unestimated"][: FLAGS.top]
  if not FLAGS.json:
    for part, report in reports.items():
      _print_summary(part, _summary(report, FLAGS.batch_size))
    if main_part["fits"]:
      _print_tables(result)
  return result


def _front_end_ms(reports: dict) -> float | None:
  """Returns its time by itself or, if only the step was compiled, in that."""
  if "frontend" in reports:
    return reports["frontend"].get("ms")
  instructions = reports["step"].get("instructions", [])
  return sum(x["ms"] for x in instructions if _FRONT_END in _part(x))


def _lower(part: str) -> bytes:
  """Returns the program of one core as a serialized HloModuleProto."""
  from tf_audioset import compilation

  compilation.load_as_on_tpu(
    FLAGS.gin_file,
    FLAGS.gin_bindings,
    batch_size=FLAGS.batch_size * FLAGS.replicas,
    precision=FLAGS.precision,
  )
  if part == "frontend":
    return compilation.front_end_hlo()
  return compilation.loop_hlo(
    num_classes=FLAGS.num_classes,
    num_steps=1,
    num_replicas=FLAGS.replicas,
    stage="hlo_serialized",
  )


def _measure_peer(name: str) -> dict:
  report = _compile("tpu_peers.py", name, f"--topology={FLAGS.topology}")
  summary = _summary(report, report["batch_size"])
  if not FLAGS.json:
    _print_summary(f"peer {name}", summary)
  return summary


def _compile(script: str, *arguments: str) -> dict:
  """Runs a script beside this one with the other interpreter.

  Returns:
    The report of `tpu_compiler.report`.

  Raises:
    UserError: If the script says what is wrong in one line.
    RuntimeError: If it fails in another way; with its standard error.
  """
  # libtpu writes a log of its own in every case.
  done = subprocess.run(
    [FLAGS.tpu_python, str(_FOLDER / script), *arguments],
    capture_output=True,
    text=True,
  )
  if done.returncode == 0:
    return json.loads(done.stdout.splitlines()[-1])
  mistakes = re.findall(r"^\w+: error: (.*)$", done.stderr, re.MULTILINE)
  if mistakes:
    raise UserError(mistakes[-1])
  raise RuntimeError(f"{script} failed:\n{done.stderr}")


def _summary(report: dict, batch_size: int) -> dict:
  """Returns the figures of a report without its instructions."""
  summary = {
    name: value
    for name, value in report.items()
    if name not in ("instructions", "unestimated")
  }
  if report["fits"]:
    summary["clips_per_s"] = (
      batch_size * report["num_devices"] / report["ms"] * 1e3
    )
  return summary


def _by_part(instructions: list[dict]) -> list[dict]:
  """Adds up instructions of the same kind, the slowest first."""
  totals = collections.defaultdict(lambda: {"ms": 0.0, "instructions": 0})
  for instruction in instructions:
    total = totals[_part(instruction)]
    total["ms"] += instruction["ms"]
    total["instructions"] += 1
  parts = [{"part": part, **total} for part, total in totals.items()]
  return sorted(parts, key=lambda part: -part["ms"])


def _part(instruction: dict) -> str:
  """Names what an instruction is for, by the scope that TensorFlow gave it."""
  # A fusion can have several scopes; the last is that of its result.
  scope = instruction["scope"].split(";")[-1]
  if re.search(r"\blog_(mel|spectrogram)", scope):
    name = _FRONT_END
  else:
    names = [re.sub(r"_\d+$", "", x) for x in scope.split("/")[-2:]]
    direction = "backward" if "gradient_tape" in scope else "forward"
    name = f"{direction} {'/'.join(names)}"
  is_copy = instruction["opcode"].startswith("copy")
  return f"copy: {name}" if is_copy else name


def _print_summary(name: str, summary: dict) -> None:
  place = f"{summary['num_devices']} x {summary['device']}"
  if not summary["fits"]:
    print(
      f"{name}: does not fit: needs {summary['needed_gb']:.2f} GB of "
      f"{summary['available_gb']:.2f} GB ({summary['device']})"
    )
    return
  print(
    f"{name}: {summary['ms']:.2f} ms, {summary['clips_per_s']:,.0f} a second "
    f"on {place}; memory {summary['argument_gb']:.2f} GB arguments, "
    f"{summary['temp_gb']:.2f} GB temporaries: fits; without an estimate: "
    f"instructions of at least {summary['unestimated_ms']:.2f} ms; compiled in "
    f"{summary['compile_seconds']:.0f} s"
  )


def _print_tables(result: dict) -> None:
  print("\nby part: ms, instructions")
  for part in result["by_part"]:
    print(f"{part['ms']:9.2f} {part['instructions']:5}  {part['part']}")
  for title, rows in (
    ("slowest instructions: ms", result["instructions"]),
    (
      "without an estimate: the least ms by their memory traffic",
      [row for row in result["unestimated"] if row["ms"] > 0.01],
    ),
  ):
    print(f"\n{title}")
    for row in rows:
      shape = re.sub(r"\{[^}]*\}", "", row["shape"])
      times = f" x {row['times']}" if row["times"] > 1 else ""
      print(
        f"{row['ms']:9.2f}  {row['name']}{times} {shape[:60]} "
        f"{row['scope'][-90:]}"
      )


if __name__ == "__main__":
  cli.run(main, prog="tpu_compile")
