"""Engines compute one training step: `step(batches) -> StepOutput`."""
