"""Language models as policies: a token environment, decoders, transforms of the trajectory, credit, tasks."""
