"""Waiting threads spin no more than a moment in the command line, unless the user says otherwise."""

import os
import subprocess
import sys

import pytest

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SHOW = f"import os, sys; print({{n: os.environ[n] for n in {WAITING} if n in os.environ}}, 'torch' in sys.modules)"
SET = "{'OMP_WAIT_POLICY': 'passive', 'GOMP_SPINCOUNT': '2000'} False"
COMMAND = """
import contextlib, runpy, sys
sys.argv = ["saot", "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_module("saot.cli", run_name="__main__")
"""


def shown(code: str, **own: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | own
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("code", ["import saot.cli", "from saot.cli import main", COMMAND])
def test_the_command_line_lets_threads_wait_asleep_before_torch_is_loaded(code):
    assert shown(f"{code}\n{SHOW}").stdout.splitlines()[-1] == SET


def test_the_library_leaves_the_environment_alone():
    assert shown(f"import saot\n{SHOW}").stdout == "{} False\n"
    assert shown(f"import saot, torch\nsaot.solve_transport\n{SHOW}").stdout == "{} True\n"


@pytest.mark.parametrize("name", WAITING)
def test_what_the_user_has_set_stays(name):
    assert shown(f"import saot.cli\n{SHOW}", **{name: "5"}).stdout == f"{{'{name}': '5'}} False\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp is that of torch's wheels for Linux")
def test_torch_s_openmp_hears_it():
    told, usual = (shown(code, OMP_DISPLAY_ENV="verbose").stderr for code in ("import saot.cli, torch", "import torch"))
    if "GOMP_SPINCOUNT" not in usual:
        pytest.skip("this build of torch has another OpenMP")
    assert "GOMP_SPINCOUNT = '2000'" in told and "GOMP_SPINCOUNT = '2000'" not in usual
