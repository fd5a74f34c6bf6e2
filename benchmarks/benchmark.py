# SPDX-License-Identifier: Apache-2.0
r"""How fast training steps, exported models and the front end are.

  python benchmarks/benchmark.py --peers --peer_python=/somewhere/bin/python

--measure=training: the whole step of each .gin file, from int16 waveforms; its
parts; and the step from log-mel features alone, to compare with the peers:
PyTorch with timm's models, JAX with the same models in flax.
--measure=inference: waveforms of 10 s to scores, by the exported model: one
batch after another, with all cores or one thread for each, and clips from as
many parallel clients as there are cores; the peers begin with a log-mel, too.
--measure=frontend: log-mel of 5 s of loud tones over faint noise, and its error
against NumPy in float64; the peers in float32 and float64.

Each variant runs in its own process. The variants take turns, and the best call
of each counts, so that other load on the machine affects all alike. Load still
distorts wall times, and CPU times less; the load average is printed. The peers
must be installed in --peer_python: torch and timm (torchaudio, librosa,
onnxruntime), jax with flax and optax, the extra [peers] of setup.py.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import benchmark_worker
from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_enum(
  "measure", "training", ("training", "inference", "frontend"), "What to time."
)
flags.DEFINE_multi_string(
  "gin_file",
  ["gin/resnet18.gin", "gin/efficientnet_b0.gin", "gin/convnext_tiny.gin"],
  "Experiment. Repeatable.",
)
flags.DEFINE_list(
  "precisions", "float32,mixed_bfloat16", "Values of train.precision, for ours."
)
flags.DEFINE_multi_string("gin_bindings", [], "A line of gin. Repeatable.")
flags.DEFINE_integer(
  "batch_size", 16, "For training and the front end.", lower_bound=1
)
flags.DEFINE_integer("num_classes", 527, "Width of the targets.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "Turns of each variant.", lower_bound=1)
flags.DEFINE_integer(
  "calls", 2, "Timed calls per turn, after one warm-up call.", lower_bound=1
)
flags.DEFINE_string(
  "data_dir", None, "Train on this, not on batches in memory."
)
flags.DEFINE_bool("peers", False, "Measure PyTorch, JAX, ... as well.")
flags.DEFINE_string(
  "peer_python", sys.executable, "The interpreter that has the peers."
)
flags.DEFINE_string("json", None, "Write all measurements to this file.")
flags.DEFINE_string("serve", None, "Internal: a variant to measure.")

# Of those that have peers: the gin file's name, and timm's.
_MODELS = ("resnet18", "efficientnet_b0", "convnext_tiny")
_TORCH_SETTINGS = [
  f"{precision} {memory_format}"
  for precision in ("float32", "bfloat16")
  for memory_format in ("contiguous", "channels_last")
]
_INFERENCE_BATCHES = (1, 32)
_ONE_THREAD = "one thread"
_INFERENCE_SAMPLES = 160000
_FAR_BEHIND = 4


def main() -> None:
  if FLAGS.serve:
    _serve(*FLAGS.serve.split("\t"))
    return
  if FLAGS.peers and not os.access(FLAGS.peer_python, os.X_OK):
    raise UserError(
      f"--peer_python={FLAGS.peer_python}: not a program; give an interpreter "
      "that has the peers."
    )
  gin_files = ("",) if FLAGS.measure == "frontend" else FLAGS.gin_file
  report = {"machine": _machine(), "groups": []}
  print(", ".join(f"{k} {v}" for k, v in report["machine"].items()))
  for gin_file in gin_files:
    with tempfile.TemporaryDirectory() as folder:
      data = os.path.join(folder, "data.npz")
      group = _measure(gin_file, data)
    report["groups"].append(group)
    _print(group)
    if FLAGS.json:
      pathlib.Path(FLAGS.json).write_text(json.dumps(report, indent=1) + "\n")


def _machine() -> dict:
  info = pathlib.Path("/proc/cpuinfo").read_text()
  names = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
  return {
    "cores": len(os.sched_getaffinity(0)),
    "instructions": "+".join(n for n in names if n in info.split()),
  }


def _measure(gin_file: str, data: str) -> dict:
  """All variants of one experiment, in turn.

  Returns:
    "gin_file", "load_before", "load_after" (of the last minute; the variants'
    own is in the second), and "variants": name -> "startup_seconds", "about"
    and "turns": name of the function -> [answer of `benchmark_worker`].
  """
  load_before = os.getloadavg()[0]
  commands = _commands(gin_file, data)
  workers, missing = {}, []
  with cli.progress_bar(
    FLAGS.rounds + 1, gin_file or FLAGS.measure, " rounds"
  ) as bar:
    for name, command in commands.items():
      try:
        workers[name] = _Worker(command)
      except _NotThere:
        if name.startswith("ours"):
          raise
        missing.append(name)
    bar.update()
    for _ in range(FLAGS.rounds):
      for function in dict.fromkeys(
        f for worker in workers.values() for f in worker.names
      ):
        able = [w for w in workers.values() if function in w.names]
        fastest = min(worker.best_seconds(function) for worker in able)
        for worker in able:
          # What is far behind needs no second turn.
          if not fastest < worker.best_seconds(function) / _FAR_BEHIND:
            worker.ask(function)
      bar.update()
  for worker in workers.values():
    worker.stop()
  return {
    "measure": FLAGS.measure,
    "gin_file": gin_file,
    "batch_size": FLAGS.batch_size,
    "load_before": load_before,
    "load_after": os.getloadavg()[0],
    "missing": missing,
    "variants": {
      name: {
        "startup_seconds": worker.startup_seconds,
        "about": worker.about,
        "turns": worker.turns,
      }
      for name, worker in workers.items()
    },
  }


def _commands(gin_file: str, data: str) -> dict[str, list[str]]:
  """Name of a variant -> the command that serves it. Ours come first and write
  `data`, what the peers get.
  """
  me = [sys.executable, __file__, *sys.argv[1:]]
  commands = {}
  # The front end is float32 whatever the precision.
  frontend_only = FLAGS.measure == "frontend"
  for precision in [""] if frontend_only else FLAGS.precisions:
    name = ", ".join(filter(None, ["ours", precision]))
    serve = f"--serve={gin_file}\t{precision}\t{data}"
    commands[name] = [*me, serve + "\t"]
    if FLAGS.measure == "inference":
      commands[f"{name}, {_ONE_THREAD}"] = [*me, f"{serve}\t{_ONE_THREAD}"]
  model = pathlib.Path(gin_file).stem
  if not FLAGS.peers or (gin_file and model not in _MODELS):
    return commands
  folder = pathlib.Path(__file__).parent
  arguments = [FLAGS.measure, f"--data={data}"]
  if gin_file:
    arguments += [f"--model={model}", f"--num_classes={FLAGS.num_classes}"]
  torch = [FLAGS.peer_python, str(folder / "benchmark_torch.py"), *arguments]
  jax = [FLAGS.peer_python, str(folder / "benchmark_jax.py"), *arguments]
  if frontend_only:
    return {**commands, "PyTorch": torch, "JAX": jax}
  if FLAGS.measure == "inference":
    torch += ["--batch_sizes", *map(str, _INFERENCE_BATCHES)]
  for setting in _TORCH_SETTINGS:
    commands[f"PyTorch, {setting}"] = [*torch, f"--setting={setting}"]
  if FLAGS.measure == "training":
    commands["JAX, float32"] = jax
  return commands


class _NotThere(UserError):
  """A peer that is not installed."""


class _Worker:
  """A process of `benchmark_worker`."""

  def __init__(self, command):
    start = time.perf_counter()
    self._errors = tempfile.TemporaryFile("w+")
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
    )
    ready = self._answer()
    self.startup_seconds = time.perf_counter() - start
    self.names, self.about = ready["names"], ready["about"]
    self.turns = {name: [] for name in self.names}

  def ask(self, name):
    print(name, FLAGS.calls, sep="\t", file=self._process.stdin, flush=True)
    self.turns[name].append(self._answer())

  def best_seconds(self, name):
    turns = self.turns[name]
    return min((turn["seconds"] for turn in turns), default=math.inf)

  def stop(self):
    self._process.stdin.close()
    self._process.wait()

  def _answer(self):
    line = self._process.stdout.readline()
    if line:
      return json.loads(line)
    self._errors.seek(0)
    lines = self._errors.read().strip().splitlines() or ["without a word"]
    if lines[-1].startswith("ModuleNotFoundError"):
      raise _NotThere(lines[-1])
    raise UserError(f"a process that measures has ended: {lines[-1]}")


# Parts of "step", of which each is a function but for the last two.
_PARTS = (
  "front end",
  "SpecAugment + Mixup",
  "forward",
  "optimizer",
  "backward",
  "input wait",
)


def _print(group: dict) -> None:
  """A table, and how many times as fast ours is as the others."""
  print(
    f"\n{group['gin_file'] or 'front end'}; load average "
    f"{group['load_before']:.1f} before, {group['load_after']:.1f} after"
  )
  width = max(
    len(f"{variant}: {name}")
    for variant, measured in group["variants"].items()
    for name in measured["turns"]
  )
  print(
    f"{'':{width}} {'ms':>8} {'CPU ms':>8} {'clips/s':>8} {'first s':>8} "
    f"{'start s':>8} {'peak MB':>8}"
  )
  best = {}  # Function -> whose -> [(seconds, CPU seconds)].
  for variant, measured in group["variants"].items():
    for name, (seconds, cpu_seconds) in _best(measured["turns"]).items():
      turns = measured["turns"].get(name)
      line = f"{variant + ': ' + name:{width}} {1e3 * seconds:8.1f} "
      line += f"{1e3 * cpu_seconds:8.1f}"
      if name not in _PARTS:
        line += (
          f" {_num_clips(name) / seconds:8.1f}"
          f" {turns[0]['first_seconds']:8.2f}"
          f" {measured['startup_seconds']:8.1f} {turns[-1]['peak_mb']:8.0f}"
        )
        # Such as "ONNX Runtime: batch 1", of a variant that has several.
        whose, _, function = f"{variant}: {name}".rpartition(": ")
        whose = whose.split(": ")[-1].split(",")[0]
        best.setdefault(function, {}).setdefault(whose, []).append(
          (seconds, cpu_seconds)
        )
      if group["measure"] == "frontend":
        line += f"  differs by at most {turns[-1]['result']:.1e}"
      print(line)
    if "step" in measured["turns"]:
      of = _best(measured["turns"])
      share = (of["front end"][1] + of["SpecAugment + Mixup"][1]) / of["step"][
        1
      ]
      print(
        f"{variant}: front end, SpecAugment and Mixup are {100 * share:.1f} % "
        "of the step's CPU seconds"
      )
  for function, times in best.items():
    ours = times.pop("ours")
    for whose, theirs in times.items():
      by_clock, by_cpu = (
        min(t[i] for t in theirs) / min(t[i] for t in ours) for i in (0, 1)
      )
      print(
        f"{function}: {by_clock:.2f} x {whose} by the clock, {by_cpu:.2f} x by "
        "CPU seconds"
      )
  for variant in group["missing"]:
    print(f"not installed: {variant}")


def _num_clips(function: str) -> int:
  """Clips in a call: "batch 32" or "16 clips, 2 at once" say it."""
  if FLAGS.measure == "inference":
    return int(re.search(r"\d+", function).group())
  return FLAGS.batch_size


def _best(turns: dict[str, list]) -> dict[str, tuple[float, float]]:
  """Function or part -> seconds and CPU seconds of its best call."""
  best = {
    name: tuple(
      min(turn[unit] for turn in of_name) for unit in ("seconds", "cpu_seconds")
    )
    for name, of_name in turns.items()
  }
  if "gradients" in best:
    forward, both = best["forward"], best.pop("gradients")
    best["backward"] = (both[0] - forward[0], both[1] - forward[1])
    best["input wait"] = (min(turn["result"] for turn in turns["step"]), 0.0)
  return best


def _serve(gin_file: str, precision: str, data: str, threads: str) -> None:
  """Measures ours: writes `data`, what the peers get, and waits for orders."""
  import numpy as np
  import tensorflow as tf

  from tf_audioset import features

  if threads == _ONE_THREAD:
    tf.config.threading.set_intra_op_parallelism_threads(1)
  rng = np.random.default_rng(0)
  filters = features.mel_filterbank(
    num_mels=64,
    fft_samples=1024,
    sample_rate_hz=16000,
    lower_hz=60.0,
    upper_hz=7800.0,
  )
  if FLAGS.measure == "training":
    functions, arrays = _training(gin_file, precision, rng)
  elif FLAGS.measure == "inference":
    shape = [max(_INFERENCE_BATCHES), _INFERENCE_SAMPLES]
    waveforms = rng.normal(0, 0.1, shape).astype(np.float32)
    functions = _inference(gin_file, precision, waveforms, threads)
    arrays = {"waveforms": waveforms, "filterbank": filters.astype(np.float32)}
  else:
    waveforms = _tones(rng)
    log_mel = tf.function(features.LogMel())
    tensor = tf.constant(waveforms)
    arrays = {
      "waveforms": waveforms,
      "filterbank": filters,
      "log_mel": _exact_log_mel(waveforms, filters),
    }
    np.savez(data, **arrays)
    functions = benchmark_worker.checked(
      {"log-mel": lambda: log_mel(tensor).numpy()}, data
    )
  np.savez(data, **arrays)
  benchmark_worker.serve(functions, f"tensorflow {tf.__version__}")


def _tones(rng):
  """Clips of 5 s in 16 bits whose upper bands are faint, float32."""
  import numpy as np

  frequencies_hz = rng.uniform(100, 1000, [FLAGS.batch_size, 1])
  tones = 0.9 * np.sin(2 * np.pi * frequencies_hz * np.arange(80000) / 16000)
  noise = rng.normal(0, 1, tones.shape)
  return (np.round(32768 * tones + noise) / 32768).astype(np.float32)


def _exact_log_mel(waveforms, filters):
  """With NumPy, in float64."""
  import numpy as np

  padded = np.pad(waveforms.astype(np.float64), [(0, 0), (200, 200)], "reflect")
  frames = np.lib.stride_tricks.sliding_window_view(padded, 400, axis=1)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
  power = np.abs(np.fft.rfft(frames[:, ::160] * window, 1024)) ** 2
  return np.log(np.clip(power @ filters, 1e-8, 1e8))


def _built(gin_file, precision):
  """(trainer, tagger, optimizer, pipeline) of an experiment."""
  import tensorflow as tf

  from tf_audioset import experiment
  from tf_audioset.runtime import gin_config

  gin_config.load(
    [gin_file],
    [
      f"train.global_batch_size = {FLAGS.batch_size}",
      f"train.precision = '{precision}'",
      *FLAGS.gin_bindings,
    ],
  )
  run = experiment.Experiment()
  parts = run.build(tf.distribute.get_strategy(), num_classes=FLAGS.num_classes)
  return parts.trainer, parts.tagger, parts.optimizer, run.pipeline


def _training(gin_file, precision, rng):
  """(functions, arrays for the peers)."""
  import numpy as np
  import tensorflow as tf

  from tf_audioset.data import prepared
  from tf_audioset.models import tagger
  from tf_audioset.training import optimizers, trainer

  steps, whole, optimizer, pipeline = _built(gin_file, precision)
  # The same without front end and augmentation: what the peers do.
  bare = tagger.Tagger(
    FLAGS.num_classes,
    frontend=lambda features: features,
    backbone=whole.backbone,
    loss=whole.loss_function,
    dropout_rate=whole._dropout_rate,
  )
  bare.head = whole.head
  bare_steps = trainer.Trainer(
    tf.distribute.get_strategy(),
    bare,
    optimizer,
    global_batch_size=FLAGS.batch_size,
    seed=0,
  )
  shape = [FLAGS.batch_size, pipeline.crop_samples]
  waveforms = tf.constant(rng.normal(0, 3000, shape).astype(np.int16))
  # 2 of 527 labels a clip, as in AudioSet.
  targets = rng.uniform(size=[FLAGS.batch_size, FLAGS.num_classes]) < 2 / 527
  targets = tf.constant(targets, tf.float32)
  features = whole.features(waveforms)
  if FLAGS.data_dir:
    batches = pipeline.training(
      prepared.find_split(FLAGS.data_dir, "train"),
      num_classes=FLAGS.num_classes,
      batch_size=FLAGS.batch_size,
      seed=0,
    )
  else:
    batches = tf.data.Dataset.from_tensors((waveforms, targets)).repeat()
  batches = iter(batches)
  bare_batches = iter(
    tf.data.Dataset.from_tensors((features, targets)).repeat()
  )
  one = tf.constant(1)
  seed = tf.constant([0, 1])
  step = tf.constant(0, tf.int64)

  def loss():
    logits, _ = bare.train_logits(features, targets, seed)
    return tf.reduce_sum(bare.loss_function(targets, logits))

  def gradients():
    return bare_steps._summed_gradients(
      features, targets, step, bare.trainable_variables
    )

  def update(values):
    optimizers.apply_summed_gradients(
      optimizer, values, bare.trainable_variables
    )

  zeros = [tf.zeros(v.shape) for v in bare.trainable_variables]
  update = tf.function(update)
  parts = {
    "front end": lambda: whole.features(waveforms),
    "SpecAugment + Mixup": lambda: whole.augment(features, targets, seed),
    "forward": loss,
    "gradients": gradients,
  }

  def run(function):
    # What is timed is the work, and not its being asked for.
    compiled = tf.function(function)
    return lambda: [x.numpy() for x in tf.nest.flatten(compiled())] and None

  def whole_step():
    values = steps.train(batches, one)
    values["loss"].numpy()
    return float(values["input_wait_seconds"])

  functions = {
    "step": whole_step,
    "step from features": lambda: float(
      bare_steps.train(bare_batches, one)["loss"]
    ),
    **{name: run(part) for name, part in parts.items()},
    "optimizer": lambda: update(zeros),
  }
  arrays = {"features": features.numpy(), "targets": targets.numpy()}
  return functions, arrays


def _inference(gin_file, precision, waveforms, threads):
  import tensorflow as tf

  from tf_audioset.data import labels
  from tf_audioset.serving import export

  # As tools/predict.py has it, and docs/serving.md advises.
  os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
  _, tagger, _, pipeline = _built(gin_file, precision)
  names = [f"class {i}" for i in range(FLAGS.num_classes)]
  with tempfile.TemporaryDirectory() as folder:
    export.export(
      tagger,
      f"{folder}/model",
      classes=labels.ClassList.from_names(names),
      min_samples=pipeline.crop_samples,
      padding=pipeline.padding,
    )
    # As TF Serving runs it.
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
      model = tf.compat.v1.saved_model.load(
        session, ["serve"], f"{folder}/model"
      )
  signature = model.signature_def["serving_default"]
  score = session.make_callable(
    signature.outputs["scores"].name, [signature.inputs["waveform"].name]
  )

  def scorer(batch_size):
    waveform = waveforms[:batch_size]

    def score_all():
      score(waveform)

    return score_all

  if threads != _ONE_THREAD:
    return {f"batch {n}": scorer(n) for n in _INFERENCE_BATCHES}
  one = scorer(1)
  return {"batch 1": one, **benchmark_worker.clients(one)}


if __name__ == "__main__":
  cli.run(main, prog="benchmark")
