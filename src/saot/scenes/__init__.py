"""The built-in street world: labelled pictures of a game and a street, made, not loaded."""

from saot.scenes.cycles import park
from saot.scenes.drive import Frame, render_frame
from saot.scenes.mesh import BICYCLE, MOTORCYCLE, PERSON, Mesh, Vertex
from saot.scenes.paint import Camera, Painted, Projected, Surfaces, paint, paint_order, project, surfaces, to_camera
from saot.scenes.people import add_person, add_rider
from saot.scenes.reader import READERS, DriveSet, drives_of, open_scenes
from saot.scenes.render import draw_light, game_camera, rays_of, render_color, street_camera
from saot.scenes.scene import SCENES_VERSION, Scene, draw_camera, rare_things, render_scene, scene_key, seen_keypoints
from saot.scenes.shade import depth_of
from saot.scenes.site import QUOTAS, Plan, Site
from saot.scenes.styles import MIXES
from saot.scenes.vehicles import add_bus, add_car, add_train, add_truck
from saot.scenes.world import build_world, draw_plan

__all__ = [
    "BICYCLE",
    "MIXES",
    "MOTORCYCLE",
    "PERSON",
    "QUOTAS",
    "READERS",
    "SCENES_VERSION",
    "Camera",
    "DriveSet",
    "Frame",
    "Mesh",
    "Painted",
    "Plan",
    "Projected",
    "Scene",
    "Site",
    "Surfaces",
    "Vertex",
    "add_bus",
    "add_car",
    "add_person",
    "add_rider",
    "add_train",
    "add_truck",
    "build_world",
    "depth_of",
    "draw_camera",
    "draw_light",
    "draw_plan",
    "drives_of",
    "game_camera",
    "open_scenes",
    "paint",
    "paint_order",
    "park",
    "project",
    "rare_things",
    "rays_of",
    "render_color",
    "render_frame",
    "render_scene",
    "scene_key",
    "seen_keypoints",
    "street_camera",
    "surfaces",
    "to_camera",
]
