# Everything starts here: `make lab` to read the book, `make test` to validate it.
# Needed beforehand: Python 3.11 or newer with its venv module, make, and a network.
#
#   PYTHON       the Python that .venv is made with            make lab PYTHON=python3.12
#   TORCH_INDEX  a package index with a CPU build of torch     make lab TORCH_INDEX=https://...
#   PORT         the port of JupyterLab                        make lab PORT=9000
#   CHAPTER      one chapter instead of the first, or of all   make run CHAPTER=03_planning
#   NAME         one benchmark instead of all                  make bench NAME=grpo

PYTHON ?= python3
TORCH_INDEX ?=
PORT ?=
CHAPTER ?=
NAME ?=

VENV := .venv
BIN := $(VENV)/bin
# Free disk space asked for before the first install, in GB. A GPU build of torch takes more.
SPACE := 3

PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet \
	-c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Nothing of the user's machine leaks into what is validated; `state` is a temporary folder.
# Without bytecode every process compiles the package and its tests anew.
TEST_ENV = env -u MPLBACKEND -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 RLBOOK_PRESET=cpu \
	CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 TQDM_DISABLE=1 \
	RLBOOK_STATE="$$state" IPYTHONDIR="$$state/ipython" \
	RLBOOK_REAL_DATA="$${RLBOOK_REAL_DATA:-$(abspath ../shared/real)}"
TEMPORARY_STATE = state=$$(mktemp -d) && trap 'rm -rf "$$state"' EXIT
UNIT_TESTS = $(BIN)/python -m pytest -p no:nbval -n 2 --dist worksteal \
	--jaxtyping-packages=rlbook,beartype.beartype
VALIDATION = $(BIN)/python -m pytest --nbval --nbval-current-env \
	--nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout=300 \
	-n 2 --dist loadscope --durations=5 notebooks/

.DEFAULT_GOAL := help
.PHONY: help lab check test run bench clean

help:
	@echo 'make lab     open the book in JupyterLab      (PORT=, CHAPTER=)'
	@echo 'make run     run the book, save its outputs   (CHAPTER=)'
	@echo 'make check   lint and the quick unit tests, for a change to the code'
	@echo 'make test    everything: lint, unit tests, every chapter against its outputs'
	@echo 'make bench   install the peers and run every benchmark; hours  (NAME=grpo for one)'
	@echo 'make clean   remove .venv and caches'
	@echo 'Each of them makes .venv when there is none (PYTHON=, TORCH_INDEX=).'

lab: $(VENV)/.installed-lab
	@$(BIN)/rlbook lab $(if $(PORT),--port $(PORT)) $(CHAPTER)

run: $(VENV)/.installed-lab
	@$(BIN)/rlbook run $(CHAPTER)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	@$(TEMPORARY_STATE) && $(TEST_ENV) $(UNIT_TESTS) -m "not slow"

test: check
	@$(TEMPORARY_STATE) && $(TEST_ENV) $(UNIT_TESTS) -m slow
	@$(TEMPORARY_STATE) && $(TEST_ENV) $(VALIDATION)

bench: $(VENV)/.installed-test
	$(PIP_INSTALL) -e '.[lab,test,teach,bench]'
	@for file in tests/benchmarks/$(or $(NAME),*).py; do \
		echo; echo "== $$file"; $(BIN)/python $$file $$(grep -q -e --json $$file && echo --json) || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The file .installed-NAME says that the extras NAME are installed, for this pyproject.toml and
# these pins; a second call finds it and installs nothing.
$(VENV)/.installed-lab: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing the book and JupyterLab into $(VENV) (minutes, once) ...'
	@$(PIP_INSTALL) -e '.[lab]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing the book, JupyterLab and what the tests need into $(VENV) (minutes, once) ...'
	@$(PIP_INSTALL) -e '.[lab,test,teach]'
	@touch $(VENV)/.installed-lab $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || \
		{ echo 'rlbook: $(PYTHON) is not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rlbook: Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'rlbook: $(PYTHON) has no venv module; on Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1000000) }'); [ "$$free" -ge $(SPACE) ] || \
		{ echo "rlbook: $(SPACE) GB of disk space are needed here, $$free GB are free" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
