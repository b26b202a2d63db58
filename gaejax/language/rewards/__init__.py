"""What whole texts are worth: transforms of the trajectory between the rollout and its advantages."""
