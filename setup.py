# SPDX-License-Identifier: Apache-2.0
"""Packaging: the ranges the code needs. requirements*.txt are the locks."""

import sys

from setuptools import find_packages, setup

if not (3, 9) <= sys.version_info[:2] <= (3, 11):
  sys.exit(
    "tf_audioset needs Python 3.9, 3.10 or 3.11 (TensorFlow 2.15 has no "
    "other); this is {}.{}.".format(*sys.version_info[:2])
  )

setup(
  name="tf_audioset",
  version="0.1.0",
  description="AudioSet tagging in TensorFlow 2: train, evaluate, serve.",
  license="Apache-2.0",
  packages=[
    *find_packages(include=["tf_audioset", "tf_audioset.*"]),
    "tf_audioset.gin",
  ],
  # The experiments are found by an installed package as in a checkout.
  package_dir={"tf_audioset.gin": "gin"},
  package_data={
    "tf_audioset.data": ["audioset_classes.csv"],
    "tf_audioset.evaluation": ["report_template.html"],
    "tf_audioset.serving": ["page_template.html"],
    "tf_audioset.gin": ["*.gin", "*/*.gin"],
  },
  entry_points={
    "console_scripts": [
      "tf-audioset-train = tf_audioset.train:run",
      *(
        f"tf-audioset-{name.replace('_', '-')} = "
        f"tf_audioset.commands.{name}:run"
        for name in (
          "evaluate",
          "export",
          "import_weights",
          "inspect_records",
          "make_tfrecords",
          "plot_curves",
          "predict",
          "serve_client",
          "synthesize",
          "teach",
        )
      ),
    ]
  },
  python_requires=">=3.9,<3.12",
  install_requires=[
    "absl-py>=1.4",
    "av>=15",  # PyAV: FFmpeg, for what libsndfile does not read.
    "gin-config>=0.5,<0.6",
    "h5py>=3.1",  # TensorFlow brings it.
    # Its module opens FLAC in memory with dr_flac. Newer wheels than 1.61 are
    # not made for Python 3.9.
    "miniaudio>=1.61",
    "miniaudio<1.70; python_version < '3.10'",
    "msgpack>=1.0",
    # TensorFlow 2.15 is built against NumPy 1.
    "numpy>=1.23.5,<2",
    "scikit-learn>=1.2",
    "scipy>=1.9",
    "soundfile>=0.12",  # Brings libsndfile 1.2, which reads mp3.
    "soxr>=0.3.3",
    # The newest that tensorflow-addons can be imported beside (no Keras 3) and
    # that the next two are built for.
    "tensorflow>=2.15,<2.16",
    "tensorflow-addons>=0.23,<0.24",
    "tensorflow-io>=0.36,<0.37",
    "tf-models-official>=2.15,<2.16",
    # 1.16 needs a protobuf that TensorFlow 2.15 refuses, and takes
    # tf-models-official down with it.
    "tensorflow-metadata<1.16",
    "setuptools<81",  # TensorBoard 2.15 imports pkg_resources, gone since.
    "tqdm>=4.60",
  ],
  extras_require={
    # Earlier ones ask for other versions of grpcio and protobuf.
    "beam": ["apache-beam>=2.77; python_version >= '3.10'"],
    # For benchmarks/benchmark.py --peers; best in an environment of their own.
    "peers": [
      "flax",
      "jax",
      "librosa",
      "onnxruntime",
      "onnxscript",
      "optax",
      "timm",
      "torch",
      "torchaudio",
    ],
    "plot": ["matplotlib>=3.5"],
    "serving": ["tensorflow-serving-api>=2.15,<2.16"],  # As TensorFlow.
    "test": [
      "apache-beam>=2.77; python_version >= '3.10'",
      "cryptography>=41",  # For the certificate of the storage emulator.
      "matplotlib>=3.5",
      "pytest>=7",
      "pytest-xdist>=3",
      "ruff>=0.17,<0.18",  # Another formatter version formats otherwise.
      "tensorflow-serving-api>=2.15,<2.16",
    ],
  },
)
