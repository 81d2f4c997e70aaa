"""
The experiments of "Training Region-based Object Detectors with Online Hard Example Mining": the
paper's networks, proposals, baselines and test-time extras. The commands are beside this package.
"""
