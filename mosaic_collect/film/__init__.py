"""One trajectory seen again, in the simulator's own scene: a clip, or a strip of pictures."""
