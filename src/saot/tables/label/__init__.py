"""Tables whose rows are methods of the main job."""
