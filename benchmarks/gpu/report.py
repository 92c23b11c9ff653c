"""What a run found, as text; ratios first."""

from typing import Any

from gpu.ways import WAYS


def report(results: dict[str, Any]) -> None:
    """Print every section that was run, and what was left out."""
    for number, title in results["ratios"].items():
        print(f"{title:>9}  {number}")
    bandwidth = results["bandwidth_gb_per_s"]
    print(f"\n{results['device']}: read {bandwidth['read']:.0f} GB/s, triad {bandwidth['triad']:.0f} GB/s")
    print(f"host: {results['instructions']}, {results['threads']} threads")
    for size in results["sizes"]:
        _print_size(size)
    for row in results["gwot"]:
        print(f"\nGWOT, {row['side']}x{row['side']} tokens a picture, {row['steps']} steps: {row['ms']:.1f} ms")
    for row in results["step"]:
        print(f"\nTraining step of Algorithm 1, n = m = {row['tokens']}, k = {row['k']}: {row['ms']:.1f} ms")
    for row in results["points"]:
        _print_points(row)
    for name in results["left_out"]:
        print(f"\nleft out, for the time was over: {name}")
    for name, error in results["failed"].items():
        print(f"\nfailed: {name}: {error}")


def ratios(results: dict[str, Any]) -> dict[str, str]:
    """What a reader asks first, and its value."""
    found = {}
    for size in results["sizes"]:
        ms, back, name = size["solve_ms"], size["gradient_ms"], f"n = m = {size['tokens']}, k = {size['k']}"
        for way in WAYS[1:]:
            found[f"{name}: {way} over fused, solve"] = f"{ms[way] / ms['fused']:.2f}"
        found[f"{name}: csr over fused, gradient"] = f"{back['csr'] / back['fused']:.2f}"
        found[f"{name}: fused over the bound of memory"] = f"{ms['fused'] / size['bound_ms']:.2f}"
    for row in results["points"]:
        name = f"n = m = {row['tokens']}, k = {row['k']}"
        for peer, entry in row["all_pairs"].items():
            if "ms" in entry and not peer.startswith("saot"):
                found[f"{name}: {peer} on all pairs over saot on k pairs"] = f"{entry['ms'] / row['nearest']['ms']:.2f}"
    return found


def _print_size(r: dict[str, Any]) -> None:
    print(f"\nn = m = {r['tokens']}, k = {r['k']}: {r['pairs']} pairs, longest column {r['longest_column']}")
    print(f"{'':>8} {'solve ms':>9} {'GB/s':>7} {'gradient ms':>11} {'plan error':>11} {'peak MiB':>9}")
    for way in WAYS:
        peak = r["peak_mib"][way]
        print(
            f"{way:>8} {r['solve_ms'][way]:>9.3f} {r['reached_gb_per_s'][way]:>7.0f} {r['gradient_ms'][way]:>11.3f}"
            f" {r['plan_error'][way]:>11.1e} {'-' if peak is None else f'{peak:.0f}':>9}"
        )
    for name, ms in r["pass_ms"].items():
        print(f"    {name:<28} {1e3 * ms:>9.1f} us {r['pairs'] * 8 / ms / 1e6:>7.0f} GB/s")


def _print_points(row: dict[str, Any]) -> None:
    """Both problems of two clouds; errors are those to the same problem in float64."""
    print(f"\nClouds of n = m = {row['tokens']} unit vectors of {row['dim']} numbers, cost |x - y|^2")
    nearest = row["nearest"]
    print(f"Each source's {row['k']} nearest targets, found in {nearest['search_ms']:.3f} ms:")
    print(_line("saot", nearest))
    if "mass_of_all_pairs_on_these" in nearest:
        print(f"    The plan on all pairs has {nearest['mass_of_all_pairs_on_these']:.3f} of its mass on these.")
    print("All pairs, another problem:")
    for name, entry in row["all_pairs"].items():
        print(_line(name, entry))


def _line(name: str, entry: dict[str, Any]) -> str:
    if "left_out" in entry:
        return f"    {name:<28} left out: {entry['left_out']}"
    shown = [f"    {name:<28} {entry['ms']:>10.3f} ms"]
    for key, text in (("potential_error", "potentials off by"), ("plan_error", "plan off by")):
        if key in entry:
            shown.append(f"{text} {entry[key]:.1e}")
    return ", ".join(shown)
