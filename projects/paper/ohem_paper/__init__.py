"""The paper's networks, proposals, baselines and test-time extras, for the commands beside it."""
