"""Model to model. One file a pass: `run(model, params, context) -> model`."""
