"""Opening a set of pairs from what the user typed."""

from saot.data import parse_spec
from saot.match.pairs.pairs import PairSet

KNOWN = "spair, pf-pascal, pf-willow, tss, ap10k, scenes-pairs and warps"


def open_pairs(spec: str) -> PairSet:
    """The pairs of a set, made when asked for.

    Args:
        spec: NAME:PATH[:SPLIT].
            "spair:PATH:test" (trn, val, test) has SPair-71k;
            "pf-pascal:PATH:test" (train, val, test; "test,boxes=yes" reads boxes too) has PF-PASCAL;
            "pf-willow:PATH" has PF-WILLOW in the layout of PF-PASCAL, its boxes those around the key points;
            "tss:PATH" (or one subset, "tss:PATH:JODS") has TSS in both directions, with dense flow;
            "ap10k:PATH:intra" ("species" and "family" cross them; "intra,split=val") has AP-10K;
            "scenes-pairs:game" ("street", "game-street"; "game:val,count=30,size=240,seed=0,classes=car+bus") draws
            pairs from the built-in scenes; "scenes-pairs:turned:val" has instances turned to any side, each alone in
            a street ("looks=street", "game" or "both");
            "warps:PATH" ("warps:PATH:tps,count=2,seed=0,points=20,strength=0.12", or "projective") warps every
            picture of a folder.

    Raises:
        ValueError: If the set is not where or what it is said to be; one sentence.

    Example:
        >>> pairs = open_pairs("scenes-pairs:street:val,count=4,classes=car+person")
        >>> len(pairs), pairs.categories
        (4, ('car', 'person', 'car', 'person'))
    """
    parts = parse_spec(spec)
    match parts.name:
        case "scenes-pairs":
            from saot.match.pairs.generated import open_scene_pairs

            return open_scene_pairs(spec, parts.path, parts.split)
        case "warps":
            from saot.match.pairs.warps import open_warps

            return open_warps(spec, parts.folder(), parts.split)
        case "spair":
            from saot.match.pairs.spair import open_spair

            return open_spair(spec, parts.folder(), parts.split)
        case "pf-pascal":
            from saot.match.pairs.pascal import open_pf_pascal

            return open_pf_pascal(spec, parts.folder(), parts.split)
        case "pf-willow":
            from saot.match.pairs.pascal import open_pf_pascal

            return open_pf_pascal(spec, parts.folder(), f"{parts.split or 'test'},boxes=yes")
        case "tss":
            from saot.match.pairs.tss import open_tss

            return open_tss(spec, parts.folder(), parts.split)
        case "ap10k":
            from saot.match.pairs.ap10k import open_ap10k

            return open_ap10k(spec, parts.folder(), parts.split)
    raise ValueError(f"there is no set of pairs {parts.name!r}; the known ones are {KNOWN}, given as NAME:PATH[:SPLIT]")
