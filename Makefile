# make demo   environment, build, a real nodule segmented by the packaged weights; then phantoms, a few minutes of training, masks and pictures
# make serve  environment, build, the web service with a real nodule, in the browser
# make test   environment, build, all quick tests
# Both need only python3 (>= 3.11) with venv and its headers, and a C compiler for the compiled kernels.

PYTHON ?= python3
VENV ?= .venv
# a release that the tests are run with; any >= 2.10 serves
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

DEMO_OUT ?= demo-out
SERVE_FOLDER ?= serve-data
DEMO_MINUTES ?= 4
# a folder of image and mask pairs to use instead of phantoms
DATA ?=
DEMO_DATA := $(or $(DATA),$(DEMO_OUT)/data)
DEMO_PATCH ?= 64
DEMO_INPUT ?= 64
DEMO_CASES ?= 40
# phantoms, and cubes cut out around a lesion, have it in the middle; for whole scans leave it empty
DEMO_CLICK ?= --click centre

# torch's OpenMP threads sleep soon at a barrier: spinning ones take the cores of other processes
ifndef OMP_WAIT_POLICY
export GOMP_SPINCOUNT ?= 3000
endif

.PHONY: demo serve test test-slow faults mutants lint docs bench performance roofline crossover instructions bench-compare weights wheels build clean

# an editable install: Python runs the checkout itself
$(BIN)/.ready: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "$(TORCH)"
	SSMCORE_BUILD=never $(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

# compiled kernels in the checkout: files that are newer than what was made of them
KERNELS := $(shell find ssmcore/_kernels ssmcore/include ssmcore/lib ssmcore/capi.pxd -name '*.[ch]' -o -name '*.p[yx][xd]' -o -name '*.in')
$(BIN)/.built: $(BIN)/.ready $(KERNELS)
	SSMCORE_BUILD=$${SSMCORE_BUILD:-require} $(BIN)/python setup.py -q build_ext --inplace
	touch $@

build: $(BIN)/.built

demo: build
	rm -rf $(DEMO_OUT) && mkdir -p $(DEMO_OUT)
	$(BIN)/segnet predict -i example -o $(DEMO_OUT)/example/example.nii.gz --click centre
	$(BIN)/segnet evaluate -i $(DEMO_OUT)/example/example.nii.gz -t example -o $(DEMO_OUT)/example/scores
	$(BIN)/segnet report -e $(DEMO_OUT)/example/scores -t example -o $(DEMO_OUT)/example/report.html
	@echo "a real nodule, segmented at a click: $(DEMO_OUT)/example/report.html"
	@echo
ifeq ($(DATA),)
	$(BIN)/segnet phantom -o $(DEMO_DATA) -n $(DEMO_CASES) --shape 128 128 32 --site lung
endif
	$(BIN)/segnet prepare -i $(DEMO_DATA) -o $(DEMO_OUT)/prepared
	$(BIN)/segnet train -i $(DEMO_OUT)/prepared -o $(DEMO_OUT)/run --minutes $(DEMO_MINUTES) \
	    --patch-px $(DEMO_PATCH) --input-px $(DEMO_INPUT) --learning-rate 0.003 --batch-size 16
	$(BIN)/segnet predict -i $(DEMO_DATA) -o $(DEMO_OUT)/masks -m $(DEMO_OUT)/run --part test $(DEMO_CLICK)
	$(BIN)/segnet evaluate -i $(DEMO_OUT)/masks -t $(DEMO_DATA) -m $(DEMO_OUT)/run --part test -o $(DEMO_OUT)/scores
	$(BIN)/segnet report -e $(DEMO_OUT)/scores -t $(DEMO_DATA) -m $(DEMO_OUT)/run -o $(DEMO_OUT)/report.html
	@echo
	@echo "overlays:  $(DEMO_OUT)/masks/*.png"
	@echo "curves:    $(DEMO_OUT)/run/curves.png"
	@echo "scores:    $(DEMO_OUT)/scores/evaluation.txt"
	@echo "reports:   $(DEMO_OUT)/example/report.html, $(DEMO_OUT)/report.html"

# a worker for each core, which takes over tests of another when it has none left
PARALLEL ?= -n logical --dist worksteal
# the kernels are compiled while the other packages are installed
$(BIN)/.served: pyproject.toml setup.py $(KERNELS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "setuptools>=77" "cython>=3.1" "numpy>=1.26"
	SSMCORE_BUILD=require $(BIN)/python setup.py -q build_ext --inplace & compiling=$$!; \
	    $(BIN)/python -m pip install -q "$(TORCH)" && SSMCORE_BUILD=never $(BIN)/python -m pip install -q -e ".[serve]" && wait $$compiling
	touch $@

serve: $(BIN)/.served
	$(BIN)/segnet serve --example --open --folder $(SERVE_FOLDER)

test: build lint
	$(BIN)/pytest -q -m "not slow" $(PARALLEL) --durations=15

test-slow: build lint
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -q -m "slow or not slow" $(PARALLEL) --durations=15

# each fault of tests/faults, planted alone in a copy, must turn its tests red: make faults WORDS="numba"
faults: build
	$(BIN)/python tests/plant_faults.py $(WORDS)

# mutants of numeric Python modules, one at a time, each to be killed by a test: make mutants ONLY="segnet.metrics.surface*"
mutants: build
	$(BIN)/python -m pip install -q "mutmut>=3.8"
	$(BIN)/mutmut run $(if $(ONLY),"$(ONLY)")

lint: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_results.py

# the documentation site, build/site/index.html; the variable silences the theme's announcement
docs: $(BIN)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f .mkdocs.yml

bench: build
	$(BIN)/python bench/ceilings.py
	$(BIN)/pytest -q bench --benchmark-only --benchmark-columns=median,iqr,rounds --benchmark-json=build/bench.json

# the tables beside the alternatives in docs/performance.md; needs 16 GB of memory and an idle machine
performance: bench
	$(BIN)/python bench/tables.py build/bench.json

# ceilings of this machine, the roofline's picture and the table in docs/performance.md
roofline: build
	$(BIN)/python bench/roofline.py

# from which length on a convolution beats the recurrence: the table in docs/choosing.md
crossover: build
	OPENBLAS_NUM_THREADS=1 $(BIN)/python bench/crossover.py

# instructions of the AVX2 kernels, by callgrind, against bench/instructions.json; needs valgrind
instructions: build
	$(BIN)/python bench/instructions.py

# two commits side by side: make bench-compare BEFORE=HEAD~1 AFTER=HEAD WORDS="forward and cython"
BEFORE ?= HEAD~1
AFTER ?= HEAD
WORDS ?=
bench-compare: $(BIN)/.ready
	$(BIN)/python bench/commits.py $(BEFORE) $(AFTER) "$(WORDS)"

# the packaged weights made again from the folder DATA: three folds, each forty-five minutes of one core. Stopped, it goes on where it was
WEIGHTS_OUT ?= build/weights
weights: build
	mkdir -p $(WEIGHTS_OUT)
	$(BIN)/python bench/weights.py $(DATA) > $(WEIGHTS_OUT)/pairs.csv
	$(BIN)/segnet prepare --csv $(WEIGHTS_OUT)/pairs.csv -o $(WEIGHTS_OUT)/prepared
	$(BIN)/segnet compare -i $(WEIGHTS_OUT)/prepared -o $(WEIGHTS_OUT)/folds -m mamba-ahnet-r \
	    --config segnet/models/weights/recipe.yaml --folds 3 --minutes 45 --workers 2 --threads 1
	$(BIN)/segnet release $(WEIGHTS_OUT)/folds/mamba-ahnet-r -o $(WEIGHTS_OUT)/released \
	    --licence "CC BY 4.0" --sites "lung nodules and tumours, and soft-tissue sarcomas of the limbs" \
	    --attribution "LIDC-IDRI and 4D-Lung (CC BY 3.0), RIDER Lung CT (CC BY 4.0), Soft-tissue-Sarcoma (CC BY 3.0), of The Cancer Imaging Archive" \
	    --commit "$$(git rev-parse --short HEAD)"

# wheels for Linux in dist/, checked, installed and tried, in some ten minutes. Needs a C compiler, and gcc-aarch64-linux-gnu,
# libc6-dev-arm64-cross and qemu-user to try the one for AArch64
wheels:
	$(PYTHON) .ci/wheels

clean:
	rm -rf $(VENV) build dist demo-out serve-data *.egg-info
	rm -rf ssmcore/lib/cmake ssmcore/lib/pkgconfig
	find ssmcore '(' -name '*.so' -o -name '*.so.*' ')' -delete
