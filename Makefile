# make demo      trains a detector on aerial photographs with random sampling and with OHEM, and
#                compares the two
# make compare   the same with three seeds
# make evidence  samplers on several data sets (ARGS="--data NAME=FOLDER ..."), see projects/evidence
# make bench     what mining costs, side by side with other samplers (bench-full: in more settings)
# make table1-mini   the paper's Table 1 in miniature (ARGS=--quick: does everything run?)
# make soak      whether memory grows in 2,000 iterations, with and without OHEM
# make docs      the documentation, in output/docs
# make test      style and tests
# make setup     the environment alone
# make lock      the pinned packages of it again, from requirements.txt (ARGS=--upgrade: the newest)
#
# PYTHON=/path/to/python   use an environment that has torch and detectron2; install neither
# BASE_PYTHON=python3.12   the Python that .venv is made from
# DETECTRON2=git           install Detectron2 from its repository (for machines with a GPU)
# DETECTRON2=git@COMMIT    another commit, branch or tag than the one that is pinned

PYTHON ?=
BASE_PYTHON ?= python3
export DETECTRON2 ?= wheel
export PYTHONPATH := .$(if $(PYTHONPATH),:$(PYTHONPATH))
# The CPU's memory allocator keeps what it has instead of giving it back to the system after every
# tensor, which costs a sixth of an iteration.
export MALLOC_MMAP_MAX_ = 0
export MALLOC_TRIM_THRESHOLD_ = 100000000000

# The environment's Python; the recipes call it through the shell, so that it exists by then.
RUN = python=$$($(BASE_PYTHON) dev/setup_env.py "$(PYTHON)") && "$$python" -W ignore

.PHONY: setup lock demo compare evidence bench bench-full soak table1-mini docs test

setup:
	@$(BASE_PYTHON) dev/setup_env.py "$(PYTHON)" >/dev/null

lock:
	@dev/lock.sh $(ARGS)

demo:
	@$(RUN) projects/tree_crowns/demo.py $(ARGS)

compare:
	@$(RUN) projects/tree_crowns/demo.py --seeds 3 $(ARGS)

evidence:
	@$(RUN) projects/evidence/evidence.py $(ARGS)

bench:
	@$(RUN) projects/benchmark/bench.py

bench-full:
	@$(RUN) projects/benchmark/bench.py --full

table1-mini:
	@$(RUN) projects/paper/mini.py $(ARGS)

soak:
	@$(RUN) dev/soak.py $(ARGS)

docs:
	@$(RUN) -m sphinx -c docs -n -W --keep-going -q . output/docs && echo output/docs/docs/index.html

test:
	@$(RUN) -m ruff check . && "$$python" -m ruff format --check . && \
		"$$python" -m pytest -q -n auto --dist worksteal --durations 10
