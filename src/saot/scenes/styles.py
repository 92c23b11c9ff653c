"""Settings of the two renderings: what the game's streets hold and what the photographed streets hold."""

from dataclasses import dataclass
from typing import Literal

from saot.scenes.mesh import Color

Style = Literal["game", "street"]


@dataclass(frozen=True)
class Mix:
    """How often things occur in the streets of one style; rates are means for a picture."""

    camera_height: tuple[float, float]
    focal: tuple[float, float]
    horizon: tuple[float, float]
    yaw: float  # largest turn of the camera, radians
    pavement: tuple[float, float]  # width, metres
    surroundings: tuple[float, float, float, float]  # downtown, houses with gardens, park, outskirts
    people: float
    parked_cars: float  # share of parking places that are taken
    driving_cars: float
    parked_bicycles: float
    hood: float  # share of pictures with the own car's hood in view
    # Shares of pictures that hold at least one, spread evenly over the indices.
    rider: float
    truck: float
    bus: float
    train: float
    motorcycle: float
    bicycle: float
    wall: float
    fence: float
    light: float
    car_colors: tuple[Color, ...]
    cloth_colors: tuple[Color, ...]
    wall_colors: tuple[Color, ...]
    roof_colors: tuple[Color, ...]
    leaf_colors: tuple[Color, ...]
    stone_colors: tuple[Color, ...]  # walls between plots
    livery_colors: tuple[Color, ...]  # buses, trucks
    tram_colors: tuple[Color, ...]
    ground_colors: tuple[Color, Color, Color]  # road, sidewalk, terrain
    cobbles: float  # share of roads paved with stones
    smooth_walks: float  # share of pavements of asphalt
    fences: tuple[float, float, float]  # shares of pickets, bars, mesh
    stonework: tuple[float, float, float]  # shares of plain, brick, block walls
    car_shapes: tuple[float, float, float, float, float]  # shares of saloon, hatchback, estate, high, van


GAME = Mix(
    camera_height=(1.7, 2.6),
    focal=(0.80, 0.95),
    horizon=(0.44, 0.52),
    yaw=0.14,
    pavement=(2.2, 4.0),
    surroundings=(0.36, 0.22, 0.17, 0.25),
    people=3.5,
    parked_cars=0.25,
    driving_cars=4.0,
    parked_bicycles=0.4,
    hood=0.0,
    rider=0.35,
    truck=0.50,
    bus=0.30,
    train=0.17,
    motorcycle=0.35,
    bicycle=0.30,
    wall=0.60,
    fence=0.55,
    light=0.60,
    car_colors=(
        (0.75, 0.10, 0.10),
        (0.12, 0.22, 0.62),
        (0.85, 0.70, 0.10),
        (0.9, 0.9, 0.9),
        (0.15, 0.15, 0.17),
        (0.10, 0.45, 0.22),
        (0.55, 0.57, 0.60),
        (0.50, 0.16, 0.45),
    ),
    cloth_colors=(
        (0.80, 0.15, 0.15),
        (0.15, 0.25, 0.70),
        (0.90, 0.90, 0.90),
        (0.15, 0.55, 0.25),
        (0.95, 0.75, 0.15),
        (0.30, 0.30, 0.33),
        (0.55, 0.35, 0.20),
    ),
    wall_colors=(
        (0.78, 0.66, 0.50),
        (0.70, 0.42, 0.33),
        (0.62, 0.64, 0.68),
        (0.85, 0.80, 0.70),
        (0.50, 0.55, 0.62),
    ),
    roof_colors=((0.55, 0.25, 0.18), (0.35, 0.35, 0.38), (0.45, 0.30, 0.22)),
    leaf_colors=((0.18, 0.52, 0.14), (0.25, 0.60, 0.20), (0.14, 0.45, 0.20)),
    stone_colors=((0.62, 0.36, 0.28), (0.66, 0.60, 0.50), (0.58, 0.42, 0.34)),
    livery_colors=((0.70, 0.12, 0.12), (0.85, 0.68, 0.15), (0.16, 0.30, 0.58)),
    tram_colors=((0.75, 0.62, 0.12), (0.62, 0.12, 0.12), (0.15, 0.30, 0.55)),
    ground_colors=((0.34, 0.34, 0.36), (0.62, 0.60, 0.57), (0.38, 0.62, 0.22)),
    cobbles=0.0,
    smooth_walks=0.0,
    fences=(0.7, 0.15, 0.15),
    stonework=(0.2, 0.5, 0.3),
    car_shapes=(0.45, 0.30, 0.05, 0.15, 0.05),
)

STREET = Mix(
    camera_height=(1.15, 1.45),
    focal=(1.0, 1.15),
    horizon=(0.40, 0.47),
    yaw=0.10,
    pavement=(3.0, 6.5),
    surroundings=(0.40, 0.30, 0.18, 0.12),
    people=8.0,
    parked_cars=0.60,
    driving_cars=2.5,
    parked_bicycles=1.2,
    hood=0.4,
    rider=0.55,
    truck=0.30,
    bus=0.30,
    train=0.22,
    motorcycle=0.40,
    bicycle=0.75,
    wall=0.50,
    fence=0.60,
    light=0.60,
    car_colors=(
        (0.10, 0.10, 0.11),
        (0.55, 0.56, 0.58),
        (0.75, 0.76, 0.77),
        (0.22, 0.24, 0.27),
        (0.13, 0.17, 0.28),
        (0.45, 0.10, 0.10),
        (0.36, 0.37, 0.39),
        (0.30, 0.33, 0.30),
    ),
    cloth_colors=(
        (0.10, 0.10, 0.12),
        (0.16, 0.19, 0.28),
        (0.36, 0.34, 0.31),
        (0.45, 0.15, 0.15),
        (0.62, 0.60, 0.56),
        (0.20, 0.26, 0.20),
        (0.28, 0.23, 0.19),
    ),
    wall_colors=(
        (0.66, 0.60, 0.50),
        (0.58, 0.48, 0.40),
        (0.55, 0.54, 0.52),
        (0.72, 0.68, 0.60),
        (0.48, 0.36, 0.30),
        (0.62, 0.56, 0.42),
    ),
    roof_colors=((0.40, 0.23, 0.18), (0.25, 0.25, 0.27), (0.33, 0.25, 0.21)),
    leaf_colors=((0.22, 0.36, 0.13), (0.30, 0.40, 0.16), (0.18, 0.30, 0.14), (0.38, 0.38, 0.15)),
    stone_colors=((0.55, 0.53, 0.50), (0.62, 0.59, 0.53), (0.42, 0.40, 0.38)),
    livery_colors=((0.86, 0.86, 0.83), (0.30, 0.46, 0.36), (0.62, 0.60, 0.55), (0.72, 0.60, 0.25)),
    tram_colors=((0.80, 0.79, 0.74), (0.30, 0.45, 0.33), (0.66, 0.40, 0.20)),
    ground_colors=((0.36, 0.35, 0.35), (0.50, 0.48, 0.45), (0.36, 0.42, 0.20)),
    cobbles=0.30,
    smooth_walks=0.35,
    fences=(0.1, 0.5, 0.4),
    stonework=(0.5, 0.1, 0.4),
    car_shapes=(0.15, 0.28, 0.24, 0.22, 0.11),
)

MIXES: dict[str, Mix] = {"game": GAME, "street": STREET}
