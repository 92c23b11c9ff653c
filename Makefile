# Everything a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow test-kernels test-ray test-s3 test-wheel test-formats test-browser test-label-studio sbom audit lint bench-transport bench-job random-problems adapt camvid \
  kill-test mutations kills crowd memory soak clean

NEEDED := expected Python 3.11 or later with venv and pip; give another one: make demo PYTHON=python3.12
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' || { echo "$(NEEDED)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(PIP) -e '.[test,lint]'
	touch $@

demo: $(VENV)/.ready          ## the main job on the built-in scenes: table and report
	$(BIN)/saot demo --out runs/demo

WORKERS ?= 2
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
test: $(VENV)/.ready-test lint  ## what to run before a commit, in so many processes of one thread: make test WORKERS=8
	$(TESTS) -m 'not slow'
	$(BIN)/python -m pytest --doctest-modules --import-mode=prepend src/saot

test-slow: $(VENV)/.ready-test  ## the tests named in tests/slow.txt, which CI checks besides
	$(TESTS) -m slow

# Tests that train, with torch's other kernels and with one thread and two: no other rounding may decide them.
# ONEDNN_MAX_CPU_ISA gives convolutions as on a processor without AVX-512.
test-kernels: $(VENV)/.ready-test  ## what CI checks besides, a few minutes
	for kernels in avx2 default; do for threads in 1 2; do \
	  echo "kernels $$kernels, threads $$threads"; \
	  ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=$$kernels OMP_NUM_THREADS=$$threads $(BIN)/python -m pytest -m training || exit; \
	done; done

$(VENV)/.ready-ray: $(VENV)/.ready-test
	$(PIP) -e '.[ray]'
	touch $@

test-ray: $(VENV)/.ready-ray  ## a Ray cluster of several machines in one, some of which die; a few minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray tests/deploy/test_ray.py

# What speaks S3 asks for an older python-dateutil than constraints.txt has, so it has a place of its own.
S3 := .venv-s3
test-s3: $(VENV)/.ready-test  ## a store in a bucket of moto's server, a minute or two
	test -e $(S3)/moto || $(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(S3) -r benchmarks/s3/server.txt
	PYTHONPATH=$(S3) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/features/test_s3.py

# The wheel in an environment of its own, which has none of the extras, called from an empty folder.
WHEEL := runs/wheel
WHEELPIP := $(WHEEL)/.venv/bin/python -m pip --quiet --disable-pip-version-check
test-wheel:                   ## what CI checks besides: that the package works where it is installed, a few minutes
	rm -rf $(WHEEL) build
	mkdir -p $(WHEEL)/empty
	$(PYTHON) -m venv $(WHEEL)/.venv
	$(WHEELPIP) wheel --no-deps --wheel-dir $(WHEEL) .
	$(WHEELPIP) install -c constraints.txt $(WHEEL)/*.whl
	cd $(WHEEL)/empty && ../.venv/bin/python -I ../../../benchmarks/installed.py ../../..

test-formats: $(VENV)/.ready-test  ## our formats against the annotation tools' own packages, each in an environment of its own
	$(BIN)/python benchmarks/formats/check.py --out runs/formats

# Debian's chromium, driven by playwright in an environment of its own.
BROWSER := .venv-browser
test-browser: $(VENV)/.ready  ## the explorer's page of the demo in headless Chromium, with pictures of it in runs/browser
	test -x /usr/bin/chromium || apt-get install -y -qq chromium
	test -x $(BROWSER)/bin/playwright || { $(PYTHON) -m venv $(BROWSER) && \
	  $(BROWSER)/bin/python -m pip install --quiet --disable-pip-version-check playwright==1.65.2; }
	test -f runs/demo/run.json || $(BIN)/saot demo --out runs/demo
	$(BIN)/saot explore runs/demo --on eval --out runs/browser/explore.html
	$(BROWSER)/bin/python benchmarks/browser/explore.py runs/browser/explore.html --out runs/browser

# A Label Studio server in an environment of its own, with a data base of its own, on this machine alone.
LABELSTUDIO := .venv-label-studio
test-label-studio: $(VENV)/.ready  ## a Label Studio server asks `saot serve` for masks of the demo's run
	test -x $(LABELSTUDIO)/bin/label-studio || { $(PYTHON) -m venv $(LABELSTUDIO) && \
	  $(LABELSTUDIO)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/label_studio/label-studio.txt; }
	test -f runs/demo/run.json || $(BIN)/saot demo --out runs/demo
	$(BIN)/python benchmarks/label_studio/check.py runs/demo --program $(LABELSTUDIO)/bin/label-studio
	test -x /usr/bin/chromium || apt-get install -y -qq chromium
	test -x $(BROWSER)/bin/playwright || { $(PYTHON) -m venv $(BROWSER) && \
	  $(BROWSER)/bin/python -m pip install --quiet --disable-pip-version-check playwright==1.65.2; }
	$(BIN)/python benchmarks/label_studio/pages.py runs/demo --program $(LABELSTUDIO)/bin/label-studio --browser $(BROWSER)/bin/python

sbom: $(VENV)/.ready-ray      ## runs/sbom.json: what the package and its extras bring, CycloneDX
	$(BIN)/python benchmarks/supply_chain.py sbom --out runs/sbom.json

AUDIT := .venv-audit
audit:                        ## known holes of the pinned versions; an error if there is no answer for some
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
	  $(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	$(PYTHON) benchmarks/supply_chain.py audit --pip-audit $(AUDIT)/bin/pip-audit

lint: $(VENV)/.ready-test     ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The solver beside POT, OTT and GeomLoss. They live in an environment of their own; nothing else may run meanwhile.
PEERS := .venv-bench
$(PEERS)/.ready: benchmarks/transport/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $< jax ott-jax geomloss POT
	touch $@

bench-transport: $(VENV)/.ready-test $(PEERS)/.ready  ## some 20 minutes; goes on where it was stopped
	$(BIN)/python benchmarks/transport/bench.py --out runs/bench-transport --peers-python $(PEERS)/bin/python \
	  --figure docs/figures/transport.png
	$(BIN)/python benchmarks/bench_large_support.py --out runs/bench-transport/large_support.json

# Does `converged` mean what it says? Random problems, each checked by a second solver, some 20 minutes: make random-problems SEED=1
SEED ?= 0
COUNT ?= 10000
random-problems: $(VENV)/.ready-test  ## goes on where it was stopped; prints the table of docs/transport.md
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/transport/random_problems.py \
	  --out runs/random-problems --seed $(SEED) --count $(COUNT)

# The main job beside an older build in an environment of its own, an hour; nothing else may run meanwhile:
# make bench-job CAMVID=data/camvid WEIGHTS=mobile_sam.pt
BASE ?= 63ad441
OLDER := runs/bench-job/base-$(BASE)
$(OLDER)/.ready:
	mkdir -p $(OLDER)
	git archive $(BASE) | tar -x -C $(OLDER)
	$(PYTHON) -m venv $(OLDER)/.venv
	cd $(OLDER) && .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	cd $(OLDER) && .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

PARTS ?= job,demo,features,predict,small,neighbours
bench-job: $(VENV)/.ready $(OLDER)/.ready  ## prints ratios first; goes on where it was stopped
	$(BIN)/python benchmarks/bench_job.py --out runs/bench-job --base-python $(OLDER)/.venv/bin/python \
	  --camvid $(CAMVID) --weights $(WEIGHTS) --parts $(PARTS)

# The real shift of docs/results.md: make camvid CAMVID=data/camvid WEIGHTS=mobile_sam.pt
PRESETS ?= paper-small best
camvid: $(VENV)/.ready
	for preset in $(PRESETS); do \
	  $(BIN)/saot run --source camvid:$(CAMVID):day.txt --target camvid:$(CAMVID):dusk-train.txt \
	    --eval camvid:$(CAMVID):dusk-eval.txt --backbone mobile-sam --weights $(WEIGHTS) --points 20 \
	    --preset $$preset --store runs/camvid-features --out runs/camvid-$$preset || exit; \
	done
	$(BIN)/python benchmarks/results_table.py $(addprefix runs/camvid-,$(PRESETS))

# The whole network trained: source only, DACS, T2S-DA and the same encoder kept frozen, two hours: make adapt WEIGHTS=mobile_sam.pt
SEEDS ?= 0,1,2
adapt: $(VENV)/.ready-test
	$(BIN)/saot reproduce t2s-da-roads --weights $(WEIGHTS) --seeds $(SEEDS) --out runs/t2s-da-roads --runs runs/adapt

kill-test: demo               ## kill -9 at five random moments; the metrics must be the same bytes
	rm -rf runs/killed
	$(BIN)/python benchmarks/kill_run.py --undisturbed runs/demo --out runs/killed --kills 5 -- demo

# How spoilt files, kills and crowds end, with any seed: make mutations SEED=1 (docs/reliability.md)
MUTATIONS ?= 1000
mutations: $(VENV)/.ready-test  ## spoilt inputs, half an hour on two cores; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability/mutations.py --out runs/mutations --seed $(SEED) --count $(MUTATIONS) \
	  --workers $(WORKERS)

KILLS ?= 100
kills: $(VENV)/.ready-test    ## kill -9, a full disk, a store that vanishes, a clock set back; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability/kills.py --out runs/kills --seed $(SEED) --kills $(KILLS)

PROCESSES ?= 50
crowd: $(VENV)/.ready-test    ## processes at once on one store and on one run folder
	$(BIN)/python -m pip install -q mfusepy==3.1.1   # its part `fuse` also needs fuse3 and libfuse2, and is skipped else
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability/crowd.py --out runs/crowd --seed $(SEED) --processes $(PROCESSES)

memory: $(VENV)/.ready        ## peak memory with 40 and with 160 pictures
	$(BIN)/python benchmarks/memory_run.py --out runs/memory 40 160

# Memory of `predict` over thousands of small pictures, some minutes: make soak SEED=1 PICTURES=5000
PICTURES ?= 5000
soak: $(VENV)/.ready          ## fails if it grows by 1 MiB or more per 1,000 pictures
	$(BIN)/python benchmarks/soak_predict.py --out runs/soak --count $(PICTURES) --seed $(SEED)

clean:
	rm -rf $(VENV) $(PEERS) $(AUDIT) $(S3) runs build *.egg-info src/*.egg-info
