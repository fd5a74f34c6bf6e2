# Set-up and the two commands of the README:
#   make quickstart   environment, then the main job on a synthetic dataset
#   make test         environment, then format, lint and tests
#   make test-tpu     environment of the TPU's compiler, then what needs that
# Also: make format, make lock (renew the requirements files), make clean.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
BIN := .venv/bin
INSTALLED := .venv/installed
LOCKS := requirements.txt requirements-3.10.txt requirements-3.9.txt
OUT := quickstart

.PHONY: quickstart test test-tpu format lock clean

quickstart: $(INSTALLED)
	$(BIN)/python tools/synthesize.py --output_dir=$(OUT)/sounds
	@for split in train eval; do \
	  $(BIN)/python tools/make_tfrecords.py --split=$$split \
	    --segments_csv=$(OUT)/sounds/segments_$$split.csv \
	    --class_labels_csv=$(OUT)/sounds/class_labels_indices.csv \
	    --audio_dir=$(OUT)/sounds/audio --output_dir=$(OUT)/records \
	    || exit; \
	done
	$(BIN)/python -m tf_audioset.train --gin_file=gin/quickstart.gin \
	  --data_dir=$(OUT)/records --workdir=$(OUT)/run
	$(BIN)/python tools/evaluate.py --saved_model=$(OUT)/run/saved_model \
	  --data_dir=$(OUT)/records
	$(BIN)/python tools/predict.py --saved_model=$(OUT)/run/saved_model \
	  --top_k=3 $$(sed -n '4,5s|\([^,]*\),.*|$(OUT)/sounds/audio/Y\1.wav|p' \
	    $(OUT)/sounds/segments_eval.csv)

test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist worksteal tests

# Half an hour: each experiment's step takes 1 to 6 minutes to compile.
test-tpu: $(INSTALLED) .venv-tpu/installed
	$(BIN)/python -m pytest -v tests/tpu_compile_test.py
	@for experiment in resnet18 efficientnet_b0 convnext_tiny; do \
	  echo "$$experiment:"; \
	  $(BIN)/python benchmarks/tpu_compile.py \
	    --gin_file=gin/$$experiment.gin --replicas=8 --top=10 || exit; \
	done

# jax and libtpu cannot share an environment with TensorFlow 2.15.
.venv-tpu/installed: benchmarks/requirements-tpu.txt
	@rm -rf .venv-tpu
	@$(PYTHON) -m venv .venv-tpu
	@echo "installing jax and libtpu into .venv-tpu: a minute, once"
	@.venv-tpu/bin/pip install -qq -r $<
	@touch $@

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A lock for each Python: without one, pip was seen to search for half an hour.
# --no-deps: the locks are complete, and an old pip stumbles over extras.
$(INSTALLED): $(LOCKS) setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' \
	  || { echo "tf_audioset needs Python 3.9, 3.10 or 3.11, best 3.11, and $(PYTHON) is not one: install it, then run make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@rm -rf .venv
	@$(PYTHON) -m venv .venv \
	  || { echo "$(PYTHON) cannot make environments: on Debian and Ubuntu, install python3.11-venv" >&2; rm -rf .venv; exit 1; }
	@echo "installing TensorFlow and the rest into .venv: a few minutes, once"
	@version=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  lock=requirements-$$version.txt; [ $$version = 3.11 ] && lock=requirements.txt; \
	  $(BIN)/pip install -qq --no-deps --require-hashes -r $$lock
	@$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	for version in 3.9 3.10 3.11; do \
	  lock=requirements-$$version.txt; [ $$version = 3.11 ] && lock=requirements.txt; \
	  .venv-lock/bin/uv pip compile --quiet --upgrade --python-version $$version \
	    --generate-hashes --extra test setup.py -o $$lock \
	    --custom-compile-command 'make lock' || exit; \
	done
	rm -rf .venv-lock

clean:
	rm -rf $(OUT) .venv .venv-tpu build *.egg-info
