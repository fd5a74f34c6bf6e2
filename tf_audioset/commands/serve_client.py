# SPDX-License-Identifier: Apache-2.0
r"""Tags audio files with a model that TensorFlow Serving serves.

  python tools/serve_client.py --host HOST:8500 --model NAME FILE...
  python tools/serve_client.py --rest --host HOST:8501 --model NAME FILE...
  python tools/serve_client.py --host HOST:8500 --load 1000 --concurrency 8 FILE

FILE is an audio file, a folder, a pattern, a pipe or -, as for predict.py. It
prints one line per class: file, score and name, separated by tabs. The exit
code is 1 if a file could not be read. gRPC needs the package
tensorflow-serving-api (pip install '.[serving]').
"""

from __future__ import annotations

import concurrent.futures
import sys
import tempfile
import time

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("host", "localhost:8500", "HOST:PORT.")
flags.DEFINE_string("model", "tagger", "The model's name on the server.")
flags.DEFINE_bool("rest", False, "Use REST, not gRPC.")
flags.DEFINE_enum(
  "signature",
  "serving_default",
  ["serving_default", "wav"],
  "wav sends 16 bits a sample instead of 32, and in REST far less.",
)
flags.DEFINE_integer("top_k", 5, "Classes to print per file.", lower_bound=1)
flags.DEFINE_integer(
  "batch_size", 8, "The most clips (of one length) per request.", lower_bound=1
)
flags.DEFINE_float(
  "timeout_seconds", 60, "How long to wait for an answer.", lower_bound=0.001
)
flags.DEFINE_integer(
  "retries",
  4,
  "How often to retry a request when the server is unavailable or does not "
  "answer in time; the waits double, from a quarter of a second.",
  lower_bound=0,
)
flags.DEFINE_string(
  "class_labels_csv",
  None,
  "The model's assets/class_labels_indices.csv. Default: ask the server, which "
  "does not work if it has batching.",
)
flags.DEFINE_integer(
  "load",
  None,
  "Load test: send this many requests of one clip each, cycling through the "
  "files, without retries, and print how long the answers took.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "concurrency", 1, "Parallel requests of --load.", lower_bound=1
)


def main(arguments: list[str]) -> int:
  # Imported late: a mistake in the flags is answered at once.
  from tf_audioset.data import labels
  from tf_audioset.serving import client, inputs

  files = inputs.Inputs(arguments)
  kind = client.Rest if FLAGS.rest else client.Grpc
  classes = None
  if FLAGS.class_labels_csv:
    classes = labels.ClassList.from_csv(FLAGS.class_labels_csv)
  tagger = client.ServedTagger(
    kind(FLAGS.host, model=FLAGS.model, timeout_seconds=FLAGS.timeout_seconds),
    signature=FLAGS.signature,
    num_retries=0 if FLAGS.load else FLAGS.retries,
    classes=classes,
  )
  with tempfile.TemporaryDirectory() as folder:
    files.copy_pipes(folder)
    if files.passed_over():
      print(f"serve_client: {files.passed_over()}", file=sys.stderr)
    for failure in files.failures:
      print(f"serve_client: error: {failure}", file=sys.stderr)
    code = (_load if FLAGS.load else _tag)(tagger, files)
  return 1 if files.failures or files.num_unreadable else code


def _tag(tagger, files) -> int:
  from tf_audioset.data import audio_files
  from tf_audioset.serving import prediction

  num_failed = 0
  is_terminal = sys.stdout.isatty() and sys.stderr.isatty()
  with cli.progress_bar(
    len(files.paths), "serve_client", "files", among_results=True
  ) as bar:
    say = bar.write if is_terminal else print

    def tell(text):
      bar.write(f"serve_client: {text}", file=sys.stderr)

    for clip in prediction.score_files(
      tagger, files.paths, group_clips=FLAGS.batch_size
    ):
      bar.update()
      if isinstance(clip, Exception):
        tell(f"error: {files.shown(str(clip))}")
        num_failed += 1
        continue
      name = audio_files.printable(files.given(clip.file))
      for i in (-clip.scores).argsort(kind="stable")[: FLAGS.top_k]:
        say(f"{name}\t{clip.scores[i]:.4f}\t{tagger.classes.names[i]}")
      for remark in clip.remarks:
        tell(f"{name}: {remark}")
  return 1 if num_failed else 0


def _load(tagger, files) -> int:
  import numpy as np

  from tf_audioset.data import audio
  from tf_audioset.serving import client

  waveforms = [
    audio.read_audio(file, sample_rate_hz=tagger.sample_rate_hz)[np.newaxis]
    for file in files.paths
  ]
  if not waveforms:
    raise UserError("no file can be read.")

  def request(i):
    start = time.perf_counter()
    try:
      tagger.score(waveforms[i % len(waveforms)])
    except client.ServingError as e:
      return str(e).partition(":")[0]
    return time.perf_counter() - start

  answers = []
  start = time.perf_counter()
  with concurrent.futures.ThreadPoolExecutor(FLAGS.concurrency) as pool:
    with cli.progress_bar(FLAGS.load, "load", "requests") as bar:
      for answer in pool.map(request, range(FLAGS.load)):
        answers.append(answer)
        bar.update()
  seconds = time.perf_counter() - start
  errors = [answer for answer in answers if isinstance(answer, str)]
  times_ms = [1000 * x for x in answers if not isinstance(x, str)]
  print(
    f"{len(times_ms)} of {FLAGS.load} requests answered in {seconds:.1f} s: "
    f"{len(times_ms) / seconds:.1f} a second, {FLAGS.concurrency} at a time"
  )
  if times_ms:
    marks = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    values = np.percentile(times_ms, list(marks.values()))
    print(
      f"milliseconds: mean {np.mean(times_ms):.1f}  "
      + "  ".join(f"{name} {x:.1f}" for name, x in zip(marks, values))
    )
  for error in sorted(set(errors)):
    print(f"{errors.count(error)} x {error}")
  return 1 if errors else 0


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="serve_client", positional="FILE")


if __name__ == "__main__":
  run()
