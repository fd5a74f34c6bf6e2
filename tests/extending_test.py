# SPDX-License-Identifier: Apache-2.0
"""docs/extending.md as it stands: parts from a folder outside the checkout."""

import json
import re

import pytest

from tests import command, toy

_PAGE = (command.ROOT / "docs" / "extending.md").read_text()


def _block(language: str) -> str:
  (found,) = re.findall(rf"```{language}\n(.*?)```", _PAGE, re.DOTALL)
  return found


@pytest.fixture(name="folder")
def _folder(tmp_path):
  (tmp_path / "my_parts.py").write_text(_block("python"))
  (tmp_path / "mine.gin").write_text(_block("gin"))
  (tmp_path / "records").mkdir()
  toy.write_dataset(tmp_path / "records")
  return tmp_path


def _arguments(*bindings: str) -> list[str]:
  return [
    "-m",
    "tf_audioset.train",
    "--gin_file=mine.gin",
    "--data_dir=records",
    "--workdir=run",
    *(f"--gin_bindings={binding}" for binding in bindings),
  ]


def test_the_parts_of_the_page_train_export_and_evaluate(folder):
  command.succeed(*_arguments(), cwd=folder)
  config = (folder / "run" / "config.gin").read_text()
  for part in ("conv_net", "LogEnergies", "DeepHead", "FocalLoss", "nadam"):
    assert f"@{part}" in config
  command.succeed(
    command.ROOT / "tools" / "evaluate.py",
    "--saved_model=run/saved_model",
    "--data_dir=records",
    cwd=folder,
  )
  metrics = json.loads(
    (folder / "run" / "evaluation_eval" / "metrics.json").read_text()
  )
  assert 0 <= metrics["mAP"] <= 1
  # A checkpoint is exported by a process that has to import the parts, too.
  command.succeed(
    command.ROOT / "tools" / "export.py",
    "--workdir=run",
    "--checkpoint=last",
    cwd=folder,
  )


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    (
      "    tf.keras.layers.GlobalAveragePooling2D(),\n",
      "",
      "Sequential returned float32 [1, 11, 7, 8]: a backbone is called with",
    ),
    (
      "return tf.math.log(tf.reduce_sum(parts**2, axis=-1) + 1e-8)",
      "return frames, parts",
      "LogEnergies returned a tuple: a front end is called with",
    ),
    (
      "return self.logits(self.hidden(embedding))",
      "return self.hidden(embedding)",
      "DeepHead returned float32 [1, 32] for 3 classes: a head is a Keras",
    ),
  ],
)
def test_a_part_that_breaks_its_contract_is_told(folder, old, new, message):
  text = _block("python")
  assert old in text
  (folder / "my_parts.py").write_text(text.replace(old, new))
  assert message in command.fail(*_arguments(), cwd=folder)


def test_a_bug_in_a_part_shows_its_traceback(folder):
  text = _block("python").replace(
    "return self.logits(self.hidden(embedding))",
    "return self.logits(tf.matmul(embedding, tf.zeros([5, 5])))",
  )
  (folder / "my_parts.py").write_text(text)
  done = command.run(*_arguments(), cwd=folder)
  assert done.returncode == 2
  assert "Traceback" in done.stderr and "my_parts.py" in done.stderr
