# SPDX-License-Identifier: Apache-2.0
r"""Shows what is in a folder of records.

  python tools/inspect_records.py DIR
  python tools/inspect_records.py DIR --split=train --play=12 --plot=12
  python tools/inspect_records.py DIR --validate
  python tools/inspect_records.py DIR --sampling --gin_file=EXPERIMENT

Without flags: clips, hours, lengths and the clips of each class, from the
tables beside the records. --play and --plot take a clip's number in its split,
from 0, or its id. --validate reads and decodes everything, compares it with the
tables, names what is bad and exits with code 1 if anything is. The class list
and what else dataset_info.json says is checked against its own digest, always.
--sampling prints and draws (sampling.png) how often a training run of the
experiment, with its Pipeline.sampler, would draw each class.
"""

from __future__ import annotations

import io
import os

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("split", None, "Only this one. Default: all.")
flags.DEFINE_string("play", None, "Write this clip as a wav file.")
flags.DEFINE_string("plot", None, "Draw this clip's log-mel as a PNG.")
flags.DEFINE_string(
  "output_dir", ".", "Where --play, --plot and --sampling write."
)
flags.DEFINE_bool("validate", False, "Read and decode everything.")
flags.DEFINE_bool(
  "sampling", False, "Show what --gin_file draws of each class."
)
flags.DEFINE_multi_string(
  "gin_file", [], "For --sampling: the experiment. Repeatable."
)
flags.DEFINE_multi_string(
  "gin_bindings", [], "For --sampling: a line of gin. Repeatable."
)

# audax's records do not say; its and AudioSet's are 527.
_MAX_CLASSES = 527
_MAX_NAME_BYTES = 200
_MIN_PLOT_SAMPLES = 400  # A window of the log-mel.


def main(arguments: list[str]) -> int:
  if len(arguments) > 1:
    raise UserError(f"one folder at a time, not {len(arguments)}.")
  if FLAGS.plot is not None:
    cli.check_matplotlib("--plot")
  if FLAGS.sampling:
    _show_sampling(arguments[0])
    return 0
  if FLAGS.gin_file or FLAGS.gin_bindings:
    raise UserError("--gin_file and --gin_bindings are for --sampling: add it.")
  # Imported late: a mistake in the flags is answered at once.
  from tf_audioset.data import prepared

  (data_dir,) = arguments
  names = [FLAGS.split] if FLAGS.split else _split_names(data_dir)
  splits = {name: prepared.find_split(data_dir, name) for name in names}
  for wanted, show in ((FLAGS.play, _play), (FLAGS.plot, _plot)):
    if wanted is not None:
      show(*_find(splits, wanted))
  if FLAGS.validate:
    # What it says wrongly would have been refused when it was read.
    info = prepared.read_dataset_info(data_dir)
    if info is not None and not info.sha256:
      print(
        f"{prepared.INFO_FILE}: an older version wrote it, without a digest: "
        "its class list cannot be checked"
      )
    num_bad = sum(_validate(name, split) for name, split in splits.items())
    return 1 if num_bad else 0
  if FLAGS.play is None and FLAGS.plot is None:
    _print_tables(data_dir, splits)
  return 0


def _show_sampling(data_dir: str) -> None:
  if not FLAGS.gin_file:
    raise UserError("--sampling needs the experiment: --gin_file=FILE.")
  if FLAGS.split or FLAGS.play or FLAGS.plot or FLAGS.validate:
    raise UserError(
      "--sampling shows the training split of an experiment, and nothing else: "
      "leave out --split, --play, --plot and --validate."
    )
  cli.check_matplotlib("--sampling")
  from tf_audioset.commands import inspect_sampling

  os.makedirs(FLAGS.output_dir, exist_ok=True)
  inspect_sampling.show(
    data_dir,
    FLAGS.gin_file,
    FLAGS.gin_bindings,
    os.path.join(FLAGS.output_dir, "sampling.png"),
  )


def _split_names(data_dir: str) -> list[str]:
  import tensorflow as tf

  from tf_audioset.data import prepared

  info = prepared.read_dataset_info(data_dir)
  if info is not None:
    if not info.splits:
      raise UserError(f"{data_dir}: {prepared.INFO_FILE} names no split.")
    return sorted(info.splits)
  files = tf.io.gfile.glob(os.path.join(data_dir, "*", "*.tfrec*"))
  if not files:
    raise UserError(f"{data_dir}: no prepared data.")
  return sorted({os.path.basename(os.path.dirname(file)) for file in files})


def _table(name, split):
  """Returns the table of clips, or what can be read in its place."""
  from tf_audioset.data import prepared, records

  table = split.clips()
  if table is not None:
    return table
  builder = prepared.ClipTableBuilder()
  dataset = prepared.read_shards(split.files, split.compression)
  with cli.progress_bar(split.num_clips, f"reading {name}", " clips") as bar:
    for batch in dataset.batch(64).map(records.parse_examples):
      for clip_id, length, labels in zip(
        batch["id"].numpy(),
        batch["num_samples"].numpy(),
        batch["labels"].to_list(),
      ):
        builder.add(clip_id.decode(), length, sorted(set(labels)), 0)
        bar.update()
  return builder.build()


def _print_tables(data_dir, splits) -> None:
  import numpy as np

  from tf_audioset.data import records

  tables = {name: _table(name, split) for name, split in splits.items()}
  heads = ["split", "clips", "shards", "codec", "hours", "shortest", "mean"]
  rows = [[*heads, "longest", "labels a clip"]]
  for name, split in splits.items():
    table = tables[name]
    seconds = table.num_samples / records.SAMPLE_RATE_HZ
    lengths = ["?"] * 4  # audax's records do not say.
    if (table.num_samples >= 0).all():
      lengths = [f"{seconds.sum() / 3600:.2f}"]
      lengths += [
        f"{x:.2f} s" for x in (seconds.min(), seconds.mean(), seconds.max())
      ]
    rows.append(
      [
        name,
        f"{len(table):,}",
        str(len(split.files)),
        split.codec,
        *lengths,
        f"{len(table.labels) / len(table):.2f}",
      ]
    )
  print(data_dir)
  _print_columns(rows, num_left=1)

  split = next(iter(splits.values()))
  num_classes = max(
    _num_classes(split),
    *(table.labels.max(initial=-1) + 1 for table in tables.values()),
  )
  counts = np.stack([t.count_positives(num_classes) for t in tables.values()])
  rows = [["class", "mid", *(f"{name} clips" for name in tables)]]
  for i in np.argsort(-counts[-1], kind="stable"):
    rows.append([*_label(split, i), *(f"{n:,}" for n in counts[:, i])])
  print()
  _print_columns(rows, num_left=2)


def _num_classes(split) -> int:
  return len(split.classes) if split.classes else _MAX_CLASSES


def _label(split, index: int) -> tuple[str, str]:
  """Returns the name and mid of a class, as far as they are known."""
  if split.classes and index < len(split.classes):
    return split.classes.names[index], split.classes.mids[index]
  return f"class {index}", ""


def _print_columns(rows, num_left: int) -> None:
  """Prints a table, the first columns to the left and the others right."""
  from tf_audioset.runtime import columns

  print(columns.columns(rows, num_left))


def _find(splits, wanted: str):
  """Finds a clip by number or id: its name, int16 samples and label names."""
  import numpy as np

  from tf_audioset.data import pipeline as pipeline_lib

  for name, split in splits.items():
    # Nothing is read through for a number, which may be an id, too.
    table = split.clips() if wanted.isdigit() else _table(name, split)
    ids = [] if table is None else table.id
    number = next((i for i, x in enumerate(ids) if x.decode() == wanted), None)
    if number is not None:
      break
  else:
    if not wanted.isdigit():
      raise UserError(f"{wanted}: no clip of this id in {', '.join(splits)}.")
    name, split = next(iter(splits.items()))
    number = int(wanted)
    if number >= split.num_clips:
      raise UserError(f"{wanted}: {name} has {split.num_clips} clips, from 0.")
  clip_id, waveform, targets, error = next(
    pipeline_lib.whole_clips(
      split, num_classes=_num_classes(split), first=number
    ).as_numpy_iterator()
  )
  if error:
    raise UserError(error.decode())
  names = [_label(split, i)[0] for i in np.flatnonzero(targets)]
  return clip_id.decode() or f"{name}{number}", waveform, names


def _path(clip_id: str, ending: str) -> str:
  os.makedirs(FLAGS.output_dir, exist_ok=True)
  name = clip_id.replace(os.sep, "_").encode()
  # No name may have more than 255 bytes, and it is written under a longer one.
  name = name[-_MAX_NAME_BYTES:].decode(errors="ignore")
  return os.path.join(FLAGS.output_dir, name + ending)


def _play(clip_id, samples, names) -> None:
  import soundfile

  from tf_audioset.data import records
  from tf_audioset.runtime import storage

  path = _path(clip_id, ".wav")
  content = io.BytesIO()
  soundfile.write(
    content, samples, records.SAMPLE_RATE_HZ, "PCM_16", format="WAV"
  )
  storage.write_file(path, content.getvalue())
  print(f"wrote {path}: {', '.join(names) or 'no label'}")


def _plot(clip_id, samples, names) -> None:
  import matplotlib

  matplotlib.use("Agg")
  import numpy as np
  from matplotlib import pyplot

  from tf_audioset import features
  from tf_audioset.data import records
  from tf_audioset.serving import picture

  missing = max(0, _MIN_PLOT_SAMPLES - len(samples))
  waveform = np.pad(samples, (0, missing)) / 32768
  values = features.LogMel()(waveform[np.newaxis]).numpy()[0]
  seconds = len(samples) / records.SAMPLE_RATE_HZ
  figure, axes = pyplot.subplots(figsize=(10, 4), layout="constrained")
  image = axes.imshow(
    values.T,
    aspect="auto",
    origin="lower",
    extent=[0, seconds, -0.5, values.shape[1] - 0.5],
    cmap="magma",
  )
  figure.colorbar(image, ax=axes, label="log-mel", pad=0.01)
  axes.set(xlabel="seconds", ylabel="mel band")
  title = f"{clip_id}: {', '.join(names) or 'no label'}"
  axes.set_title(
    picture.literal(title), wrap=True, fontfamily=picture.fonts(title)
  )
  path = _path(clip_id, ".png")
  figure.savefig(path, dpi=100)
  print(f"wrote {path}")


def _validate(name, split) -> int:
  """Reads a split; prints what is bad and returns how many clips are."""
  import hashlib

  import numpy as np

  from tf_audioset.data import audio
  from tf_audioset.data import pipeline as pipeline_lib

  table = split.clips()
  clips = pipeline_lib.whole_clips(split, num_classes=_num_classes(split))
  bad, ids = [], []
  with cli.progress_bar(split.num_clips, f"validating {name}", " clips") as bar:
    for number, (clip_id, waveform, targets, error) in enumerate(
      clips.as_numpy_iterator()
    ):
      if error:
        bad.append(error.decode())
      elif table is not None:
        found = (
          audio.samples_hash(waveform),
          np.flatnonzero(targets).tolist(),
        )
        labels = sorted(table.labels_of(number).tolist())
        if found != (table.audio_hash[number], labels):
          bad.append(
            f"clip {clip_id.decode()}: its audio or its labels are not those "
            f"of {split.clips_file}"
          )
      ids.append(clip_id)
      bar.update()
  digest = hashlib.sha256(b"\n".join(sorted(ids))).hexdigest()
  if split.ids_sha256 and digest != split.ids_sha256:
    bad.append(f"the ids are not those of {name} in dataset_info.json")
  print("\n".join([*bad, f"{name}: {len(ids)} clips, {len(bad)} bad"]))
  return len(bad)


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="inspect_records", positional="DIR")


if __name__ == "__main__":
  run()
