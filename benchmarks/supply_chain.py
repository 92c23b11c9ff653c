"""What the package depends on: a bill of materials, and whether holes are known.

    python benchmarks/supply_chain.py sbom --out runs/sbom.json      # CycloneDX 1.6, of what is installed
    python benchmarks/supply_chain.py audit --pip-audit PIP_AUDIT    # of constraints.txt, by the advisories of PyPI

`make sbom` and `make audit` call it. `audit` ends with 0 if every pinned version was looked up and none has a known
hole, with 1 if one has, and with 2 if there is no answer for some: pip-audit itself says "no known vulnerabilities" and
ends with 0 where it has looked up nothing.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email.message import Message
from importlib.metadata import PackageNotFoundError, distribution, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
UNPINNED = {"triton"}  # torch's builds for GPUs ask for one version of it, its CPU build for none
CLASSIFIERS = {  # licences that a classifier names and the field does not
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License (ISCL)": "ISC",
}
WORDS = {"apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache 2.0 license": "Apache-2.0", "bsd": "BSD-3-Clause"}
WORDS |= {"mit license": "MIT", "bsd 2-clause license": "BSD-2-Clause", "freebsd": "BSD-2-Clause"}


def canonical(name: str) -> str:
    """A project's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(metadata: Message) -> str:
    """What a distribution says of its licence, as an SPDX expression where that is known."""
    if expression := metadata.get("License-Expression"):
        return expression
    field = (metadata.get("License") or "").strip()
    if field and len(field) < 40:
        return WORDS.get(field.lower(), field)
    names = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier") or () if each.startswith("License")]
    return CLASSIFIERS.get(names[0], names[0]) if names else (field.splitlines() or ["not said"])[0]


def requirements(name: str, extras: set[str]) -> Iterator[tuple[str, set[str]]]:
    """What a distribution needs here, and with which extras of theirs."""
    from packaging.requirements import Requirement

    for text in distribution(name).requires or ():
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield canonical(needed.name), set(needed.extras)


def bill(name: str, extras: set[str]) -> dict[str, Any]:
    """CycloneDX 1.6 of a distribution and everything it needs that is installed.

    Args:
        name: Of the distribution.
        extras: Its extras that count; what of them is not installed is left out.
    """
    found: dict[str, set[str]] = {}
    edges: dict[str, set[str]] = {}
    open_ends = [(canonical(name), extras)]
    while open_ends:
        one, wanted = open_ends.pop()
        if one in found and wanted <= found[one]:
            continue
        found[one] = found.get(one, set()) | wanted
        for other, theirs in requirements(one, found[one]):
            try:
                distribution(other)
            except PackageNotFoundError:
                continue
            if other != one:
                edges.setdefault(one, set()).add(other)
            open_ends.append((other, theirs))
    parts = {one: _component(one) for one in sorted(found)}
    main = parts.pop(canonical(name)) | {"type": "application"}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": main},
        "components": list(parts.values()),
        "dependencies": [
            {"ref": main["bom-ref"], "dependsOn": sorted(parts[one]["bom-ref"] for one in edges[canonical(name)])},
            *(
                {"ref": part["bom-ref"], "dependsOn": sorted(parts[other]["bom-ref"] for other in edges.get(one, ()))}
                for one, part in parts.items()
            ),
        ],
    }


def _component(name: str) -> dict[str, Any]:
    metadata = distribution(name).metadata
    reference = f"pkg:pypi/{name}@{metadata['Version'].partition('+')[0]}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": name,
        "version": metadata["Version"],
        "purl": reference,
        "licenses": [{"license": {"name": licence(metadata)}}],
    }


def pinned() -> dict[str, str]:
    """Versions in constraints.txt by name."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def verdict(answer: dict[str, Any]) -> tuple[int, str]:
    """The exit code, and what to say, of pip-audit's JSON."""
    parts = answer["dependencies"]
    skipped = [part["name"] for part in parts if "skip_reason" in part]
    holes = [f"{part['name']} {part['version']}: {hole['id']}" for part in parts for hole in part.get("vulns", ())]
    said = f"{len(parts) - len(skipped)} of {len(parts)} pinned versions were looked up, {len(holes)} known holes"
    if holes:
        return 1, "\n".join([said, *holes])
    if skipped or not parts:
        some = f"{', '.join(skipped[:5])}{' ...' if len(skipped) > 5 else ''}"
        return 2, f"{said}; no answer for {len(skipped)} ({some}): that is no clean bill; try again where PyPI answers"
    return 0, said


def audit(program: str) -> int:
    """Ask pip-audit about constraints.txt."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "pinned.txt"  # without comments and local versions, which no advisory names
        listed.write_text("".join(f"{name}=={version.partition('+')[0]}\n" for name, version in pinned().items()))
        words = [program, "-r", str(listed), "--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        code, said = verdict(json.loads(done.stdout))
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        code, said = 2, f"no answer from pip-audit: {reason[:300]}"
    print(f"audit: {said}")
    return code


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    making = parts.add_parser("sbom", help="a bill of materials")
    making.add_argument("--out", type=Path, default=Path("runs/sbom.json"))
    making.add_argument("--extras", help="with commas; all but test and lint, if none are given")
    asking = parts.add_parser("audit", help="known holes")
    asking.add_argument("--pip-audit", default="pip-audit")
    options = parser.parse_args()
    if options.what == "audit":
        return audit(options.pip_audit)
    every = set(metadata("saot").get_all("Provides-Extra") or ()) - {"test", "lint"}
    made = bill("saot", every if options.extras is None else set(options.extras.split(",")) - {""})
    missing = sorted({part["name"] for part in made["components"]} - set(pinned()) - UNPINNED)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(made, indent=1) + "\n")
    print(f"sbom: {len(made['components'])} distributions in {options.out}")
    if missing:
        print(f"sbom: not pinned in constraints.txt: {', '.join(missing)}")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
