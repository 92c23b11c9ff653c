"""Sections "solve" and "gradient": the solver and its gradient beside the peers, n = m = 2592, k = 128."""

from pathlib import Path
from typing import Any

import numpy as np
import reference
from machine import build_stream
from problems import ITERATIONS, make_folder
from race import Entry, Setting, race, with_base
from tables import Claim, base_claims, best_of, number, over, race_table, ratio, table

TOKENS, K = 2592, 128
_POT = ("pot", "pot_stabilized", "pot_invariant", "pot_torch", "pot_torch_stabilized")
_OTT = ("ott_lse", "ott_scaling")


def solve(setting: Setting) -> dict[str, Any]:
    """The race of the solvers."""
    folder = str(make_folder(setting.data, TOKENS, K, dense=True))

    def ours(title: str, make: str, alone: bool) -> Entry:
        return Entry(title, f"ours:{make}", {"folder": folder}, alone=alone, save=True, exact="sparse", memory=True)

    def peer(title: str, make: str, exact: str = "dense", repeats: int = 10**6, **options: Any) -> Entry:
        options["folder"] = folder
        return Entry(title, f"peers:{make}", options, True, False, repeats, save=True, exact=exact, memory=True)

    streamed = {"pairs": TOKENS * K, "passes": 2 * ITERATIONS, "library": build_stream(setting.data)}
    entries = {
        "updates": ours("saot, 60 updates, kernel ready", "updates", True),
        "loop": ours("saot, loop alone, kernel made in it", "loop", True),
        "whole": ours("saot, whole call", "whole", True),
        "updates_fast": ours("saot, 60 updates, kernel ready, [fast]", "updates", False),
        "loop_fast": ours("saot, loop alone, kernel made in it, [fast]", "loop", False),
        "whole_fast": ours("saot, whole call, [fast]", "whole", False),
        "stream": Entry("bound: 60 passes over the support", "machine:stream", streamed),
        "pot": peer("POT sinkhorn, numpy", "pot", method="sinkhorn"),
        "pot_stabilized": peer("POT sinkhorn_stabilized, numpy", "pot", method="sinkhorn_stabilized"),
        "pot_invariant": peer(
            "POT sinkhorn_translation_invariant, numpy", "pot", method="sinkhorn_translation_invariant"
        ),
        "pot_torch": peer("POT sinkhorn, torch", "pot_torch", method="sinkhorn"),
        "pot_torch_stabilized": peer("POT sinkhorn_stabilized, torch", "pot_torch", method="sinkhorn_stabilized"),
        "ott_lse": peer("OTT, log domain", "ott", "counting", lse=True),
        "ott_scaling": peer("OTT, scaling", "ott", "counting", lse=False),
        "geomloss": peer("geomloss ot.solve, 30 iterations (not exact)", "geomloss", iterations=30),
        "geomloss_300": peer("geomloss ot.solve, 300 iterations (not exact)", "geomloss", repeats=2, iterations=300),
        "gather": Entry(
            "log-domain gather/scatter, torch, sparse",
            "plain:gather_scatter",
            {"folder": folder},
            save=True,
            exact="sparse",
        ),
    }
    entries = with_base(entries, ("updates", "loop", "whole"), setting)
    return _with_errors(race(entries, setting), entries, Path(folder), "plan")


def solve_report(outcomes: dict[str, Any]) -> tuple[list[str], list[Claim]]:
    """Table and claims."""
    claims = base_claims(outcomes, {"updates_fast": 1.8, "updates": 1, "whole_fast": 2, "whole": 1}, "solve")
    for key, title in (("updates", "60 updates, kernel ready"), ("loop", "loop, kernel made in it")):
        ours = outcomes.get(key, {}).get("best")
        claims += [
            Claim(f"solve: {title}, fastest dense POT over ours", over(best_of(outcomes, _POT), ours), 10),
            Claim(f"solve: {title}, fastest OTT over ours", over(best_of(outcomes, _OTT), ours), 40),
            Claim(f"solve: {title}, plain log-domain torch over ours", ratio(outcomes, "gather", key), 12),
            Claim(f"solve: {title}, ours over the bandwidth bound", ratio(outcomes, key, "stream"), 5, False),
        ]
    whole = outcomes.get("whole", {}).get("best")
    claims.append(Claim("solve: whole call, fastest dense POT over ours", over(best_of(outcomes, _POT), whole), 7))
    lines = ["### Solve: n = m = 2592, k = 128, epsilon 0.1, tau 0.3, 30 iterations, float32", ""]
    return [
        *lines,
        *race_table(outcomes, {"/ updates": "updates", "/ loop": "loop", "/ whole": "whole"}, memory=True),
    ], claims


def gradient(setting: Setting) -> dict[str, Any]:
    """The race of the gradients."""
    folder = str(make_folder(setting.data, TOKENS, K, dense=True))

    def ours(title: str, how: str, alone: bool) -> Entry:
        options = {"folder": folder, "how": how}
        return Entry(title, "ours:gradient", options, alone=alone, save=True, exact="sparse", memory=True)

    def peer(title: str, make: str, exact: str = "dense", repeats: int = 10**6, **options: Any) -> Entry:
        options["folder"] = folder
        return Entry(title, f"peers:{make}", options, True, False, repeats, save=True, exact=exact, memory=True)

    entries = {
        "implicit": ours("saot, implicit", "implicit", True),
        "implicit_fast": ours("saot, implicit, [fast]", "implicit", False),
        "unrolled": ours("saot, unrolled", "unrolled", True),
        "plain": Entry(
            "autograd through gather/scatter, torch, sparse",
            "plain:unrolled",
            {"folder": folder},
            save=True,
            memory=True,
            exact="sparse",
        ),
        "pot_torch": peer("POT sinkhorn, torch autograd", "pot_gradient"),
        "pot_torch_stabilized": peer("POT stabilized, torch autograd", "pot_gradient", method="sinkhorn_stabilized"),
        "ott_implicit": peer("OTT, log domain, implicit", "ott_gradient", "counting", 5, lse=True, implicit=True),
        "ott_implicit_scaling": peer("OTT, scaling, implicit", "ott_gradient", "counting", 5, lse=False, implicit=True),
        "ott_unrolled": peer("OTT, log domain, unrolled", "ott_gradient", "counting", 5, lse=True, implicit=False),
        "geomloss": peer("geomloss ot.solve (not exact)", "geomloss_gradient"),
    }
    entries = with_base(entries, ("implicit",), setting)
    return _with_errors(race(entries, setting), entries, Path(folder), "gradient")


def gradient_report(outcomes: dict[str, Any]) -> tuple[list[str], list[Claim]]:
    """Tables and claims."""
    implicit = outcomes.get("implicit", {})
    pot = best_of(outcomes, ("pot_torch", "pot_torch_stabilized"))
    ott = best_of(outcomes, ("ott_implicit", "ott_implicit_scaling"))
    saved = implicit.get("notes", {}).get("saved", {})
    growth = saved["300"]["mib"] / saved["10"]["mib"] if saved else None
    claims = [
        Claim("gradient: fastest POT torch over ours", over(pot, implicit.get("best")), 20),
        Claim("gradient: fastest OTT implicit over ours", over(ott, implicit.get("best")), 35),
        Claim("gradient: our unrolled twin over ours", ratio(outcomes, "unrolled", "implicit"), 10),
        Claim("gradient: autograd through plain torch over ours", ratio(outcomes, "plain", "implicit"), 10),
        Claim("gradient: memory, ours over unrolled", ratio(outcomes, "implicit", "unrolled", "extra_mib"), 0.2, False),
        Claim(
            "gradient: memory, ours over plain autograd", ratio(outcomes, "implicit", "plain", "extra_mib"), 0.2, False
        ),
        Claim("gradient: saved MiB at 300 iterations over those at 10", growth, 1.0, False),
    ]
    claims = base_claims(outcomes, {"implicit_fast": 1.6, "implicit": 1}, "gradient") + claims
    lines = ["### Solve and gradient of sum(w * plan) in the cost: same size", ""]
    lines += race_table(outcomes, {"/ implicit": "implicit"}, "gradient error", memory=True)
    rows = []
    for key in ("implicit", "unrolled"):
        found = outcomes.get(key, {}).get("notes", {}).get("saved", {})
        for iterations, count in found.items():
            rows.append([outcomes[key]["title"], iterations, f"{count['tensors']:.0f}", number(count["mib"])])
    lines += [
        "Tensors that autograd saves (`torch.autograd.graph.saved_tensors_hooks`), each storage counted once:",
        "",
    ]
    lines += table(["gradient", "max_iter", "tensors", "MiB"], rows)
    return lines, claims


def _with_errors(outcomes: dict[str, Any], entries: dict[str, Entry], folder: Path, of: str) -> dict[str, Any]:
    """Each answer's distance from the exact one of that contender's own problem."""
    for key, entry in entries.items():
        if "answer" in outcomes[key]:
            path = Path(outcomes[key].pop("answer"))
            exact = reference.answer(folder, entry.exact, of)
            outcomes[key]["error"] = reference.relative_error(np.load(path), exact)
            path.unlink()
    return outcomes
