"""What benchmarks are run on: the reference data, a pre-trained model, a wide bundle."""
