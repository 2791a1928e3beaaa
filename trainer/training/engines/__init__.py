"""How one training step is computed: one small module per engine, all with `step(batches) -> StepOutput`."""
