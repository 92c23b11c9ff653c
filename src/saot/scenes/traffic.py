"""Traffic of one street: parked and driving vehicles, riders and walkers."""

import math

from saot.scenes.cycles import park
from saot.scenes.mesh import BICYCLE, FLAT, MOTORCYCLE, ROAD_CLASS, Look, level_rect
from saot.scenes.people import add_person, add_rider
from saot.scenes.site import KERB, Site, in_crossing
from saot.scenes.vehicles import add_bus, add_car, add_train, add_truck


def fill_street(site: Site) -> None:
    """Everything that stands or moves on road and pavement for a while."""
    _parked(site)
    _traffic(site)
    _walkers(site)


def _parked(site: Site) -> None:
    plan = site.plan
    kerb = plan.half - 1.05
    if plan.parking:
        for side in (-1.0, 1.0):
            z = site.between(3.0, 8.0)
            while z < 85:
                if site.chance(site.mix.parked_cars) and not in_crossing(plan, z, 7.5):
                    heading = 0.0 if side > 0 or site.chance(0.3) else math.pi
                    at = (side * kerb + site.between(-0.12, 0.12), 0.0, z)
                    add_car(site.mesh, site.rng, site.mix.car_shapes, at, heading, site.pick(site.mix.car_colors))
                z += site.between(5.3, 6.4)
    for name, class_index in (("bicycle", BICYCLE), ("motorcycle", MOTORCYCLE)):
        if name in site.present and (name == "bicycle" or "rider" not in site.present or site.chance(0.5)):
            _stands(site, class_index)


def _stands(site: Site, class_index: int) -> None:
    """One or more places where two-wheelers stand on the pavement."""
    plan = site.plan
    number = 1 + int(site.rng.poisson(site.mix.parked_bicycles if class_index == BICYCLE else 0.3))
    for _ in range(number):
        side = -1.0 if site.chance(0.4) else 1.0
        z, turned = site.between(7, 30), site.chance(0.5)
        for k in range(int(site.rng.integers(1, 5))):
            x = side * (plan.half + (0.6 if turned else 1.1))
            at = (x, KERB, z + k * (2.1 if turned else 0.75))
            heading = 0.0 if turned else math.pi / 2 * (1 if site.chance(0.5) else -1) + site.between(-0.3, 0.3)
            if not in_crossing(plan, at[2], 1.0):
                park(site.mesh, class_index, at, heading, site.pick(site.mix.car_colors))


class _Lanes:
    """Which stretches of which lane are taken; lanes are known by their x, those at x > 0 lead away."""

    def __init__(self, site: Site) -> None:
        self.site = site
        lanes = (1.7, -1.7, 5.0, -5.0) if site.plan.lane else (1.7, -1.7)
        self.taken: dict[float, list[tuple[float, float]]] = {x: [] for x in lanes}

    def place(
        self, length: float, span: tuple[float, float], x: float | None = None, *, clear: bool = False
    ) -> tuple[float, float] | None:
        """A free place (x, z) for something of a length; `clear` keeps the lane free up to there."""
        for _ in range(8):
            lane = list(self.taken)[int(self.site.rng.integers(len(self.taken)))] if x is None else x
            z = self.site.between(*span) + length / 2
            low, high = z - length / 2, z + length / 2
            if all(high + 3 < a or low - 3 > b for a, b in self.taken[lane]):
                self.taken[lane].append((0.0 if clear else low, high))
                return lane, z
        return None


def _traffic(site: Site) -> None:
    """Everything that drives: the rare vehicles first, then cars where there is room."""
    plan, mesh, rng, mix = site.plan, site.mesh, site.rng, site.mix
    lanes = _Lanes(site)
    if "train" in site.present:
        _tram(site, lanes)
    for name, build, length in (("bus", add_bus, 12.0), ("truck", add_truck, 9.0)):
        spot = lanes.place(length, (10, 32), clear=True) if name in site.present else None
        if spot is not None:
            at, heading = (spot[0], 0.0, spot[1]), _heading(spot[0]) + site.between(-0.02, 0.02)
            build(mesh, rng, at, heading, site.pick(mix.livery_colors))
    for _ in range(int(rng.poisson(mix.driving_cars))):
        spot = lanes.place(4.6, (8, 120))
        if spot is not None:
            at = (spot[0] + site.between(-0.3, 0.3), 0.0, spot[1])
            heading = _heading(spot[0]) + site.between(-0.04, 0.04)
            add_car(mesh, rng, mix.car_shapes, at, heading, site.pick(mix.car_colors))
    if plan.crossing[1] < plan.end and "train" not in site.present:
        for z, heading in ((plan.crossing[0] + 2.0, -math.pi / 2), (plan.crossing[1] - 2.0, math.pi / 2)):
            if site.chance(0.45):
                color, at = site.pick(mix.car_colors), (site.between(-16, 16), 0.0, z)
                add_car(mesh, rng, mix.car_shapes, at, heading, color)
    _riders(site)


def _heading(x: float) -> float:
    """Traffic keeps to the right: away from the camera at x > 0, towards it at x < 0."""
    return 0.0 if x > 0 else math.pi


def _tram(site: Site, lanes: _Lanes) -> None:
    """A tram along the street, or one that crosses it."""
    plan, mesh = site.plan, site.mesh
    along = not (plan.crossing[1] < 60 and site.chance(0.3))
    color = site.pick(site.mix.tram_colors)
    if along:
        spot = lanes.place(26.0, (10, 24), 1.7 if site.chance(0.35) else -1.7, clear=True)
        if spot is not None:
            add_train(mesh, site.rng, (spot[0], 0.0, spot[1]), _heading(spot[0]), color)
        return
    middle = (plan.crossing[0] + plan.crossing[1]) / 2
    mesh.begin(ROAD_CLASS, (0, 0, middle), layer=0)
    for z in (-0.78, 0.66):
        mesh.ground(level_rect((-120, 120), (z, z + 0.12)), Look(FLAT, (0.20, 0.19, 0.19)))
    add_train(mesh, site.rng, (site.between(-14, 14), 0.0, middle), math.pi / 2, color)


def _riders(site: Site) -> None:
    if "rider" not in site.present:
        return
    plan = site.plan
    edge = plan.half - (2.1 if plan.parking else 0.0) - 0.35
    for k in range(1 + int(site.rng.poisson(0.6))):
        motor = "motorcycle" in site.present and (k == 0 or site.chance(0.2))
        mount = MOTORCYCLE if motor else BICYCLE
        colors = (
            site.pick(site.mix.car_colors),
            site.pick(site.mix.cloth_colors),
            site.pick(site.mix.cloth_colors),
        )
        if plan.crossing[1] < 40 and site.chance(0.3):
            at = (site.between(-5, 5), 0.0, plan.crossing[0] + site.between(0.0, 3.0))
            heading = math.pi / 2 * (1 if site.chance(0.5) else -1) + site.between(-0.3, 0.3)
        else:
            side = 1.0 if site.chance(0.65) else -1.0
            at = (side * (edge + site.between(-0.5, 0.2)), 0.0, site.between(6.5, 24))
            heading = (0.0 if side > 0 else math.pi) + site.between(-0.25, 0.25)
        add_rider(site.mesh, site.rng, at, heading, mount, colors)


def _walkers(site: Site) -> None:
    """People on the pavements, some in groups, some on the zebra crossing."""
    plan = site.plan
    for _ in range(1 + int(site.rng.poisson(site.mix.people))):
        side = 1.0 if site.chance(0.5) else -1.0
        x = side * (plan.half + site.between(min(plan.verge, 1.5) + 0.7, plan.walk - 0.4))
        z = 6.0 + 85.0 * site.between(0.0, 1.0) ** 1.6
        y, heading = KERB, (0.0 if site.chance(0.5) else math.pi) + site.between(-0.4, 0.4)
        if plan.crossing[1] < plan.end and site.chance(0.2):
            x, z, y = site.between(-plan.half, plan.half), plan.crossing[0] - site.between(1.2, 3.6), 0.0
            heading = math.pi / 2 * (1 if site.chance(0.5) else -1) + site.between(-0.2, 0.2)
        elif in_crossing(plan, z, 0.3):
            continue
        for k in range(1 + int(site.chance(0.25))):
            clothes = (site.pick(site.mix.cloth_colors), site.pick(site.mix.cloth_colors))
            add_person(site.mesh, site.rng, (x + 0.65 * k * -side, y, z + 0.1 * k), heading, clothes)
